"""Messages: what was published, its copies in queues, and the marks that dying leaves on it."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from pika import frame, spec
from pika.compat import long

if TYPE_CHECKING:
    from .state import Queue


class RefusedError(Exception):
    """A request that is answered by closing the channel or, from code 500 on, the connection."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} - {reason}")
        self.code: int = getattr(spec, name)
        self.closes_connection = self.code >= 500


class Message(NamedTuple):
    """A message as it was published; `header` is its content header as it came in, byte for byte.

    The bytes matter because pika's codec cuts floats to integers. They are encoded anew only where
    the broker itself adds headers.
    """

    exchange: str
    routing_key: str
    properties: spec.BasicProperties
    header: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    def with_headers(self, headers: dict[str, Any], **properties: Any) -> Message:
        changed = copy.copy(self.properties)
        vars(changed).update(properties, headers=headers)
        marshalled = frame.Header(0, len(self.body), changed).marshal()
        header = marshalled[spec.FRAME_HEADER_SIZE : -spec.FRAME_END_SIZE]
        return self._replace(properties=changed, header=header)


class Entry:
    """One message in one queue, or on its way from it to a consumer."""

    __slots__ = ("deadline", "message", "position", "queue", "returns")

    def __init__(
        self, message: Message, queue: Queue, position: tuple[int, int], deadline: float
    ) -> None:
        self.message = message
        self.queue = queue
        self.position = position
        self.deadline = deadline
        self.returns = 0

    def outgoing(self) -> Message:
        """The message as a consumer gets it: from a quorum queue, with its delivery count."""
        if not self.queue.quorum:
            return self.message
        count = {"x-delivery-count": long(self.returns)}
        return self.message.with_headers({**self.message.headers, **count})

    def dead(self, reason: str) -> Message:
        """The message as it goes to a dead-letter exchange.

        Its `x-death` has one table for each queue and reason, with the time of the first death of
        the kind, and their count.
        """
        headers, where = self.message.headers, (self.queue.name, reason)
        past = headers.get("x-death")
        deaths = past if isinstance(past, list) else []
        same = [death for death in deaths if (death.get("queue"), death.get("reason")) == where]
        death = same[0] if same else self._first_death(reason)
        death = {**death, "count": long(death["count"] + bool(same))}
        if "x-death" not in headers:
            first = {
                f"x-first-death-{part}": death[part] for part in ("reason", "queue", "exchange")
            }
            headers = {**headers, **first}
        # 3.10 puts the latest death first and reverses the others, each time.
        others = [other for other in reversed(deaths) if other not in same]
        return self.message.with_headers({**headers, "x-death": [death, *others]}, expiration=None)

    def _first_death(self, reason: str) -> dict[str, Any]:
        expiration = self.message.properties.expiration
        return {
            "count": 1,
            "reason": reason,
            "queue": self.queue.name,
            "time": datetime.now(timezone.utc),
            "exchange": self.message.exchange,
            "routing-keys": [self.message.routing_key],
            **({} if expiration is None else {"original-expiration": expiration}),
        }


def time_to_live(properties: spec.BasicProperties) -> int | None:
    """A message's own lifetime in milliseconds."""
    if properties.expiration is None:
        return None
    try:
        return int(properties.expiration)
    except ValueError:
        reason = f"invalid expiration '{properties.expiration}': no_integer"
        raise RefusedError("PRECONDITION_FAILED", reason) from None
