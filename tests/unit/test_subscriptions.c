/* Each tenant's webhooks against a real PostgreSQL with the real schema and its triggers. */
#include "subscriptions.h"

#include "pg_fixture.h"
#include "worker_fixture.h"

#include "metrics.h"
#include "suspects.h"

#define KEYS     "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define SEEN_MAX 200
#define HOOK_MAX 8

struct seen { /* one call of matched() or kept() */
    int64_t offset;
    bool kept;
    size_t n;
    struct webhook *webhooks[HOOK_MAX]; /* referenced */
};

static struct {
    struct config cfg;
    struct event_base *base;
    struct event *ticker;
    struct netguard *guard;
    struct keyring *keys;
    struct subscriptions *subs;
    struct event_account account;
    struct tracker *tracker;
    size_t n;
    struct seen seen[SEEN_MAX];
    unsigned gone;    /* changed: inactive, or deleted */
    unsigned deleted; /* changed(NULL) */
    struct uuid gone_id;
    unsigned renewed;
    int64_t renewed_version;
    uint64_t loads_before;
} world;

/* --- the world --- */

static void on_matched(void *ctx, struct nrw_event *ev, struct webhook *const *webhooks, size_t n)
{
    assert_ptr_equal(&world, ctx);
    assert_true(world.n < SEEN_MAX && n <= HOOK_MAX);
    struct seen *s = &world.seen[world.n++];
    s->offset = ev->offset;
    s->n = n;
    for (size_t i = 0; i < n; i++) {
        s->webhooks[i] = webhook_ref(webhooks[i]);
    }
    nrw_event_unref(ev);
}

static void on_kept(void *ctx, struct nrw_event *ev, struct webhook *wh)
{
    assert_true(wh->inactive);
    on_matched(ctx, ev, &wh, 1);
    world.seen[world.n - 1].kept = true;
}

static void on_changed(void *ctx, const struct uuid *id, struct webhook *wh)
{
    assert_ptr_equal(&world, ctx);
    if (wh == NULL || wh->inactive) {
        world.deleted += wh == NULL;
        world.gone++;
        world.gone_id = *id;
    } else {
        assert_true(uuid_equal(id, &wh->id));
        world.renewed++;
        world.renewed_version = wh->version;
    }
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what, (void)ctx;
}

static void turn(void)
{
    assert_int_equal(0, event_base_loop(world.base, EVLOOP_ONCE));
    subscriptions_after_turn(world.subs);
}

static struct counter *loads(void)
{
    return metrics_counter("nrw_tenant_loads_total", NULL, "");
}

static unsigned loads_since(void)
{
    return (unsigned)(loads()->value - world.loads_before);
}

static void open_subscriptions(void)
{
    const struct subscriptions_handlers on = {
        .matched = on_matched, .kept = on_kept, .changed = on_changed, .ctx = &world};
    world.subs = subscriptions_new(world.base, &world.cfg, world.guard, world.keys, &on);
}

static int begin(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    if (pg_server.postmaster == 0) {
        return 0;
    }
    char url[160];
    const struct timeval tick = {.tv_usec = 2000};
    sql("DELETE FROM webhooks; DELETE FROM tenants");
    pg_server_url(url, sizeof(url), "postgres");
    settings_defaults(&world.cfg);
    settings_set(&world.cfg.database_url, url);
    world.guard = netguard_new("", "", NULL);
    world.keys = keyring_new(KEYS, NULL);
    world.base = event_base_new();
    world.ticker = event_new(world.base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world.ticker, &tick);
    world.tracker = tracker_new(0, 1);
    open_subscriptions();
    world.loads_before = loads()->value;
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (pg_server.postmaster == 0) {
        return 0;
    }
    for (size_t i = 0; i < world.n; i++) {
        for (size_t k = 0; k < world.seen[i].n; k++) {
            webhook_unref(world.seen[i].webhooks[k]);
        }
    }
    subscriptions_free(world.subs);
    tracker_retire(world.tracker);
    netguard_free(world.guard);
    keyring_free(world.keys);
    event_free(world.ticker);
    event_base_free(world.base);
    config_free(&world.cfg);
    return world.account.events == 0 ? 0 : -1;
}

static void up(void)
{
    AWAIT_TURNS(subscriptions_up(world.subs));
}

static struct uuid tenant(unsigned n)
{
    return id_of(0x70, n);
}

static void hex_secret(const char *column, unsigned webhook, unsigned owner, char *out)
{
    struct buf b;
    const struct seal_aad aad = {
        .column = column, .row = id_of(0x3b, webhook), .tenant = tenant(owner)};
    buf_init(&b, 512);
    assert_true(seal(world.keys, &aad, "a secret of 16 b", 16, &b, NULL));
    for (size_t i = 0; i < b.len; i++) {
        pg_server_format(out + 2 * i, 3, "%02x", (unsigned)(unsigned char)b.data[i]);
    }
    buf_done(&b);
}

/* As the API would insert it. events: an array literal. */
static void insert(unsigned webhook, unsigned owner, const char *url, const char *events)
{
    char secret[1100];
    char id[UUID_TEXT + 1];
    char owner_id[UUID_TEXT + 1];
    char text[2048];
    const struct uuid wh = id_of(0x3b, webhook);
    const struct uuid t = tenant(owner);
    uuid_format(&wh, id);
    uuid_format(&t, owner_id);
    hex_secret("webhooks.secret", webhook, owner, secret);
    pg_server_format(
        text, sizeof(text),
        "INSERT INTO tenants VALUES ('%s', 'T') ON CONFLICT DO NOTHING;"
        "INSERT INTO webhooks (id, tenant_id, url, secret, events) VALUES ('%s', '%s', '%s', "
        "'\\x%s', '%s')",
        owner_id, id, owner_id, url, secret, events);
    sql(text);
}

static void update(unsigned webhook, const char *set)
{
    char id[UUID_TEXT + 1];
    char text[2048];
    const struct uuid wh = id_of(0x3b, webhook);
    uuid_format(&wh, id);
    pg_server_format(text, sizeof(text), "UPDATE webhooks SET %s WHERE id = '%s'", set, id);
    sql(text);
}

static void send_event(unsigned owner, struct tracker *t, int64_t offset)
{
    struct nrw_event *ev = event_make(&world.account, t, offset, (unsigned)offset);
    ev->tenant_id = tenant(owner);
    subscriptions_match(world.subs, ev);
}

/* Sends and awaits. */
static const struct seen *match(unsigned owner)
{
    const size_t at = world.n;
    send_event(owner, NULL, (int64_t)at);
    AWAIT_TURNS(world.n == at + 1);
    return &world.seen[at];
}

/* --- loading --- */

static void the_first_event_loads_the_tenant_and_the_next_ones_find_it(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://one.example.com/", "{alert.created}");
    insert(2, 1, "https://two.example.com/", "{*}");
    insert(3, 2, "https://other.example.com/", "{*}"); /* somebody else's */
    up();
    send_event(1, world.tracker, 0);
    send_event(1, world.tracker, 1);
    assert_int_equal(0, world.n);
    AWAIT_TURNS(world.n == 2);
    send_event(1, world.tracker, 2);
    assert_int_equal(3, world.n); /* at once */
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(i, world.seen[i].offset);
        assert_int_equal(2, world.seen[i].n);
        assert_string_equal("https://one.example.com/", world.seen[i].webhooks[0]->endpoint.url);
        assert_string_equal("https://two.example.com/", world.seen[i].webhooks[1]->endpoint.url);
    }
    assert_int_equal(1, loads_since());
}

static void only_webhooks_that_want_the_type_are_matched(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://one.example.com/", "{scan.completed,scan.failed}");
    insert(2, 1, "https://two.example.com/", "{scan.completed,alert.created}");
    insert(3, 1, "https://three.example.com/", "{alert.*}");
    up();
    const struct seen *s = match(1);
    assert_int_equal(2, s->n);
    assert_string_equal("https://two.example.com/", s->webhooks[0]->endpoint.url);
    assert_string_equal("https://three.example.com/", s->webhooks[1]->endpoint.url);
}

static void a_tenant_without_webhooks_is_remembered_too(void **state)
{
    (void)state;
    pg_server_needed();
    up();
    assert_int_equal(0, match(5)->n);
    send_event(5, NULL, 1);
    assert_int_equal(2, world.n);
    assert_int_equal(1, loads_since());
}

static void paused_disabled_and_deleted_webhooks_get_nothing(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 1; i <= 5; i++) {
        insert(i, 1, "https://hooks.example.com/", "{*}");
    }
    update(1, "active = false");
    update(2, "status = 'disabled'");
    update(3, "deleted_at = now()");
    update(4, "status = 'failing'");
    up();
    const struct seen *s = match(1);
    assert_int_equal(2, s->n);
    assert_int_equal(4, s->webhooks[0]->id.b[15]);
    assert_true(s->webhooks[0]->failing);
    assert_false(s->webhooks[1]->failing);
}

static void many_tenants_share_few_queries(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < 100; i++) {
        insert(i, i, "https://hooks.example.com/", "{*}");
        send_event(i, NULL, i);
    }
    AWAIT_TURNS(world.n == 100);
    assert_int_equal(1, loads_since());
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(1, world.seen[i].n);
        assert_int_equal(world.seen[i].offset, world.seen[i].webhooks[0]->id.b[15]);
    }
}

static void a_tenant_that_waited_for_the_connection_is_loaded_once(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://hooks.example.com/", "{*}");
    assert_false(subscriptions_up(world.subs));
    assert_int_equal(1, match(1)->n);
    send_event(1, NULL, 1);
    assert_int_equal(2, world.n);
    assert_int_equal(1, loads_since());
}

static void a_failed_load_is_repeated(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://hooks.example.com/", "{*}");
    up();
    sql("BEGIN; LOCK webhooks");
    send_event(1, NULL, 0);
    subscriptions_after_turn(world.subs); /* the load is out and waits */
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        "'nrw-worker-subscriptions'");
    AWAIT_TURNS(!subscriptions_up(world.subs));
    assert_int_equal(0, world.n);
    sql("COMMIT");
    AWAIT_TURNS(world.n == 1);
    assert_int_equal(1, world.seen[0].n);
}

static const char *const inactive[] = {"active = false", "status = 'disabled'",
                                       "active = false, status = 'disabled'"};

/* Paused time can be replayed. */
static void what_only_inactive_webhooks_want_is_kept(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < COUNT(inactive); i++) { /* tenant i + 1 */
        insert(i, i + 1, "https://hooks.example.com/", "{alert.created}");
        update(i, inactive[i]);
    }
    insert(10, 8, "https://hooks.example.com/", "{scan.completed}"); /* another type */
    update(10, "active = false");
    insert(11, 9, "https://hooks.example.com/", "{*}");
    update(11, "deleted_at = now()");
    up();
    const struct counter *kept = metrics_counter("nrw_events_kept_total", NULL, "");
    const uint64_t before = kept->value;
    for (unsigned i = 0; i < COUNT(inactive); i++) {
        const struct seen *s = match(i + 1);
        assert_true(s->kept && s->n == 1);
        assert_int_equal(i, s->webhooks[0]->id.b[15]);
    }
    assert_int_equal(before + COUNT(inactive), kept->value);
    assert_true(!match(8)->kept && !match(9)->kept);
    assert_true(world.seen[world.n - 1].n == 0 && world.seen[world.n - 2].n == 0);
    insert(12, 1, "https://hooks.example.com/", "{*}"); /* an active one: its outcome keeps it */
    AWAIT_TURNS(!match(1)->kept);
    assert_int_equal(12, world.seen[world.n - 1].webhooks[0]->id.b[15]);
    assert_int_equal(1, world.seen[world.n - 1].n);
}

static void send_retry(unsigned webhook, unsigned owner, enum event_reason reason)
{
    struct nrw_event *ev = event_make(&world.account, NULL, (int64_t)world.n, 1);
    ev->tenant_id = tenant(owner);
    ev->taken_mono_us = clock_mono_us();
    const struct event_retry retry = {.webhook_id = id_of(0x3b, webhook), .reason = reason};
    nrw_event_set_retry(ev, &retry);
    subscriptions_match(world.subs, ev);
}

static void a_test_reaches_any_webhook_that_exists_and_a_retry_active_ones(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < COUNT(inactive); i++) {
        insert(i, 1, "https://hooks.example.com/", "{alert.created}");
        update(i, inactive[i]);
    }
    insert(3, 1, "https://hooks.example.com/", "{scan.failed}"); /* not the event's type */
    insert(4, 1, "https://hooks.example.com/", "{*}");
    update(4, "deleted_at = now()");
    up();
    for (unsigned i = 0; i <= 4; i++) {
        for (int reason = EVENT_RETRY; reason <= EVENT_TEST; reason++) {
            const size_t at = world.n;
            send_retry(i, 1, (enum event_reason)reason);
            AWAIT_TURNS(world.n == at + 1);
            const struct seen *s = &world.seen[at];
            assert_false(s->kept);
            assert_int_equal(i == 3 || (i < 3 && reason == EVENT_TEST), s->n);
            if (s->n == 1) {
                assert_int_equal(i, s->webhooks[0]->id.b[15]);
            }
        }
    }
}

/* The one who asked knows of his change before the notification is here. */
static void what_was_asked_for_meets_no_older_list_than_its_row(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://old.example.com/", "{*}");
    update(1, "active = false");
    insert(2, 1, "https://hooks.example.com/", "{*}");
    up();
    (void)match(1);
    sql("ALTER TABLE webhooks DISABLE TRIGGER webhooks_notify_update;"
        "ALTER TABLE webhooks DISABLE TRIGGER webhooks_notify_insert_delete");
    update(1, "url = 'https://new.example.com/'");
    send_retry(1, 1, EVENT_TEST);
    assert_int_equal(1, world.n); /* not from memory */
    AWAIT_TURNS(world.n == 2);
    assert_string_equal("https://new.example.com/", world.seen[1].webhooks[0]->endpoint.url);
    update(1, "active = true");
    send_retry(1, 1, EVENT_REDELIVER);
    AWAIT_TURNS(world.n == 3);
    assert_int_equal(1, world.seen[2].n);
    insert(3, 1, "https://hooks.example.com/", "{*}");
    const unsigned asked = loads_since();
    sql("BEGIN; LOCK webhooks"); /* a list is on its way, and will be too old */
    send_retry(4, 1, EVENT_RETRY);
    subscriptions_after_turn(world.subs);
    send_retry(3, 1, EVENT_TEST);
    sql("COMMIT");
    AWAIT_TURNS(world.n == 5);
    assert_int_equal(0, world.seen[3].n);
    assert_int_equal(1, world.seen[4].n);
    assert_int_equal(asked + 2, loads_since());
    send_retry(2, 1, EVENT_RETRY); /* a retry that has its webhook asks for nothing */
    assert_int_equal(6, world.n);
    assert_int_equal(asked + 2, loads_since());
    sql("ALTER TABLE webhooks ENABLE TRIGGER webhooks_notify_update;"
        "ALTER TABLE webhooks ENABLE TRIGGER webhooks_notify_insert_delete");
}

/* --- changes --- */

static void a_changed_webhook_is_told_and_used(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://old.example.com/", "{*}");
    insert(2, 1, "https://same.example.com/", "{*}");
    up();
    const int64_t before = match(1)->webhooks[0]->version;
    update(1, "url = 'https://new.example.com/'");
    AWAIT_TURNS(world.renewed > 0);
    assert_int_equal(1, world.renewed); /* the other one did not change */
    assert_true(world.renewed_version > before);
    const struct seen *s = match(1);
    assert_string_equal("https://new.example.com/", s->webhooks[0]->endpoint.url);
    assert_string_equal("https://same.example.com/", s->webhooks[1]->endpoint.url);
    assert_string_equal(
        "https://old.example.com/",
        world.seen[0].webhooks[0]->endpoint.url); /* what is under way keeps its own */
    assert_int_equal(0, world.gone);
}

static void a_new_webhook_is_used_by_the_next_event(void **state)
{
    (void)state;
    pg_server_needed();
    up();
    assert_int_equal(0, match(1)->n);
    insert(1, 1, "https://hooks.example.com/", "{*}");
    AWAIT_TURNS(loads_since() == 2);
    assert_int_equal(1, match(1)->n);
}

static const char *const ends[] = {"active = false", "status = 'disabled'", "deleted_at = now()"};

static void a_webhook_that_ends_is_told(void **state)
{
    (void)state;
    pg_server_needed();
    for (unsigned i = 0; i < COUNT(ends); i++) {
        insert(i, 1, "https://hooks.example.com/", "{*}");
    }
    insert(9, 1, "https://hooks.example.com/", "{*}");
    up();
    assert_int_equal(4, match(1)->n);
    for (unsigned i = 0; i < COUNT(ends); i++) {
        update(i, ends[i]);
        AWAIT_TURNS(world.gone == i + 1);
        assert_int_equal(i, world.gone_id.b[15]);
    }
    assert_int_equal(1, world.deleted);
    sql("DELETE FROM webhooks");
    AWAIT_TURNS(world.deleted == 4);
    assert_int_equal(0, match(1)->n);
    assert_int_equal(0, world.renewed);
    assert_int_equal(4, world.deleted); /* the paused and the disabled one at last, too */
}

static void bookkeeping_loads_nothing(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://hooks.example.com/", "{*}");
    insert(2, 2, "https://hooks.example.com/", "{*}");
    up();
    (void)match(1);
    update(1, "last_success_at = now()");
    update(2, "url = 'https://else.example.com/'"); /* a tenant that is not in memory */
    sql("NOTIFY nrw_webhooks, 'nonsense'");
    sql("NOTIFY nrw_webhooks, ''");
    sql("NOTIFY nrw_webhooks, '1 2 70000000-0000-4000-8000-00000000000x'");
    const struct counter *told = metrics_counter("nrw_notifications_total", NULL, "");
    const uint64_t before = told->value;
    AWAIT_TURNS(told->value == before + 4);
    turn();
    assert_int_equal(1, loads_since());
    assert_int_equal(0, world.renewed + world.gone);
}

static void a_change_told_while_the_load_is_out_is_loaded_once_more(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://hooks.example.com/", "{*}");
    up();
    const struct counter *told = metrics_counter("nrw_notifications_total", NULL, "");
    const uint64_t before = told->value;
    /* A busy backend tells nothing: somebody else's question in front of the load gives it a moment
     * to. */
    struct tracker *t = tracker_new(0, 1);
    const struct suspects_handlers none = {.ctx = NULL};
    struct suspects *s = suspects_new(&world.cfg, subscriptions_pg(world.subs), &none);
    PGconn *in_front = pg_lock("consumer_progress");
    PGconn *load = pg_lock("webhooks");
    suspects_assigned(s, &t, 1);
    suspects_after_turn(s);
    send_event(1, NULL, 0);
    subscriptions_after_turn(world.subs);
    AWAIT_TURNS(pg_lock_waiters() == 1);
    sql("NOTIFY nrw_webhooks, '3b000000-0000-4000-8000-000000000001 7 "
        "70000000-0000-4000-8000-000000000001'");
    PQfinish(in_front);
    AWAIT_TURNS(told->value == before + 1);
    assert_int_equal(1, loads_since());
    assert_int_equal(0, world.n);
    PQfinish(load);
    AWAIT_TURNS(world.n == 1);
    assert_int_equal(2, loads_since()); /* the event waited for the newer list */
    subscriptions_free(world.subs);
    world.subs = NULL;
    suspects_free(s);
    tracker_retire(t);
}

static void what_changed_while_nobody_listened_is_loaded_before_use(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://old.example.com/", "{*}");
    insert(2, 2, "https://hooks.example.com/", "{*}");
    up();
    (void)match(1);
    (void)match(2);
    assert_int_equal(0, kill(pg_server.postmaster, SIGSTOP)); /* nobody new gets in */
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        "'nrw-worker-subscriptions'");
    AWAIT_TURNS(!subscriptions_up(world.subs));
    update(1, "url = 'https://new.example.com/'");
    send_event(1, NULL, 2); /* what is in memory is as good as ever while nothing can be asked */
    assert_int_equal(3, world.n);
    assert_int_equal(0, kill(pg_server.postmaster, SIGCONT));
    up();
    send_event(1, NULL, 3);
    assert_int_equal(3, world.n); /* not from memory */
    AWAIT_TURNS(world.n == 4);
    assert_string_equal("https://new.example.com/", world.seen[3].webhooks[0]->endpoint.url);
    assert_int_equal(1, world.renewed);
    send_event(1, NULL, 4);
    assert_int_equal(5, world.n); /* once is enough */
}

static void a_lost_notification_is_found_by_the_poll(void **state)
{
    (void)state;
    pg_server_needed();
    subscriptions_free(world.subs);
    world.cfg.subscriptions_poll = 50;
    open_subscriptions();
    insert(1, 1, "https://old.example.com/", "{*}");
    insert(2, 1, "https://gone.example.com/", "{*}");
    up();
    assert_int_equal(2, match(1)->n);
    const struct counter *lost = metrics_counter("nrw_notifications_missed_total", NULL, "");
    const uint64_t before = lost->value;
    sql("ALTER TABLE webhooks DISABLE TRIGGER webhooks_notify_update");
    update(1, "url = 'https://new.example.com/'");
    AWAIT_TURNS(world.renewed == 1);
    update(2, "active = false");
    AWAIT_TURNS(world.gone == 1);
    sql("ALTER TABLE webhooks ENABLE TRIGGER webhooks_notify_update");
    assert_true(lost->value >= before + 2);
    const struct seen *s = match(1);
    assert_int_equal(1, s->n);
    assert_string_equal("https://new.example.com/", s->webhooks[0]->endpoint.url);
}

/* --- memory --- */

static void above_tenants_max_the_least_recently_used_goes(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.tenants_max = 3;
    up();
    for (unsigned i = 1; i <= 3; i++) {
        insert(i, i, "https://hooks.example.com/", "{*}");
        (void)match(i);
    }
    (void)match(1); /* now 2 is the oldest */
    (void)match(4);
    const unsigned before = loads_since();
    assert_int_equal(1, match(1)->n);
    assert_int_equal(1, match(3)->n);
    assert_int_equal(before, loads_since());
    assert_int_equal(1, match(2)->n);
    assert_int_equal(before + 1, loads_since());
    for (unsigned i = 10; i < 40; i++) {
        (void)match(i);
    }
}

static void a_tenant_that_is_loading_is_never_dropped(void **state)
{
    (void)state;
    pg_server_needed();
    world.cfg.tenants_max = 2;
    for (unsigned i = 0; i < 20; i++) {
        insert(i, i, "https://hooks.example.com/", "{*}");
    }
    up();
    sql("BEGIN; LOCK webhooks");
    for (unsigned i = 0; i < 20; i++) {
        send_event(i, world.tracker, i);
        if (i == 10) {
            subscriptions_after_turn(world.subs); /* eleven are out, nine wait */
        }
    }
    sql("COMMIT");
    AWAIT_TURNS(world.n == 20);
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(1, world.seen[i].n);
    }
    int64_t offset = 0;
    assert_true(tracker_take_offset(world.tracker, &offset));
    assert_int_equal(20, offset);
}

/* --- abandon and end --- */

static void waiting_events_of_a_tracker_are_abandoned(void **state)
{
    (void)state;
    pg_server_needed();
    struct tracker *gone = tracker_new(1, 1);
    insert(1, 1, "https://hooks.example.com/", "{*}");
    up();
    sql("BEGIN; LOCK webhooks");
    for (int64_t i = 0; i < 6; i++) {
        send_event(1, world.tracker, i);
        send_event(1, gone, 2 * i);
        send_event(2, gone, 2 * i + 1);
    }
    subscriptions_after_turn(world.subs);
    int64_t offset = 0;
    subscriptions_abandon(world.subs, gone);
    assert_int_equal(0, tracker_busy(gone));
    assert_false(tracker_take_offset(gone, &offset));
    tracker_retire(gone); /* freed: nothing may touch it any more */
    send_event(1, world.tracker, 6);
    sql("COMMIT");
    AWAIT_TURNS(world.n == 7);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(i, world.seen[i].offset);
    }
    assert_int_equal(0, tracker_busy(world.tracker));
    assert_int_equal(0, match(2)->n); /* the tenant itself is loaded as usual */
}

static void the_end_abandons_what_waits(void **state)
{
    (void)state;
    pg_server_needed();
    up();
    sql("BEGIN; LOCK webhooks");
    send_event(1, world.tracker, 0);
    subscriptions_after_turn(world.subs); /* out */
    send_event(2, world.tracker, 1);      /* wanted */
    subscriptions_free(world.subs);
    world.subs = NULL;
    sql("COMMIT");
    int64_t offset = 0;
    assert_int_equal(0, tracker_busy(world.tracker));
    assert_false(tracker_take_offset(world.tracker, &offset));
    assert_int_equal(0, world.n);
}

/* --- what the rows hold --- */

static void the_previous_secret_counts_until_its_end(void **state)
{
    (void)state;
    pg_server_needed();
    char set[2048];
    char secret[1100];
    static const char *const untils[] = {"now() + interval '1 hour'",
                                         "now() - interval '1 second'"};
    for (unsigned i = 0; i < 2; i++) {
        insert(i, 1, "https://hooks.example.com/", "{*}");
        hex_secret("webhooks.previous_secret", i, 1, secret);
        pg_server_format(set, sizeof(set), "previous_secret = '\\x%s', previous_secret_until = %s",
                         secret, untils[i]);
        update(i, set);
    }
    up();
    const struct seen *s = match(1);
    assert_int_equal(2, s->n);
    assert_int_equal(WEBHOOK_USABLE, s->webhooks[0]->fault);
    assert_int_equal(WEBHOOK_USABLE, s->webhooks[1]->fault);
    assert_non_null(s->webhooks[0]->previous);
    const int64_t left = s->webhooks[0]->previous_until_us - clock_wall_us();
    assert_in_range(left, INT64_C(3500000000), INT64_C(3600000000));
    assert_null(s->webhooks[1]->previous);
}

static void rows_with_a_bad_url_or_secret_are_matched_with_their_fault(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://10.0.0.1/", "{*}");
    insert(2, 1, "https://hooks.example.com/", "{*}");
    insert(3, 1, "https://hooks.example.com/", "{*}");
    update(2, "secret = '\\x00'");
    up();
    const struct seen *s = match(1);
    assert_int_equal(3, s->n);
    assert_int_equal(WEBHOOK_BAD_URL, s->webhooks[0]->fault);
    assert_int_equal(WEBHOOK_NO_SECRET, s->webhooks[1]->fault);
    assert_int_equal(WEBHOOK_USABLE, s->webhooks[2]->fault);
}

static void a_repaired_row_is_usable_again(void **state)
{
    (void)state;
    pg_server_needed();
    insert(1, 1, "https://10.0.0.1/", "{*}");
    up();
    assert_int_equal(WEBHOOK_BAD_URL, match(1)->webhooks[0]->fault);
    update(1, "url = 'https://hooks.example.com/'");
    AWAIT_TURNS(world.renewed == 1);
    assert_int_equal(WEBHOOK_USABLE, match(1)->webhooks[0]->fault);
}

int main(void)
{
#define SUBSCRIPTIONS_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        SUBSCRIPTIONS_TEST(the_first_event_loads_the_tenant_and_the_next_ones_find_it),
        SUBSCRIPTIONS_TEST(only_webhooks_that_want_the_type_are_matched),
        SUBSCRIPTIONS_TEST(a_tenant_without_webhooks_is_remembered_too),
        SUBSCRIPTIONS_TEST(paused_disabled_and_deleted_webhooks_get_nothing),
        SUBSCRIPTIONS_TEST(many_tenants_share_few_queries),
        SUBSCRIPTIONS_TEST(a_tenant_that_waited_for_the_connection_is_loaded_once),
        SUBSCRIPTIONS_TEST(a_failed_load_is_repeated),
        SUBSCRIPTIONS_TEST(what_only_inactive_webhooks_want_is_kept),
        SUBSCRIPTIONS_TEST(a_test_reaches_any_webhook_that_exists_and_a_retry_active_ones),
        SUBSCRIPTIONS_TEST(what_was_asked_for_meets_no_older_list_than_its_row),
        SUBSCRIPTIONS_TEST(a_changed_webhook_is_told_and_used),
        SUBSCRIPTIONS_TEST(a_new_webhook_is_used_by_the_next_event),
        SUBSCRIPTIONS_TEST(a_webhook_that_ends_is_told),
        SUBSCRIPTIONS_TEST(bookkeeping_loads_nothing),
        SUBSCRIPTIONS_TEST(a_change_told_while_the_load_is_out_is_loaded_once_more),
        SUBSCRIPTIONS_TEST(what_changed_while_nobody_listened_is_loaded_before_use),
        SUBSCRIPTIONS_TEST(a_lost_notification_is_found_by_the_poll),
        SUBSCRIPTIONS_TEST(above_tenants_max_the_least_recently_used_goes),
        SUBSCRIPTIONS_TEST(a_tenant_that_is_loading_is_never_dropped),
        SUBSCRIPTIONS_TEST(waiting_events_of_a_tracker_are_abandoned),
        SUBSCRIPTIONS_TEST(the_end_abandons_what_waits),
        SUBSCRIPTIONS_TEST(the_previous_secret_counts_until_its_end),
        SUBSCRIPTIONS_TEST(rows_with_a_bad_url_or_secret_are_matched_with_their_fault),
        SUBSCRIPTIONS_TEST(a_repaired_row_is_usable_again),
    };
    log_init(LOG_LEVEL_ERROR, STDERR_FILENO);
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
