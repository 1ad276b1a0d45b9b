"""What stands before an exporter: it counts losses, says them once, and is new in a forked child.

A connection that a child shares with its parent is of no use to either: two writers, one stream.
So no export is under way while the process forks, and a child has an exporter of its own.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from hopspan.faults import logger
from hopspan.sdk.working import Call, Worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

    from hopspan.sdk.presets import Sizes
    from hopspan.sdk.tally import Tally

__all__ = ["CountedBatches", "LogRecords", "Metrics", "Spans", "sdk_counts"]

_SDK_METRICS = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_LONGEST_WAIT_TO_FORK = 0.5
"""Seconds. An export that takes longer than that is left to its fate in the child."""


class Ears(logging.Handler):
    """Hears what exporters say, in the thread that asks: they return only that they failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear it."""
        said = self._heard
        # The first that is said of an export names the cause, and the last often only the end.
        if not getattr(said, "text", ""):
            said.text = record.getMessage()

    def heard(self) -> str:
        """What was said since the last time."""
        text: str = getattr(self._heard, "text", "")
        self._heard.text = ""
        return text


_ears = Ears()
_EXPORTERS = logging.getLogger("opentelemetry.exporter")


class Renewed:
    """An exporter, made again in each process."""

    def __init__(self, make: Callable[[], Any], first: Any, what: str) -> None:
        self._make = make
        self._what = what
        self._native = first
        self._has_failed = False
        self.gate: Any = threading.Lock()
        _every_one.add(self)
        if _ears not in _EXPORTERS.handlers:
            _EXPORTERS.addHandler(_ears)

    @property
    def native(self) -> Any:
        """The exporter of this process; made when it is first needed, as many need none."""
        if self._native is None:
            self._native = self._make()
        return self._native

    def export(self, data: Any) -> bool:
        """Export, and whether that went well; the first of failures in a row is logged."""
        _ears.heard()
        with self.gate:
            try:
                result = self.native.export(data)
                is_done = result.name == "SUCCESS"
                why = "" if is_done else _ears.heard() or "the exporter does not say why"
            except Exception as error:  # noqa: BLE001 - of any exporter
                why = f"{type(error).__name__}: {error}"
        if why and not self._has_failed:
            logger.error(
                "exporting %s fails, and they are lost: %s. %s",
                self._what,
                why.rstrip("."),
                _advice(why),
            )
        elif not why and self._has_failed:
            logger.warning("exporting %s works again", self._what)
        self._has_failed = bool(why)
        return not why

    def shut_down(self, *limit: float) -> None:
        """Shut the exporter down, if there is one."""
        if self._native is not None:
            self._native.shutdown(*limit)

    def renew(self) -> None:
        """This is a forked child."""
        # Kept: to close a connection of the parent's is not the child's to do.
        _left_behind.append(self._native)
        self._native = None
        self._has_failed = False
        self.gate = threading.Lock()


_TRUST = ("certificate", "ssl", "handshake")
_NO_CAUSE = ("socket closed", "max retries or shutdown", "unavailable")
"""What exporters say when they do not say that it was the handshake."""


def _is_secure() -> bool:
    """Whether anything says that the receiver is spoken to with TLS."""
    return any(
        value.startswith("https:") if name.endswith("_ENDPOINT") else name.endswith("_CERTIFICATE")
        for name, value in os.environ.items()
        if name.startswith("OTEL_EXPORTER_OTLP")
    )


def _advice(why: str) -> str:
    said = why.lower()
    is_there = "refused" not in said
    unsaid = _is_secure() and is_there and any(word in said for word in _NO_CAUSE)
    if unsaid or any(word in said for word in _TRUST):
        return (
            "Perhaps the two do not trust each other's certificates: "
            "OTEL_EXPORTER_OTLP_CERTIFICATE names the file of the receiver's authority, "
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY what a "
            "receiver that asks for them is shown"
        )
    return "Further failures are silent until it works again"


_every_one: weakref.WeakSet[Renewed] = weakref.WeakSet()
_held: list[Renewed] = []
_left_behind: list[object] = []


def _before_fork() -> None:
    _held.extend(
        each for each in list(_every_one) if each.gate.acquire(timeout=_LONGEST_WAIT_TO_FORK)
    )


def _in_parent() -> None:
    while _held:
        _held.pop().gate.release()


def _in_child() -> None:
    _held.clear()
    for each in list(_every_one):
        each.renew()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


class CountedBatches(BatchSpanProcessor):
    """The SDK's batch processor, which tells a tally of each span."""

    def __init__(self, exporter: Spans, sizes: Sizes) -> None:
        self._sdk_counts = sdk_counts()
        super().__init__(
            exporter,
            max_queue_size=sizes.queue,
            schedule_delay_millis=sizes.delay_seconds * 1000,
            max_export_batch_size=sizes.batch,
        )
        self.tally: Tally = exporter.tally
        self._worker = Worker("hopspan-flush")

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Export what waits, and wait for that no longer than told; the SDK waits for ever."""
        call = self._worker.do(Call(super().force_flush, "flushing spans"))
        return wait_for([call], (30_000 if timeout_millis is None else timeout_millis) / 1000)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span, if it is sampled and there is room."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        # The SDK's own metrics know only of spans that its queue has no room for.
        if self.tally.admit() or self._sdk_counts:
            super().on_end(span)


def sdk_counts() -> bool:
    """Whether the SDK itself publishes what becomes of spans (`otel.sdk.*`), and is told to."""
    has_metrics = "meter_provider" in inspect.signature(BatchSpanProcessor.__init__).parameters
    return has_metrics and os.environ.get(_SDK_METRICS, "").strip().lower() == "true"


class Spans(SpanExporter):
    """Exports spans, and tells a tally."""

    def __init__(self, make: Callable[[], SpanExporter], tally: Tally) -> None:
        self._exporter = Renewed(make, make(), "spans")
        self.tally = tally

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Never raises."""
        self.tally.hand_over(len(spans))
        is_done = self._exporter.export(spans)
        self.tally.settle(len(spans), is_lost=not is_done)
        return SpanExportResult.SUCCESS if is_done else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shut_down()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the exporter."""
        return bool(self._exporter.native.force_flush(timeout_millis))


class LogRecords:
    """Exports log records. Without a base class: the SDK 1.39 has given it another name."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._exporter: Renewed = Renewed(make, make(), "log records")

    def export(self, batch: Sequence[Any]) -> None:
        """Never raises. The batch processor asks for no result."""
        self._exporter.export(batch)

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shut_down()


class Metrics(MetricExporter):
    """Exports metrics."""

    def __init__(self, make: Callable[[], MetricExporter], first: MetricExporter) -> None:
        self._exporter = Renewed(make, first, "metrics")
        # What a reader asks an exporter for; the SDK has no other name for it.
        super().__init__(first._preferred_temporality, first._preferred_aggregation)  # noqa: SLF001

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the exporter has its own
        **_options: Any,
    ) -> MetricExportResult:
        """Never raises."""
        is_done = self._exporter.export(metrics_data)
        return MetricExportResult.SUCCESS if is_done else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the exporter."""
        return bool(self._exporter.native.force_flush(timeout_millis))

    def shutdown(self, timeout_millis: float = 30_000, **_options: Any) -> None:
        """Shut the exporter down."""
        self._exporter.shut_down(timeout_millis)
