"""Ends of processes: whether spans that wait in a queue leave before their process does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hopspan.doctor.findings import Finding, hint, ok, warning
from hopspan.doctor.receivers import exporters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment, SetUp

_PREFORKING = ("gunicorn", "uwsgi", "celery")
"""Servers whose children end without Python's exit handlers."""
_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"


def safe(environment: Environment) -> Iterable[Finding]:
    """Exit, SIGTERM and forked children lose nothing."""
    done = environment.set_up
    if done is None or done.provider is None:
        return
    findings = [*_exit(done), *_signal(done), *_forks(environment, done)]
    yield from findings or [ok("flushed at exit, at SIGTERM and in forked children")]


def _by_hopspan(done: SetUp) -> bool:
    return bool(getattr(done.telemetry, "is_ours", False))


def _exit(done: SetUp) -> Iterator[Finding]:
    if not _by_hopspan(done) and getattr(done.provider, "_atexit_handler", "") is None:
        yield warning(
            "nothing flushes spans at exit: what waits in the queue is lost",
            "TracerProvider() without shutdown_on_exit=False, or hopspan.sdk.setup()",
        )


def _signal(done: SetUp) -> Iterator[Finding]:
    if not done.handles_sigterm:
        yield warning(
            "SIGTERM ends the process at once: what waits in the queue is lost at each deployment",
            "hopspan.sdk.setup() in the main thread, or "
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
        )


def _forks(environment: Environment, done: SetUp) -> Iterator[Finding]:
    servers = [name for name in _PREFORKING if environment.version_of(name)]
    if not servers or _by_hopspan(done):
        return
    yield hint(
        f"children that {' or '.join(servers)} forks leave without flushing",
        "hopspan.sdk.setup(), or provider.force_flush() where a child ends",
    )
    if not environment.text(_FORK_SUPPORT) and _uses_grpc(done):
        yield warning(
            f"gRPC exports hang in children that {' or '.join(servers)} forks",
            f"{_FORK_SUPPORT}=1, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        )


def _uses_grpc(done: SetUp) -> bool:
    return any(".grpc." in type(each).__module__ for each in exporters(done.provider))
