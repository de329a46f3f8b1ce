/* The Kafka side of intake against librdkafka's mock brokers: assignment, rebalance drain, offsets,
 * pause and resume, leaving.
 * The mock coordinator waits 3 s before it forms a group, so the first member of every test joins
 * when the program starts, each in a group and topic of its own, and the tests are shared out to a
 * few processes, because most of their time is waiting. Later the coordinator waits one second less
 * than the session timeout for a rebalance. While it waits it refuses commits, which Kafka does
 * not: what is settled in a drain comes again here; that it does not on Kafka is the system tests'
 * to prove. And when a leader's SyncGroup overtakes a follower's, both have to do it all over. */
#include "consumer.h"

#include "worker_fixture.h"

#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "assignment.h"
#include "bounds.h"
#include "metrics.h"

#define PARTITIONS   4
#define OFFSETS_MAX  3000
#define OPEN_MAX     64
#define MEMBERS_MAX  2
#define WORLDS_MAX   20
#define LONG_DRAIN   20000
#define SLOW_TURN_US 500000 /* a turn that waits for something would take seconds */

struct open_slot {
    struct tracker *t;
    uint64_t slot;
    int32_t partition;
    int64_t offset;
};

struct member {
    struct world *w;
    struct config cfg;
    struct consumer *c;
    struct tracker *trackers[PARTITIONS];
    unsigned assignments;
    unsigned revoking;
    size_t taken;
    size_t turn_bytes, turn_bytes_max;
    int64_t last[PARTITIONS]; /* offset taken last in this assignment, -1 */
    unsigned open_n;
    struct open_slot open[OPEN_MAX];
};

struct world {
    const char *name;
    const struct broker *broker;
    const char *strategy;
    int64_t drain_ms;
    rd_kafka_t *watcher; /* asks for committed offsets; joins nothing */
    struct event_base *base;
    struct event *ticker;
    char conf[64];
    char topic[64];
    struct member members[MEMBERS_MAX];
    int64_t hold_from; /* messages that stay open, whoever takes them: from here, */
    int64_t hold_to;   /* up to but not this one,                                 */
    int32_t hold_partition;
    unsigned seen[PARTITIONS][OFFSETS_MAX]; /* how often each message was taken */
    int64_t produced[PARTITIONS];
};

/* What a test breaks on purpose in a cluster hits every group there: such a test has its own. */
static struct broker {
    rd_kafka_t *host; /* holds the mock brokers, and produces */
    rd_kafka_mock_cluster_t *cluster;
} shared, own;

static struct world worlds[WORLDS_MAX];
static struct world *w; /* of the running test */
static int64_t longest_turn_us;

/* --- members --- */

static void on_message(void *ctx, struct tracker *t, uint64_t slot, const rd_kafka_message_t *m)
{
    struct member *member = ctx;
    struct world *world = member->w;
    assert_in_range(m->partition, 0, PARTITIONS - 1);
    assert_in_range(m->offset, 0, OFFSETS_MAX - 1);
    assert_ptr_equal(member->trackers[m->partition], t);
    const int64_t last = member->last[m->partition];
    if (last != -1 && m->offset != last + 1) {
        fail_msg("%s: partition %d: %lld after %lld", world->name, m->partition,
                 (long long)m->offset, (long long)last);
    }
    member->last[m->partition] = m->offset;
    member->taken++;
    member->turn_bytes += m->len;
    world->seen[m->partition][m->offset]++;
    if (m->partition == world->hold_partition && m->offset >= world->hold_from &&
        m->offset < world->hold_to) {
        assert_true(member->open_n < OPEN_MAX);
        member->open[member->open_n++] = (struct open_slot){t, slot, m->partition, m->offset};
    } else {
        tracker_done(t, slot);
    }
}

static void on_assigned(void *ctx, struct tracker *const *trackers, size_t n)
{
    struct member *member = ctx;
    member->assignments++;
    for (size_t i = 0; i < n; i++) {
        const int32_t p = tracker_partition(trackers[i]);
        member->trackers[p] = trackers[i];
        member->last[p] = -1;
        assert_int_equal(0, tracker_busy(trackers[i]));
        assert_int_equal(tracker_epoch(trackers[0]), tracker_epoch(trackers[i]));
    }
}

static void on_revoking(void *ctx, const struct tracker *t)
{
    struct member *member = ctx;
    struct tracker **mine = &member->trackers[tracker_partition(t)];
    assert_true(*mine == t || *mine == NULL); /* a stop says it, and the close after it again */
    *mine = NULL;
    member->revoking++;
}

static void on_fatal(void *ctx, const char *text)
{
    (void)ctx;
    fail_msg("fatal: %s", text);
}

static void join(struct world *world, struct member *member)
{
    struct err err = {0};
    const struct consumer_handlers on = {.message = on_message,
                                         .assigned = on_assigned,
                                         .revoking = on_revoking,
                                         .fatal = on_fatal,
                                         .ctx = member};
    member->w = world;
    for (int p = 0; p < PARTITIONS; p++) {
        member->last[p] = -1;
    }
    settings_defaults(&member->cfg);
    settings_set(&member->cfg.kafka_brokers,
                 rd_kafka_mock_cluster_bootstraps(world->broker->cluster));
    settings_set(&member->cfg.kafka_conf, world->conf);
    settings_set(&member->cfg.topic, world->topic);
    settings_set(&member->cfg.group, world->name);
    member->cfg.drain_timeout = world->drain_ms;
    member->c = consumer_new(world->base, &member->cfg, &on, &err);
    if (member->c == NULL) {
        fail_msg("%s", err.text);
    }
    consumer_set_flow(member->c, true);
}

static void leave(struct member *member)
{
    consumer_free(member->c);
    member->c = NULL;
    for (unsigned i = 0; i < member->open_n; i++) {
        tracker_leave(member->open[i].t); /* valid until the last one lets go */
    }
    member->open_n = 0;
    config_free(&member->cfg);
}

static void close_slot(struct member *member, unsigned i)
{
    const struct open_slot s = member->open[i];
    member->open[i] = member->open[--member->open_n];
    tracker_done(s.t, s.slot);
}

/* --- worlds --- */

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(w->base, EVLOOP_ONCE));
    const int64_t since = clock_mono_us();
    for (size_t i = 0; i < MEMBERS_MAX; i++) {
        if (w->members[i].c != NULL) {
            struct member *m = &w->members[i];
            m->turn_bytes = 0;
            consumer_after_turn(m->c);
            m->turn_bytes_max =
                m->turn_bytes > m->turn_bytes_max ? m->turn_bytes : m->turn_bytes_max;
        }
    }
    const int64_t took = clock_mono_us() - since;
    longest_turn_us = took > longest_turn_us ? took : longest_turn_us;
}

static void write_conf(struct world *world)
{
    strncpy(world->conf, "/tmp/nrw-test-consumer-XXXXXX", sizeof(world->conf) - 1);
    const int fd = mkstemp(world->conf);
    assert_true(fd != -1);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    assert_true(fprintf(f,
                        "session.timeout.ms=3100\nheartbeat.interval.ms=100\n"
                        "auto.commit.interval.ms=100\npartition.assignment.strategy=%s\n",
                        world->strategy) > 0);
    assert_int_equal(0, fclose(f));
}

/* One world for each test; its name is the test's. */
static void make_world(const char *name, const struct broker *broker, const char *strategy,
                       int64_t drain_ms)
{
    size_t i = 0;
    while (worlds[i].name != NULL) {
        i++;
        assert_true(i < WORLDS_MAX);
    }
    const struct timeval tick = {.tv_usec = 5000};
    struct world *world = &worlds[i];
    world->name = name;
    world->broker = broker;
    world->strategy = strategy;
    world->drain_ms = drain_ms;
    world->base = event_base_new();
    world->ticker = event_new(world->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world->ticker, &tick);
    assert_true(snprintf(world->topic, sizeof(world->topic), "topic-%zu", i) > 0);
    assert_int_equal(0, rd_kafka_mock_topic_create(broker->cluster, world->topic, PARTITIONS, 1));
    write_conf(world);
    join(world, &world->members[0]);
}

static void free_world(struct world *world)
{
    for (size_t i = 0; i < MEMBERS_MAX; i++) {
        if (world->members[i].c != NULL) {
            leave(&world->members[i]);
        }
    }
    if (world->watcher != NULL) {
        rd_kafka_destroy(world->watcher);
    }
    event_free(world->ticker);
    event_base_free(world->base);
    unlink(world->conf);
}

static int begin(void **state)
{
    w = NULL;
    for (size_t i = 0; i < WORLDS_MAX; i++) {
        if (worlds[i].name != NULL && strcmp(worlds[i].name, *state) == 0) {
            w = &worlds[i];
        }
    }
    longest_turn_us = 0;
    return w == NULL;
}

static void produce_large(int32_t partition, int n, size_t size)
{
    static char value[LIMIT_EVENT_BYTES] = "{}";
    const rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = w->topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = value, .size = size}},
    };
    for (int i = 0; i < n; i++) {
        assert_null(rd_kafka_produceva(w->broker->host, parts, COUNT(parts)));
    }
    w->produced[partition] += n;
    assert_int_equal(RD_KAFKA_RESP_ERR_NO_ERROR, rd_kafka_flush(w->broker->host, 10000));
}

static void produce(int32_t partition, int n)
{
    produce_large(partition, n, 2);
}

static void produce_all(int n)
{
    for (int32_t p = 0; p < PARTITIONS; p++) {
        produce(p, n);
    }
}

/* Messages that nobody has taken yet. */
static int64_t missing(void)
{
    int64_t n = 0;
    for (int p = 0; p < PARTITIONS; p++) {
        for (int64_t o = 0; o < w->produced[p]; o++) {
            n += w->seen[p][o] == 0;
        }
    }
    return n;
}

static int64_t taken_again(void)
{
    int64_t n = 0;
    for (int p = 0; p < PARTITIONS; p++) {
        for (int64_t o = 0; o < w->produced[p]; o++) {
            n += w->seen[p][o] > 1;
        }
    }
    return n;
}

static int64_t committed(int32_t partition)
{
    if (w->watcher == NULL) {
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        char why[200];
        assert_int_equal(RD_KAFKA_CONF_OK, rd_kafka_conf_set(conf, "group.id", w->name, why, 200));
        assert_int_equal(RD_KAFKA_CONF_OK,
                         rd_kafka_conf_set(conf, "bootstrap.servers",
                                           rd_kafka_mock_cluster_bootstraps(w->broker->cluster),
                                           why, 200));
        w->watcher = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
        assert_non_null(w->watcher);
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, w->topic, partition);
    const rd_kafka_resp_err_t e = rd_kafka_committed(w->watcher, list, 10000);
    const int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    assert_int_equal(RD_KAFKA_RESP_ERR_NO_ERROR, e);
    return offset < 0 ? 0 : offset;
}

static size_t partitions_of(const struct member *member)
{
    size_t n = 0;
    for (int p = 0; p < PARTITIONS; p++) {
        n += member->trackers[p] != NULL;
    }
    return n;
}

static void turn_for_ms(int64_t ms)
{
    for (int64_t until = clock_mono_us() + ms * 1000; clock_mono_us() < until;) {
        turn();
    }
}

static void hold(int32_t partition, int64_t from, int64_t to)
{
    w->hold_partition = partition;
    w->hold_from = from;
    w->hold_to = to;
}

static void hold_nothing(void)
{
    hold(0, 0, 0);
}

/* Taken by somebody, settled and committed: up to the first one that is held. */
static void await_quiet(void)
{
    AWAIT_TURNS(missing() == 0);
    for (int32_t p = 0; p < PARTITIONS; p++) {
        const struct member *a = &w->members[0];
        const bool held = a->open_n > 0 && a->open[0].partition == p;
        AWAIT_TURNS(committed(p) == (held ? a->open[0].offset : w->produced[p]));
    }
}

/* --- assignment and offsets --- */

static void an_assignment_gives_every_partition_a_fresh_tracker(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    AWAIT_TURNS(consumer_joined(a->c));
    assert_int_equal(1, a->assignments);
    assert_int_equal(PARTITIONS, partitions_of(a));
    assert_true(tracker_epoch(a->trackers[0]) > 0);
    produce_all(50);
    AWAIT_TURNS(missing() == 0);
    await_quiet();
    assert_int_equal(0, taken_again());
}

static void offsets_are_committed_only_up_to_the_first_open_event(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    hold(0, 4, 5);
    produce(0, 20);
    produce(1, 20);
    AWAIT_TURNS(missing() == 0);
    AWAIT_TURNS(committed(1) == 20);
    AWAIT_TURNS(committed(0) == 4);
    turn_for_ms(300); /* three more commits */
    assert_int_equal(4, committed(0));
    close_slot(a, 0);
    AWAIT_TURNS(committed(0) == 20);
}

/* --- rebalance --- */

static void await_halves(void)
{
    AWAIT_TURNS(partitions_of(&w->members[0]) == PARTITIONS / 2 &&
                partitions_of(&w->members[1]) == PARTITIONS / 2);
}

/* Nothing was taken twice but the partition's messages from `open` on, and what was produced during
 * the rebalance. */
static void assert_no_repeats_but(int32_t partition, int64_t open, int64_t during)
{
    for (int32_t p = 0; p < PARTITIONS; p++) {
        const int64_t end = p == partition ? open : during;
        for (int64_t o = 0; o < end && o < w->produced[p]; o++) {
            if (w->seen[p][o] != 1) {
                fail_msg("partition %d, offset %lld: taken %u times", p, (long long)o,
                         w->seen[p][o]);
            }
        }
    }
}

/* A second member joins while the first one has an event in hand. */
static void a_revoke_waits_for_what_is_in_hand_and_the_loop_goes_on(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    struct member *b = &w->members[1];
    hold(2, 5, 6);
    produce_all(10);
    await_quiet();
    const uint64_t epoch = tracker_epoch(a->trackers[0]);
    longest_turn_us = 0;
    join(w, b);
    AWAIT_TURNS(a->revoking == PARTITIONS);
    produce_all(1); /* what comes meanwhile is nobody's yet */
    turn_for_ms(300);
    assert_int_equal(PARTITIONS, a->revoking);
    assert_int_equal(1, a->assignments);
    assert_int_equal(0, b->assignments);
    assert_int_equal(PARTITIONS, missing());
    hold_nothing();
    close_slot(a, 0);
    await_halves();
    for (int p = 0; p < PARTITIONS; p++) {
        assert_true((a->trackers[p] == NULL) != (b->trackers[p] == NULL));
        assert_true(a->trackers[p] == NULL || tracker_epoch(a->trackers[p]) > epoch);
    }
    await_quiet();
    assert_no_repeats_but(2, 5, 10);
    assert_true(longest_turn_us < SLOW_TURN_US);
}

static struct open_slot *open_in(struct member *member, const struct tracker *t)
{
    for (unsigned i = 0; i < member->open_n; i++) {
        if (member->open[i].t == t) {
            return &member->open[i];
        }
    }
    return NULL;
}

static void a_completion_after_the_drain_does_not_touch_the_new_tracker(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    struct member *b = &w->members[1];
    hold(1, 3, 4); /* whoever takes it */
    produce_all(10);
    await_quiet();
    join(w, b);
    AWAIT_TURNS(a->revoking == PARTITIONS);
    const int64_t since = clock_mono_us();
    await_halves();
    assert_true(clock_mono_us() - since >= w->drain_ms * 1000);
    struct member *owner = a->trackers[1] != NULL ? a : b;
    struct tracker *fresh = owner->trackers[1];
    AWAIT_TURNS(owner->last[1] == 9);
    assert_non_null(open_in(owner, fresh));
    assert_int_equal(1, tracker_busy(fresh));
    assert_true(tracker_retired(a->open[0].t));
    assert_ptr_not_equal(fresh, a->open[0].t);
    close_slot(a, 0); /* the last event of the first tracker: frees it */
    assert_int_equal(1, tracker_busy(fresh));
    turn_for_ms(300);
    assert_int_equal(3, committed(1));
    close_slot(owner, (unsigned)(open_in(owner, fresh) - owner->open));
    AWAIT_TURNS(committed(1) == 10);
    assert_no_repeats_but(1, 3, 10);
}

static void a_lost_assignment_is_given_up_at_once(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    hold(0, 0, 1);
    produce_all(5);
    await_quiet();
    hold_nothing();
    const struct counter *late = metrics_counter("nrw_drains_incomplete_total", NULL, "");
    const uint64_t before = late->value;
    rd_kafka_mock_push_request_errors(w->broker->cluster, 12 /* Heartbeat */, 1,
                                      RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION);
    AWAIT_TURNS(a->revoking == PARTITIONS);
    turn();
    assert_int_equal(before + 1, late->value); /* it does not wait for the drain's 20 s */
    AWAIT_TURNS(w->seen[0][0] == 2);
    assert_true(tracker_retired(a->open[0].t));
    AWAIT_TURNS(committed(0) == 5);
}

static void cooperative_members_keep_what_they_keep(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    struct member *b = &w->members[1];
    struct tracker *before[PARTITIONS];
    produce_all(10);
    await_quiet();
    memcpy(before, a->trackers, sizeof(before));
    longest_turn_us = 0;
    join(w, b);
    AWAIT_TURNS(a->revoking > 0);
    produce_all(10);
    await_halves();
    assert_int_equal(PARTITIONS / 2, a->revoking); /* and no more */
    await_quiet();
    assert_no_repeats_but(0, 10, 10);
    for (int p = 0; p < PARTITIONS; p++) {
        if (a->trackers[p] != NULL) {
            assert_ptr_equal(before[p], a->trackers[p]); /* no new epoch */
            assert_int_equal(20, a->last[p] + 1);
        }
    }
    assert_true(longest_turn_us < SLOW_TURN_US);
}

/* --- flow --- */

static struct counter *pauses(void)
{
    return metrics_counter("nrw_pauses_total", NULL, "");
}

static void a_long_stop_of_the_flow_pauses_and_nothing_is_lost_or_skipped(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    const uint64_t before = pauses()->value;
    produce_all(200);
    AWAIT_TURNS(a->taken > 100);
    consumer_set_flow(a->c, false);
    const size_t taken = a->taken;
    const int64_t since = clock_mono_us();
    AWAIT_TURNS(pauses()->value == before + 1);
    assert_true(clock_mono_us() - since >= 1000000);
    produce_all(200);
    turn_for_ms(300);
    assert_int_equal(taken, a->taken);
    consumer_set_flow(a->c, true);
    AWAIT_TURNS(missing() == 0);
    turn_for_ms(200);
    assert_int_equal(0, taken_again()); /* on_message checks the order */
    await_quiet();
    assert_int_equal(before + 1, pauses()->value);
}

static void a_short_stop_of_the_flow_takes_nothing_and_pauses_nothing(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    AWAIT_TURNS(consumer_joined(a->c));
    const uint64_t before = pauses()->value;
    produce(0, 1000);
    for (int i = 0; i < 6; i++) {
        const size_t was = a->taken;
        consumer_set_flow(a->c, false);
        turn_for_ms(30);
        assert_int_equal(was, a->taken);
        consumer_set_flow(a->c, true);
        turn_for_ms(10);
    }
    AWAIT_TURNS(missing() == 0);
    assert_int_equal(0, taken_again());
    assert_int_equal(before, pauses()->value);
}

/* The flow is decided between two turns: what comes in one is bounded, and what is left over comes
 * at once. */
static void a_turn_takes_a_megabyte_and_one_message_at_most(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    AWAIT_TURNS(consumer_joined(a->c));
    consumer_set_flow(a->c, false);
    produce_large(0, 16, LIMIT_EVENT_BYTES);
    turn_for_ms(500); /* they are fetched meanwhile */
    consumer_set_flow(a->c, true);
    AWAIT_TURNS(missing() == 0);
    assert_true(a->turn_bytes_max > LIMIT_EVENT_BYTES);
    assert_true(a->turn_bytes_max < ((size_t)1 << 20) + LIMIT_EVENT_BYTES);
}

/* Who is paused takes part in rebalances, and gets all of its messages afterwards. */
static void rebalance_while_paused(bool pause_again)
{
    struct member *a = &w->members[0];
    struct member *b = &w->members[1];
    produce_all(10);
    await_quiet();
    consumer_set_flow(a->c, false);
    const uint64_t before = pauses()->value;
    AWAIT_TURNS(pauses()->value == before + 1);
    join(w, b);
    await_halves();
    produce_all(10);
    const int64_t own_share = w->produced[0] / 2 * PARTITIONS / 2; /* A's half of the last ten */
    AWAIT_TURNS(missing() == own_share);
    const uint64_t paused = pauses()->value;
    AWAIT_TURNS(!pause_again || pauses()->value > paused);
    assert_int_equal(own_share, missing());
    consumer_set_flow(a->c, true);
    await_quiet();
    assert_int_equal(0, taken_again());
}

static void a_paused_member_takes_part_in_rebalances(void **state)
{
    (void)state;
    rebalance_while_paused(true);
}

static void a_member_whose_flow_returns_after_a_rebalance_has_nothing_paused(void **state)
{
    (void)state;
    rebalance_while_paused(false);
}

static void a_cooperative_member_resumes_what_it_had_paused_and_kept(void **state)
{
    (void)state;
    rebalance_while_paused(false);
}

/* --- leaving --- */

static void a_stop_takes_no_more_drains_commits_and_leaves(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    hold(3, 8, 9);
    produce_all(10);
    AWAIT_TURNS(missing() == 0);
    const size_t taken = a->taken;
    consumer_stop(a->c);
    assert_int_equal(PARTITIONS, a->revoking);
    consumer_stop(a->c); /* twice is once */
    assert_int_equal(PARTITIONS, a->revoking);
    produce_all(10);
    turn_for_ms(300);
    assert_false(consumer_closed(a->c));
    assert_int_equal(taken, a->taken);
    close_slot(a, 0);
    AWAIT_TURNS(consumer_closed(a->c));
    for (int32_t p = 0; p < PARTITIONS; p++) {
        assert_int_equal(10, committed(p));
    }
    assert_true(longest_turn_us < SLOW_TURN_US);
}

static void a_stop_gives_up_after_one_drain_timeout(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    hold(0, 2, 3);
    produce_all(5);
    AWAIT_TURNS(missing() == 0);
    const int64_t since = clock_mono_us();
    consumer_stop(a->c);
    AWAIT_TURNS(consumer_closed(a->c));
    const int64_t took = clock_mono_us() - since;
    assert_in_range(took, w->drain_ms * 1000, w->drain_ms * 1800);
    assert_int_equal(2, committed(0));
    assert_int_equal(5, committed(1));
}

static void a_stop_during_a_revoke_closes_when_all_is_drained(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    struct member *b = &w->members[1];
    hold(0, 0, 1);
    produce_all(5);
    await_quiet();
    join(w, b);
    AWAIT_TURNS(a->revoking == PARTITIONS);
    consumer_stop(a->c);
    turn_for_ms(200);
    assert_false(consumer_closed(a->c));
    hold_nothing();
    close_slot(a, 0);
    AWAIT_TURNS(consumer_closed(a->c));
    AWAIT_TURNS(partitions_of(b) == PARTITIONS);
    produce_all(5);
    await_quiet();
    assert_no_repeats_but(0, 0, 5);
}

static void a_partition_that_is_added_again_gets_a_tracker_of_its_own(void **state)
{
    (void)state;
    int64_t offset = 0;
    struct assignment *mine = assignment_new("topic");
    assignment_new_epoch(mine);
    struct tracker *first = assignment_add(mine, 7);
    const uint64_t slot = tracker_open(first, 10, 1);
    assignment_new_epoch(mine);
    struct tracker *second = assignment_add(mine, 7);
    assert_ptr_equal(second, assignment_tracker(mine, 7));
    assert_true(tracker_epoch(second) > tracker_epoch(first));
    assert_true(tracker_retired(first));
    assert_int_equal(0, assignment_busy(mine));
    tracker_done(first, slot); /* frees it */
    assert_false(tracker_take_offset(second, &offset));
    assert_null(assignment_tracker(mine, 6));
    assert_null(assignment_tracker(mine, -1));
    assert_null(assignment_tracker(mine, 8));
    assignment_drop(mine, 7);
    assert_null(assignment_tracker(mine, 7));
    assignment_free(mine);
}

static void freeing_an_open_consumer_does_not_block(void **state)
{
    (void)state;
    struct member *a = &w->members[0];
    hold(0, 0, 3);
    produce_all(5);
    AWAIT_TURNS(missing() == 0);
    const int64_t since = clock_mono_us();
    leave(a); /* its events let go afterwards */
    assert_true(clock_mono_us() - since < 2000000);
}

static void settings_that_lose_events_are_refused(void **state)
{
    (void)state;
    struct config cfg;
    struct err err = {0};
    const struct consumer_handlers on = {.ctx = NULL};
    FILE *f = fopen(w->conf, "we");
    assert_non_null(f);
    assert_true(fputs("enable.auto.offset.store=true\n", f) >= 0);
    assert_int_equal(0, fclose(f));
    settings_defaults(&cfg);
    settings_set(&cfg.kafka_conf, w->conf);
    assert_null(consumer_new(w->base, &cfg, &on, &err));
    assert_non_null(strstr(err.text, "enable.auto.offset.store"));
    config_free(&cfg);
}

/* --- main --- */

#define RANGE  "range"
#define STICKY "cooperative-sticky"
#define TESTS(X)                                                                                   \
    X(an_assignment_gives_every_partition_a_fresh_tracker, shared, RANGE, LONG_DRAIN)              \
    X(offsets_are_committed_only_up_to_the_first_open_event, shared, RANGE, LONG_DRAIN)            \
    X(a_revoke_waits_for_what_is_in_hand_and_the_loop_goes_on, shared, RANGE, LONG_DRAIN)          \
    X(a_completion_after_the_drain_does_not_touch_the_new_tracker, shared, RANGE, 400)             \
    X(a_lost_assignment_is_given_up_at_once, own, RANGE, LONG_DRAIN)                               \
    X(cooperative_members_keep_what_they_keep, shared, STICKY, LONG_DRAIN)                         \
    X(a_long_stop_of_the_flow_pauses_and_nothing_is_lost_or_skipped, shared, RANGE, LONG_DRAIN)    \
    X(a_short_stop_of_the_flow_takes_nothing_and_pauses_nothing, shared, RANGE, LONG_DRAIN)        \
    X(a_turn_takes_a_megabyte_and_one_message_at_most, shared, RANGE, LONG_DRAIN)                  \
    X(a_paused_member_takes_part_in_rebalances, shared, RANGE, LONG_DRAIN)                         \
    X(a_member_whose_flow_returns_after_a_rebalance_has_nothing_paused, shared, RANGE, LONG_DRAIN) \
    X(a_cooperative_member_resumes_what_it_had_paused_and_kept, shared, STICKY, LONG_DRAIN)        \
    X(a_stop_takes_no_more_drains_commits_and_leaves, shared, RANGE, LONG_DRAIN)                   \
    X(a_stop_gives_up_after_one_drain_timeout, shared, RANGE, 1000)                                \
    X(a_stop_during_a_revoke_closes_when_all_is_drained, shared, RANGE, LONG_DRAIN)                \
    X(freeing_an_open_consumer_does_not_block, shared, RANGE, LONG_DRAIN)                          \
    X(a_partition_that_is_added_again_gets_a_tracker_of_its_own, shared, RANGE, LONG_DRAIN)        \
    X(settings_that_lose_events_are_refused, shared, RANGE, LONG_DRAIN)

static void open_broker(struct broker *b)
{
    char why[200] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    /* quiet: that it has no brokers yet, and none any more at the end, is on purpose */
    assert_int_equal(RD_KAFKA_CONF_OK, rd_kafka_conf_set(conf, "log_level", "0", why, sizeof(why)));
    b->host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    b->cluster = rd_kafka_mock_cluster_new(b->host, 1);
    assert_non_null(b->cluster);
    assert_int_equal(1,
                     rd_kafka_brokers_add(b->host, rd_kafka_mock_cluster_bootstraps(b->cluster)));
}

static void close_broker(struct broker *b)
{
    rd_kafka_mock_cluster_destroy(b->cluster);
    rd_kafka_destroy(b->host);
}

#define PARTS 4 /* processes */

static const struct {
    CMUnitTestFunction run;
    const char *name;
    const struct broker *broker;
    const char *strategy;
    int64_t drain_ms;
} rows[] = {
#define X(name, broker, strategy, drain) {name, #name, &(broker), strategy, drain},
    TESTS(X)
#undef X
};

static size_t part; /* this process runs the rows of its remainder */

static int open_all(void **state)
{
    (void)state;
    open_broker(&shared);
    open_broker(&own);
    for (size_t i = part; i < COUNT(rows); i += PARTS) {
        make_world(rows[i].name, rows[i].broker, rows[i].strategy, rows[i].drain_ms);
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (size_t i = 0; i < WORLDS_MAX && worlds[i].name != NULL; i++) {
        free_world(&worlds[i]);
    }
    close_broker(&shared);
    close_broker(&own);
    return 0;
}

static int run_part(void)
{
    struct CMUnitTest tests[COUNT(rows)];
    memset(tests, 0, sizeof(tests));
    size_t n = 0;
    for (size_t i = part; i < COUNT(rows); i += PARTS) {
        char *name = strdup(rows[i].name);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(rows[i].run, begin,
                                                                                 NULL, name);
        tests[n - 1].name = name;
    }
    /* not the macro: it counts the elements of the array */
    const int failed = _cmocka_run_group_tests("consumer", tests, n, open_all, close_all);
    for (size_t i = 0; i < n; i++) {
        free(tests[i].initial_state);
    }
    return failed;
}

int main(void)
{
    pid_t pids[PARTS];
    int status = 0;
    bool ok = true;
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    for (part = 0; part < PARTS; part++) {
        pids[part] = fork();
        if (pids[part] == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            return run_part();
        }
    }
    for (size_t i = 0; i < PARTS; i++) {
        ok = pids[i] != -1 && waitpid(pids[i], &status, 0) == pids[i] && status == 0 && ok;
    }
    return ok ? 0 : 1;
}
