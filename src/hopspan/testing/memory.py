"""An in-memory queue: messages for tests of handlers and policies, with no client and no broker.

`Queue` and `Message` are a client of their own, and this module is its adapter; so everything that
hopspan does with a message of a real client it does with these. Settling twice raises, which a real
broker punishes by closing the channel.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from hopspan.carrying import inject
from hopspan.model import Delivery, Endpoint, MessageInfo, Settlement, Verdict
from hopspan.propagation import MAPPING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from hopspan.processing import Processing
    from hopspan.settlement import Policy

NAME = "memory"
SYSTEM = "memory"
CODEC = MAPPING
ASYNCHRONOUS = False
SETTLE_NAMES = {verdict: verdict.value for verdict in Verdict}
SETTLED_ALREADY = "it was made with auto_ack=True. Make it without"
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RAISES = None
SIGNALS = None
POINTS = ()
INSTANCE_POINTS = ()
RIVALS = ()


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
        self._handled_by: weakref.ref[Processing] | None = None

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
        processing = self._handled_by() if self._handled_by is not None else None
        if processing is not None:
            processing.wire.note(self, verdict)


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


def handed(args: tuple[Any, ...], via: Any = None) -> list[Message] | None:  # noqa: ARG001
    """The message, or the list of them, among a handler's arguments."""
    return next((found for found in (given(argument, None) for argument in args) if found), None)


def given(message: Any, via: Any) -> list[Message] | None:  # noqa: ARG001
    """A message or a list of them."""
    if isinstance(message, Message):
        return [message]
    if isinstance(message, list) and all(isinstance(each, Message) for each in message):
        return message
    return None


def delivery(native: Message) -> Delivery:
    """A delivery as a value."""
    return Delivery(
        Endpoint(SYSTEM, native.queue.name if native.queue else "test"),
        MessageInfo(native.id),
        native.headers,
        native,
        native.attempt > 1,
        native.attempt,
        not native.auto_ack,
    )


def owner(native: Message) -> Queue | None:
    """The message's queue."""
    return native.queue


def same(native: Message, other: Message) -> bool:
    """Whether both are one delivery."""
    return native is other


def opened(native: Message, processing: Processing) -> Verdict | None:
    """Let the message tell of settlements by the handler."""
    native._handled_by = weakref.ref(processing)  # noqa: SLF001 - the adapter is half of the client
    return native.verdict


def closed(native: Message, processing: Processing) -> None:
    """Nothing to do."""


def is_open(native: Message) -> bool:  # noqa: ARG001
    """There is no connection that could be lost."""
    return True


def settle(native: Message, settlement: Settlement) -> None:
    """Perform a verdict."""
    actions = {
        Verdict.ACK: native.ack,
        Verdict.REQUEUE: native.requeue,
        Verdict.REJECT: native.reject,
    }
    actions[settlement.verdict]()


def hop(native: Message) -> None:
    """Any thread will do."""


def refusal(policy: Policy, native: Message | None = None) -> str | None:  # noqa: ARG001
    """Why a policy can never work here."""
    if policy.target is not None:
        return "a queue in memory keeps what was rejected by itself, in `dead`"
    return "a queue in memory cannot wait; leave out pause=" if policy.pauses else None


def prepare(instance: Any) -> None:
    """Nothing to do."""


def settles_by_itself(instance: Any) -> bool:  # noqa: ARG001
    """That is each message's matter."""
    return False


def error_type(error: BaseException) -> str | None:  # noqa: ARG001
    """The client has no words of its own."""
    return None
