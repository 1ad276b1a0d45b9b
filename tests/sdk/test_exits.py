"""No span is lost when a process ends: 1,000 spans each, counted by a real receiver."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("grpc")

from tests.sdk.processes import DEADLINE, clean, run, start
from tests.sdk.receivers import Receiver, grpc_receiver, http_receiver, wire_to

if sys.platform == "win32":
    pytest.skip("forks and signals", allow_module_level=True)

MANY = 1000


@pytest.fixture(params=["grpc", "http"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with (grpc_receiver if request.param == "grpc" else http_receiver)() as receiver:
        yield receiver


NO_OTHER = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


def environment_of(receiver: Receiver) -> dict[str, str]:
    """Room for all, and nothing is exported before somebody asks for it: this is about ends."""
    sizes = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "20000",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20000",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    return {**receiver.environment(), **sizes}


SETUP = "telemetry = hopspan.sdk.setup('development', service_name='test'); "


def test_a_normal_exit(receiver: Receiver) -> None:
    done = run(f"{SETUP}spans({MANY})", environment_of(receiver))
    assert (0, "") == (done.returncode, done.stderr)
    assert {"work": MANY} == receiver.received.names()


def test_an_exit_with_a_status(receiver: Receiver) -> None:
    done = run(f"{SETUP}spans({MANY}); sys.exit(3)", environment_of(receiver))
    assert (3, "") == (done.returncode, done.stderr)
    assert {"work": MANY} == receiver.received.names()


def test_an_unhandled_exception(receiver: Receiver) -> None:
    done = run(f"{SETUP}spans({MANY}); raise ValueError('mine')", environment_of(receiver))
    assert (1, "ValueError: mine") == (done.returncode, done.stderr.splitlines()[-1])
    assert {"work": MANY} == receiver.received.names()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_signal_with_the_default_action(receiver: Receiver, number: signal.Signals) -> None:
    """The process dies of that signal, as it would without us, and only then."""
    program = f"{SETUP}spans({MANY}); os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    done = run(program, environment_of(receiver))
    assert -number == done.returncode
    assert {"work": MANY} == receiver.received.names()


def test_a_signal_in_the_middle_of_the_work(receiver: Receiver) -> None:
    """Whatever lock the SDK holds at the moment is no trouble, and every span that ended is there."""
    program = f"""
    {SETUP}
    threading = __import__("threading")
    counter = __import__("opentelemetry.metrics").metrics.get_meter("test").create_counter("work")
    def kill():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=kill, daemon=True).start()
    done = 0
    while True:
        spans(1)
        counter.add(1)
        done += 1
        if done % 100 == 0:
            telemetry.flush()
            os.write(1, b"%d\\n" % done)
    """
    done = run(program, environment_of(receiver))
    assert -signal.SIGTERM == done.returncode
    last = int(done.stdout.splitlines()[-1])
    assert receiver.received.names()["work"] >= last > 0
    assert "lost" not in done.stderr


def test_a_signal_while_a_lock_is_held_that_the_export_needs() -> None:
    """Here a log handler's: the main thread lets go of it first, and nobody waits for anybody."""
    program = """
    import threading
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Handler(logging.Handler):
        def emit(self, record):
            if threading.current_thread() is threading.main_thread():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)

    class Exporter(SpanExporter):
        def export(self, spans):
            logging.getLogger("mine").warning("exporting")
            os.write(1, b"%d spans\\n" % len(spans))
            return SpanExportResult.SUCCESS

    logging.getLogger("mine").addHandler(Handler())
    telemetry = hopspan.sdk.setup("development", service_name="test", span_exporter=Exporter())
    spans(10)
    logging.getLogger("mine").warning("a signal comes right now")
    time.sleep(60)
    """
    done = run(program, NO_OTHER)
    assert (-signal.SIGTERM, "10 spans\n") == (done.returncode, done.stdout)
    assert "lost" not in done.stderr


def test_two_signals_are_as_one(receiver: Receiver) -> None:
    program = f"""
    {SETUP}
    spans({MANY})
    say("ready")
    time.sleep(60)
    """
    receiver.received.hold.clear()
    with start(program, environment_of(receiver)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        receiver.received.hold.set()
        assert -signal.SIGTERM == process.wait(DEADLINE)
    assert {"work": MANY} == receiver.received.names()


def test_the_applications_own_handler_is_left_in_place(receiver: Receiver) -> None:
    program = f"""
    def mine(number, frame):
        spans({MANY}, "mine")
        sys.exit(7)
    signal.signal(signal.SIGTERM, mine)
    {SETUP}
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    spans({MANY})
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    """
    done = run(program, environment_of(receiver))
    assert 7 == done.returncode
    assert {"work": MANY, "mine": MANY} == receiver.received.names()


def test_a_handler_that_the_application_sets_later_may_call_the_one_before(
    receiver: Receiver,
) -> None:
    program = f"""
    {SETUP}
    before = signal.getsignal(signal.SIGTERM)
    def mine(number, frame):
        spans({MANY}, "mine")
        before(number, frame)
    signal.signal(signal.SIGTERM, mine)
    spans({MANY})
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    """
    done = run(program, environment_of(receiver))
    assert -signal.SIGTERM == done.returncode
    assert {"work": MANY, "mine": MANY} == receiver.received.names()


def test_an_ignored_signal_stays_ignored(receiver: Receiver) -> None:
    program = f"""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {SETUP}
    spans({MANY})
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    say("alive")
    """
    done = run(program, environment_of(receiver))
    assert (0, "alive\n") == (done.returncode, done.stdout)
    assert {"work": MANY} == receiver.received.names()


def test_keyboard_interrupt_is_still_raised(receiver: Receiver) -> None:
    program = f"""
    {SETUP}
    spans({MANY})
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        spans({MANY}, "after")
        say("caught")
    """
    done = run(program, environment_of(receiver))
    assert (0, "caught\n") == (done.returncode, done.stdout)
    assert {"work": MANY, "after": MANY} == receiver.received.names()


def test_a_set_up_in_another_thread_minds_no_signals_and_says_so(receiver: Receiver) -> None:
    program = f"""
    import threading
    thread = threading.Thread(target=lambda: hopspan.sdk.setup("development", service_name="x"))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    spans({MANY})
    """
    done = run(program, environment_of(receiver))
    assert 0 == done.returncode
    assert "not called in the main thread" in done.stderr
    assert {"work": MANY} == receiver.received.names()


# -- forks -----------------------------------------------------------------------------------------

WARM = "spans(10, 'warm'); assert telemetry.flush()"
"""A connection that is open when the process forks, and may not be the child's as well."""


def test_a_forked_child(receiver: Receiver) -> None:
    """And what its parent had not yet exported is exported once, by the parent."""
    program = f"""
    {SETUP}{WARM}
    spans({MANY}, "before")
    child = os.fork()
    spans({MANY}, "child" if child == 0 else "parent")
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(program, environment_of(receiver))
    assert (0, "") == (done.returncode, done.stderr)
    assert {"warm": 10, "before": MANY, "child": MANY, "parent": MANY} == receiver.received.names()
    assert len({span.id for span in receiver.received.spans}) == len(receiver.received.spans)


def test_a_forked_child_that_is_terminated(receiver: Receiver) -> None:
    program = f"""
    {SETUP}{WARM}
    child = os.fork()
    if child == 0:
        spans({MANY}, "child")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(program, environment_of(receiver))
    assert (0, "-15\n", "") == (done.returncode, done.stdout, done.stderr)
    assert {"warm": 10, "child": MANY} == receiver.received.names()


def test_a_child_has_a_connection_of_its_own() -> None:
    """Not the one that its parent goes on using."""
    program = f"""
    {SETUP}{WARM}
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    spans({MANY}, "child")
    """
    with http_receiver() as receiver, wire_to(receiver) as wire:
        environment = {**environment_of(receiver), **receiver.environment(wire.port), **NO_OTHER}
        done = run(program, environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"warm": 10, "child": MANY} == receiver.received.names()
        assert 2 == wire.tries


def test_a_child_that_skips_everything_flushes_by_hand(receiver: Receiver) -> None:
    program = f"""
    {SETUP}{WARM}
    child = os.fork()
    if child == 0:
        spans({MANY}, "child")
        os._exit(0 if telemetry.flush() else 1)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(program, environment_of(receiver))
    assert (0, "0\n", "") == (done.returncode, done.stdout, done.stderr)
    assert {"warm": 10, "child": MANY} == receiver.received.names()


def test_what_was_shut_down_stays_so_in_a_child(receiver: Receiver) -> None:
    program = f"""
    {SETUP}{WARM}
    telemetry.shutdown()
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    spans(3)
    assert telemetry.dropped_by_reason == {{"shut_down": 3}}
    """
    done = run(program, environment_of(receiver))
    assert 0 == done.returncode
    said = "WARNING hopspan: spans are lost: they ended after telemetry was shut down"
    assert [said] == done.stderr.splitlines()
    assert {"warm": 10} == receiver.received.names()


def test_generations_of_children(receiver: Receiver) -> None:
    program = f"""
    {SETUP}{WARM}
    for generation in range(3):
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        spans({MANY}, f"generation {{generation}}")
    """
    done = run(program, environment_of(receiver))
    assert (0, "") == (done.returncode, done.stderr)
    expected = {f"generation {number}": MANY for number in range(3)}
    assert {"warm": 10, **expected} == receiver.received.names()


def test_a_fork_in_the_middle_of_an_export(receiver: Receiver) -> None:
    """The child waits for nothing that its parent has begun."""
    program = f"""
    {SETUP}{WARM}
    children = []
    for _ in range(10):
        spans({MANY // 2}, "parent")
        child = os.fork()
        if child == 0:
            spans({MANY // 10}, "child")
            sys.exit()
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    batches = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50"}
    done = run(program, {**environment_of(receiver), **batches})
    assert (0, "") == (done.returncode, done.stderr)
    assert {"warm": 10, "parent": 5 * MANY, "child": MANY} == receiver.received.names()


METHODS = ["fork", "forkserver", "spawn"]

CHILDREN = """
import multiprocessing, os, signal, sys, time
import hopspan.sdk
from opentelemetry import trace

telemetry = hopspan.sdk.setup("development", service_name="test")

def work(name):
    tracer = trace.get_tracer("test")
    for _ in range({many}):
        tracer.start_span(name).end()
    if name == "killed":
        time.sleep(60)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    work("parent")
    telemetry.flush()
    child = multiprocessing.Process(target=work, args=("child",))
    child.start()
    child.join()
    with multiprocessing.Pool(1) as pool:
        pool.map(work, ["pool"])
        pool.close()
        pool.join()
    assert child.exitcode == 0
"""


@pytest.mark.parametrize("method", METHODS)
def test_children_of_multiprocessing(receiver: Receiver, method: str, tmp_path: Path) -> None:
    script = tmp_path / "children.py"
    script.write_text(CHILDREN.format(many=MANY))
    done = subprocess.run(
        [sys.executable, "-Wignore", script, method],
        env=clean(environment_of(receiver)),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert {"parent": MANY, "child": MANY, "pool": MANY} == receiver.received.names()


# -- the deadline ----------------------------------------------------------------------------------

HANGS = """
import threading
from opentelemetry.sdk.trace.export import SpanExporter

class Hangs(SpanExporter):
    def export(self, spans):
        threading.Event().wait()
    def shutdown(self):
        threading.Event().wait()
    def force_flush(self, timeout_millis=0):
        threading.Event().wait()

telemetry = hopspan.sdk.setup(
    "development", service_name="test", span_exporter=Hangs(), shutdown_seconds=0.5
)
spans(10)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2),
    ],
    ids=["exit", "status", "exception", "SIGTERM", "SIGINT"],
)
def test_an_exporter_that_hangs_does_not_hang_the_exit(end: str, status: int) -> None:
    done = run(f"import time\nstarted = time.monotonic()\n{HANGS}\n{end}", NO_OTHER)
    assert status == done.returncode
    assert (
        "WARNING hopspan: this process lost 10 spans (shut_down 10); 10 were not exported "
        "within 0.5 s" in done.stderr.splitlines()
    )


@pytest.mark.parametrize(
    "flush", ["telemetry.flush(0.2)", "trace.get_tracer_provider().force_flush(200)"]
)
def test_flush_keeps_its_deadline_as_well(flush: str) -> None:
    """Also by way of the provider, as others ask for it."""
    program = f"""
{HANGS}
before = time.monotonic()
assert {flush} is False
say(time.monotonic() - before < 5)
"""
    done = run(program, NO_OTHER)
    assert (0, "True\n") == (done.returncode, done.stdout)
