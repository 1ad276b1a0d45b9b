"""For your tests: capture spans, and hand messages to handlers without a broker.

::

    from hopspan.testing import Message, capture_spans

    def test_a_bad_order_is_rejected():
        message = Message(b"not json")
        with capture_spans() as spans:
            on_order(message)
        spans.one("process test").failed_with("json.decoder.JSONDecodeError").was_settled("reject")

`capture_spans` needs `opentelemetry-sdk`; the rest needs nothing.
"""

from typing import TYPE_CHECKING, Any

from hopspan.testing.memory import Message, Queue

if TYPE_CHECKING:
    from hopspan.testing.spans import CapturedSpan, CapturedSpans, capture_spans

__all__ = ["CapturedSpan", "CapturedSpans", "Message", "Queue", "capture_spans"]


def __getattr__(name: str) -> Any:
    """Import the part that needs the SDK when it is asked for."""
    if name in {"CapturedSpan", "CapturedSpans", "capture_spans"}:
        from hopspan.testing import spans  # noqa: PLC0415

        return getattr(spans, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
