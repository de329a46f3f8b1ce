/* worker/transport*.c: the life of connections and transfers, over plain HTTP. Answers and policy:
 * test_transport.c. */
#include "transport_fixture.h"

#include <fcntl.h>
#include <sys/resource.h>

static void test_connections_are_kept_and_used_again(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
        assert_int_equal(f->result.reused, i > 0);
        assert_string_equal(f->result.address, "127.0.0.1");
    }
    assert_int_equal(f->server.connections, 1);
    struct transport_stats stats;
    transport_stats(f->t, &stats);
    assert_int_equal(stats.requests, 5);
    assert_int_equal(stats.connections_opened, 1);
    assert_int_equal(stats.in_flight, 0);
}

static void test_a_connection_closed_while_idle_is_replaced(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = ANSWER_CLOSE;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(f->server.requests, 2);
    assert_int_equal(f->server.connections, 2);
}

/* libcurl repeats a request when a kept connection ends without one byte of the answer. */
static void test_a_connection_that_dies_at_reuse_is_repeated_once(void **state)
{
    struct fixture *f = *state;
    f->server.behaviour = CLOSE_SECOND;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_false(f->result.reused);
    assert_int_equal(f->server.requests, 3);
    assert_int_equal(f->server.connections, 2);
}

static void test_a_cancelled_transfer_calls_nobody(void **state)
{
    struct fixture *f = *state;
    struct endpoint e[3];
    f->server.behaviour = HANG;
    struct transfer *running = start(f, &hello, &e[0], on_result);
    while (f->server.requests == 0) {
        turn(f);
    }
    struct transfer *queued = start(f, &hello, &e[1], on_result);
    transport_cancel(queued);
    transport_cancel(running);
    f->server.behaviour = ANSWER;
    (void)start(f, &hello, &e[2], on_result);
    await_results(f, 1);
    assert_int_equal(f->result.fault, TRANSPORT_OK);
    struct transport_stats stats;
    transport_stats(f->t, &stats);
    assert_int_equal(stats.in_flight, 0);
    for (int i = 0; i < 3; i++) {
        free(e[i].url);
    }
}

static void test_transfers_running_at_the_end_are_dropped(void **state)
{
    struct fixture *f = *state;
    static struct endpoint e[10];
    f->server.behaviour = HANG;
    for (int i = 0; i < 8; i++) {
        (void)start(f, &hello, &e[i], on_result);
    }
    while (f->server.requests < 8) {
        turn(f);
    }
    (void)start(f, &hello, &e[8], on_result);
    (void)start(f, &hello, &e[9], on_result);
    transport_free(f->t);
    f->t = NULL;
    assert_int_equal(f->results, 0);
    for (int i = 0; i < 10; i++) {
        free(e[i].url);
    }
}

/* Every callback sends again from inside itself, and drops another one. */
static struct fixture *again_fixture;
static struct endpoint again_endpoints[64];
static unsigned again_sent;

static void on_again(void *ctx, const struct transport_result *r)
{
    on_result(ctx, r);
    if (again_sent < 60) {
        struct fixture *f = again_fixture;
        (void)start(f, &hello, &again_endpoints[again_sent++], on_again);
        struct endpoint e;
        transport_cancel(start(f, &hello, &e, on_again));
        free(e.url);
    }
}

static void test_a_callback_may_send_and_cancel(void **state)
{
    struct fixture *f = *state;
    again_fixture = f;
    for (again_sent = 0; again_sent < 10;) {
        (void)start(f, &hello, &again_endpoints[again_sent++], on_again);
    }
    await_results(f, 60);
    for (int i = 0; i < 60; i++) {
        free(again_endpoints[i].url);
    }
}

static void test_the_loop_alone_is_enough(void **state)
{
    struct fixture *f = *state;
    struct endpoint e;
    (void)start(f, &hello, &e, on_result);
    for (int i = 0; i < 1000 && f->results == 0; i++) {
        assert_true(event_base_loop(f->base, EVLOOP_ONCE) >= 0); /* no transport_after_turn() */
    }
    assert_int_equal(f->result.fault, TRANSPORT_OK);
    free(e.url);
}

static void test_no_descriptors_left_is_our_fault(void **state)
{
    struct fixture *f = *state;
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    const int next = fcntl(0, F_DUPFD_CLOEXEC, 0);
    assert_true(next > 0);
    close(next);
    const struct rlimit none = {(rlim_t)next, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    (void)post(f, &hello);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(f->result.fault, TRANSPORT_OURS);
    assert_string_equal(f->result.error, "no socket for the connection: Too many open files");
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
}

static void test_no_route_is_our_fault(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct netguard *open = netguard_new("255.255.255.255/32", "", &err);
    assert_non_null(open);
    f->t->guard = open;
    struct request r = hello;
    r.pin = "255.255.255.255"; /* TCP has no route to the broadcast address */
    assert_int_equal(post(f, &r)->fault, TRANSPORT_OURS);
    assert_non_null(strstr(f->result.error, "connect to 255.255.255.255:"));
    netguard_free(open);
}

static void test_kept_connections_have_a_maximum(void **state)
{
    struct fixture *f = *state;
    fixture_free(f);
    f = *state = fixture_new("/etc/ssl/certs/ca-certificates.crt", 2, 8);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 32; i++) {
            char host[32];
            (void)snprintf(host, sizeof(host), "h%d.example.com", i);
            const struct request r = {.host = host, .body = "{}"};
            assert_int_equal(post(f, &r)->fault, TRANSPORT_OK);
            assert_true(f->t->connections <= 8 + 1);
        }
    }
    assert_true(f->t->connections >= 4);
}

static void test_an_idle_connection_that_ends_does_not_spin_the_loop(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    const struct watch *w = NULL;
    for (size_t i = 0; i < f->t->n_watches; i++) {
        w = f->t->watches[i] != NULL ? f->t->watches[i] : w;
    }
    assert_non_null(w);
    if (w == NULL) {
        return; /* for the analyser: cmocka does not come back */
    }
    assert_int_equal(w->want, 0);
    assert_int_equal(w->armed, EV_READ);
    peer_close(f->server.peers[0]);
    while (w->armed != 0) {
        turn(f);
    }
    assert_int_equal(post(f, &hello)->fault, TRANSPORT_OK);
    assert_int_equal(f->server.connections, 2);
    assert_int_equal(f->server.requests, 2); /* nothing was repeated */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_connections_are_kept_and_used_again),
        T(test_a_connection_closed_while_idle_is_replaced),
        T(test_a_connection_that_dies_at_reuse_is_repeated_once),
        T(test_a_cancelled_transfer_calls_nobody),
        T(test_transfers_running_at_the_end_are_dropped),
        T(test_a_callback_may_send_and_cancel),
        T(test_the_loop_alone_is_enough),
        T(test_no_descriptors_left_is_our_fault),
        T(test_no_route_is_our_fault),
        T(test_kept_connections_have_a_maximum),
        T(test_an_idle_connection_that_ends_does_not_spin_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
