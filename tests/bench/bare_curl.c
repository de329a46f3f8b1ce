/* The yardstick R: what libcurl's multi_socket interface does on a bare epoll loop, with the same
 * body and headers that a delivery has, plain options, one multi handle and easy handles used
 * again. No policy, no answer kept, no libevent. tests/run bench runs it beside the worker. Not
 * part of the product. */
#include <curl/curl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "check.h"
#include "http_bench.h"

#define EVENTS 256

struct slot {
    CURL *easy;
    struct curl_slist *pin;
};

static struct bench b;
static CURLM *multi;
static int epoll_fd;
static int64_t wake_us = -1;
static bool *watched; /* by descriptor */
static size_t n_watched;

static int on_timer(CURLM *m, long timeout_ms, void *ctx)
{
    (void)m;
    (void)ctx;
    wake_us = timeout_ms < 0 ? -1 : clock_mono_us() + (int64_t)timeout_ms * 1000;
    return 0;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    (void)ctx;
    (void)socket_ctx;
    if ((size_t)fd >= n_watched) {
        const size_t n = ((size_t)fd | 1023) + 1;
        watched = mem_grow(watched, n, sizeof(*watched));
        memset(watched + n_watched, 0, n - n_watched);
        n_watched = n;
    }
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* may be closed already */
        watched[fd] = false;
        return 0;
    }
    struct epoll_event ev = {.data.fd = fd};
    ev.events = ((what & CURL_POLL_IN) != 0 ? (uint32_t)EPOLLIN : 0) |
                ((what & CURL_POLL_OUT) != 0 ? (uint32_t)EPOLLOUT : 0);
    CHECK(epoll_ctl(epoll_fd, watched[fd] ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev) == 0);
    watched[fd] = true;
    return 0;
}

// NOLINTNEXTLINE(readability-non-const-parameter): libcurl's signature
static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
    (void)data;
    (void)ctx;
    return size * n;
}

static void start(struct slot *s)
{
    char host[64];
    char address[16];
    char url[512];
    bench_host(&b, bench_next(&b), host, address);
    (void)snprintf(url, sizeof(url), "%s://%s:%u%s", b.scheme, host, b.port, b.path);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_URL, url) == CURLE_OK);
    if (b.hosts > 0) {
        char pin[128];
        (void)snprintf(pin, sizeof(pin), "+%s:%u:%s", host, b.port, address);
        curl_slist_free_all(s->pin);
        s->pin = curl_slist_append(NULL, pin);
        CHECK(curl_easy_setopt(s->easy, CURLOPT_RESOLVE, s->pin) == CURLE_OK);
    }
    CHECK(curl_multi_add_handle(multi, s->easy) == CURLM_OK);
}

static void finish_ended(void)
{
    int left = 0;
    for (const CURLMsg *m; (m = curl_multi_info_read(multi, &left)) != NULL;) {
        CURL *easy = m->easy_handle;
        const CURLcode code = m->data.result;
        struct slot *s = NULL;
        long status = 0;
        long connections = 0;
        CHECK(curl_easy_getinfo(easy, CURLINFO_PRIVATE, &s) == CURLE_OK);
        CHECK(curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK);
        CHECK(curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections) == CURLE_OK);
        CHECK(curl_multi_remove_handle(multi, easy) == CURLM_OK);
        bench_ended(&b, code == CURLE_OK && status >= 200 && status < 300, connections == 0);
        if (bench_more(&b)) {
            start(s);
        }
    }
}

static void turn(void)
{
    struct epoll_event events[EVENTS];
    int running = 0;
    int64_t wait_ms = -1;
    if (wake_us >= 0) {
        const int64_t in_us = wake_us - clock_mono_us();
        wait_ms = in_us <= 0 ? 0 : (in_us + 999) / 1000;
    }
    const int n = epoll_wait(epoll_fd, events, EVENTS, (int)wait_ms);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        const uint32_t e = events[i].events;
        const int mask = ((e & (uint32_t)EPOLLIN) != 0 ? CURL_CSELECT_IN : 0) |
                         ((e & (uint32_t)EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
                         ((e & (uint32_t)(EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_ERR : 0);
        CHECK(curl_multi_socket_action(multi, events[i].data.fd, mask, &running) == CURLM_OK);
    }
    if (wake_us >= 0 && wake_us <= clock_mono_us()) {
        wake_us = -1;
        CHECK(curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running) == CURLM_OK);
    }
    finish_ended();
}

static void slot_init(struct slot *s, struct curl_slist *headers)
{
    s->easy = curl_easy_init();
    CHECK(s->easy != NULL);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, b.body) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)b.size) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, headers) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_USERAGENT, "NetRecon-Webhooks/0.1") == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_CAINFO, b.ca_file) == CURLE_OK);
    CHECK(curl_easy_setopt(s->easy, CURLOPT_CAPATH, NULL) == CURLE_OK);
}

static struct curl_slist *make_headers(void)
{
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    list = curl_slist_append(list, "Accept:");
    list = curl_slist_append(list, "Expect:");
    for (unsigned i = 0; i < BENCH_HEADERS; i++) {
        list = curl_slist_append(list, bench_headers[i]);
    }
    CHECK(list != NULL);
    return list;
}

int main(int argc, char **argv)
{
    bench_options(&b, "bare_curl", argc, argv);
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    multi = curl_multi_init();
    CHECK(epoll_fd >= 0 && multi != NULL);
    CHECK(curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK);
    CHECK(curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK);
    CHECK(curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)(b.concurrency + b.hosts)) ==
          CURLM_OK);
    struct curl_slist *headers = make_headers();
    struct slot *slots = mem_zero(b.concurrency, sizeof(*slots));
    for (unsigned long i = 0; i < b.concurrency; i++) {
        slot_init(&slots[i], headers);
        if (bench_more(&b)) {
            start(&slots[i]);
        }
    }
    while (b.done < b.warmup + b.count) {
        turn();
    }
    const int code = bench_report(&b);
    for (unsigned long i = 0; i < b.concurrency; i++) {
        curl_easy_cleanup(slots[i].easy);
        curl_slist_free_all(slots[i].pin);
    }
    CHECK(curl_multi_cleanup(multi) == CURLM_OK);
    curl_slist_free_all(headers);
    curl_global_cleanup();
    free(slots);
    free(b.body);
    free(watched);
    (void)close(epoll_fd);
    return code;
}
