/* Owns every room of the worker and the wires between them; the data path reads from top to bottom
 * in the callbacks below. No policy of its own but flow: when intake may go on. main.c calls
 * worker_run(). */
#include "worker.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin.h"
#include "check.h"
#include "clock.h"
#include "consumer.h"
#include "deadletter.h"
#include "delivery.h"
#include "intake.h"
#include "journal.h"
#include "lanes.h"
#include "log.h"
#include "mailer.h"
#include "netguard.h"
#include "pg.h"
#include "process.h"
#include "put_off.h"
#include "replays.h"
#include "resolver.h"
#include "retries.h"
#include "schedule.h"
#include "seal.h"
#include "subscriptions.h"
#include "suspects.h"
#include "transport.h"
#include "upkeep.h"
#include "watchdog.h"
#include "worker_metrics.h"

#define CLOSE_GRACE_US                                                                             \
    10000000 /* after the drain: closing the group membership, known to hang at times */
#define DNS_CACHE_NAMES 10000
#define STORES_FDS      256 /* beside requests and kept connections */
#define MAIL_POLL_MS    5000
#define TEST_AGAIN_US   500000 /* when a test finds no room */
#define WRITE_MS        2000   /* from the end of an attempt to its row, on a busy day */

struct worker {
    const struct config *cfg;
    struct event_base *base;
    struct event sigterm, sigint, tick;
    struct netguard *guard;
    struct keyring *keys;
    struct resolver *resolver;
    struct transport *transport;
    struct journal *journal;
    struct deliveries *deliveries;
    struct lanes *lanes;
    struct subscriptions *subscriptions;
    struct suspects *suspects;
    struct deadletter *deadletter;
    struct intake *intake;
    struct retries *retries;
    struct put_off *put_off;
    struct schedule *schedule;
    struct upkeep *upkeep;
    struct mailer *mailer;
    struct replays *replays;
    struct consumer *consumer;
    struct admin *admin;
    struct watchdog *watchdog;
    struct event_account account;
    struct worker_sources sources;
    bool more; /* requests may start in the next turn: do not wait for an event */
    bool stopping;
    bool fatal;
    int64_t drain_until_mono_us;
};

/* --- the data path, wire by wire --- */

/* consumer -> intake */
static void on_message(void *ctx, struct tracker *t, uint64_t slot, const rd_kafka_message_t *m)
{
    struct worker *w = ctx;
    intake_message(w->intake, t, slot, m);
}

/* intake -> subscriptions */
static void on_accepted(void *ctx, struct nrw_event *ev)
{
    struct worker *w = ctx;
    subscriptions_match(w->subscriptions, ev);
}

/* schedule -> retries: these are due, and ours by lease */
static void on_claimed(void *ctx, const struct uuid *ids, size_t n)
{
    struct worker *w = ctx;
    retries_claimed(w->retries, ids, n);
}

/* retries -> subscriptions, like a new event */
static void on_loaded(void *ctx, struct nrw_event *ev)
{
    struct worker *w = ctx;
    subscriptions_match(w->subscriptions, ev);
}

static void on_later(void *ctx, const struct uuid *id, int64_t delay_us)
{
    struct worker *w = ctx;
    schedule_give_back(w->schedule, id, (delay_us + 999) / 1000);
}

/* retries -> put_off: its lane has enough */
static bool on_crowded(void *ctx, const struct uuid *id, const struct uuid *webhook_id,
                       size_t ahead)
{
    struct worker *w = ctx;
    int64_t back_in_us = 0;
    if (!lanes_crowded(w->lanes, webhook_id, ahead, &back_in_us)) {
        return false;
    }
    put_off_add(w->put_off, id, back_in_us);
    return true;
}

static void on_none_put_off(void *ctx, const struct uuid *webhook_id)
{
    struct worker *w = ctx;
    lanes_none_put_off(w->lanes, webhook_id);
}

/* delivery, retries, put_off, replays -> schedule: its row is durable, or gone */
static void on_due(void *ctx, const struct uuid *id, int64_t delay_us)
{
    struct worker *w = ctx;
    schedule_add(w->schedule, id, (delay_us + 999) / 1000);
}

static void on_ended(void *ctx, const struct uuid *id)
{
    struct worker *w = ctx;
    schedule_done(w->schedule, id);
}

static void start_test(struct worker *w, struct delivery *d)
{
    if (!lanes_start_now(w->lanes, d)) {
        delivery_spill(d, TEST_AGAIN_US);
    }
}

/* subscriptions -> lanes, for a retry; takes the reference */
static void retry_matched(struct worker *w, struct nrw_event *ev, struct webhook *wh)
{
    if (wh == NULL) {
        retries_cancel(w->retries, ev);
        return;
    }
    struct delivery *d = delivery_new(w->deliveries, ev, wh);
    int64_t back_in_us = 0;
    if (w->stopping) {
        delivery_spill(d, 0);
    } else if (nrw_event_is_test(ev)) {
        start_test(w, d);
    } else if (lanes_crowded(w->lanes, &wh->id, 0, &back_in_us)) {
        delivery_spill(d, back_in_us); /* it would only wait: back to the schedule */
    } else {
        lanes_add(w->lanes, d);
    }
    nrw_event_unref(ev);
}

/* subscriptions -> suspects or lanes; an event that nobody wants settles right here */
static void on_matched(void *ctx, struct nrw_event *ev, struct webhook *const *webhooks, size_t n)
{
    struct worker *w = ctx;
    if (ev->is_retry) {
        retry_matched(w, ev, n > 0 ? webhooks[0] : NULL);
        return;
    }
    const bool suspect = n > 0 && suspects_covers(w->suspects, ev->tracker, ev->offset);
    for (size_t i = 0; i < n; i++) {
        struct delivery *d = delivery_new(w->deliveries, ev, webhooks[i]);
        if (suspect) {
            suspects_add(w->suspects, d);
        } else {
            lanes_add(w->lanes, d);
        }
    }
    nrw_event_unref(ev);
}

/* subscriptions -> journal: not for sending, but for a replay */
static void on_kept(void *ctx, struct nrw_event *ev, struct webhook *wh)
{
    struct worker *w = ctx;
    delivery_cancel(delivery_new(w->deliveries, ev, wh));
    nrw_event_unref(ev);
}

/* suspects -> lanes */
static void on_cleared(void *ctx, struct delivery *d)
{
    struct worker *w = ctx;
    lanes_add(w->lanes, d);
}

static void on_known(void *ctx, struct delivery *d)
{
    (void)ctx;
    delivery_drop(d, true);
}

/* delivery -> lanes: room again, perhaps for what was put off */
static void on_left_lane(void *ctx, const struct delivery *d)
{
    struct worker *w = ctx;
    lanes_left(w->lanes, d);
    const size_t more = lanes_hungry(w->lanes, d);
    if (more > 0 && !w->stopping) {
        put_off_bring_forward(w->put_off, &d->wh->id, more);
    }
}

/* delivery -> dead-letter topic: the journal cannot take it */
static void on_parked(void *ctx)
{
    delivery_parked(ctx);
}

static void on_rejected(void *ctx, struct delivery *d)
{
    struct worker *w = ctx;
    intake_park(w->intake, d->ev, on_parked, d);
}

/* a webhook changed -> lanes */
static void on_changed(void *ctx, const struct uuid *id, struct webhook *wh)
{
    struct worker *w = ctx;
    lanes_changed(w->lanes, id, wh);
}

/* Partitions come and go. What has not started of a leaving one is dropped at the place where it
 * waits. */
static void on_assigned(void *ctx, struct tracker *const *trackers, size_t n)
{
    struct worker *w = ctx;
    suspects_assigned(w->suspects, trackers, n);
}

static void on_revoking(void *ctx, const struct tracker *t)
{
    struct worker *w = ctx;
    subscriptions_abandon(w->subscriptions, t);
    suspects_abandon(w->suspects, t);
    lanes_abandon(w->lanes, t);
}

static void on_fatal(void *ctx, const char *text)
{
    struct worker *w = ctx;
    log_error("worker.fatal", F_STR("error", text));
    w->fatal = true;
}

/* --- flow --- */

/* Every maximum slows intake down; none drops anything (ARCHITECTURE 2, "Memory is bounded"). */
static bool intake_may_go_on(const struct worker *w)
{
    const size_t open = deliveries_open(w->deliveries) > w->account.events
                            ? deliveries_open(w->deliveries)
                            : w->account.events;
    return !w->stopping && journal_up(w->journal) && subscriptions_up(w->subscriptions) &&
           open < (size_t)w->cfg->deliveries_max &&
           w->account.payload_bytes < (size_t)w->cfg->event_bytes_max && !lanes_full(w->lanes) &&
           !deadletter_full(w->deadletter) && !consumer_any_full(w->consumer);
}

/* How many retries may be claimed: never more than their share of the requests, nor than there is
 * memory for, so that an outage's backlog waits in the stores and not here (R30). */
static size_t retries_wanted(const struct worker *w)
{
    const size_t share = (size_t)(w->cfg->requests_max * w->cfg->retry_share + 99) / 100;
    const size_t have = w->account.retries + retries_loading(w->retries);
    if (w->stopping || !journal_up(w->journal) || !subscriptions_up(w->subscriptions) ||
        !retries_up(w->retries) || have >= share) {
        return 0;
    }
    const size_t room = retries_room(w->retries);
    return share - have < room ? share - have : room;
}

/* The only place for batched work; the order matters. */
static void after_turn(struct worker *w)
{
    consumer_set_flow(w->consumer, intake_may_go_on(w));
    consumer_after_turn(
        w->consumer); /* new events first, so that what follows sends them in the same turn */
    subscriptions_after_turn(w->subscriptions); /* tenants that those events need */
    suspects_after_turn(w->suspects);
    const size_t wanted = retries_wanted(w);
    schedule_want(w->schedule, wanted);
    retries_after_turn(w->retries, wanted, !schedule_up(w->schedule));
    put_off_after_turn(w->put_off);
    w->more = lanes_after_turn(w->lanes); /* starts requests …         */
    transport_after_turn(w->transport);   /* … which go out together */
    schedule_after_turn(w->schedule);     /* what became due, ended or was given back */
    journal_after_turn(w->journal);       /* last: takes what the turn has finished     */
    log_flush();
}

/* --- start and stop --- */

static void begin_stop(struct worker *w, const char *why)
{
    if (w->stopping) {
        return;
    }
    w->stopping = true;
    w->drain_until_mono_us = clock_mono_us() + w->cfg->drain_timeout * 1000;
    log_info("worker.stopping", F_STR("why", why),
             F_INT("deliveries", deliveries_open(w->deliveries)));
    lanes_give_back_retries(w->lanes);
    mailer_stop(w->mailer);
    replays_stop(w->replays);
    consumer_stop(w->consumer);
}

static void on_signal(evutil_socket_t sig, short what, void *ctx)
{
    (void)what;
    begin_stop(ctx, sig == SIGTERM ? "SIGTERM" : "SIGINT");
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx; /* a turn at least this often, so that after_turn() sees deadlines pass */
}

static void ready(void *ctx, struct buf *reasons)
{
    const struct worker *w = ctx;
    if (w->stopping) {
        buf_add_str(reasons, "stopping\n");
    }
    if (!journal_up(w->journal) || !subscriptions_up(w->subscriptions)) {
        buf_add_str(reasons, "PostgreSQL is not connected\n");
    }
    if (!consumer_joined(w->consumer)) {
        buf_add_fmt(reasons, "no Kafka assignment yet: %s\n", consumer_trouble(w->consumer));
    }
}

/* Everything that talks to nobody but needs the configuration to be right. */
static bool open_policy(struct worker *w, struct err *err)
{
    if (!pg_check_url(w->cfg->database_url, err)) {
        return err_prefix(err, "NRW_DATABASE_URL");
    }
    w->guard = netguard_new(w->cfg->allow_cidrs, w->cfg->deny_cidrs, err);
    if (w->guard == NULL) {
        return err_prefix(err, "NRW_ALLOW_CIDRS or NRW_DENY_CIDRS");
    }
    w->keys = keyring_new(w->cfg->keyring, err);
    return w->keys != NULL || err_prefix(err, "NRW_KEYRING");
}

static bool open_outgoing(struct worker *w, struct err *err)
{
    const struct resolver_config dns = {.servers = w->cfg->dns_servers,
                                        .timeout_ms = w->cfg->dns_timeout,
                                        .cache_max = DNS_CACHE_NAMES};
    w->resolver = resolver_new(w->base, &dns, err);
    if (w->resolver == NULL) {
        return err_prefix(err, "NRW_DNS_SERVERS");
    }
    const struct transport_config http = {
        .ca_file = w->cfg->ca_file,
        .user_agent = "NetRecon-Webhooks/" NRW_VERSION,
        .connect_timeout_ms = w->cfg->connect_timeout,
        .shards = (unsigned)w->cfg->transport_shards,
        .connections_max = (unsigned)w->cfg->connections_max,
    };
    w->transport = transport_new(w->base, &http, w->guard, err);
    return w->transport != NULL;
}

static bool open_retries(struct worker *w, struct err *err)
{
    const struct retries_handlers on_retry = {
        .loaded = on_loaded, .later = on_later, .ended = on_ended, .crowded = on_crowded, .ctx = w};
    w->retries = retries_new(w->base, w->cfg, &w->account, &on_retry);
    const struct put_off_handlers on_put_off = {
        .later = on_later, .due = on_due, .none_left = on_none_put_off, .ctx = w};
    w->put_off = put_off_new(retries_pg(w->retries), &on_put_off);
    const struct schedule_config index = {.redis_url = w->cfg->redis_url,
                                          .lease_ms = retries_lease_ms(w->cfg),
                                          .reconcile_ms = w->cfg->retry_reconcile};
    const struct schedule_handlers on_schedule = {.claimed = on_claimed, .ctx = w};
    w->schedule = schedule_new(w->base, &index, retries_pg(w->retries), &on_schedule, err);
    if (w->schedule == NULL) {
        return err_prefix(err, "NRW_REDIS_URL");
    }
    w->upkeep = upkeep_new(w->base, w->cfg);
    const struct mailer_config mail = {.smtp_url = w->cfg->smtp_url,
                                       .mail_from = w->cfg->mail_from,
                                       .console_url = w->cfg->console_url,
                                       .ca_file = w->cfg->ca_file,
                                       .poll_ms = MAIL_POLL_MS};
    w->mailer = mailer_new(w->base, &mail, upkeep_pg(w->upkeep), err);
    const struct replays_config replay = {.settle_ms = w->cfg->spill_after + w->cfg->send_timeout +
                                                       WRITE_MS};
    const struct replays_handlers on_replay = {.due = on_due, .ctx = w};
    w->replays = replays_new(w->base, &replay, upkeep_pg(w->upkeep), &on_replay);
    return w->mailer != NULL || err_prefix(err, "NRW_SMTP_URL, NRW_MAIL_FROM or NRW_CONSOLE_URL");
}

static bool open_rooms(struct worker *w, struct err *err)
{
    w->journal = journal_new(w->base, w->cfg);
    const struct deliveries_handlers on_delivery = {.left_lane = on_left_lane,
                                                    .due = on_due,
                                                    .ended = on_ended,
                                                    .rejected = on_rejected,
                                                    .ctx = w};
    w->deliveries =
        deliveries_new(w->cfg, w->guard, w->resolver, w->transport, w->journal, &on_delivery);
    w->lanes = lanes_new(w->base, w->cfg);
    const struct subscriptions_handlers on_subscription = {
        .matched = on_matched, .kept = on_kept, .changed = on_changed, .ctx = w};
    w->subscriptions = subscriptions_new(w->base, w->cfg, w->guard, w->keys, &on_subscription);
    const struct suspects_handlers on_suspect = {
        .cleared = on_cleared, .known = on_known, .ctx = w};
    w->suspects = suspects_new(w->cfg, subscriptions_pg(w->subscriptions), &on_suspect);
    if (!open_retries(w, err)) {
        return false;
    }
    w->deadletter = deadletter_new(w->base, w->cfg, err);
    if (w->deadletter == NULL) {
        return false;
    }
    w->intake = intake_new(w->cfg, w->deadletter, &w->account, on_accepted, w);
    const struct consumer_handlers on_kafka = {.message = on_message,
                                               .assigned = on_assigned,
                                               .revoking = on_revoking,
                                               .fatal = on_fatal,
                                               .ctx = w};
    w->consumer = consumer_new(w->base, w->cfg, &on_kafka, err);
    return w->consumer != NULL;
}

static bool open_admin(struct worker *w, struct err *err)
{
    w->admin = admin_new(w->base, w->cfg->admin_listen, ready, w, err);
    return w->admin != NULL || err_prefix(err, "NRW_ADMIN_LISTEN");
}

static void add_signals(struct worker *w)
{
    evsignal_assign(&w->sigterm, w->base, SIGTERM, on_signal, w);
    evsignal_assign(&w->sigint, w->base, SIGINT, on_signal, w);
    event_assign(&w->tick, w->base, -1, EV_PERSIST, on_tick, w);
    const struct timeval every = {.tv_usec = 250000};
    event_add(&w->sigterm, NULL);
    event_add(&w->sigint, NULL);
    event_add(&w->tick, &every);
}

static void close_all(struct worker *w)
{
    admin_free(w->admin);
    consumer_free(w->consumer);
    intake_free(w->intake);
    deadletter_free(w->deadletter);
    subscriptions_free(w->subscriptions); /* answers the open look-ups on its connection */
    suspects_free(w->suspects);
    lanes_free(w->lanes);
    schedule_free(w->schedule);
    retries_free(w->retries);
    put_off_free(w->put_off);
    upkeep_free(w->upkeep); /* its connection answers the open questions of those two */
    mailer_free(w->mailer);
    replays_free(w->replays);
    transport_free(w->transport);
    resolver_free(w->resolver);
    journal_free(w->journal);
    deliveries_free(w->deliveries);
    keyring_free(w->keys);
    netguard_free(w->guard);
    if (w->watchdog != NULL) {
        event_del(&w->sigterm);
        event_del(&w->sigint);
        event_del(&w->tick);
        watchdog_free(w->watchdog);
    }
    event_base_free(w->base);
}

/* True once nothing is left to wait for: the group was left and every row is written. */
static bool stopped(const struct worker *w)
{
    return w->stopping && consumer_closed(w->consumer) && deliveries_open(w->deliveries) == 0 &&
           journal_waiting(w->journal) == 0 && mailer_is_idle(w->mailer) &&
           replays_is_idle(w->replays);
}

/* Late requests, or a store that is away: what is open stays unsettled and is consumed again.
 * Half-sent objects are not worth taking apart. */
static _Noreturn void exit_undrained(const struct worker *w)
{
    log_warn("worker.exit", F_STR("why", "the drain deadline has passed"),
             F_INT("deliveries", deliveries_open(w->deliveries)));
    log_flush_blocking(1000000);
    _exit(0);
}

/* The drain has had its time; leaving the group may take some more. */
static bool too_late(const struct worker *w)
{
    const int64_t grace_us = consumer_closed(w->consumer) ? 0 : CLOSE_GRACE_US;
    return w->stopping && clock_mono_us() > w->drain_until_mono_us + grace_us;
}

static void run_loop(struct worker *w)
{
    while (!stopped(w) && !w->fatal) {
        CHECK(event_base_loop(w->base, w->more ? EVLOOP_NONBLOCK : EVLOOP_ONCE) != -1);
        watchdog_turn(w->watchdog);
        after_turn(w);
        if (too_late(w)) {
            exit_undrained(w);
        }
    }
}

int worker_run(const struct config *cfg)
{
    struct worker w = {.cfg = cfg};
    struct err err = {0};
    process_prepare(cfg->connections_max + cfg->requests_max + STORES_FDS);
    w.base = event_base_new();
    CHECK(w.base != NULL);
    if (!open_policy(&w, &err) || !open_outgoing(&w, &err) || !open_rooms(&w, &err) ||
        !open_admin(&w, &err)) {
        log_error("worker.start_failed", F_ERR(&err));
        log_flush_blocking(1000000);
        close_all(&w);
        return 1;
    }
    add_signals(&w);
    w.sources = (struct worker_sources){
        .account = &w.account, .resolver = w.resolver, .transport = w.transport};
    worker_metrics_register(&w.sources);
    w.watchdog = watchdog_new(w.base);
    log_info("worker.started", F_STR("version", NRW_VERSION), F_STR("topic", cfg->topic),
             F_STR("group", cfg->group), F_INT("admin_port", admin_port(w.admin)),
             F_INT("pid", getpid()));
    run_loop(&w);
    if (w.fatal) { /* objects may be in any state: Kafka says that it is over */
        log_flush_blocking(1000000);
        _exit(1);
    }
    log_info("worker.exit", F_STR("why", "stopped"), F_INT("code", 0));
    log_flush_blocking(1000000);
    watchdog_leave(w.watchdog);
    close_all(&w);
    log_flush_blocking(1000000);
    return 0;
}
