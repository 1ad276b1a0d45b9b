"""The calls of aio-pika that are intercepted: each reader has the parameters of what it reads."""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aio_pika import Message
from aio_pika.queue import QueueIterator
from aio_pika.tools import ensure_awaitable
from aiormq.abc import DeliveredMessage

from hopspan.adapters import _amqp
from hopspan.adapters.aio_pika.channels import Received, received, server
from hopspan.adapters.aio_pika.deliveries import delivery
from hopspan.interception import Fetch, Subscription
from hopspan.model import SUCCESS, Delivery, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.model import Leaving


def publish(
    exchange: Any, message: Any, routing_key: str, *rest: Any, **added: Any
) -> Leaving | None:
    """`Exchange.publish`."""
    if not _KNOWN.issuperset(added) and not _takes(exchange, message, routing_key, rest, added):
        return None  # the client is about to say so

    def call(headers: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        return (_carrying(message, headers), routing_key, *rest), added

    key = _amqp.text(routing_key)
    connection = getattr(exchange.channel, "_connection", None)
    endpoint = _amqp.sent_to(exchange.name or "", key, server(connection))
    attributes = {_amqp.ROUTING_KEY: key} if key else {}
    about = message.message_id, message.correlation_id, attributes, None
    return endpoint, about, message.headers, call


_KNOWN = frozenset({"mandatory", "immediate", "timeout"})


def _takes(exchange: Any, message: Any, routing_key: str, rest: Any, added: Any) -> bool:
    """Whether `publish` takes an argument that we do not know; a newer client may."""
    try:
        inspect.signature(exchange.publish).bind(message, routing_key, *rest, **added)
    except TypeError:
        return False
    return True


def _carrying(message: Any, headers: dict[str, Any]) -> Any:
    """A copy of a message with other headers. The application may publish its own again.

    `copy` makes a plain `Message` of every subclass, and all the work of a new one.
    """
    if not isinstance(message, Message):
        copied = copy.copy(message)
    else:
        copied = object.__new__(type(message))
        for read, write in _slots(type(message)):
            try:
                write(copied, read(message))
            except AttributeError:  # noqa: PERF203 - never set, as hardly any
                continue
        if (attributes := getattr(message, "__dict__", None)) is not None:
            vars(copied).update(attributes)
    object.__setattr__(copied, "headers", headers)
    return copied


@lru_cache(maxsize=64)
def _slots(kind: type) -> list[tuple[Callable[[Any], Any], Callable[[Any, Any], None]]]:
    """How the slots of a class are read and written, past its properties and its lock."""
    members = [each for owner in kind.__mro__ for each in vars(owner).values()]
    slots = [each for each in members if inspect.ismemberdescriptor(each)]
    return [(each.__get__, each.__set__) for each in slots if each not in _HEADERS]


_HEADERS = (Message.__dict__.get("headers"), Message.__dict__.get("_headers"))
"""Where a message keeps its headers; which of the two is the release's matter."""


def outcome_of(result: Any) -> Outcome:
    """What became of a publish: the broker's confirm, or the message itself, returned."""
    if not isinstance(result, DeliveredMessage):
        return SUCCESS
    code = getattr(result.delivery, "reply_code", None) or 312
    text = getattr(result.delivery, "reply_text", None)
    return Outcome(
        failed=True,
        error_type=_amqp.REPLY_CODES.get(code, str(code)),
        description=_amqp.text(text) if text else None,
    )


def consume(
    queue: Any, callback: Any, no_ack: bool = False, *rest: Any, **added: Any
) -> Subscription | None:
    """`Queue.consume`; not the one that a `QueueIterator` makes for its buffer."""
    if isinstance(getattr(callback, "__self__", None), QueueIterator):
        return None

    settles = not no_ack

    def native(message: Any) -> Received:
        return received(message, queue.name, queue, settles)

    return Subscription(
        ensure_awaitable(callback),
        lambda handler: ((handler, no_ack, *rest), added),
        native,
        settles,
        f"a consumer of {queue.name!r}",
    )


def get(queue: Any, *_rest: Any, no_ack: bool = False, **_added: Any) -> Fetch:
    """`Queue.get`."""
    connection = getattr(queue.channel, "_connection", None)

    def read(message: Any) -> list[Delivery]:
        if message is None:
            return []
        native = received(message, queue.name, queue, not no_ack)
        described = delivery(native)
        native.state.remember(native)
        return [described]

    return Fetch(_amqp.consumed_from("", queue.name, queue.name, server(connection)), read)


def iterate_queue(queue: Any) -> Callable[[Any], Received]:
    """`async for message in queue`."""
    return lambda message: received(message, queue.name, queue)


def iterate(iterator: Any) -> Callable[[Any], Received]:
    """`async for message in queue.iterator()`."""
    queue = getattr(iterator, "_amqp_queue", None)
    name = getattr(queue, "name", None)
    return lambda message: received(message, name, queue)


def make(_owner: Any, *_rest: Any, **_added: Any) -> None:
    """What makes another object of the client's: a channel, an exchange, a queue, an iterator."""
