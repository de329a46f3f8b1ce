"""The operator's commands of the worker that talk to the stack: dead letters, health."""

import json
import time
import types

from support.produce import Producer, envelope
from support.wait import await_condition, in_time
from support.worker import run_worker


def dlq(worker, *arguments):
    done = run_worker("dlq", *arguments, environment=worker.environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_dead_letters_are_listed_and_go_back_with_their_bytes(stack, topic, tenant, sink, producer, start_worker):
    """An event that PostgreSQL refused for a while is delivered after its cause is gone; others stay where they are."""
    worker = start_worker()
    tenant.webhook(sink.url("/hook"))
    producer.one(b"not json", key=tenant.id)
    producer.one(b'{"id": "x"}', key=tenant.id)
    await_condition(lambda: len(dlq(worker, "list")[0]) == 2, 20, "two letters")
    letters, _ = dlq(worker, "list")
    assert {letter["reason"] for letter in letters} == {"not_json", "bad_member"}
    assert all(letter["topic"] == topic.name and letter["bytes"] > 0 and letter["error"] for letter in letters)

    only, _ = dlq(worker, "list", "--reason", "bad_member")
    assert [letter["reason"] for letter in only] == ["bad_member"]
    would, text = dlq(worker, "redrive", "--letter", only[0]["letter"], "--dry-run")
    assert would == only and "0 sent" in text
    _, text = dlq(worker, "redrive", "--letter", only[0]["letter"])
    assert "2 letters, 1 selected, 1 sent" in text
    # It is still wrong, so it comes back, as a new letter with the same bytes.
    await_condition(lambda: len(dlq(worker, "list", "--reason", "bad_member")[0]) == 2, 20, "the letter is back")
    first, second = dlq(worker, "list", "--reason", "bad_member")[0]
    assert first["bytes"] == second["bytes"] and first["letter"] != second["letter"]


def test_a_redriven_event_is_delivered(stack, topic, tenant, sink, start_worker):
    worker = start_worker()
    tenant.webhook(sink.url("/hook"))
    Producer(types.SimpleNamespace(stack=stack, name=topic.dlq)).one(envelope(tenant.id))  # as if its cause were mended
    _, text = dlq(worker, "redrive", "--all")
    assert "1 sent" in text
    sink.wait(1, "/hook")


def test_redrive_wants_a_selection_and_names_what_is_wrong(worker):
    for arguments in (["dlq"], ["dlq", "redrive"], ["dlq", "list", "--since", "yesterday"], ["dlq", "list", "--letter", "1"]):
        done = run_worker(*arguments, environment=worker.environment)
        assert done.returncode == 2 and "Usage" in done.stderr


def test_health_says_whether_the_program_beside_it_lives(worker):
    environment = {**worker.environment, "NRW_ADMIN_LISTEN": f"127.0.0.1:{worker.port}"}
    assert run_worker("health", environment=environment).returncode == 0
    assert run_worker("health", "ready", environment=environment).returncode == 0
    worker.stop()
    began = time.monotonic()
    done = run_worker("health", environment=environment)
    assert done.returncode == 1 and str(worker.port) in done.stderr
    in_time(time.monotonic() - began < 10)


def test_a_worker_whose_topic_is_gone_still_leaves_in_order(stack, tenant, start_worker):
    """librdkafka can hang while it is taken apart when its topic was deleted; everything is durable by then."""
    topic = stack.topic()
    worker = start_worker(topic=topic)
    topic.delete()
    assert worker.stop() == 0
