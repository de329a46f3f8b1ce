"""The one mail to an owner when the mail server refuses, is gone, or takes it in the moment in which the worker dies: none is lost, and nothing
else waits for it."""

import pytest
from support.attempts import delays, hold
from support.produce import envelope
from support.wait import await_condition

pytestmark = pytest.mark.slow

RETRY_S = 30  # first pause of a mail, doubling
PAUSE_S = 5  # first pause of a worker when the server cannot be used
POLL_S = 5
SOON_S = 2 * (PAUSE_S + POLL_S)


@pytest.fixture
def outbox(stack):
    """outbox(webhook): its mails as dicts."""
    stack.query("update notifications set state = 'dropped' where state = 'pending'")  # of tests that failed

    def rows(webhook) -> list[dict]:
        names = ("state", "tries", "last_error", "wait_s", "claimed")
        return [dict(zip(names, row)) for row in stack.query(
            "select state, tries, last_error, extract(epoch from next_try_at - now())::float8, claimed_until > now() from notifications "
            "where webhook_id = %s", webhook.id)]

    return rows


def due_now(stack, webhook) -> None:
    """As if its pause were over, and nobody's claim on it."""
    stack.query("update notifications set next_try_at = now(), claimed_until = null where webhook_id = %s and state = 'pending'", webhook.id)


def await_failed(outbox, webhook, tries: int) -> dict:
    def failed():
        row, = outbox(webhook)
        return row["tries"] == tries and row["last_error"] is not None and not row["claimed"] and row

    return await_condition(failed, SOON_S, lambda: f"try {tries} has failed: {outbox(webhook)}")


def fail_for_good(sink, tenant, producer, webhook) -> None:
    """Its deliveries fail five times, within a second."""
    sink.set(webhook.url.removeprefix(sink.base), "status=500")
    producer.one(envelope(tenant.id))


def test_a_mail_survives_a_server_that_refuses_and_one_that_is_gone(stack, tenant, subscribe, sink, producer, start_worker, mailbox, owner, outbox):
    failing, other = subscribe(2)
    worker = start_worker(retry_delays=delays(0.1), **mailbox.settings)

    def deliveries_go_on():
        event = producer.one(envelope(tenant.id))
        sink.wait(1, other.url.removeprefix(sink.base), event_id=event)

    mailbox.refuse = "451 4.3.0 try again later"
    fail_for_good(sink, tenant, producer, failing)
    await_condition(lambda: outbox(failing), 20, "the mail is in the outbox")
    row = await_failed(outbox, failing, 1)
    assert "451 4.3.0 try again later" in row["last_error"] and row["state"] == "pending"
    assert RETRY_S - SOON_S < row["wait_s"] <= 1.25 * RETRY_S
    assert worker.log_lines("mail.failed", webhook=str(failing.id)) and mailbox.tries == 1
    deliveries_go_on()

    mailbox.go_away()
    due_now(stack, failing)
    row = await_failed(outbox, failing, 2)
    assert "451" not in row["last_error"] and 2 * RETRY_S - SOON_S < row["wait_s"] <= 2.5 * RETRY_S
    deliveries_go_on()
    await_condition(lambda: worker.metric("nrw_outbox_waiting") == 1, SOON_S, "the gauge shows it")
    assert worker.metric("nrw_outbox_oldest_seconds") > 0
    assert worker.metrics()['nrw_mails_total{result="failed"}'] == 2 and mailbox.mails == []

    mailbox.refuse = None
    mailbox.come_back()
    due_now(stack, failing)
    mail, = mailbox.wait(owner, timeout=SOON_S)
    assert str(failing.id) in mail.text and str(other.id) not in mail.text and mail.message["Subject"].endswith(" is failing")
    await_condition(lambda: [row["state"] for row in outbox(failing)] == ["sent"], 10, "it is marked as sent")
    deliveries_go_on()
    hold(2 * POLL_S, lambda: len(mailbox.mails) == 1, "one mail")
    assert mailbox.tries == 2 and outbox(other) == []
    assert worker.metrics()['nrw_mails_total{result="sent"}'] == 1 and worker.metric("nrw_outbox_waiting") == 0


def test_a_worker_that_dies_before_it_could_mark_a_mail_may_cost_a_second_one(stack, tenant, subscribe, sink, producer, start_worker, mailbox, owner,
                                                                            outbox):
    """The one repeat that the README admits: same Message-ID, and no third one."""
    failing, = subscribe(1)
    settings = {"retry_delays": delays(0.1), **mailbox.settings}
    worker = start_worker(**settings)
    marks = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like 'UPDATE notifications SET state = ''sent''%%'"
    with stack.connect(superuser=True) as connection:
        def hold_up(_mail):
            connection.execute("begin")
            connection.execute("select from notifications where webhook_id = %s for update", (failing.id,))

        mailbox.on_taken = hold_up
        fail_for_good(sink, tenant, producer, failing)
        mailbox.wait(owner)
        (mark,), = await_condition(lambda: stack.query(marks), 20, "the mark waits for the row")
        worker.kill9()
        mailbox.on_taken = None
        connection.execute("select pg_terminate_backend(%s, 10000)", (mark,))  # else the server would still write what it has read
        connection.execute("rollback")
    assert [(row["state"], row["tries"], row["claimed"]) for row in outbox(failing)] == [("pending", 1, True)]
    due_now(stack, failing)  # two minutes later
    sink.clear()
    start_worker(group=worker.group, **settings)
    first, second = mailbox.wait(owner, 2)
    assert first.message["Message-ID"] == second.message["Message-ID"] and str(failing.id) in second.text
    await_condition(lambda: [row["state"] for row in outbox(failing)] == ["sent"], 10, "it is marked as sent")
    hold(2 * POLL_S, lambda: len(mailbox.mails) == 2, "no third one")
