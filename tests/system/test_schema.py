"""schema/: what apply, the partition functions, the webhook triggers and the event samples promise, on a real PostgreSQL."""

import copy
import datetime as dt
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
import uuid

import jsonschema
import psycopg
import pytest
from support.postgres import Postgres
from support.wait import in_time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "schema"
MIGRATIONS = sorted(path.stem for path in (SCHEMA / "postgres").glob("*.sql"))
UTC = dt.timezone.utc
PAGE_EVENTS = {
    "alert.created", "alert.resolved", "scan.started", "scan.completed", "scan.failed", "device.discovered", "device.offline",
    "ids.alert", "honeypot.hit", "rogue.detected", "cve.matched", "backup.completed", "backup.failed", "anomaly.detected",
}
TENANT = uuid.UUID("7d1f6c52-0b7e-4c8f-9a35-3e6b1d2f8c40")


@pytest.fixture(scope="module")
def server():
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def empty(server):
    """URL of an empty database."""
    return server.create_database("t" + uuid.uuid4().hex[:12])


@pytest.fixture(scope="module")
def template(server):
    done = apply(server.create_database("template_nrw"))
    assert done.returncode == 0, done.stderr
    return "template_nrw"


@pytest.fixture
def url(server, template):
    """URL of a database with the schema."""
    return server.create_database("t" + uuid.uuid4().hex[:12], template)


@pytest.fixture
def db(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set statement_timeout = '20s'")
        yield connection


def apply(url, *arguments, schema=SCHEMA, env=None, **kwargs):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("NRW_", "PG"))}
    if url:
        clean["NRW_DATABASE_URL"] = url
    return subprocess.run([schema / "apply", *arguments], env={**clean, **(env or {})}, capture_output=True, text=True, timeout=120,
                          **kwargs)


def copy_of_schema(tmp_path):
    """As installed somewhere else, under a name that needs quoting."""
    return pathlib.Path(shutil.copytree(SCHEMA, tmp_path / "it's a share" / "schema"))


def value(db, query, parameters=None):
    return db.execute(query, parameters).fetchone()[0]


def today():
    return dt.datetime.now(UTC).date()


def name_of(table, day):
    return f"{table}_{day:%Y%m%d}"


def partition_of(db, table, row_id):
    column = "id" if table == "events" else "delivery_id"
    return value(db, f"select tableoid::regclass::text from {table} where {column} = %s", [row_id])


def insert_event(db, received_at):
    event = uuid.uuid4()
    db.execute("insert into events (id, received_at, tenant_id, event_type, payload) values (%s, %s, %s, 'alert.created', %s)",
               [event, received_at, TENANT, b'{"a":1}\x00'])
    return event


def insert_attempt(db, received_at):
    delivery = uuid.uuid4()
    db.execute("""insert into attempts (received_at, delivery_id, attempt, event_id, webhook_id, tenant_id, event_type, started_at, outcome)
                  values (%s, %s, 1, %s, %s, %s, 'alert.created', now(), 'delivered')""",
               [received_at, delivery, uuid.uuid4(), uuid.uuid4(), TENANT])
    return delivery


def partitions(db, table):
    return {row[0] for row in db.execute("select name from nrw_partitions where parent = %s::regclass", [table])}


def make_past_partition(db, days_ago):
    """As if this database had been there then."""
    for table in ("events", "attempts"):
        db.execute("select nrw_create_partition(%s::regclass, %s::date)", [table, today() - dt.timedelta(days=days_ago)])


# --- schema/apply

def test_apply_twice_is_idempotent(empty):
    first = apply(empty)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[:-1] == [f"applied {name}" for name in MIGRATIONS]
    assert f"{len(MIGRATIONS)} migrations applied, 20 partitions created, 8 days ahead" in first.stdout
    second = apply(empty)
    assert second.returncode == 0, second.stderr
    assert second.stdout == f"schema is at version {len(MIGRATIONS)} (0 migrations applied, 0 partitions created, 8 days ahead)\n"
    assert first.stderr == second.stderr == ""


def test_two_applies_at_once_both_succeed_and_apply_each_migration_once(empty):
    results = []
    threads = [threading.Thread(target=lambda: results.append(apply(empty))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    applied = sorted(line for result in results for line in result.stdout.splitlines() if line.startswith("applied "))
    assert applied == [f"applied {name}" for name in MIGRATIONS]


def test_the_session_that_applies_holds_the_lock(server, empty):
    with psycopg.connect(empty, autocommit=True) as other:
        other.execute("select pg_advisory_lock(hashtext('nrw_schema_apply'))")
        results = []
        thread = threading.Thread(target=lambda: results.append(apply(empty)))
        thread.start()
        deadline = time.monotonic() + 30
        while not value(other, "select exists (select from pg_locks where locktype = 'advisory' and not granted)"):
            assert time.monotonic() < deadline and thread.is_alive()
            time.sleep(0.02)
        assert value(other, "select to_regclass('schema_migrations')") is None
        other.execute("select pg_advisory_unlock_all()")
        thread.join(120)
        assert results[0].returncode == 0, results[0].stderr


def test_a_database_newer_than_the_files_is_refused_and_left_alone(url, db):
    db.execute("insert into schema_migrations values (99, 'from_the_future', repeat('0', 64))")
    db.execute(f"drop table {name_of('events', today() + dt.timedelta(days=8))}")
    for arguments in ([], ["--check"]):
        refused = apply(url, *arguments)
        assert refused.returncode == 3
        assert "migration 99 (from_the_future)" in refused.stderr and "newer" in refused.stderr
        assert refused.stdout == ""
    assert value(db, "select nrw_partition_days_ahead()") == 7, "nothing was done"


def test_an_altered_migration_is_refused(url, tmp_path):
    schema = copy_of_schema(tmp_path)
    with open(schema / "postgres" / f"{MIGRATIONS[0]}.sql", "a", encoding="utf-8") as file:
        file.write("-- one more line\n")
    refused = apply(url, schema=schema)
    assert refused.returncode == 3
    assert "migration 1 (core)" in refused.stderr and "altered" in refused.stderr


def test_a_new_migration_is_applied_alone_and_a_broken_one_leaves_nothing(url, db, tmp_path):
    schema = copy_of_schema(tmp_path)
    number = len(MIGRATIONS) + 1
    extra = schema / "postgres" / f"{number:04d}_extra.sql"
    extra.write_text("create table extra (i int);\nselect 1/0;\n")
    broken = apply(url, schema=schema)
    assert broken.returncode == 1 and "division by zero" in broken.stderr
    assert value(db, "select to_regclass('extra')") is None
    assert value(db, "select max(version) from schema_migrations") == number - 1
    extra.write_text("create table extra (i int);\n")
    assert apply(url, "--check", schema=schema).returncode == 4
    assert value(db, "select to_regclass('extra')") is None, "--check changes nothing"
    done = apply(url, schema=schema)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"applied {number:04d}_extra\nschema is at version {number} (1 migrations applied, ")


def test_check_of_an_empty_database_lists_everything_and_creates_nothing(server, empty):
    result = apply(empty, "--check")
    assert result.returncode == 4, result.stderr
    assert result.stdout.splitlines() == [f"missing {name}" for name in MIGRATIONS] + [
        f"schema is at version 0, {len(MIGRATIONS)} migrations to apply"]
    with psycopg.connect(empty) as connection:
        assert value(connection, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == 0


@pytest.mark.parametrize("url_with_password", [
    "postgresql://nrw:s3%40cr%25et%5C@127.0.0.1:1/nrw", "postgresql://127.0.0.1:1/nrw?user=nrw&password=s3%40cr%25et%5C",
    "postgresql://nrw@127.0.0.1:1/nrw?password=s3%40cr%25et%5C&sslmode=disable"])
def test_the_password_reaches_psql_but_no_command_line_and_no_output(tmp_path, url_with_password):
    spy = tmp_path / "psql"
    spy.write_text(f'#!/bin/sh\ncat >/dev/null\necho "$@" >{tmp_path}/argv\nprintf %s "$PGPASSWORD" >{tmp_path}/password\nexec /usr/bin/psql "$@"\n')
    spy.chmod(0o755)
    result = apply(url_with_password, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.returncode == 1 and "Connection refused" in result.stderr
    assert (tmp_path / "password").read_text() == "s3@cr%et\\"
    assert "127.0.0.1:1/nrw" in (tmp_path / "argv").read_text()
    for text in ((tmp_path / "argv").read_text(), result.stdout, result.stderr):
        assert "s3" not in text and "cr%" not in text and "password=" not in text


def test_url_comes_from_the_option_then_the_environment_then_the_file(empty, tmp_path):
    (tmp_path / "url").write_text(empty)
    for result in (apply("postgresql://127.0.0.1:1/none", "--check", "--database-url", empty),
                   apply(None, "--check", env={"NRW_DATABASE_URL_FILE": str(tmp_path / "url")})):
        assert result.returncode == 4, result.stderr
    for result in (apply(None), apply(empty, "--chekc"), apply("host=127.0.0.1 password=x")):
        assert result.returncode == 2 and result.stderr
    assert apply(None, "--help").returncode == 0


# --- partitions

def test_partitions_exist_seven_days_ahead(db):
    assert value(db, "select nrw_partition_days_ahead()") >= 7
    for table in ("events", "attempts"):
        assert partitions(db, table) == {name_of(table, today() + dt.timedelta(days=n)) for n in range(-1, 9)}
        row = (insert_event if table == "events" else insert_attempt)(db, dt.datetime.now(UTC))
        assert partition_of(db, table, row) == name_of(table, today())


def test_days_are_utc_days_whatever_the_session_says(db):
    day = today() + dt.timedelta(days=3)
    midnight = dt.datetime.combine(day, dt.time(), UTC)
    for zone in ("Pacific/Auckland", "America/Los_Angeles", "UTC"):
        db.execute(f"set timezone = '{zone}'")
        first, last = insert_event(db, midnight), insert_event(db, midnight - dt.timedelta(microseconds=1))
        assert partition_of(db, "events", first) == name_of("events", day)
        assert partition_of(db, "events", last) == name_of("events", day - dt.timedelta(days=1))


def test_days_ahead_sees_a_gap_in_either_table(db):
    db.execute(f"drop table {name_of('attempts', today() + dt.timedelta(days=4))}")
    assert value(db, "select nrw_partition_days_ahead()") == 3
    db.execute(f"drop table {name_of('events', today())}")
    assert value(db, "select nrw_partition_days_ahead()") == -1
    assert value(db, "select nrw_ensure_partitions()") == 2
    assert value(db, "select nrw_partition_days_ahead()") == 8


@pytest.mark.parametrize("year", [2019, 2099])
def test_a_producer_with_a_wrong_clock_is_stored_in_the_default_partition(db, year):
    wrong = dt.datetime(year, 6, 1, 12, tzinfo=UTC)
    assert partition_of(db, "events", insert_event(db, wrong)) == "events_default"
    assert partition_of(db, "attempts", insert_attempt(db, wrong)) == "attempts_default"


def test_rows_in_the_default_partition_move_when_their_day_gets_a_partition(db):
    day = today() + dt.timedelta(days=12)
    noon = dt.datetime.combine(day, dt.time(12), UTC)
    event, attempt, stays = insert_event(db, noon), insert_attempt(db, noon), insert_event(db, noon + dt.timedelta(days=9))
    before = db.execute("select * from events where id = %s", [event]).fetchone()
    assert partition_of(db, "events", event) == "events_default"
    assert value(db, "select nrw_ensure_partitions(12)") == 8
    assert partition_of(db, "events", event) == name_of("events", day)
    assert partition_of(db, "attempts", attempt) == name_of("attempts", day)
    assert partition_of(db, "events", stays) == "events_default"
    assert db.execute("select * from events where id = %s", [event]).fetchone() == before
    assert value(db, "select count(*) from only events_default") == 1


def test_an_event_consumed_again_is_one_row_in_any_partition(db):
    for at in (dt.datetime.now(UTC), dt.datetime(2099, 1, 1, tzinfo=UTC)):
        event = insert_event(db, at)
        done = db.execute("insert into events (id, received_at, tenant_id, event_type, payload) values (%s, %s, %s, 'x.y', '') "
                          "on conflict do nothing", [event, at, TENANT])
        assert done.rowcount == 0
    for table in ("events", "attempts"):  # each partition carries the parent's key and indexes, attached and valid
        parents = value(db, "select count(*) from pg_index where indrelid = %s::regclass", [table])
        rows = db.execute("""select t.relid::regclass::text, count(h.inhparent) from pg_partition_tree(%s::regclass) t
                             join pg_index i on i.indrelid = t.relid and i.indisvalid left join pg_inherits h on h.inhrelid = i.indexrelid
                             where t.isleaf group by 1""", [table]).fetchall()
        assert len(rows) == 11 and {count for _, count in rows} == {parents}, rows


def test_two_sessions_may_ensure_partitions_at_once(url, db):
    for table in ("events", "attempts"):
        for ahead in range(2, 9):
            db.execute(f"drop table {name_of(table, today() + dt.timedelta(days=ahead))}")
    created, errors = [], []

    def work():
        try:
            with psycopg.connect(url, autocommit=True) as mine:
                created.append(value(mine, "select nrw_ensure_partitions()"))
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and sum(created) == 14
    assert value(db, "select nrw_partition_days_ahead()") == 8


def test_writers_go_on_while_partitions_are_made_and_a_busy_default_is_left_for_later(url, db):
    db.execute(f"drop table {name_of('events', today() + dt.timedelta(days=8))}, {name_of('attempts', today() + dt.timedelta(days=8))}")
    with psycopg.connect(url) as busy, psycopg.connect(url, autocommit=True) as writer:
        insert_event(busy, dt.datetime(2019, 1, 1, tzinfo=UTC))  # an open transaction in events_default
        writer.execute("set statement_timeout = '200ms'")
        results = []
        started = time.monotonic()
        thread = threading.Thread(target=lambda: results.append(value(db, "select nrw_ensure_partitions()")))
        thread.start()
        while thread.is_alive():
            insert_event(writer, dt.datetime.now(UTC))
            time.sleep(0.01)
        in_time(time.monotonic() - started < 5)
        assert results == [1], "attempts has its partition, events waits for the next call"
        busy.rollback()
    assert value(db, "select nrw_ensure_partitions()") == 1


def test_retention_drops_only_what_is_older(db):
    for days_ago in (29, 30, 31, 32, 60):
        make_past_partition(db, days_ago)
    kept_row = insert_event(db, dt.datetime.combine(today() - dt.timedelta(days=29), dt.time(12), UTC))
    before = {table: partitions(db, table) for table in ("events", "attempts")}
    dropped = []
    while rows := db.execute("select relation, rows from nrw_drop_expired_partitions(30)").fetchall():
        assert len({name.split("_")[0] for name, _ in rows}) == 1, "one table per transaction"
        assert all(count is None for _, count in rows)
        dropped += [name for name, _ in rows]
    expired = {name_of(table, today() - dt.timedelta(days=n)) for table in before for n in (31, 32, 60)}
    assert set(dropped) == expired and len(dropped) == len(expired)
    for table, names in before.items():
        assert partitions(db, table) == names - expired
    assert partition_of(db, "events", kept_row) == name_of("events", today() - dt.timedelta(days=29))
    assert value(db, "select count(*) from pg_class where relname = any(%s)", [dropped]) == 0, "dropped, not only detached"


def test_retention_empties_the_default_partition_in_bounded_batches(db):
    db.execute("insert into events (id, received_at, tenant_id, event_type, payload) select gen_random_uuid(), '2019-01-01', %s, 'a.b', '' "
               "from generate_series(1, 12000)", [TENANT])
    recent = insert_event(db, dt.datetime.now(UTC) - dt.timedelta(days=10))
    future = insert_attempt(db, dt.datetime(2099, 1, 1, tzinfo=UTC))
    old = insert_attempt(db, dt.datetime(2019, 1, 1, tzinfo=UTC))
    calls = []
    while rows := db.execute("select relation, rows from nrw_drop_expired_partitions(30)").fetchall():
        calls.append(rows)
    assert calls == [[("attempts_default", 1), ("events_default", 5000)], [("events_default", 5000)], [("events_default", 2000)]]
    assert partition_of(db, "events", recent) == "events_default" and partition_of(db, "attempts", future) == "attempts_default"
    assert value(db, "select count(*) from attempts where delivery_id = %s", [old]) == 0


def test_retention_leaves_the_payload_of_what_is_still_to_be_sent(db):
    """A producer's dead clock: the event is older than the retention from the start."""
    old = dt.datetime(2019, 1, 1, tzinfo=UTC)
    waiting, ended = insert_event(db, old), insert_event(db, old)
    db.execute("insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, "
               "next_attempt_at, reason) select gen_random_uuid(), received_at, id, gen_random_uuid(), tenant_id, event_type, 2, now(), 'retry' "
               "from events where id = %s", [waiting])
    assert db.execute("select relation, rows from nrw_drop_expired_partitions(30)").fetchall() == [("events_default", 1)]
    assert db.execute("select id from events where id = any(%s)", [[waiting, ended]]).fetchall() == [(waiting,)]
    db.execute("delete from pending_deliveries")
    assert db.execute("select relation, rows from nrw_drop_expired_partitions(30)").fetchall() == [("events_default", 1)]


def test_retention_gives_way_to_a_long_reader_and_comes_back(url, db):
    make_past_partition(db, 40)
    with psycopg.connect(url) as reader:
        reader.execute("select count(*) from attempts")
        started = time.monotonic()
        assert db.execute("select * from nrw_drop_expired_partitions(30)").fetchall() == []
        took = time.monotonic() - started
        assert took > 0.9
        in_time(took < 3)
        reader.rollback()
    assert [row[0] for row in db.execute("select * from nrw_drop_expired_partitions(30)")] == [name_of("attempts", today() - dt.timedelta(days=40))]


@pytest.mark.parametrize("call", ["nrw_drop_expired_partitions(0)", "nrw_drop_expired_partitions(null)", "nrw_drop_expired_partitions(-30)",
                                  "nrw_ensure_partitions(-1)", "nrw_ensure_partitions(1000)"])
def test_dangerous_arguments_are_refused(db, call):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        db.execute(f"select {call}")


# --- replays

def test_the_events_of_a_tenant_are_read_in_time_order_by_the_key_of_the_days_asked_for(db):
    at = dt.datetime.combine(today(), dt.time(1), UTC)
    for tenant in (TENANT, uuid.uuid4(), uuid.uuid4()):
        db.execute("insert into events (id, received_at, tenant_id, event_type, payload, kafka_partition) select gen_random_uuid(), "
                   "%s + n * interval '1 s', %s, 'a.b', '', 0 from generate_series(1, 3000) n", [at, tenant])
    db.execute("vacuum analyze events")
    walk = """select received_at, id from events where tenant_id = %s and (received_at, id) > (%s, '00000000-0000-0000-0000-000000000000')
              and received_at >= %s and received_at < %s order by received_at, id limit 500"""
    parameters = [TENANT, at + dt.timedelta(seconds=10), at + dt.timedelta(seconds=10), at + dt.timedelta(hours=2)]
    plan = "\n".join(row[0] for row in db.execute("explain (costs off) " + walk, parameters))
    assert f"using {name_of('events', today())}_pkey" in plan and "Seq Scan" not in plan, plan
    assert not [day for n in (-1, 1, 5) if name_of("events", day := today() + dt.timedelta(days=n)) in plan], plan
    rows = db.execute(walk, parameters).fetchall()
    assert len(rows) == 500 and rows == sorted(rows)
    lookup = "explain (costs off) select payload from events where tenant_id = %s and received_at = %s and id = %s"
    plan = "\n".join(row[0] for row in db.execute(lookup, [TENANT, *rows[0]]))
    assert "_pkey" in plan and "Seq Scan" not in plan and plan.count("events_") == 2, plan


def test_the_default_partition_is_cleaned_by_time(db):
    db.execute("insert into events (id, received_at, tenant_id, event_type, payload) select gen_random_uuid(), '2099-01-01', "
               "gen_random_uuid(), 'a.b', '' from generate_series(1, 5000)")
    db.execute("vacuum analyze events_default")
    plan = "\n".join(row[0] for row in db.execute(
        "explain (costs off) select ctid from only events_default where received_at < now() - interval '30 days' order by received_at limit 5000"))
    assert "events_default_received_at" in plan, plan


def test_a_migration_of_a_database_that_holds_events_keeps_them(server, empty, tmp_path):
    schema = copy_of_schema(tmp_path)
    later = {path: path.read_text() for path in (schema / "postgres").glob("*.sql") if path.name >= "0004"}
    for path in later:
        path.unlink()
    assert apply(empty, schema=schema).returncode == 0
    with psycopg.connect(empty, autocommit=True) as db:
        kept = [insert_event(db, at) for at in (dt.datetime.now(UTC), dt.datetime(2019, 1, 1, tzinfo=UTC), dt.datetime.now(UTC) + dt.timedelta(days=3))]
        for path, text in later.items():
            path.write_text(text)
        done = apply(empty, schema=schema)
        assert done.returncode == 0, done.stderr
        assert {row[0] for row in db.execute("select id from events")} == set(kept)
        # A worker of before asks without the tenant: slower, and right.
        assert value(db, "select count(*) from events e where e.received_at = (select received_at from events where id = %s) and e.id = %s", [kept[0], kept[0]]) == 1
        db.execute("select nrw_create_partition('events'::regclass, current_date + 30)")
        assert value(db, "select count(*) from pg_index where indrelid = %s::regclass", [name_of("events", today() + dt.timedelta(days=30))]) == 1


def test_a_webhook_has_one_open_replay_and_any_number_of_finished_ones(db, webhook):
    insert = "insert into replay_jobs (tenant_id, webhook_id, since, until, selection, state) values (%s, %s, '2026-01-01', '2026-01-02', 'all', %s)"
    for state in ("done", "cancelled", "failed", "done", "queued"):
        db.execute(insert, [TENANT, webhook, state])
    for state in ("queued", "running"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            db.execute(insert, [TENANT, webhook, state])
    db.execute("update replay_jobs set state = 'done'")
    db.execute(insert, [TENANT, webhook, "running"])


def test_a_pending_row_whose_round_is_over_is_refused(db):
    insert = """insert into pending_deliveries (delivery_id, received_at, event_id, webhook_id, tenant_id, event_type, next_attempt, final_attempt,
                next_attempt_at, reason) values (gen_random_uuid(), now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'a.b', %s, %s, now(), 'replay')"""
    db.execute(insert, [10, 10])
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(insert, [11, 10])


# --- webhooks

@pytest.fixture
def webhook(db):
    db.execute("insert into tenants (id, name, owner_email) values (%s, 'Acme', 'owner@example.com')", [TENANT])
    return value(db, "insert into webhooks (tenant_id, url, secret, events) values (%s, 'https://example.com/h', %s, %s) returning id",
                 [TENANT, b"\x01sealed", ["alert.created"]])


def notifications(db, listener, barrier=[0]):
    """Payloads on nrw_webhooks so far: those that arrive before a marker sent now (the server keeps the order of commits)."""
    barrier[0] += 1
    marker = f"marker {barrier[0]}"
    db.execute("select pg_notify('nrw_webhooks', %s)", [marker])
    found = []
    for note in listener.notifies():
        if note.payload == marker:
            return found
        found.append(note.payload)


def row_of(db, webhook):
    return db.execute("select version, updated_at from webhooks where id = %s", [webhook]).fetchone()


def test_each_change_of_a_webhook_is_notified_with_id_version_and_tenant(url, db):
    db.execute("insert into tenants (id, name) values (%s, 'Acme')", [TENANT])
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("listen nrw_webhooks")
        hook = value(db, "insert into webhooks (tenant_id, url, secret, events) values (%s, 'https://a/', 'x', '{*}') returning id", [TENANT])
        version, updated_at = row_of(db, hook)
        assert notifications(db, listener) == [f"{hook} {version} {TENANT}"]
        for change in ("active = false", "url = 'https://b/'", "events = '{scan.failed}'", "secret = 'y'", "description = 'd'",
                       "previous_secret = 'x', previous_secret_until = now() + '1 day'", "status = 'failing', failing_since = now()",
                       "status = 'disabled', disabled_at = now(), disabled_reason = 'gone'", "last_success_at = now(), status = 'active'",
                       "deleted_at = now()"):
            db.execute(f"update webhooks set {change} where id = %s", [hook])
            newer, later = row_of(db, hook)
            assert newer > version and later > updated_at, change
            version, updated_at = newer, later
            assert notifications(db, listener) == [f"{hook} {version} {TENANT}"], change
        db.execute("delete from webhooks where id = %s", [hook])
        (payload,) = notifications(db, listener)
        assert payload.split()[0] == str(hook) and int(payload.split()[1]) > version and payload.split()[2] == str(TENANT)


def test_bookkeeping_neither_notifies_nor_takes_a_version(url, db, webhook):
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("listen nrw_webhooks")
        before = row_of(db, webhook)
        for change in ("last_success_at = now()", "last_success_at = null", "url = url", "version = version + 1000",
                       "updated_at = '2019-01-01'", "last_success_at = now(), version = 0"):
            db.execute(f"update webhooks set {change} where id = %s", [webhook])
            assert row_of(db, webhook) == before, change
        assert notifications(db, listener) == []
    assert value(db, "select last_success_at is not null from webhooks where id = %s", [webhook])


def test_a_webhook_keeps_its_id_and_tenant_and_what_is_stored_is_bounded(db, webhook):
    other = uuid.uuid4()
    db.execute("insert into tenants (id, name) values (%s, 'Other')", [other])
    for change in (f"tenant_id = '{other}'", "id = gen_random_uuid()", "url = repeat('x', 2049)", "url = ''", "events = '{}'",
                   "status = 'paused'", "previous_secret = 'x'", "secret = ''"):
        with pytest.raises(psycopg.errors.IntegrityError):
            db.execute(f"update webhooks set {change} where id = %s", [webhook])
    db.execute("update webhooks set url = repeat('x', 2048) where id = %s", [webhook])


def test_a_key_is_stored_as_exactly_one_sha256(db, webhook):
    insert = "insert into api_keys (tenant_id, name, key_sha256) values (%s, 'ci', %s)"
    db.execute(insert, [TENANT, b"k" * 32])
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.execute(insert, [TENANT, b"k" * 32])
    for wrong in (b"k" * 31, b"k" * 33):
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute(insert, [TENANT, wrong])


def test_one_transition_is_one_notification_row(db, webhook):
    insert = ("insert into notifications (kind, tenant_id, webhook_id, transition_at) values ('webhook_failing', %s, %s, '2026-03-15') "
              "on conflict do nothing")
    assert [db.execute(insert, [TENANT, webhook]).rowcount for _ in range(2)] == [1, 0]


# --- events

ENVELOPE = json.loads((SCHEMA / "events" / "envelope.schema.json").read_text(encoding="utf-8"))
SAMPLES = {path.stem: path for path in sorted((SCHEMA / "events" / "samples").iterdir())}


def validator():
    jsonschema.Draft202012Validator.check_schema(ENVELOPE)
    return jsonschema.Draft202012Validator(ENVELOPE, format_checker=jsonschema.draft202012_format_checker)


def test_there_is_one_sample_for_each_event_type_of_the_page():
    assert set(SAMPLES) == PAGE_EVENTS and len(PAGE_EVENTS) == 14
    assert {entry["const"] for entry in ENVELOPE["$defs"]["known_event"]["oneOf"]} == PAGE_EVENTS
    envelopes = [json.loads(path.read_bytes()) for path in SAMPLES.values()]
    assert len({envelope["id"] for envelope in envelopes}) == 14


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_sample_is_a_valid_envelope(name):
    data = SAMPLES[name].read_bytes()
    envelope = json.loads(data.decode("utf-8"))
    validator().validate(envelope)
    assert envelope["event"] == name and len(data) < 8192
    assert list(envelope) == ["id", "event", "timestamp", "tenant_id", "data"] and envelope["data"]
    assert data.startswith(b'{\n  "id": ') and data.endswith(b"}\n")


GOOD = {"id": "0f8fad5b-d9cb-469f-a165-70867728950e", "event": "alert.created", "timestamp": "2026-03-15T10:30:00Z", "tenant_id": str(TENANT),
        "data": {}}


@pytest.mark.parametrize("change", [
    {}, {"extra": [1, {"a": None}]}, {"event": "a_1.b.c0"}, {"event": "unknown.type"}, {"timestamp": "2026-03-15T10:30:00.123456+05:30"},
    {"id": GOOD["id"].upper()}])
def test_the_schema_takes_a_right_envelope(change):
    validator().validate({**GOOD, **change})


@pytest.mark.parametrize("member, wrong", [
    *[(member, None) for member in GOOD], *[(member, 7) for member in GOOD],
    ("id", ""), ("id", GOOD["id"] + "\n"), ("id", GOOD["id"].replace("-", "")), ("id", "{" + GOOD["id"][2:] + "}"), ("tenant_id", "acme"),
    ("event", "alert"), ("event", "alert."), ("event", "Alert.created"), ("event", "alert..created"), ("event", "alert.created\n"),
    ("event", "a." + "b" * 127), ("event", "alert created"), ("timestamp", "2026-03-15"), ("timestamp", "2026-03-15 10:30:00Z"),
    ("timestamp", "2026-03-15T10:30:00"), ("timestamp", "2026-13-15T10:30:00Z"), ("timestamp", "2026-03-15T25:30:00Z"),
    ("timestamp", "2026-03-15T10:30:00Z\n"), ("data", []), ("data", "{}")])
def test_the_schema_refuses_a_wrong_envelope(member, wrong):
    envelope = copy.deepcopy(GOOD)
    envelope[member] = wrong
    assert not validator().is_valid(envelope)


@pytest.mark.parametrize("member", sorted(GOOD))
def test_the_schema_refuses_an_envelope_that_lacks_a_member(member):
    assert not validator().is_valid({name: held for name, held in GOOD.items() if name != member})
    assert not validator().is_valid([GOOD])
