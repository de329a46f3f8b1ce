/* worker/transport.c alone, driven like bare_curl.c: the difference between their lines is what the
 * address policy, sharding, timeouts and the bookkeeping of answers cost. Not part of the product.
 */
#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>

#include "check.h"
#include "endpoint.h"
#include "http_bench.h"
#include "netguard.h"
#include "transport.h"

#define ENDPOINTS_MAX 65536u

struct target {
    struct endpoint endpoint;
    struct sockaddr_storage address;
};

static struct bench b;
static struct transport *transport;
static struct target *targets;

static void send_next(void);

static void on_result(void *ctx, const struct transport_result *r)
{
    (void)ctx;
    const bool ok = r->fault == TRANSPORT_OK && r->status >= 200 && r->status < 300;
    if (!ok && b.failures < 3) {
        (void)fprintf(stderr, "fault %d status %ld: %s\n", (int)r->fault, r->status, r->error);
    }
    bench_ended(&b, ok, r->reused);
    if (bench_more(&b)) {
        send_next();
    }
}

static void send_next(void)
{
    const struct target *to = &targets[bench_next(&b)];
    struct transport_request req = {.endpoint = &to->endpoint,
                                    .address = &to->address,
                                    .body = b.body,
                                    .body_len = b.size,
                                    .n_headers = BENCH_HEADERS,
                                    .timeout_ms = 15000};
    memcpy(req.headers, bench_headers, sizeof(bench_headers));
    (void)transport_send(transport, &req, on_result, NULL); /* never cancelled */
}

static void make_targets(const struct netguard *guard)
{
    const unsigned long n = b.hosts > 0 ? b.hosts : 1;
    CHECK(n <= ENDPOINTS_MAX);
    targets = mem_zero(n, sizeof(*targets));
    for (unsigned long i = 0; i < n; i++) {
        char host[64];
        char address[16];
        char url[512];
        bench_host(&b, i, host, address);
        const int len = snprintf(url, sizeof(url), "%s://%s:%u%s", b.scheme, host, b.port, b.path);
        struct err err = {0};
        if (!endpoint_parse(url, (size_t)len, true, guard, &targets[i].endpoint, &err)) {
            bench_die(&b, err.text);
        }
        struct sockaddr_in *sin = (void *)&targets[i].address;
        sin->sin_family = AF_INET;
        CHECK(inet_pton(AF_INET, address, &sin->sin_addr) == 1);
    }
}

int main(int argc, char **argv)
{
    bench_options(&b, "transport_bench", argc, argv);
    struct err err = {0};
    struct netguard *guard = netguard_new("127.0.0.0/8", "", &err);
    CHECK(guard != NULL);
    struct event_base *base = event_base_new();
    CHECK(base != NULL);
    const struct transport_config cfg = {.ca_file = b.ca_file,
                                         .user_agent = "NetRecon-Webhooks/0.1",
                                         .connect_timeout_ms = 5000,
                                         .shards = (unsigned)b.shards,
                                         .connections_max = 8192};
    transport = transport_new(base, &cfg, guard, &err);
    CHECK(transport != NULL);
    make_targets(guard);
    for (unsigned long i = 0; i < b.concurrency && bench_more(&b); i++) {
        send_next();
    }
    while (b.done < b.warmup + b.count) {
        CHECK(event_base_loop(base, EVLOOP_ONCE) >= 0);
        transport_after_turn(transport);
    }
    const int code = bench_report(&b);
    transport_free(transport);
    for (unsigned long i = 0; i < (b.hosts > 0 ? b.hosts : 1); i++) {
        endpoint_done(&targets[i].endpoint);
    }
    free(targets);
    free(b.body);
    event_base_free(base);
    netguard_free(guard);
    return code;
}
