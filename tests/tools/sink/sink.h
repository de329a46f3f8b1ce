/* The shared state of the receiver tests/tools/sink: one process, one epoll loop, no thread. A turn
 * of the loop reads requests, decides answers, writes the ledger and only then sends: so no answer
 * is ever ahead of its ledger line. */
#ifndef NRW_SINK_H
#define NRW_SINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "sink_base.h"
#include "sink_verify.h"

#define SINK_HEAD_MAX       ((size_t)64 * 1024)
#define SINK_BODY_MAX       ((size_t)2 * 1024 * 1024)
#define SINK_SCRATCH        ((size_t)256 * 1024) /* one read at most */
#define SINK_OUT_MAX        ((size_t)32 * 1024 * 1024)
#define SINK_LISTENERS_MAX  16384u
#define SINK_PATHS_MAX      16384u /* further paths are counted as one */
#define SINK_FAILURES_MAX   (1u << 20)
#define SINK_ANSWER_MAX     (1u << 30) /* body=N */
#define SINK_HEADERS_MAX    256u
#define SINK_DELAY_MAX_US   (3600ll * 1000 * 1000)
#define SINK_CONTROL_PREFIX "/_control/"

/* ---- sink_http.c: one request out of bytes
 * --------------------------------------------------------------------- */

struct request {
    struct slice method, path, query;
    struct slice head; /* the header lines, each with its CRLF */
    struct slice body;
    struct slice event, event_id, delivery_id, attempt, timestamp;
    struct slice sig_netrecon, sig_previous, sig_standard;
    struct slice user_agent, content_type, traceparent;
    uint64_t body_len; /* announced */
    bool has_length;
    bool expect_continue;
    bool close; /* the client wants it, or speaks 1.0 */
};

enum http_result { HTTP_MORE, HTTP_DONE, HTTP_BAD };

/* Parses the head. HTTP_DONE: *ret_len bytes of head, the slices point into data. HTTP_BAD:
 * *ret_status is the answer and *ret_why the reason. */
enum http_result http_parse_head(const char *data, size_t len, struct request *ret, size_t *ret_len,
                                 int *ret_status, const char **ret_why);
/* Walks header lines; false at the end. */
bool http_next_header(struct slice *rest, struct slice *ret_name, struct slice *ret_value);

/* ---- sink_behave.c: what an answer is
 * -------------------------------------------------------------------------- */

enum act {
    ACT_ANSWER,
    ACT_HANG,
    ACT_LORIS_HEADER,
    ACT_LORIS_BODY,
    ACT_ENDLESS,
    ACT_ENDLESS_HEADERS,
    ACT_ENDLESS_1XX,
    ACT_RESET,
    ACT_RESET_AFTER,
    ACT_CLOSE,
    ACT_CLOSE_AFTER,
    ACT_GARBAGE,
    ACT_STALL,
};

struct behaviour {
    enum act act;
    int status;
    int fail_status;
    uint32_t fail_first;
    uint32_t reset_after;
    uint64_t body_len;
    int64_t delay_us;
    int64_t tick_us;
    int64_t retry_after_s; /* -1: none */
    struct slice location; /* percent-encoded; borrowed from the query */
    bool bare;             /* nothing asked: the plain 200 */
};

/* False: *ret_key is a key with a bad value, or (with only_known) one that means nothing here. */
bool behaviour_parse(struct slice query, bool only_known, struct behaviour *ret,
                     struct slice *ret_key);
const char *act_name(enum act act);

struct conn;
/* Writes the whole plan of an answer into the connection: bytes, filler, and what follows. Sends
 * nothing. */
void answer_plan(struct conn *c, const struct request *r, const struct behaviour *b);
void answer_plan_text(struct conn *c, int status, const char *type, const char *text, size_t len,
                      bool close);

/* ---- sink_paths.c: what is known per path
 * ---------------------------------------------------------------------- */

struct path {
    char *name;
    size_t len;
    uint64_t hash;
    uint64_t requests;
    char *override_text; /* the behaviour borrows from it; NULL = no override */
    struct behaviour override;
    const struct secret_group *secrets; /* valid while generation is the secrets' */
    uint64_t generation;
};

struct paths {
    struct path **slots; /* open addressing, SINK_PATHS_SLOTS of them */
    size_t n;
    struct path other;      /* everything beyond SINK_PATHS_MAX */
    struct path everything; /* only its override: path=* */
};

void paths_init(struct paths *p);
void paths_done(struct paths *p);
struct path *paths_get(struct paths *p, struct slice name); /* made on first sight */
bool path_override(struct path *p, struct slice query, struct slice *ret_key);
void path_clear(struct path *p);
void paths_each(struct paths *p, void (*fn)(void *ctx, struct path *path), void *ctx);

/* How often a delivery was failed on purpose: fail_first. */
struct failures {
    struct failure *slots;
    size_t mask;
    size_t n;
    uint64_t forgotten; /* times that the table was full and started over */
};
void failures_reset(struct failures *f);
/* True while this delivery has been failed less than `first` times; counts. */
bool failures_take(struct failures *f, struct slice path, struct slice id, uint32_t first);

/* ---- sink_timers.c: a heap of connections by due time
 * ---------------------------------------------------------- */

struct timers {
    struct conn **heap;
    size_t n, cap;
};
void timers_done(struct timers *t);
void timers_set(struct timers *t, struct conn *c, int64_t due_mono_us);
void timers_remove(struct timers *t, struct conn *c);
struct conn *timers_take_due(struct timers *t, int64_t now_mono_us);
int timers_wait_ms(const struct timers *t, int64_t now_mono_us); /* -1: none */

/* ---- sink_stats.c: latency
 * ------------------------------------------------------------------------------------- */

#define LATENCY_BUCKETS 2048
struct latency {
    uint64_t n, max;
    uint64_t buckets[LATENCY_BUCKETS];
};
void latency_add(struct latency *l, uint64_t us);
uint64_t latency_quantile(const struct latency *l, double q);
/* The number behind "produced_at_us": in a body, or 0. */
uint64_t latency_produced_at(struct slice body);

/* ---- the process
 * -----------------------------------------------------------------------------------------------
 */

struct counters {
    uint64_t requests, connections, unsent, bad, refused;
    uint64_t open, max_open, delayed, max_delayed, hanging; /* `open` counts connections */
};

struct sink {
    int epoll_fd, signal_fd, spare_fd, ledger_fd; /* ledger_fd -1: none */
    bool count_only, latency_on, stop;
    const char *bodies_dir;
    char *scratch; /* SINK_SCRATCH bytes that every read goes through */
    uint64_t seq;
    uint64_t connection_number;
    struct buf ledger;
    struct conn *conns, *staged, *ready, *dead;
    struct timers timers;
    struct paths paths;
    struct secrets secrets;
    struct failures failures;
    struct counters count;
    struct latency latency;
    struct listener *listeners;
    size_t listeners_n;
};

/* ---- sink_ledger.c
 * --------------------------------------------------------------------------------------------- */

struct answer_note {
    enum act act;
    int status;
    const char *error; /* NULL, or why the request was refused */
};
void ledger_request(struct sink *s, const struct conn *c, const struct request *r,
                    const struct secret_group *secrets, const struct answer_note *note);
void ledger_unsent(struct sink *s, uint64_t seq);
void ledger_flush(struct sink *s); /* a ledger that cannot be written ends the process */

/* ---- sink_conn.c
 * -----------------------------------------------------------------------------------------------
 */

#define CONN_MAGIC 0x636f6e6eu

enum conn_state { CONN_READING, CONN_WAITING, CONN_ANSWERING, CONN_DRAINING, CONN_DEAD };
enum conn_after { AFTER_READ, AFTER_CLOSE, AFTER_DRAIN, AFTER_RESET, AFTER_HANG, AFTER_TICK };
enum conn_fill { FILL_NONE, FILL_BODY, FILL_HEADERS, FILL_1XX };

struct conn {
    unsigned magic;
    int fd;
    uint64_t number;
    uint16_t peer_port;
    enum conn_state state;
    bool readable, hup; /* edges seen and not yet used up */
    bool delayed, hanging, in_staged, in_ready, continued;
    struct buf in; /* bytes that wait for the rest of their request, from in_off */
    size_t in_off;
    size_t need; /* 0, or how many bytes complete the request */
    /* the plan of the answer in progress */
    struct buf out;
    size_t out_off;
    enum conn_fill fill;
    uint64_t fill_left;
    enum conn_after after;
    int64_t tick_us;
    uint64_t seq;       /* 0: no ledger line waits for its answer */
    bool whole;         /* the plan is to send a complete answer  */
    size_t timer_index; /* 0: none; else place in the heap + 1    */
    int64_t timer_due;
    struct conn *prev, *next, *next_staged, *next_ready, *next_dead;
};

void conn_new(struct sink *s, int fd, uint16_t peer_port);
void conn_on_event(struct sink *s, struct conn *c, uint32_t events);
void conn_on_timer(struct sink *s, struct conn *c);
void conn_run_ready(struct sink *s);
void conn_run_staged(struct sink *s);
void conn_free_dead(struct sink *s);
void conn_close_all(struct sink *s);

/* ---- sink_handle.c, sink_control.c
 * ----------------------------------------------------------------------------- */

/* Decides and plans the answer; writes the ledger line. Returns how long the answer is held back.
 */
int64_t handle_request(struct sink *s, struct conn *c, const struct request *r);
int64_t handle_bad(struct sink *s, struct conn *c, int status, const char *why);
/* How much of the body has to be there before the request is handled: all, unless reset_after wants
 * it sooner. */
size_t handle_body_wanted(struct sink *s, const struct request *r);
void control_request(struct sink *s, struct conn *c, const struct request *r);

/* ---- sink_listen.c
 * --------------------------------------------------------------------------------------------- */

#define LISTENER_MAGIC 0x6c697374u
struct listener {
    unsigned magic;
    int fd;
    size_t range_n; /* of the first of a range: its length; of the others 0 */
    struct sockaddr_storage addr;
    socklen_t addr_len;
};
enum listen_kind {
    LISTEN_ONE,     /* "127.0.0.1:18080", "[::1]:0": loopback only  */
    LISTEN_RANGE,   /* "127.0.1.1:18080/5000": loopback only        */
    LISTEN_EXPOSED, /* "0.0.0.0:18080": whoever can reach it, may   */
};
bool listen_add(struct sink *s, const char *text, enum listen_kind kind,
                struct err *err) MUST_CHECK;
bool listen_start(struct sink *s, struct err *err) MUST_CHECK;
void listen_accept(struct sink *s, const struct listener *l);
void listen_done(struct sink *s);
void listen_print_ready(const struct sink *s);

#endif
