"""PostgreSQL behind TLS: sslmode=verify-full in NRW_DATABASE_URL means what libpq says it means, and what is wrong is told."""

import os
import pathlib
import shutil
import subprocess

import psycopg
import pytest
from support.paths import ROOT, clean_environment
from support.postgres import Postgres
from support.tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    """Takes nothing but TLS; its certificate is for localhost."""
    authority.certificate("postgres", "localhost")
    postgres = Postgres(settings={"ssl": "on", "ssl_cert_file": "postgres.crt", "ssl_key_file": "postgres.key"})
    postgres.prepare()
    data = pathlib.Path(postgres.data)
    for name in ("postgres.crt", "postgres.key"):
        shutil.copy(authority.folder / name, data / name)
        (data / name).chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(data / name, "postgres", "postgres")
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
    with postgres:
        yield postgres


def url(server, host="localhost", ca=None, mode="verify-full", address="hostaddr=127.0.0.1&") -> str:
    """hostaddr: the name is compared, and not looked up."""
    return f"postgresql://postgres@{host}:{server.port}/netrecon?{address}sslmode={mode}&sslrootcert={ca}"


@pytest.fixture(scope="module")
def database(server, authority):
    """The schema, which schema/apply brings there over TLS as well."""
    server.create_database("netrecon")
    subprocess.run([ROOT / "schema" / "apply"], env={**clean_environment(), "NRW_DATABASE_URL": url(server, ca=authority.file)}, check=True,
                   timeout=60, stdout=subprocess.DEVNULL)
    return server


@pytest.mark.parametrize("address", ("", "hostaddr=127.0.0.1&"), ids=("looked up", "given"))
def test_every_connection_of_both_programs_is_encrypted_and_verified(database, authority, start_worker, start_api, address):
    where = url(database, ca=authority.file, address=address)
    start_worker(database_url=where)
    start_api(database_url=where)
    with database.connect("netrecon") as connection:
        found = connection.execute("select a.application_name, s.ssl from pg_stat_activity a join pg_stat_ssl s using (pid) "
                                   "where a.application_name like 'nrw%'").fetchall()
    assert len({name for name, _ in found}) > 4 and all(encrypted for _, encrypted in found), found


def test_this_server_takes_nothing_else(database):
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(url(database, ca="", mode="disable"))


@pytest.mark.parametrize("start", ("start_worker", "start_api"))
@pytest.mark.parametrize("what", ("host", "authority", "no such file"))
def test_what_is_wrong_is_refused_and_told(database, authority, tmp_path, request, start, what):
    where, text = {
        "host": (url(database, host="db.example.test", ca=authority.file), 'does not match host name "db.example.test"'),
        "authority": (url(database, ca=Authority(tmp_path / "other", "another CA").file), "certificate verify failed"),
        "no such file": (url(database, ca=tmp_path / "absent.crt"), "absent.crt"),
    }[what]
    program = request.getfixturevalue(start)(ready=False, database_url=where)
    assert text in program.wait_log("pg.connect_failed")["error"]
    answer = program.get("/ready")
    assert answer.status_code == 503 and "PostgreSQL is not connected" in answer.text
    assert program.get("/health").status_code == 200
