"""What operators are promised of the API program: health, drain, an answer in every state of PostgreSQL."""

import signal

from support.api import run_api
from support.wait import await_condition
from support.wire import Wire


def test_commands_answer_without_a_database():
    assert run_api("--version", environment={}).stdout.startswith("netrecon-webhooks-api ")
    assert "| `NRW_API_LISTEN` |" in run_api("--config-reference", environment={}).stdout
    assert "/problems/not-found" in run_api("--problem-reference", environment={}).stdout
    assert run_api("nonsense", environment={}).returncode == 2


def test_every_wrong_setting_is_named_at_once():
    done = run_api(environment={"NRW_API_CONNECTIONS": "1", "NRW_API_LISTN": "x"})
    assert done.returncode == 2
    for name in ("NRW_API_CONNECTIONS", "NRW_API_LISTN", "NRW_DATABASE_URL", "NRW_KEYRING"):
        assert name in done.stderr, done.stderr
    assert "NRW_KAFKA_BROKERS" not in done.stderr


def test_without_postgres_it_answers_503_and_recovers(stack, tenant, api):
    client = api.client(tenant.id)
    assert client.get("/api/v1/integrations/event-types").status_code == 200
    stack.pg_stop()
    await_condition(lambda: client.get("/api/v1/integrations/event-types").status_code == 503, 15, "503")
    answer = client.get("/api/v1/integrations/event-types")
    assert answer.headers["Retry-After"] == "5" and answer.json()["type"] == "/problems/unavailable"
    assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
    stack.pg_start()
    await_condition(lambda: client.get("/api/v1/integrations/event-types").status_code == 200, 30, "200 again")


def test_while_it_drains_it_is_not_ready(api):
    """Told to whoever was asking when it began; nobody else gets in."""
    with Wire(api.api_port) as ready, Wire(api.api_port) as health:
        ready.send(b"GET /ready HTTP/1.1\r\nHost: x\r\n")
        health.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        await_condition(lambda: api.metric("nrw_api_connections") == 2, 10, "both are there")
        api.process.send_signal(signal.SIGTERM)
        api.wait_log("api.stopping")
        ready.send(b"\r\n")
        answer = ready.answer()
        assert answer.status == 503 and answer.json()["type"] == "/problems/unavailable" and answer.headers["retry-after"]
        health.send(b"\r\n")
        assert health.answer().status == 200
    api.wait_exit()


def test_its_metrics_count_requests_by_route_and_status(tenant, api):
    client = api.client(tenant.id)
    client.get("/api/v1/integrations/event-types")
    client.get("/nothing")
    assert api.metric('nrw_api_requests_total{route="listEventTypes",status="2xx"}') == 1
    assert api.metric('nrw_api_requests_total{route="none",status="4xx"}') == 1
    assert api.metric("nrw_pg_up") == 1
