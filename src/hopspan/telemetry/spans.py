"""Spans whose status can always be read: for non-recording spans, and for those of another SDK.

The decision about a message never depends on sampling, so the status that a handler sets is kept
also where nothing is recorded.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    get_current_span,
)

from hopspan import conventions as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context

Source = TypeVar("Source")

UNSET = Status()
_NONE: Mapping[str, Any] = MappingProxyType({})


class StatusSpan(Span):
    """A span that keeps its status and the kind of its failure, and records nothing else.

    Made current in place of a non-recording span, which forgets. It implements the API's `Span`
    rather than `NonRecordingSpan`: with no SDK installed, the API hands a current
    `NonRecordingSpan` out again as every nested span, and a status that was set on a nested span
    must not count as the handler's. Precedence of statuses is the SDK's: OK is final, UNSET is
    ignored.
    """

    __slots__ = ("_context", "attributes", "status")

    def __init__(self, context: SpanContext) -> None:
        self._context = context
        self.status: Status = UNSET
        self.attributes: Mapping[str, Any] = _NONE

    def get_span_context(self) -> SpanContext:
        """The identity of the span, which is invalid where there is neither SDK nor sender."""
        return self._context

    def is_recording(self) -> bool:
        """False: attributes are not worth computing."""
        return False

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Keep a status."""
        if isinstance(status, StatusCode):
            status = Status(status, description if status is StatusCode.ERROR else None)
        if self.status.status_code is StatusCode.OK or status.status_code is StatusCode.UNSET:
            return
        self.status = status

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Keep the kind of failure, if it is among them."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        """Keep the kind of failure: the outcome must not depend on sampling."""
        if key == names.ERROR_TYPE:
            self.attributes = {key: value}

    def end(self, end_time: int | None = None) -> None:
        """Do nothing, like the others below."""

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Do nothing."""

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Do nothing."""

    def update_name(self, name: str) -> None:
        """Do nothing."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Do nothing."""


class LateSpan(StatusSpan):
    """A stand-in whose identity is made when somebody asks for it: a publish or a log line inside.

    The identity is a message's sender's, where nobody observes; or the one that the SDK would have
    given to a span that it does not sample.
    """

    __slots__ = ("_make", "_source")

    def __init__(self, source: Source, make: Callable[[Source], SpanContext]) -> None:
        """A span.

        Args:
            source: All that the identity follows from: a header's value, or the parent's identity.
            make: From the source to the identity; invalid where there is none.
        """
        self._source: Any = source
        self._make: Any = make
        self.status = UNSET
        self.attributes = _NONE

    def get_span_context(self) -> SpanContext:
        """The identity; made once."""
        try:
            return self._context
        except AttributeError:
            self._context = self._make(self._source)
            return self._context


UNRECORDED = frozenset({LateSpan, NonRecordingSpan, StatusSpan})
"""The classes of spans that record nothing."""


class StatusProxySpan(StatusSpan):
    """A span of another SDK: passes everything on, and keeps the status that the handler sets."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        super().__init__(span.get_span_context())
        self._span = span

    def is_recording(self) -> bool:
        """As the span answers."""
        return self._span.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Keep it, and pass it on."""
        super().set_status(status, description)
        self._span.set_status(status, description)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Keep the kind of failure, and pass all of them on."""
        for key, value in attributes.items():
            super().set_attribute(key, value)
        self._span.set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Keep the kind of failure, and pass it on."""
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


def with_readable_status(span: Span, parent: Context, *, is_needed: bool = True) -> Span:
    """Return the span, or a stand-in whose status can be read.

    Where the status is never needed, the result may be a shared no-op span: a tracer that records
    nothing may hand out whatever is current.

    Args:
        span: A span just started.
        parent: The context that it was started in.
        is_needed: Whether anything depends on its status, or hooks get to see it.
    """
    if type(span) is NonRecordingSpan or not span.is_recording():
        identity = span.get_span_context()
        if not identity.is_valid:  # without an SDK, older releases of the API pass nothing on
            identity = get_current_span(parent).get_span_context()
        elif not is_needed and type(span) is NonRecordingSpan:
            return span  # a no-op, whosever it is
        return StatusSpan(identity)
    # Another class than the SDK's may hide its status. A property is not asked yet.
    is_known = hasattr(type(span), "status") or hasattr(span, "status")
    return span if is_known or not is_needed else StatusProxySpan(span)
