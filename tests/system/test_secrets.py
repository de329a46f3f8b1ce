"""The key ring's rotation, as the runbook describes it: no secret is lost, none is left under the old key, deliveries go on."""

import base64
import os
import pathlib

from support.api import run_api
from support.produce import envelope

SECRET = "a secret that its owner typed"


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def test_rotation_of_the_key_ring(stack, tenant, sink, producer, start_api, start_worker):
    stack.query("update webhooks set deleted_at = now() where deleted_at is null")  # earlier tests' rows may have anything for a secret
    old_ring = pathlib.Path(stack.worker_environment["NRW_KEYRING_FILE"]).read_text().strip()
    old_id = old_ring.split(":")[0]
    new_entry = f"new-1:{new_key()}"
    both = {"keyring_file": None, "keyring": f"{new_entry},{old_ring}"}

    api = start_api()
    client = api.client(tenant.id)
    rotated = client.create(sink.url("/rotated"), secret=SECRET)
    assert client.post(f"{rotated['id']}/rotate-secret", {"secret": "another one, also typed"}).status_code == 200
    client.create(sink.url("/plain"), secret=SECRET)

    def secrets(command, ring, expected=0):
        environment = {**api.environment, "NRW_KEYRING": ring}
        environment.pop("NRW_KEYRING_FILE")
        done = run_api("secrets", command, environment=environment)
        assert done.returncode == expected, done.stdout + done.stderr
        return done

    counts = dict(line.split() for line in secrets("status", old_ring).stdout.splitlines())
    assert int(counts[old_id]) >= 3 and "new-1" not in counts

    # A row that somebody wrote by hand stops nothing.
    broken = tenant.webhook(sink.url("/broken"))
    broken.update(secret=b"x")
    assert "(malformed)" in secrets("status", old_ring).stdout
    assert str(broken.id) in secrets("reseal", both["keyring"], expected=1).stderr
    secrets("reseal", f"{old_ring},{new_entry}", expected=1)  # the others as they were
    broken.delete()

    # A ring without the old key opens nothing, says which webhooks, and changes nothing.
    refused = secrets("reseal", new_entry, expected=1)
    assert rotated["id"] in refused.stderr and "0 webhooks sealed" in refused.stdout

    worker = start_worker(**both)
    secrets("reseal", both["keyring"])
    counts = dict(line.split() for line in secrets("status", both["keyring"]).stdout.splitlines())
    assert old_id not in counts and int(counts["new-1"]) >= 3
    worker.stop()

    # The old key is gone from the ring; both secrets of the rotation still sign.
    start_worker(keyring_file=None, keyring=new_entry)
    sink.secret("/rotated", SECRET)
    sink.secret("/rotated", "another one, also typed", replace=False)
    sink.secret("/plain", SECRET)
    producer.one(envelope(tenant.id))
    for path in ("/rotated", "/plain"):
        line = sink.wait(1, path)[0]
        assert line["sig_netrecon"] == line["sig_standard"] == "good", line

    secrets("reseal", f"{old_ring},{new_entry}")  # as it was, for the other tests of this stack
