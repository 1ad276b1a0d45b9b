"""Publisher confirms on pika's asynchronous `Channel`: the outcome of a publish is known later.

RabbitMQ confirms by a sequence number that it counts per channel, and pika leaves the counting to
the application. A returned (unroutable) message comes back before its confirm, and carries no
number: it is recognised by the span id in its headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import format_span_id
from pika.spec import Basic

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import amqp
from hopspan.model import SUCCESS, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.telemetry import Operation

_SPAN_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
_MOST_PENDING = 10_000


class Confirms:
    """The publishes of one channel that wait for their confirm; on the connection's thread only."""

    def __init__(self, channel: Any, error_type: Callable[[BaseException], str | None]) -> None:
        self._error_type = error_type
        self._published = 0
        self._pending: dict[int, Operation] = {}
        self._by_span: dict[str, int] = {}
        self._count_publishes(channel)
        channel.add_callback(_guarded(self._on_confirm), [Basic.Ack, Basic.Nack], one_shot=False)
        channel.add_on_return_callback(_guarded(self._on_return))
        channel.add_on_close_callback(_guarded(self._on_close))

    def _count_publishes(self, channel: Any) -> None:
        """The broker counts every publish, also those that are not traced."""
        send = channel._send_method  # noqa: SLF001 - where all of them pass

        def counted(method: Any, *args: Any, **kwargs: Any) -> Any:
            result = send(method, *args, **kwargs)
            if isinstance(method, Basic.Publish):
                self._published += 1
            return result

        channel.__dict__["_send_method"] = counted

    def expect(self, operation: Operation) -> bool:
        """Keep the operation of this publish until its confirm; False when too many wait."""
        if len(self._pending) >= _MOST_PENDING:
            faults.once(
                "more than %s publishes wait for their confirm; further ones are not waited for",
                _MOST_PENDING,
            )
            return False
        number = self._published
        self._pending[number] = operation
        self._by_span[_span_id(operation)] = number
        return True

    def _on_confirm(self, frame: Any) -> None:
        tag, nacked = frame.method.delivery_tag, isinstance(frame.method, Basic.Nack)
        outcome = Outcome(failed=True, error_type=amqp.NACKED) if nacked else SUCCESS
        numbers = (
            [each for each in self._pending if each <= tag] if frame.method.multiple else [tag]
        )
        for number in numbers:
            self._end(number, outcome)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: Any) -> None:
        for value in (properties.headers or {}).values():
            for span_id in _SPAN_ID.findall(value) if isinstance(value, str) else ():
                if span_id in self._by_span:
                    outcome = Outcome(
                        failed=True,
                        error_type=amqp.REPLY_CODES[312],
                        description=method.reply_text,
                    )
                    self._end(self._by_span[span_id], outcome)
                    return

    def _on_close(self, _channel: Any, reason: BaseException) -> None:
        kind = self._error_type(reason) or names.error_type(reason)
        outcome = Outcome(failed=True, error_type=kind, description=str(reason))
        for number in list(self._pending):
            self._end(number, outcome)

    def _end(self, number: int, outcome: Outcome) -> None:
        operation = self._pending.pop(number, None)
        if operation is not None:
            self._by_span.pop(_span_id(operation), None)
            operation.end(outcome)


def _guarded(told: Callable[..., None]) -> Callable[..., None]:
    """A callback of ours that cannot fail in the client's loop."""

    def tell(*args: Any) -> None:
        try:
            told(*args)
        except Exception:  # noqa: BLE001
            faults.report("reading what became of a publish")

    return tell


def _span_id(operation: Operation) -> str:
    return format_span_id(operation.span.get_span_context().span_id)
