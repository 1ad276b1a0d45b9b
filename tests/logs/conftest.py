"""Every test begins and ends with logging as it was, and without settings of OpenTelemetry's."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from typing_extensions import Self

from hopspan import faults, logs

SPAN = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
TRACE = {"trace_id": "abc".zfill(32), "span_id": "def".zfill(16), "trace_flags": "01"}
"""What records say about it."""


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    faults.forget()
    before = (logging.Logger.makeRecord, logging.getLogRecordFactory(), context.get_current())
    yield
    logs.uninstall()
    faults.forget()
    assert before == (
        logging.Logger.makeRecord,
        logging.getLogRecordFactory(),
        context.get_current(),
    ), "the test left something behind"


class Within:
    """A span is current in this block, of which nothing is recorded; with baggage, if given."""

    def __init__(self, span: trace.Span | SpanContext = SPAN, **entries: object) -> None:
        span = NonRecordingSpan(span) if isinstance(span, SpanContext) else span
        self._context = trace.set_span_in_context(span)
        for name, value in entries.items():
            self._context = baggage.set_baggage(name.replace("__", "."), value, self._context)
        self._token: Any = None

    def __enter__(self) -> Self:
        self._token = context.attach(self._context)
        return self

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def recording(service: str) -> trace.Span:
    """A span that is recorded, for this service."""
    provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    return provider.get_tracer("test").start_span("work")


class Lines(logging.Handler):
    """Keeps what it formats."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def only(self) -> Any:
        """The one line that was logged, which is JSON."""
        (line,) = self.lines
        return json.loads(line)


@pytest.fixture
def logging_by() -> Iterator[Callable[[logging.Formatter], tuple[logging.Logger, Lines]]]:
    """A logger, and what it writes with a formatter."""
    logger = logging.getLogger("orders")
    handlers: list[Lines] = []

    def by(formatter: logging.Formatter) -> tuple[logging.Logger, Lines]:
        handlers.append(Lines(formatter))
        logger.addHandler(handlers[-1])
        return logger, handlers[-1]

    logger.propagate = False
    yield by
    logger.propagate = True
    for handler in handlers:
        logger.removeHandler(handler)
