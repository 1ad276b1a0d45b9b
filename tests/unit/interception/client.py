"""A client library of our own, small enough to be seen whole, and the readers of its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hopspan.conventions import Action
from hopspan.delivery import Adapter, Client
from hopspan.interception import Fetch, Registration
from hopspan.model import Endpoint, MessageInfo, OperationType, Outgoing
from hopspan.testing import Message
from hopspan.testing.memory import MemoryDelivery

PUBLISH = Action("publish", OperationType.SEND)
ORDERS = Endpoint("memory", "orders")


class SmallDelivery(MemoryDelivery):
    """A message of this client, which is one of the queue in memory."""

    __slots__ = ()
    client = Client("small", system="memory", settled_already=MemoryDelivery.client.settled_already)


def small(**parts: Any) -> Adapter:
    """An adapter of this client with these parts."""
    return Adapter(SmallDelivery, **parts)


class Channel:
    """The client: it takes note of every call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.handlers: list[Callable[..., Any]] = []
        self.waiting: list[Message] = []
        self.error: BaseException | None = None

    def publish(self, queue: str, body: Any, headers: Any = None, mandatory: bool = False) -> str:
        self.calls.append(("publish", queue, body, headers, mandatory))
        if self.error is not None:
            raise self.error
        return "published"

    def publish_many(self, bodies: list[Any]) -> list[str]:
        """What the client calls of itself."""
        return [self.publish("orders", body) for body in bodies]

    def consume(self, queue: str, handler: Any, auto_ack: bool = False) -> str:
        self.calls.append(("consume", queue, auto_ack))
        self.handlers.append(handler)
        return "a tag"

    def get(self, queue: str, auto_ack: bool = False) -> Message | None:
        self.calls.append(("get", queue, auto_ack))
        if self.error is not None:
            raise self.error
        return self.waiting.pop(0) if self.waiting else None

    def iterate(self, queue: str) -> Iterator[Any]:
        self.calls.append(("iterate", queue))
        return iter(list(self.waiting))

    def cancel(self) -> str:
        self.calls.append(("cancel",))
        return "cancelled"


def publish(
    channel: Any, queue: str, body: Any, headers: Any = None, *rest: Any, **added: Any
) -> Outgoing:
    return Outgoing(
        ORDERS._replace(destination=queue),
        MessageInfo(),
        headers,
        lambda changed: ((queue, body, changed, *rest), added),
    )


def consume(
    channel: Any, queue: str, handler: Any, auto_ack: bool = False, *rest: Any, **added: Any
) -> Registration | None:
    if queue == "internal":
        return None
    return Registration(
        handler,
        lambda changed: ((queue, changed, auto_ack, *rest), added),
        SmallDelivery,
        not auto_ack,
        f"a consumer of {queue!r}",
    )


def get(channel: Any, queue: str, auto_ack: bool = False, *rest: Any, **added: Any) -> Fetch:
    return Fetch(ORDERS, lambda message: [] if message is None else [SmallDelivery(message)])


def iterate(channel: Any, queue: str, *rest: Any, **added: Any) -> Callable[[Any], Any]:
    return lambda item: SmallDelivery(item) if isinstance(item, Message) else None
