"""Span capture: what a test's code did, as spans that answer in sentences. Needs the SDK."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode

from hopspan import conventions as names
from hopspan.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from opentelemetry.trace import SpanContext
    from typing_extensions import Self


class CapturedSpan:
    """A finished span. Every check returns the span itself, so that they read as one sentence.

    ::

        handled = spans.one("process orders").is_child_of(publish)
        handled.failed_with("ValueError").was_settled("requeue")

    Raises:
        AssertionError: from every check that does not hold; it says what was found instead.
    """

    def __init__(self, span: ReadableSpan) -> None:
        self.span = span

    def __repr__(self) -> str:
        return f"<span {self.span.name!r} {dict(self.attributes)}>"

    @property
    def name(self) -> str:
        """The span's name."""
        return self.span.name

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy of its attributes."""
        return dict(self.span.attributes or {})

    @property
    def context(self) -> SpanContext:
        """Its identity."""
        context = self.span.get_span_context()
        assert context is not None  # noqa: S101 - a finished span has one
        return context

    def is_child_of(self, parent: CapturedSpan) -> Self:
        """Its parent is that span, in the same trace."""
        mine = self.span.parent
        if (
            mine is None
            or mine.span_id != parent.context.span_id
            or mine.trace_id != parent.context.trace_id
        ):
            raise AssertionError(
                f"{self.name!r} is not a child of {parent.name!r}; its parent is {mine}"
            )
        return self

    def is_root(self) -> Self:
        """It has no parent."""
        if self.span.parent is not None:
            raise AssertionError(f"{self.name!r} is no root; its parent is {self.span.parent}")
        return self

    def is_linked_to(self, *others: CapturedSpan) -> Self:
        """It links to those spans, in this order, and to no other."""
        found = [link.context.span_id for link in self.span.links]
        if found != [other.context.span_id for other in others]:
            raise AssertionError(
                f"{self.name!r} links to {found}, not to {[other.name for other in others]}"
            )
        return self

    def succeeded(self) -> Self:
        """Its status is not ERROR, and it has no `error.type`."""
        if self.span.status.status_code is StatusCode.ERROR or names.ERROR_TYPE in self.attributes:
            raise AssertionError(f"{self.name!r} failed: {self.span.status.description}")
        return self

    def failed_with(self, error_type: str) -> Self:
        """Its status is ERROR, and this its `error.type`."""
        found = self.attributes.get(names.ERROR_TYPE)
        if self.span.status.status_code is not StatusCode.ERROR or found != error_type:
            raise AssertionError(
                f"{self.name!r} did not fail with {error_type!r} but with {found!r}"
            )
        return self

    def was_settled(self, verdict: Verdict | str) -> Self:
        """Its message got this verdict."""
        expected = verdict.value if isinstance(verdict, Verdict) else verdict
        found = self.attributes.get(names.SETTLEMENT)
        if found != expected:
            raise AssertionError(
                f"the message of {self.name!r} was not settled as {expected!r} but as {found!r}"
            )
        return self

    def was_not_settled(self) -> Self:
        """Its message was left as it was."""
        found = self.attributes.get(names.SETTLEMENT)
        if found is not None:
            raise AssertionError(f"the message of {self.name!r} was settled as {found!r}")
        return self


class CapturedSpans:
    """The spans that finished while capturing, in the order in which they ended."""

    def __init__(self) -> None:
        self._spans: list[CapturedSpan] = []
        self._lock = threading.Lock()

    def add(self, span: ReadableSpan) -> None:
        """A span has ended."""
        with self._lock:
            self._spans.append(CapturedSpan(span))

    def __iter__(self) -> Iterator[CapturedSpan]:
        with self._lock:
            return iter(list(self._spans))

    def __len__(self) -> int:
        return len(self._spans)

    def names(self) -> list[str]:
        """The names of all spans."""
        return [span.name for span in self]

    def named(self, name: str) -> list[CapturedSpan]:
        """All spans of that name."""
        return [span for span in self if span.name == name]

    def one(self, name: str) -> CapturedSpan:
        """The only span of that name.

        Raises:
            AssertionError: there is none, or more than one.
        """
        found = self.named(name)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} spans are named {name!r}; there are {self.names()}")
        return found[0]


class _Capturing(SpanProcessor):
    """Hands ended spans to whoever captures. A provider cannot lose a processor: one for good."""

    def __init__(self) -> None:
        self.listeners: list[CapturedSpans] = []

    def on_end(self, span: ReadableSpan) -> None:
        for listener in list(self.listeners):
            listener.add(span)


_ATTRIBUTE = "_hopspan_capturing"


def _capturing(provider: TracerProvider) -> _Capturing:
    processor: _Capturing | None = getattr(provider, _ATTRIBUTE, None)
    if processor is None:
        processor = _Capturing()
        setattr(provider, _ATTRIBUTE, processor)
        provider.add_span_processor(processor)
    return processor


class capture_spans:  # noqa: N801 - used as a function
    """Capture every span that ends in a `with` block.

    ::

        with capture_spans() as spans:
            on_order(Message(b"{}"))
        spans.one("process test").was_settled("ack")

    Args:
        provider: The SDK's tracer provider to listen to; the global one when omitted, which is made
            and set if the program has set none.

    Raises:
        TypeError: the global provider is set, but is not the SDK's.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._capturing = _capturing(provider or _global_provider())
        self._spans = CapturedSpans()

    def __enter__(self) -> CapturedSpans:
        self._capturing.listeners.append(self._spans)
        return self._spans

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._capturing.listeners.remove(self._spans)


def _global_provider() -> TracerProvider:
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        trace.set_tracer_provider(TracerProvider())
        provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        kind = type(provider).__qualname__
        raise TypeError(
            f"capture_spans needs the SDK's TracerProvider as the global one, which is a {kind}"
        )
    return provider
