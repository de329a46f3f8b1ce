/* What the files of the schedule share. Private to schedule.c, schedule_batch.c and
 * schedule_walk.c. */
#ifndef NRW_SCHEDULE_INTERNAL_H
#define NRW_SCHEDULE_INTERNAL_H

#include "metrics.h"
#include "redis.h"
#include "schedule.h"

#define SCHEDULE_MAGIC   0x53434845u
#define SCHEDULE_RUN_MAX 63 /* characters of a run id */
#define SCHEDULE_TICK_US 1000000

enum schedule_state {
    SCHEDULE_DOWN,     /* no connection                                                   */
    SCHEDULE_GREETING, /* connected; asking which run of Redis this is and if it takes writes */
    SCHEDULE_REFUSED,  /* connected, but the last answer was an error: read-only, full, loading */
    SCHEDULE_UP,
    SCHEDULE_CLOSED,
};

enum schedule_script {
    SCRIPT_CLAIM,
    SCRIPT_ADD,
    SCRIPT_DONE,
    SCRIPT_GIVE_BACK,
    SCRIPT_REAP,
    SCRIPT_REBUILD_BEGIN,
    SCRIPT_FILL,
    SCRIPT_REBUILD_END,
    SCRIPT_RECONCILE_BEGIN,
    SCRIPT_N
};

/* The keys and arguments of one script, built up and sent; the one scratch of a schedule. */
struct words {
    int n;
    int n_keys;
    const char *argv[REDIS_ARGS_MAX];
    size_t len[REDIS_ARGS_MAX];
    size_t used;
    char text[65536]; /* 500 ids with their delays need half of it */
};

/* A script without an answer yet. */
struct schedule_call {
    struct schedule *s;
    enum schedule_script script;
    size_t n; /* ids asked for or handed over */
    unsigned generation;
};

struct batch {
    enum schedule_script script;
    size_t n;
    struct uuid ids[SCHEDULE_CLAIM_MAX];
    int64_t delay_ms[SCHEDULE_CLAIM_MAX];
};

enum walk_step { WALK_IDLE, WALK_BEGIN, WALK_READ, WALK_FILL, WALK_END };

struct walk_cursor {
    char at[8]; /* next_attempt_at and delivery_id as PostgreSQL sends them in binary */
    char id[16];
};

/* A walk over pending_deliveries, a page at a time: all of it (rebuild) or what is overdue
 * (reconcile). */
struct walk {
    enum walk_step step;
    bool rebuild;
    bool last;              /* this page is the last one          */
    unsigned generation;    /* answers for an older one are stale */
    struct walk_page *page; /* the query that is out */
    unsigned fills;         /* scripts that are out  */
    struct walk_cursor cursor;
    int64_t begun_us;
    char begun_ms[24]; /* by Redis' clock */
    unsigned pages;
    uint64_t rows, added;
};

struct schedule {
    unsigned magic;
    enum schedule_state state;
    struct schedule_config cfg; /* without the URL */
    struct schedule_handlers on;
    struct pg *pg;
    struct redis *redis;
    struct redis *listener;
    struct redis_script scripts[SCRIPT_N];
    char run[SCHEDULE_RUN_MAX + 1]; /* of the Redis that is connected; "" until it has said */
    struct words words;

    struct event *claim_timer;
    struct event *tick; /* reaps, and proves that Redis takes writes; looks after the walks */
    size_t want;
    bool claim_out;
    int64_t next_claim_us;
    int64_t last_claim_us;
    int64_t hinted_us; /* a hint that came while a claim was out; INT64_MAX: none */

    struct batch done, give_back, add;

    bool epoch_lost; /* the index does not belong to this run of Redis */
    int64_t gap_us;  /* when an addition was forgotten last; 0: none   */
    int64_t walk_not_before_us;
    int64_t reconcile_at_us;
    struct walk_cursor reconcile_cursor; /* a long reconcile goes on where it stopped */
    char token[UUID_TEXT + 1];           /* of the rebuild lock */
    struct walk walk;

    int64_t complained_us;
    uint64_t complaints; /* not logged since */
    struct gauge *up;
    struct counter *claimed, *rebuilds, *reaped, *reconciled, *errors;
};

/* --- schedule.c: one script call --- */

/* Empties the scratch and puts the script's keys, and the run id where it wants one, into it. */
struct words *schedule_words(struct schedule *s, enum schedule_script script);
void words_add(struct words *w, const char *text);
void words_add_int(struct words *w, int64_t value);
void words_add_uuid(struct words *w, const struct uuid *id);
/* Sends the scratch. False: nothing was sent. */
bool schedule_send(struct schedule *s, enum schedule_script script, size_t n) MUST_CHECK;
/* Redis said that something is due in wait_ms. */
void schedule_hint(struct schedule *s, int64_t wait_ms);
/* Counts; logs once in 30 s. */
void schedule_complain(struct schedule *s, const char *what, const struct err *err);
/* us, less up to a tenth: workers must not move in step. */
int64_t schedule_jitter(int64_t us);

/* --- schedule_batch.c: add, done, give_back --- */

void batch_init(struct schedule *s);
void batch_flush(struct schedule *s);
/* An addition is lost: the next rebuild has to begin after this moment. */
void batch_forgotten(struct schedule *s);

/* --- schedule_walk.c: rebuild and reconcile --- */

void walk_init(struct schedule *s);
void walk_tick(struct schedule *s); /* starts what is wanted */
void walk_answer(struct schedule *s, const struct schedule_call *call,
                 const struct redisReply *reply);
/* Stops whatever is going on; it begins anew in a second if it is still wanted. */
void walk_abandon(struct schedule *s);

#endif
