"""Spans that do not tell their status: those that are not recorded, and those of another SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import NonRecordingSpan, get_current_span

from hopspan.telemetry.spans import RememberingSpan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Status, StatusCode


class WatchedSpan(RememberingSpan):
    """Passes everything on to a span, and remembers the status that the handler sets on it."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        super().__init__(span.get_span_context())
        self._span = span

    def is_recording(self) -> bool:
        """As the span says."""
        return self._span.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Remember it, and pass it on."""
        super().set_status(status, description)
        self._span.set_status(status, description)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Remember the kind of failure, and pass all of them on."""
        for key, value in attributes.items():
            super().set_attribute(key, value)
        self._span.set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Remember the kind of failure, and pass it on."""
        super().set_attribute(key, value)
        self._span.set_attribute(key, value)

    def end(self, end_time: int | None = None) -> None:
        """Passed on, as are the others below."""
        self._span.end(end_time)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Passed on."""
        self._span.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Passed on."""
        self._span.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Passed on."""
        self._span.update_name(name)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Passed on."""
        self._span.record_exception(exception, attributes, timestamp, escaped)


def telling(span: Span, parent: Context, is_asked: bool = True) -> Span:
    """A span just started, or one in its place that remembers the status that is set on it.

    Where nobody will ask for the status, that is one which may not be the operation's own: a tracer
    that records nothing may hand out whatever is current.
    """
    if type(span) is NonRecordingSpan or not span.is_recording():
        told = span.get_span_context()
        if not told.is_valid:  # without an SDK, older releases of the API pass nothing on
            told = get_current_span(parent).get_span_context()
        elif not is_asked and type(span) is NonRecordingSpan:
            return span  # it does nothing, whosever it is
        return RememberingSpan(told)
    # Not the SDK's: whatever makes it may hide its status.
    known = hasattr(type(span), "status") or hasattr(span, "status")  # a property is not asked yet
    return span if known or not is_asked else WatchedSpan(span)
