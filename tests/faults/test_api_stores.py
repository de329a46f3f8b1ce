"""PostgreSQL goes away, hangs or is slow while the API serves: every request is answered in bounded time, with 503, and all is well again
once PostgreSQL is."""

import concurrent.futures
import time

import pytest
from support import contract
from support.tenant import Tenant
from support.wait import await_condition
from support.wire import Wire

EVENT_TYPES = "/api/v1/integrations/event-types"
STATEMENT_S = 5  # api/store.h
DEADLINE_S = 10
SINCE = time.strftime("%FT00:00:00Z", time.gmtime(time.time() - 86400))
HOOK = {"url": "https://hooks.example.com/netrecon", "events": ["*"]}


def get(client):
    began = time.monotonic()
    answer = client.get(EVENT_TYPES)
    return answer, time.monotonic() - began


def assert_unavailable(answer):
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
    assert answer.headers["Content-Type"] == "application/problem+json" and answer.json()["type"] == "/problems/unavailable"


def many(client, n: int) -> list:
    """n requests at the same time, each with a connection of its own."""
    clients = [type(client)(client.api, dict(client.session.headers)) for _ in range(n)]
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return list(pool.map(get, clients))


@pytest.mark.slow
def test_a_postgres_that_hangs_costs_a_request_the_deadline_at_most(stack, tenant, api):
    client = api.client(tenant.id)
    assert get(client)[0].status_code == 200
    with stack.pg_paused():
        for answer, took in many(client, 20):
            assert_unavailable(answer)
            assert took < DEADLINE_S + 2
        answer, took = get(client)  # no connection answers, which is known: nobody waits again
        assert_unavailable(answer)
        assert took < 2
        assert client.get("/health").status_code == 200 and client.get("/ready").status_code == 503
    await_condition(lambda: get(client)[0].status_code == 200, 30, "200 again")


def test_a_statement_that_takes_too_long_is_given_up(stack, tenant, api):
    client = api.client(tenant.id)
    with stack.connect(superuser=True) as connection, connection.transaction():
        connection.execute("lock table api_keys in access exclusive mode")
        for answer, took in many(client, 8):
            assert_unavailable(answer)
            assert STATEMENT_S - 1 < took < STATEMENT_S * 2 + 2
    assert get(client)[0].status_code == 200


def test_a_tenant_whose_queries_are_slow_does_not_hold_up_another(stack, tenant, api):
    """All that a tenant asks for too much is given up, and not asked of the database any more."""
    slow, other = api.client(tenant.id), api.client(Tenant(stack).id)
    webhook_id = slow.create(**HOOK)["id"]
    assert other.get().status_code == 200

    def stats(one):
        began = time.monotonic()
        return one.get(f"{webhook_id}/stats"), time.monotonic() - began

    clients = [type(slow)(api, dict(slow.session.headers)) for _ in range(32)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool, stack.connect(superuser=True) as connection, connection.transaction():
        connection.execute("lock table attempts in access exclusive mode")
        waiting = [pool.submit(stats, one) for one in clients]
        await_condition(lambda: api.metric("nrw_api_requests_open") == 32, 10, "32 open requests")
        while concurrent.futures.wait(waiting, timeout=0.1).not_done:
            answer, took = get(other)
            assert answer.status_code == 200 and took < 1
            began = time.monotonic()
            assert other.get().status_code == 200 and time.monotonic() - began < 1
        for answer, took in (one.result() for one in waiting):
            assert_unavailable(answer)
            assert took < DEADLINE_S + 2
        assert get(other)[0].status_code == 200
    assert api.metric('nrw_api_requests_total{route="getStats",status="5xx"}') == 32
    await_condition(lambda: stats(slow)[0].status_code == 200, 10, "served again")


def test_a_postgres_that_dies_under_load_leaves_no_request_without_an_answer(stack, tenant, api):
    client = api.client(tenant.id)
    clients = [type(client)(api, dict(client.session.headers)) for _ in range(8)]
    until = time.monotonic() + 4

    def hammer(mine):
        seen = {}
        while time.monotonic() < until:
            answer, took = get(mine)
            assert took < DEADLINE_S + 2
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        return seen

    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(hammer, mine) for mine in clients]
        stack.pg_kill()
        results = [one.result() for one in running]
    assert set().union(*results) <= {200, 503} and sum(seen.get(503, 0) for seen in results) > 0, results
    stack.pg_start()
    await_condition(lambda: get(client)[0].status_code == 200, 30, "200 again")


def test_backends_that_are_ended_by_an_operator_are_replaced(stack, tenant, api):
    client = api.client(tenant.id)
    with stack.connect(superuser=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'nrw-api'")
    await_condition(lambda: get(client)[0].status_code == 200, 15, "200 again")
    assert api.metric("nrw_pg_connections_lost_total") >= 1


def test_a_connection_whose_session_was_refused_once_is_used_in_the_end(tenant, start_api, relay):
    relay.change(b"SET statement_timeout", b"SET statement_timeoux")
    api = start_api(ready=False, database_url=relay.url, api_database_connections=1)
    api.wait_log("store.session_failed")
    relay.await_done()
    await_condition(lambda: get(api.client(tenant.id))[0].status_code == 200, 15, "200")
    assert len(api.log_lines("store.session_failed")) == 1 and api.metric("nrw_pg_connections_lost_total") == 1


def test_clients_that_vanish_while_their_query_runs_leave_nothing_behind(stack, tenant, api):
    key = api.client(tenant.id).session.headers["X-API-Key"]
    request = f"GET {EVENT_TYPES} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    with stack.connect(superuser=True) as connection, connection.transaction():
        connection.execute("lock table api_keys in access exclusive mode")
        wires = [Wire(api.api_port) for _ in range(100)]
        for wire in wires:
            wire.send(request)
        await_condition(lambda: api.metric("nrw_api_requests_open") == 100, 10, "100 open requests")
        for wire in wires[:50]:
            wire.vanish()
        for wire in wires[50:]:
            wire.socket.close()
    await_condition(lambda: api.metric("nrw_api_requests_open") == 0, 20, "no open request")
    await_condition(lambda: api.metric("nrw_api_connections") == 0, 20, "no connection")
    assert get(api.client(tenant.id))[0].status_code == 200


def test_clients_that_vanish_at_any_byte_leave_nothing_behind(stack, tenant, api):
    key = api.client(tenant.id).session.headers["X-API-Key"]
    request = f"POST /api/v1/integrations/webhooks HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    for cut in range(len(request) + 1):
        wire = Wire(api.api_port)
        wire.send(request[:cut])
        wire.vanish()
    await_condition(lambda: api.metric("nrw_api_requests_open") == 0 and api.metric("nrw_api_connections") == 0, 20, "no connection")
    assert get(api.client(tenant.id))[0].status_code == 200


# ---- an answer of PostgreSQL that is lost ----

def outcome_unknown(answer, operation: str):
    contract.check(answer, operation)
    assert answer.status_code == 503 and answer.json()["type"] == "/problems/outcome-unknown", answer.text


def test_a_creation_whose_answer_was_lost_is_not_called_undone_and_can_be_repeated(tenant, start_api, relay):
    client = start_api(database_url=relay.url).client(tenant.id)
    client.session.headers["Idempotency-Key"] = "the-first-webhook"
    relay.lose_answer(b"INSERT INTO webhooks")
    outcome_unknown(client.post(body=HOOK), "createWebhook")
    made, = client.get().json()["data"]
    again = client.post(body=HOOK)
    assert again.status_code == 201 and again.json()["id"] == made["id"] and client.get().json()["meta"]["total"] == 1


def test_a_rotation_whose_answer_was_lost_can_be_repeated_and_the_secret_before_stays_good(stack, tenant, start_api, relay):
    client = start_api(database_url=relay.url).client(tenant.id)
    webhook_id = client.create(**HOOK)["id"]
    relay.lose_answer(b"UPDATE webhooks SET secret")
    wanted = {"secret": "chosen by the customer"}
    outcome_unknown(client.post(f"{webhook_id}/rotate-secret", wanted), "rotateWebhookSecret")
    columns = "select secret, previous_secret, previous_secret_until from webhooks where id = %s"
    kept = stack.query(columns, webhook_id)
    again = client.post(f"{webhook_id}/rotate-secret", wanted)
    assert again.status_code == 200 and again.json()["secret"] == wanted["secret"] and again.json()["secret_rotation"]
    assert stack.query(columns, webhook_id) == kept and kept[0][1] is not None


def test_nothing_that_may_have_been_done_is_called_undone_and_a_look_is_always_repeatable(tenant, start_api, relay):
    api = start_api(database_url=relay.url, api_database_connections=16)
    client = api.client(tenant.id)
    webhook_id = client.create(**HOOK)["id"]
    for statement, operation, ask in (
            (b"INSERT INTO events", "testWebhook", lambda: client.post(f"{webhook_id}/test")),
            (b"INSERT INTO replay_jobs", "createReplay", lambda: client.post(f"{webhook_id}/replay", {"since": SINCE})),
            (b"coalesce($3, url)", "updateWebhook", lambda: client.patch(webhook_id, {"active": False})),
            (b"deleted_at = now()", "deleteWebhook", lambda: client.delete(webhook_id))):
        relay.lose_answer(statement)
        outcome_unknown(ask(), operation)
    assert client.get(webhook_id).status_code == 404, "it was deleted"
    for statement, ask in ((b"FROM webhooks", client.get), (b"FROM api_keys", lambda: client.post(body=HOOK))):
        relay.lose_answer(statement)
        assert_unavailable(ask())
