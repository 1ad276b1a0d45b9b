"""An in-memory queue: messages for tests of handlers and policies, with no client and no broker.

`Queue` and `Message` are a client of their own, and this module is its adapter; so everything that
hopspan does with a message of a real client it does with these. Settling twice raises, which a real
broker punishes by closing the channel.
"""

from __future__ import annotations

import weakref
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from hopspan.carrying import inject
from hopspan.conventions import ATTEMPT, MESSAGE_ID, PROCESS, REDELIVERED, Route, plan
from hopspan.delivery import Adapter, Client, Delivery
from hopspan.model import Endpoint, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from opentelemetry.trace import SpanContext

    from hopspan.settlement import Policy


class Message:
    """A message for a handler under test.

    ::

        message = Message(b"{}", headers=hopspan.inject())
        on_order(message)
        assert message.verdict is hopspan.Verdict.ACK

    Args:
        body: Whatever the handler takes.
        headers: The message's headers, with or without a context.
        queue: The queue that it goes back to when it is requeued; none is needed.
        attempt: Which delivery of the message this is; later ones are *redelivered*.
        auto_ack: The broker counts it as settled already.
    """

    def __init__(
        self,
        body: Any = b"",
        headers: Mapping[str, Any] | None = None,
        *,
        queue: Queue | None = None,
        attempt: int = 1,
        auto_ack: bool = False,
        id: str | None = None,  # noqa: A002 - the conventions' word
    ) -> None:
        self.body = body
        self.headers: dict[str, Any] = dict(headers or {})
        self.queue = queue
        self.attempt = attempt
        self.auto_ack = auto_ack
        self.id = id
        self.verdict: Verdict | None = None
        """How it was settled, by the policy or by the handler; None while it is not."""
        self._handled_by: weakref.ref[Delivery] | None = None
        self._turn: SpanContext | None = None

    def __repr__(self) -> str:
        return f"<message {self.body!r}, attempt {self.attempt}: {self.verdict or 'unsettled'}>"

    def ack(self) -> None:
        """Settle it as done."""
        self._settle(Verdict.ACK)

    def requeue(self) -> None:
        """Give it back to its queue, in front of all others."""
        self._settle(Verdict.REQUEUE)
        if self.queue is not None:
            again = Message(
                self.body, self.headers, queue=self.queue, attempt=self.attempt + 1, id=self.id
            )
            self.queue.messages.appendleft(again)

    def reject(self) -> None:
        """Settle it as refused; its queue keeps it among the `dead`."""
        self._settle(Verdict.REJECT)
        if self.queue is not None:
            self.queue.dead.append(self)

    def _settle(self, verdict: Verdict) -> None:
        if self.verdict is not None or self.auto_ack:
            raise AssertionError(
                f"{self!r} was settled a second time ({verdict.value}); a broker would object"
            )
        self.verdict = verdict
        delivery = self._handled_by() if self._handled_by is not None else None
        if delivery is not None:
            delivery.verdict = verdict


class Queue:
    """A queue of messages in this process. Not thread-safe."""

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self.messages: deque[Message] = deque()
        self.dead: list[Message] = []
        """What was rejected, oldest first."""

    def publish(self, body: Any = b"", headers: Mapping[str, Any] | None = None) -> Message:
        """Put a message into the queue, carrying the current context."""
        message = Message(body, inject(headers or {}), queue=self)
        self.messages.append(message)
        return message

    def __iter__(self) -> Iterator[Message]:
        while self.messages:
            yield self.messages.popleft()

    def run(self, handler: Callable[[Message], Any]) -> None:
        """Hand every message to a handler, requeued ones again, until none is left."""
        for message in self:
            handler(message)

    async def run_async(self, handler: Callable[[Message], Awaitable[Any]]) -> None:
        """`run` for an asynchronous handler."""
        for message in self:
            await handler(message)


# -- the adapter -----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _route(queue: str) -> Route:
    return Route(plan(PROCESS, Endpoint("memory", queue)))


class MemoryDelivery(Delivery):
    """One message of a queue in memory."""

    __slots__ = ("queued",)
    client: ClassVar[Client] = Client(
        "memory",
        system="memory",
        settled_already="it was made with auto_ack=True. Make it without",
    )

    def __init__(self, message: Message) -> None:
        self.queued: Message = message

    @classmethod
    def of(cls, message: Any, via: Any) -> MemoryDelivery | None:  # noqa: ARG003
        return cls(message) if isinstance(message, Message) else None

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:
        if policy.target is not None:
            return "a queue in memory keeps what was rejected by itself, in `dead`"
        return "a queue in memory cannot wait; leave out pause=" if policy.pauses else None

    def read(self) -> tuple[Route, Any]:
        queue = self.queued.queue
        return _route("test" if queue is None else queue.name), self.queued.headers

    def describe(self, attributes: dict[str, Any]) -> None:
        message = self.queued
        if message.id is not None:
            attributes[MESSAGE_ID] = message.id
        if message.attempt > 1:
            attributes[ATTEMPT] = message.attempt
            attributes[REDELIVERED] = True

    @property
    def native(self) -> Message:
        return self.queued

    @property
    def source(self) -> Queue | None:
        return self.queued.queue

    @property
    def attempt(self) -> int:
        return self.queued.attempt

    @property
    def redelivered(self) -> bool:
        return self.queued.attempt > 1

    @property
    def settles(self) -> bool:
        return not self.queued.auto_ack

    def ongoing(self) -> Delivery | None:
        found = self.queued._handled_by  # noqa: SLF001 - the adapter is half of the client
        return None if found is None else found()

    def finished_turn(self) -> SpanContext | None:
        return self.queued._turn  # noqa: SLF001

    def opened(self) -> Verdict | None:
        self.queued._handled_by = weakref.ref(self)  # noqa: SLF001
        return self.queued.verdict

    def closed(self) -> None:
        if self.is_turn and self.verdict is None:
            self.queued._turn = self.span.get_span_context()  # noqa: SLF001

    def settle(self, settlement: Settlement) -> None:
        message = self.queued
        actions = {
            Verdict.ACK: message.ack,
            Verdict.REQUEUE: message.requeue,
            Verdict.REJECT: message.reject,
        }
        actions[settlement.verdict]()


ADAPTER = Adapter(MemoryDelivery)
