/* Shared by transport*.c and by tests/unit/test_transport.c; nobody else includes it.
 *
 *   transport.c         life of transports and transfers, the queue of starts, the end of a turn
 *   transport_loop.c    shards: libcurl's multi interface on libevent
 *   transport_easy.c    libcurl options, the request, the three gates of the address policy
 *   transport_answer.c  what is kept of an answer, and the verdict with its text */
#ifndef NRW_TRANSPORT_INTERNAL_H
#define NRW_TRANSPORT_INTERNAL_H

#include <curl/curl.h>
#include <event2/event_struct.h>
#include <sys/queue.h>

#include "transport.h"

#define TRANSPORT_POOL_MAX      1024u   /* idle transfers kept for the next request             */
#define TRANSPORT_STARTS_A_TURN 256u    /* a burst must not hold the loop: ~10 ms               */
#define TRANSPORT_HEADERS_TEXT  2048u   /* request header lines of one transfer, with NULs      */
#define TRANSPORT_BUFFER        4096L   /* libcurl's read buffer, allocated while in flight     */
#define TRANSPORT_UPLOAD_BUFFER 16384L  /* libcurl's minimum; used by bodies above 64 KiB       */
#define TRANSPORT_IDLE_S        60L     /* a kept connection is not reused after that           */
#define TRANSPORT_LIFETIME_S    300L    /* nor after that: DNS changes and vetting take hold    */
#define TRANSPORT_PIN_S         30L     /* how long libcurl remembers a pinned address          */
#define TRANSPORT_PINS_MAX      4096u   /* pins of one shard between two sweeps; then sweep all */
#define TRANSPORT_SWEEP_US      1000000 /* how often a shard's pins are swept                   */
#define TRANSPORT_STOPPED_US    1000000 /* no turn of a loop that works takes so long           */
#define TRANSPORT_FIXED_HEADERS 3u      /* Content-Type, and Accept and Expect switched off     */

/* One multi handle with the hosts that hash to it. */
struct shard {
    unsigned magic;
    struct transport *t;
    CURLM *multi;
    struct event timer;
    int64_t wake_us;  /* when libcurl wants to be called, -1 = never             */
    int64_t armed_us; /* when `timer` fires, -1 = not armed; never after wake_us */
    bool to_start;    /* has new transfers that libcurl has not seen to          */
    bool touched;     /* on t->touched: may have finished transfers              */
    unsigned pins;    /* since the last sweep                                    */
    int64_t swept_us;
    STAILQ_ENTRY(shard) touched_link;
};

/* One descriptor of libcurl's. Kept registered while its connection idles, which spares two
 * epoll_ctl per request. */
struct watch {
    unsigned magic;
    int fd;
    short want;  /* EV_READ | EV_WRITE that libcurl asked for; 0 = the connection idles */
    short armed; /* what is registered                                                  */
    struct shard *shard;
    struct event ev;
};

enum transfer_state { TRANSFER_IDLE, TRANSFER_QUEUED, TRANSFER_RUNNING, TRANSFER_ENDED };

struct transfer {
    unsigned magic;
    enum transfer_state state;
    struct transport *t;
    struct shard *shard;
    CURL *easy;
    TAILQ_ENTRY(transfer) link; /* in t->idle, t->queued or t->running */
    transport_fn *fn;
    void *ctx;
    const struct endpoint *endpoint;
    int64_t started_us;
    int64_t timeout_ms;
    int64_t connect_ms;

    /* what the gates saw */
    const char *refused; /* why no request can be made at all: our fault     */
    const char *denied;  /* the policy's reason                              */
    int socket_errno;    /* socket() failed with this                        */
    bool unpinned;       /* libcurl wanted to resolve by itself: refused     */
    bool tls_started;
    unsigned sends; /* > 1: libcurl repeated it on a new connection     */
    char peer[NETGUARD_TEXT];

    /* the answer */
    int status;
    bool in_fields;   /* between a status line and its blank line        */
    bool headers_end; /* of the final answer, not of a 1xx                */
    bool too_large;
    bool cut;                          /* we stopped reading the body                      */
    int64_t retry_after_s, retry_at_s; /* Retry-After in either form, -1 when absent  */
    int64_t date_s;                    /* Date                                        */
    size_t header_bytes, headers_len, body_bytes, body_len;

    /* buffers last: a reused transfer does not clear them, unused pages stay untouched */
    struct curl_slist nodes[TRANSPORT_FIXED_HEADERS + TRANSPORT_HEADERS_MAX];
    struct curl_slist pin_node;
    char error[CURL_ERROR_SIZE];
    char pin[LIMIT_HOST + INET6_ADDRSTRLEN + 16];
    char text[TRANSPORT_HEADERS_TEXT];
    char headers[LIMIT_RESPONSE_HEADERS_KEPT];
    char body[LIMIT_RESPONSE_KEPT];
};

TAILQ_HEAD(transfer_list, transfer);

struct transport {
    unsigned magic;
    struct event_base *base;
    const struct netguard *guard;
    char *ca_file, *user_agent;
    int64_t connect_timeout_ms;
    unsigned connections_max, connections; /* open now */
    bool crowded, crowded_told;            /* at the maximum: shards keep to their share */
    struct shard *shards;
    unsigned n_shards;
    struct watch **watches; /* by descriptor */
    size_t n_watches;
    struct transfer_list idle, queued, running;
    unsigned n_idle;
    STAILQ_HEAD(, shard) touched;
    struct event kick; /* a turn is due even if no descriptor stirs */
    bool kicked;       /* it is pending        */
    bool in_turn;      /* no need to kick      */
    int64_t turned_us; /* when the owner's last turn was over */
    struct transport_stats stats;
};

/* transport_loop.c */
bool shard_init(struct shard *s, struct transport *t, struct err *err) MUST_CHECK;
void shard_done(struct shard *s); /* closes its connections                         */
bool shard_add(struct shard *s,
               struct transfer *x) MUST_CHECK; /* shard_run() has to follow this turn        */
void shard_run(struct shard *s);               /* lets libcurl start what was added              */
void shard_remove(struct shard *s, struct transfer *x);
struct transfer *shard_next_ended(struct shard *s,
                                  CURLcode *ret_code); /* NULL when there is none           */
void transport_share_connections(struct transport *t); /* sets each shard's maximum */
void transport_watch_free(struct transport *t);
int transport_close_socket(void *ctx, curl_socket_t fd); /* CURLOPT_CLOSESOCKETFUNCTION */

/* transport.c */
void transport_touch(struct transport *t, struct shard *s);

/* transport_easy.c */
bool transfer_init(struct transfer *x, struct transport *t) MUST_CHECK;
void transfer_prepare(
    struct transfer *x,
    const struct transport_request *req); /* x->refused says if it cannot be sent */
void transfer_forget(struct transfer *x); /* no pointer of the last tenant stays in libcurl */

/* transport_answer.c */
void answer_reset(struct transfer *x);
size_t answer_header(char *line, size_t size, size_t n, void *ctx); /* CURLOPT_HEADERFUNCTION */
size_t answer_body(char *data, size_t size, size_t n, void *ctx);   /* CURLOPT_WRITEFUNCTION  */
void answer_judge(struct transfer *x, CURLcode code, struct transport_result *ret);

#define TRANSPORT_MAGIC 0x7a5f0001u
#define SHARD_MAGIC     0x7a5f0002u
#define WATCH_MAGIC     0x7a5f0003u
#define TRANSFER_MAGIC  0x7a5f0004u

#endif
