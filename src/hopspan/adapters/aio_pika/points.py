"""The calls of aio-pika that are intercepted: each reader has the parameters of what it reads."""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from aio_pika import Message
from aio_pika.exceptions import QueueEmpty
from aio_pika.queue import QueueIterator
from aiormq.abc import DeliveredMessage

from hopspan.adapters import amqp
from hopspan.adapters.aio_pika.channel import DESTINATIONS, destinations_of, server
from hopspan.adapters.aio_pika.delivery import AioPikaDelivery
from hopspan.interception import (
    Fetch,
    Point,
    Registration,
    consumes,
    iterates_async,
    receives_async,
    returns_wrapped,
    sends_async,
)
from hopspan.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hopspan.model import OutgoingFields

# -- publishing ------------------------------------------------------------------------------------


def publish(
    exchange: Any, message: Any, routing_key: str, *rest: Any, **added: Any
) -> OutgoingFields | None:
    """`Exchange.publish`."""
    if not _KNOWN.issuperset(added) and not _takes(exchange, message, routing_key, rest, added):
        return None  # the client is about to say so
    connection: Any = getattr(exchange.channel, "_connection", None)
    kept = getattr(connection, DESTINATIONS, None)
    if kept is None or kept.url is not connection.url:
        kept = destinations_of(connection)
    about = message.message_id, message.correlation_id, _NO_MORE, None
    call = partial(_arguments, message, routing_key, rest, added)
    return kept[exchange.name, routing_key], about, message.headers, call


_KNOWN = frozenset({"mandatory", "immediate", "timeout"})
_NO_MORE: Mapping[str, Any] = {}
"""A route has all attributes of its messages."""


def _takes(exchange: Any, message: Any, routing_key: str, rest: Any, added: Any) -> bool:
    """Whether `publish` takes an argument that we do not know; a newer client may."""
    try:
        inspect.signature(exchange.publish).bind(message, routing_key, *rest, **added)
    except TypeError:
        return False
    return True


class _Copy(Message):
    """A plain message while it is copied: `Message` looks for its lock at every assignment."""

    __slots__ = ()
    __setattr__ = object.__setattr__  # type: ignore[assignment]


_FIELDS = frozenset({
    "app_id", "body", "body_size", "content_encoding", "content_type", "correlation_id",
    "delivery_mode", "expiration", "headers", "message_id", "priority", "reply_to", "timestamp",
    "type", "user_id",
})  # fmt: skip
_SLOTS = {slot for kind in Message.__mro__ for slot in kind.__dict__.get("__slots__", ())}
_IS_LAID_OUT = _SLOTS - {"_headers"} == {*_FIELDS, "__lock"}
"""Whether a plain message has the fields that are copied one by one here, and no other."""


def _arguments(
    message: Any, routing_key: Any, rest: Any, added: dict[str, Any], headers: Any
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments of a publish with other headers, in a copy of its message.

    The application may publish its own again. `copy` makes a plain `Message` of every subclass, and
    all the work of a new one.
    """
    if not _IS_LAID_OUT or type(message) is not Message:
        return (_copied(message, headers), routing_key, *rest), added
    made: Any = object.__new__(_Copy)
    made.app_id, made.body, made.body_size = message.app_id, message.body, message.body_size
    made.content_encoding, made.content_type = message.content_encoding, message.content_type
    made.correlation_id, made.delivery_mode = message.correlation_id, message.delivery_mode
    made.expiration, made.message_id = message.expiration, message.message_id
    made.priority, made.reply_to = message.priority, message.reply_to
    made.timestamp, made.type, made.user_id = message.timestamp, message.type, message.user_id
    made._Message__lock = message._Message__lock  # type: ignore[attr-defined]  # noqa: SLF001
    made.headers = headers
    made.__class__ = Message
    return (made, routing_key, *rest), added


def _copied(message: Any, headers: dict[str, Any]) -> Any:
    """A copy of a message of any class, with all that it has, and with other headers."""
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


def outcome_of(returned: Any) -> Outcome:
    """The outcome of a publish whose message came back, because no queue takes it."""
    code = getattr(returned.delivery, "reply_code", None) or 312
    text = getattr(returned.delivery, "reply_text", None)
    return Outcome(
        failed=True,
        error_type=amqp.REPLY_CODES.get(code, str(code)),
        description=amqp.text(text) if text else None,
    )


# -- consuming -------------------------------------------------------------------------------------


def consume(
    queue: Any, callback: Any, no_ack: bool = False, *rest: Any, **added: Any
) -> Registration | None:
    """`Queue.consume`; not the one that a `QueueIterator` makes for its buffer."""
    if isinstance(getattr(callback, "__self__", None), QueueIterator):
        return None
    return Registration(
        callback,
        lambda handler: ((handler, no_ack, *rest), added),
        partial(AioPikaDelivery, queue),
        not no_ack,
        f"a consumer of {queue.name!r}",
    )


def get(queue: Any, *_rest: Any, **_added: Any) -> Fetch:
    """`Queue.get`."""

    def read(message: Any) -> list[AioPikaDelivery]:
        return [] if message is None else [AioPikaDelivery.fetched(queue, message)]

    where = server(getattr(queue.channel, "_connection", None))
    return Fetch(amqp.consumed_from("", queue.name, queue.name, where), read)


def iterate(messages: Any) -> Callable[[Any], AioPikaDelivery]:
    """`async for message in queue`, or in `queue.iterator()`."""
    return partial(AioPikaDelivery, getattr(messages, "_amqp_queue", messages))


def make(_owner: Any, *_rest: Any, **_added: Any) -> None:
    """A call that makes another object of the client's: a channel, an exchange, a queue."""


_CHANNEL, _QUEUE = "aio_pika.channel:Channel", "aio_pika.queue:Queue"
_publishes = sends_async(amqp.PUBLISH, publish, DeliveredMessage, outcome_of)

POINTS = (
    Point("aio_pika.exchange:Exchange", "publish", _publishes, publish),
    Point(_QUEUE, "consume", consumes(consume), consume, carries_policy=True),
    Point(_QUEUE, "get", receives_async(get, (QueueEmpty,)), get),
    Point(_QUEUE, "__aiter__", iterates_async(iterate), iterate),
    Point("aio_pika.queue:QueueIterator", "__aiter__", iterates_async(iterate), iterate),
)

INSTANCE_POINTS = (
    Point("aio_pika.connection:Connection", "channel", returns_wrapped, make),
    Point(_CHANNEL, "declare_exchange", returns_wrapped, make),
    Point(_CHANNEL, "get_exchange", returns_wrapped, make),
    Point(_CHANNEL, "declare_queue", returns_wrapped, make),
    Point(_CHANNEL, "get_queue", returns_wrapped, make),
    Point(_QUEUE, "iterator", returns_wrapped, make),
)
