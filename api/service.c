/* Owns every room of the API and their order of birth and end, the loop, and the drain. main.c
 * calls service_run(). */
#include "service.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <jansson.h>
#include <signal.h>
#include <unistd.h>

#include "admin.h"
#include "api.h"
#include "check.h"
#include "clock.h"
#include "hints.h"
#include "jwt.h"
#include "log.h"
#include "mem.h"
#include "metrics.h"
#include "netguard.h"
#include "pg.h"
#include "process.h"
#include "seal.h"
#include "server.h"
#include "store.h"
#include "watchdog.h"

struct service {
    struct api api;
    struct server *server;
    struct admin *admin;
    struct watchdog *watchdog;
    struct event sigterm, sigint, tick;
    int64_t drain_until_mono_us;
};

static void begin_stop(struct service *s, const char *why)
{
    if (s->api.stopping) {
        return;
    }
    s->api.stopping = true;
    s->drain_until_mono_us = clock_mono_us() + s->api.cfg->drain_timeout * 1000;
    log_info("api.stopping", F_STR("why", why), F_INT("requests", server_calls(s->server)));
    server_drain(s->server);
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
    (void)ctx; /* a turn at least this often: logs are flushed, the drain's deadline is seen */
}

static void ready(void *ctx, struct buf *reasons)
{
    const struct service *s = ctx;
    if (s->api.stopping) {
        buf_add_str(reasons, "stopping\n");
    }
    if (!store_is_up(s->api.store)) {
        buf_add_str(reasons, "PostgreSQL is not connected\n");
    }
}

/* Everything that talks to nobody but needs the configuration to be right. */
static bool open_policy(struct api *api, struct err *err)
{
    const struct config *cfg = api->cfg;
    if (!pg_check_url(cfg->database_url, err)) {
        return err_prefix(err, "NRW_DATABASE_URL");
    }
    api->guard = netguard_new(cfg->allow_cidrs, cfg->deny_cidrs, err);
    if (api->guard == NULL) {
        return err_prefix(err, "NRW_ALLOW_CIDRS or NRW_DENY_CIDRS");
    }
    api->keys = keyring_new(cfg->keyring, err);
    if (api->keys == NULL) {
        return err_prefix(err, "NRW_KEYRING");
    }
    api->jwt = jwt_keys_new(cfg->jwt_secret, cfg->jwt_keys, err);
    return api->jwt != NULL || err_prefix(err, "NRW_JWT_SECRET or NRW_JWT_KEYS");
}

static bool open_rooms(struct service *s, struct err *err)
{
    struct api *api = &s->api;
    api->store =
        store_new(api->base, api->cfg->database_url, (unsigned)api->cfg->api_database_connections);
    api->hints = hints_new(api->base, api->cfg->redis_url, err);
    if (api->hints == NULL) {
        return err_prefix(err, "NRW_REDIS_URL");
    }
    s->server = server_new(api, err);
    if (s->server == NULL) {
        return err_prefix(err, "NRW_API_LISTEN");
    }
    s->admin = admin_new(api->base, api->cfg->admin_listen, ready, s, err);
    return s->admin != NULL || err_prefix(err, "NRW_ADMIN_LISTEN");
}

static void close_all(struct service *s)
{
    admin_free(s->admin);
    store_free(s->api.store); /* first: its open units end the calls that wait for them */
    server_free(s->server);
    hints_free(s->api.hints);
    jwt_keys_free(s->api.jwt);
    keyring_free(s->api.keys);
    netguard_free(s->api.guard);
    if (s->watchdog != NULL) {
        event_del(&s->sigterm);
        event_del(&s->sigint);
        event_del(&s->tick);
        watchdog_free(s->watchdog);
    }
    event_base_free(s->api.base);
}

static void add_signals(struct service *s)
{
    evsignal_assign(&s->sigterm, s->api.base, SIGTERM, on_signal, s);
    evsignal_assign(&s->sigint, s->api.base, SIGINT, on_signal, s);
    event_assign(&s->tick, s->api.base, -1, EV_PERSIST, on_tick, s);
    const struct timeval every = {.tv_usec = 250000};
    event_add(&s->sigterm, NULL);
    event_add(&s->sigint, NULL);
    event_add(&s->tick, &every);
}

static double log_dropped(void *ctx)
{
    (void)ctx;
    return (double)log_dropped_total();
}

/* Answers that the clients have not read yet get the time that the sweep of httpd gives them. */
static bool is_drained(const struct service *s)
{
    return s->api.stopping && server_is_idle(s->server);
}

static void run_loop(struct service *s)
{
    while (!is_drained(s)) {
        CHECK(event_base_loop(s->api.base, EVLOOP_ONCE) != -1);
        watchdog_turn(s->watchdog);
        log_flush();
        if (s->api.stopping && clock_mono_us() > s->drain_until_mono_us) {
            log_warn("api.exit", F_STR("why", "the drain deadline has passed"),
                     F_INT("requests", server_calls(s->server)));
            log_flush_blocking(1000000);
            _exit(0); /* half-answered requests are not worth taking apart */
        }
    }
}

/* Requests and answers hold tokens, API keys and webhook secrets, and all of them lie in memory of
 * libevent and jansson: what those give back is cleansed. Before the first call of either. */
static void cleanse_what_is_freed(void)
{
    event_set_mem_functions(mem_alloc, mem_grow_cleansed, mem_free_cleansed);
    json_set_alloc_funcs(mem_alloc, mem_free_cleansed);
}

int service_run(const struct config *cfg)
{
    struct service s = {.api = {.cfg = cfg}};
    struct err err = {0};
    cleanse_what_is_freed();
    process_prepare(cfg->api_connections + cfg->api_database_connections + 64);
    s.api.base = event_base_new();
    CHECK(s.api.base != NULL);
    if (!open_policy(&s.api, &err) || !open_rooms(&s, &err)) {
        log_error("api.start_failed", F_ERR(&err));
        log_flush_blocking(1000000);
        close_all(&s);
        return 1;
    }
    if (cfg->jwt_secret[0] == '\0' && cfg->jwt_keys[0] == '\0') {
        log_warn("api.no_jwt_keys", F_STR("effect", "every token is refused; API keys work"));
    }
    add_signals(&s);
    metrics_register_process(NRW_VERSION);
    metrics_counter_fn("nrw_log_dropped_total", NULL, "log lines that stdout did not take in time",
                       log_dropped, NULL);
    s.watchdog = watchdog_new(s.api.base);
    log_info("api.started", F_STR("version", NRW_VERSION), F_INT("port", server_port(s.server)),
             F_INT("admin_port", admin_port(s.admin)), F_INT("pid", getpid()));
    run_loop(&s);
    log_info("api.exit", F_STR("why", "stopped"), F_INT("code", 0));
    close_all(&s);
    log_flush_blocking(1000000);
    return 0;
}
