"""Fixtures of the system tests. One stack for the session; topic, group, tenant, receiver and workers are each test's own, so that every
test can run alone and none sees another one's events."""

import pytest
from support.produce import Producer
from support.sink import Sink
from support.stack import Stack
from support.tenant import Tenant
from support.worker import Worker


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds; runs by default, but not with the sanitizers")


@pytest.fixture(scope="session")
def running_stack():
    stack = Stack()
    try:
        yield stack.start()
    finally:
        stack.close()


@pytest.fixture
def stack(running_stack):
    """The session's stack with all services running, whatever the test before did to them."""
    running_stack.ensure_running()
    return running_stack


@pytest.fixture
def real_kafka(stack):
    """For tests that stop the broker: the mock brokers forget everything."""
    if not stack.kafka_is_real:
        pytest.skip("Apache Kafka could not be fetched; librdkafka's mock brokers forget everything when they stop")
    return stack


@pytest.fixture
def topic(stack):
    topic = stack.topic()
    yield topic
    topic.delete()


@pytest.fixture
def tenant(stack):
    return Tenant(stack)


@pytest.fixture
def sink(tmp_path):
    sink = Sink(tmp_path / "sink")
    yield sink
    sink.close()


@pytest.fixture
def producer(topic):
    return Producer(topic)


@pytest.fixture
def start_worker(request, stack, topic, tmp_path):
    """start_worker(group=…, kafka={…}, NAME=value …) starts one and returns it when it is ready (ready=False: when it runs). All of them
    must end with status 0 when the test is over."""
    workers = []
    request.node.nrw_workers = workers

    def start(ready=True, **options):
        options.setdefault("name", f"worker-{len(workers) + 1}")
        worker = Worker(stack, tmp_path / "workers", options.pop("topic", topic), **options)
        workers.append(worker)
        worker.start()
        return worker.ready() if ready else worker

    yield start
    errors = []
    for worker in workers:
        try:
            worker.close()
        except Exception as error:  # the others must end, too
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def worker(start_worker):
    """One worker with the default settings."""
    return start_worker()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of each worker's log."""
    report = (yield).get_result()
    if report.failed:
        for worker in getattr(item, "nrw_workers", []):
            report.sections.append((f"{worker.log_path.name}, group {worker.group}", worker.tail(12)))
