"""Fixtures of the system tests. One stack for the session; topic, group, tenant, receiver and workers are each test's own, so that every
test can run alone and none sees another one's events."""

import pytest
from support.api import Api
from support.produce import Producer
from support.sink import Sink
from support.stack import Stack
from support.tenant import Tenant
from support.wait import Late
from support.worker import Worker


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds; runs by default, but not with the sanitizers")


# Exit status of a session in which nothing but time went wrong.
ALL_LATE = 75
_WRONG = pytest.StashKey[bool]()


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.TESTS_FAILED and not session.stash.get(_WRONG, False):
        session.exitstatus = ALL_LATE


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


def close_all(programs):
    """Everything must end with status 0; the others end, too, when one does not."""
    errors = []
    for program in programs:
        try:
            program.close()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def programs(request):
    """Everything of ours that the test starts: all of it must end with status 0 when the test is over."""
    started = request.node.nrw_programs = []
    yield started
    close_all(started)


@pytest.fixture
def start_worker(programs, stack, topic, tmp_path):
    """start_worker(group=…, kafka={…}, NAME=value …) starts one and returns it when it is ready (ready=False: when it runs)."""
    workers = []

    def start(ready=True, **options):
        options.setdefault("name", f"worker-{len(programs) + 1}")
        worker = Worker(stack, tmp_path / "workers", options.pop("topic", topic), **options)
        programs.append(worker)
        workers.append(worker)
        worker.start()
        return worker.ready() if ready else worker

    yield start
    close_all(workers)  # before their topic goes


@pytest.fixture
def start_api(programs, stack, tmp_path):
    """start_api(NAME=value …) starts one and returns it when it is ready (ready=False: when it runs)."""
    def start(ready=True, **options):
        options.setdefault("name", f"api-{len(programs) + 1}")
        api = Api(stack, tmp_path / "api", **options)
        programs.append(api)
        api.start()
        return api.ready() if ready else api

    return start


@pytest.fixture
def api(start_api):
    """One API with the default settings."""
    return start_api()


@pytest.fixture(scope="module")
def module_api(running_stack, tmp_path_factory):
    """One API for the tests of a module that leave everything as it was."""
    running_stack.ensure_running()
    api = Api(running_stack, tmp_path_factory.mktemp("api"))
    try:
        yield api.start().ready()
    finally:
        api.close()


@pytest.fixture
def worker(start_worker):
    """One worker with the default settings."""
    return start_worker()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of each program's log."""
    report = (yield).get_result()
    if report.failed:
        if not (call.excinfo is not None and call.excinfo.errisinstance(Late)):
            item.session.stash[_WRONG] = True
        for program in getattr(item, "nrw_programs", []):
            report.sections.append((program.log_path.name, program.tail(12)))
