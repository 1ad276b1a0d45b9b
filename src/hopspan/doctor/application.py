"""Runs the application's own set-up in this process, and sees what became of it.

The application may do anything, so nothing that it raises gets further than here, and what it
prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import logging
import operator
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from hopspan import instrumentation
from hopspan.conventions import Plan
from hopspan.doctor import correlation
from hopspan.doctor.environment import SetUp
from hopspan.propagation.baggage import without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hopspan.config import Config


def run(target: str) -> SetUp:
    """Import `module`, or `module:callable` and call it without arguments; tell what is set up.

    The callable may be a coroutine function. The current folder is looked into first.
    """
    with _watching_spans() as early, _hearing() as overridden:
        failure = _run(target)
    provider = trace.get_tracer_provider()
    return SetUp(
        None if isinstance(provider, trace.ProxyTracerProvider) else provider,
        _telemetry(),
        early,
        overridden,
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL,
        correlation.is_there(),
        configs(),
        _span_names(),
        failure,
    )


def _run(target: str) -> str:
    """What went wrong; empty if nothing did."""
    if "" not in sys.path:  # as `python -m` has it, and a console script has not
        sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(sys.stderr), _no_descriptor():
            _call(target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit: of a command line, say
        return without_passwords(f"{type(error).__name__}: {error}")
    return ""


@contextlib.contextmanager
def _no_descriptor() -> Iterator[None]:
    """What is written to the descriptor itself, as by a process started there, is no report."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _call(target: str) -> None:
    module, _, name = target.partition(":")
    imported = importlib.import_module(module)
    if name:
        found: Any = operator.attrgetter(name)(imported)
        result = found()
        if inspect.iscoroutine(result):
            asyncio.run(result)


@contextlib.contextmanager
def _watching_spans() -> Iterator[list[str]]:
    """Names of spans that are started while there is no provider to make them."""
    names: list[str] = []
    kept = {name: getattr(trace.ProxyTracer, name) for name in _STARTING}
    for method, original in kept.items():
        setattr(trace.ProxyTracer, method, _watched(original, names))
    try:
        yield names
    finally:
        for method, original in kept.items():
            setattr(trace.ProxyTracer, method, original)


_STARTING = ("start_span", "start_as_current_span")


def _watched(original: Any, names: list[str]) -> Any:
    @functools.wraps(original)
    def start(self: trace.ProxyTracer, name: str, *args: Any, **kwargs: Any) -> Any:
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            names.append(name)
        return original(self, name, *args, **kwargs)

    return start


class _Ear(logging.Handler):
    """Hears what OpenTelemetry says about providers that are set twice."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Overriding of current"):
            self.said.append(message)


@contextlib.contextmanager
def _hearing() -> Iterator[list[str]]:
    ear, logger = _Ear(), logging.getLogger("opentelemetry")
    logger.addHandler(ear)
    try:
        yield ear.said
    finally:
        logger.removeHandler(ear)


def configs() -> dict[str, Config]:
    """What holds for each client that `hopspan.instrument` was called for."""
    woven = instrumentation._woven  # noqa: SLF001 - one package
    return {name: binding.instrumenter.config for name, (binding, *_) in woven.items()}


def _telemetry() -> Any:
    """What `hopspan.sdk.setup` has returned, if the application has come to that."""
    sdk = sys.modules.get("hopspan.sdk")
    return sdk.current() if sdk else None


def _span_names() -> list[str]:
    """Plans are kept in a cache that cannot list them; the garbage collector can."""
    return sorted({each.name for each in gc.get_objects() if type(each) is Plan})
