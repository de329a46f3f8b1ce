"""Kafka behind TLS and a password, told through NRW_KAFKA_CONF."""

import pytest
from support.kafka import Topic
from support.produce import Producer, envelope
from support.secure_kafka import SecureKafka, jars
from support.tls import Authority
from support.wait import await_condition


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    home = jars()
    if home is None:
        pytest.skip("Apache Kafka could not be fetched; librdkafka's mock brokers know neither TLS nor passwords")
    folder = tmp_path_factory.mktemp("kafka")
    broker = SecureKafka(folder, home, Authority(folder / "tls"))
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture
def topic(kafka):
    return Topic(kafka)


def test_events_and_dead_letters_go_over_tls_with_a_password(kafka, topic, tenant, sink, start_worker):
    tenant.webhook(sink.url("/hook"))
    worker = start_worker(kafka=kafka.client(), kafka_brokers=kafka.secure_brokers)
    producer = Producer(topic)
    producer.one(envelope(tenant.id))
    producer.one(b"not json", key=tenant.id)
    sink.wait(1, "/hook")
    await_condition(lambda: len(topic.read_dlq()) == 1, 20, "the dead letter")
    topic.await_settled(worker.group)
    assert worker.metric("nrw_kafka_errors_total") == 0
    assert kafka.password not in worker.log_text()


WRONG = {
    "password": ({"sasl_password": "not-this-one"}, "SASL authentication error: Authentication failed"),
    "no password": ({"security_protocol": "SSL", "sasl_mechanism": None, "sasl_username": None, "sasl_password": None},
                    "isconnected"),
    "authority": ({"ssl_ca_location": "{other}"}, "broker certificate could not be verified, verify that ssl.ca.location is correct"),
    "no TLS": ({"security_protocol": "SASL_PLAINTEXT"}, "isconnected"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_keeps_the_worker_out_is_said_by_log_and_readiness(kafka, tmp_path, start_worker, what):
    changed, text = WRONG[what]
    other = Authority(tmp_path / "other", "another CA").file
    properties = kafka.client(**{key: value and value.format(other=other) for key, value in changed.items()})
    worker = start_worker(ready=False, kafka=properties, kafka_brokers=kafka.secure_brokers)
    worker.wait_log("kafka.error")

    def told():
        answer = worker.get("/ready")
        assert answer.status_code == 503
        return text in answer.text and answer.text

    line = await_condition(told, 20, lambda: f"/ready says {text!r}: {worker.get('/ready').text}")
    assert line.startswith("no Kafka assignment yet: ")
    assert any(text in error["error"] for error in worker.log_lines("kafka.error"))
    assert worker.get("/health").status_code == 200, "a worker that cannot reach Kafka is no reason to restart it"
    assert "not-this-one" not in worker.log_text() and kafka.password not in worker.log_text()


def test_a_certificate_for_another_host_is_refused(kafka, start_worker):
    """The broker's is for localhost; librdkafka 2.0 and later compare it."""
    worker = start_worker(ready=False, kafka=kafka.client(), kafka_brokers=kafka.secure_brokers.replace("localhost", "127.0.0.1"))
    error = worker.wait_log("kafka.error")
    assert "certificate" in error["error"]
    assert worker.get("/ready").status_code == 503
