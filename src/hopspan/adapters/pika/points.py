"""The calls of pika that are intercepted: each reader has the parameters of what it reads."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

from hopspan import faults
from hopspan.adapters import amqp
from hopspan.adapters.pika.channel import STATE, Fetched, error_type, state_of
from hopspan.adapters.pika.confirms import Confirms
from hopspan.adapters.pika.delivery import PikaDelivery
from hopspan.interception import (
    INTERCEPTED,
    Fetch,
    Point,
    Registration,
    consumes,
    iterates,
    notifies,
    receives,
    returns_wrapped,
    sends,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.delivery import Loop
    from hopspan.model import OutgoingFields
    from hopspan.telemetry import Operation


def basic_publish(  # noqa: PLR0917 - as in pika
    channel: Any,
    exchange: str,
    routing_key: str,
    body: Any,
    properties: Any = None,
    mandatory: bool = False,
    *rest: Any,
    **added: Any,
) -> OutgoingFields | None:
    """`basic_publish` of both channels."""
    outer = channel.__dict__.get("_cookie")
    if outer is not None and _is_left_alone(outer):
        return None
    impl = channel.__dict__.get("_impl", channel)
    state = impl.__dict__.get(STATE) or state_of(channel)
    if state.thread is None:  # pika is used on one thread, so this is the one
        state.thread = threading.get_ident()
    if not properties:  # pika takes every falsy one for none
        properties = None

    def call(headers: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        carrying = _with_headers(properties, headers)
        return (exchange, routing_key, body, carrying, mandatory, *rest), added

    route = state.destinations[exchange, routing_key]
    if properties is None:
        return route, _NOTHING, None, call
    message: Any = properties.message_id, properties.correlation_id, None, None
    return route, message, properties.headers, call


_NOTHING: Any = (None, None, None, None)


def _is_left_alone(outer: Any) -> bool:
    """Whether the channel around this one is left to another instrumentation."""
    publish = getattr(type(outer), "basic_publish", None)
    return isinstance(outer, BlockingChannel) and not hasattr(publish, INTERCEPTED)


def _with_headers(properties: Any, headers: Any) -> Any:
    """A copy of properties with other headers. The application may publish its own again.

    Field by field (AMQP 0-9-1, *basic*): to ask for an instance's `__dict__` makes it a slower one,
    also for pika, which reads every field. What the application has put on it besides stays behind;
    a subclass is copied with all that it has.
    """
    if properties is None:
        return BasicProperties(headers=headers)
    if type(properties) is not BasicProperties:
        copied = object.__new__(type(properties))
        copied.__dict__.update(properties.__dict__)
        copied.headers = headers
        return copied
    return BasicProperties(
        properties.content_type,
        properties.content_encoding,
        headers,
        properties.delivery_mode,
        properties.priority,
        properties.correlation_id,
        properties.reply_to,
        properties.expiration,
        properties.message_id,
        properties.timestamp,
        properties.type,
        properties.user_id,
        properties.app_id,
        properties.cluster_id,
    )


def basic_consume(
    channel: Any,
    queue: str,
    on_message_callback: Any,
    auto_ack: bool = False,
    *rest: Any,
    **added: Any,
) -> Registration | None:
    """`basic_consume` of both channels; not the one that a `BlockingChannel` makes of its own."""
    if _is_of_blocking(on_message_callback):
        return None
    state = state_of(channel)

    source = state.source(queue, bool(auto_ack))

    def make(delivered_by: Any, method: Any, properties: Any, body: Any) -> PikaDelivery:
        state.thread = threading.get_ident()
        return PikaDelivery(state, source, delivered_by, method, properties, body)

    return Registration(
        on_message_callback,
        lambda handler: ((queue, handler, auto_ack, *rest), added),
        make,
        not auto_ack,
        f"a consumer of {queue!r}",
    )


def consume(
    channel: Any, queue: str, auto_ack: bool = False, *_rest: Any, **_added: Any
) -> Callable[[Any], PikaDelivery | None]:
    """`BlockingChannel.consume`: a tick of `inactivity_timeout` is no message."""
    state = state_of(channel)
    source = state.source(queue, bool(auto_ack))

    def make(item: Any) -> PikaDelivery | None:
        method, properties, body = item
        state.thread = threading.get_ident()
        if method is None:
            return None
        return PikaDelivery(state, source, channel, method, properties, body)

    return make


def remember_loop(channel: Any, loop: Loop[Any]) -> None:
    """Remember the loop of `consume`, for `cancel`."""
    state_of(channel).loop = weakref.ref(loop)


def cancel(channel: Any, *_rest: Any, **_added: Any) -> None:
    """`BlockingChannel.cancel` ends the loop of `consume`."""
    kept = state_of(channel).loop
    loop = kept() if kept is not None else None
    if loop is not None:
        loop.leave()


def basic_get(
    channel: Any, queue: str, auto_ack: bool = False, *_rest: Any, **_added: Any
) -> Fetch:
    """`BlockingChannel.basic_get`."""
    state = state_of(channel)

    source = state.source(queue, bool(auto_ack))

    def read(result: Any) -> list[PikaDelivery]:
        method, properties, body = result
        if method is None:
            return []
        state.thread = threading.get_ident()
        state.remember(method.delivery_tag, Fetched(method, source))
        return [PikaDelivery(state, source, channel, method, properties, body)]

    return Fetch(amqp.consumed_from("", queue, queue, state.server), read)


def basic_get_callback(
    channel: Any,
    queue: str,
    callback: Any,
    auto_ack: bool = False,
    *rest: Any,
    **added: Any,
) -> Registration | None:
    """`Channel.basic_get`, which pushes to a callback; not the one of a `BlockingChannel`."""
    if _is_of_blocking(callback):
        return None
    registration = basic_consume(channel, queue, callback, auto_ack)
    return registration and registration._replace(
        call=lambda handler: ((queue, handler, auto_ack, *rest), added),
        whom=f"basic_get of {queue!r}",
    )


def _is_of_blocking(callback: Any) -> bool:
    """Whether a callback is one of a `BlockingChannel`'s own, or of a subclass of it."""
    owner = type(getattr(callback, "__self__", None))
    return any(each.__module__ == "pika.adapters.blocking_connection" for each in owner.__mro__)


def confirm_delivery(channel: Any, ack_nack_callback: Any, *_rest: Any, **_added: Any) -> None:
    """`Channel.confirm_delivery`: from now on the broker says what became of each publish."""
    state = state_of(channel)
    if state.confirms is None and not _is_of_blocking(ack_nack_callback):
        state.confirms = Confirms(channel, error_type)


def wait_for_confirm(channel: Any, operation: Operation, _result: Any) -> bool:
    """Whether a publish waits for a confirm, which will end its operation."""
    confirms = state_of(channel).confirms
    if confirms is not None:
        return confirms.expect(operation)
    if channel.connection.callbacks.pending(channel.channel_number, Basic.Ack):
        faults.once(
            "publisher confirms were switched on before hopspan came to the channel, so spans do "
            "not tell what the broker confirmed: wrap or instrument before confirm_delivery"
        )
    return False


def channel(connection: Any, channel_number: Any = None, *rest: Any, **added: Any) -> None:
    """`channel` of every connection: a wrapped connection's channels are wrapped."""


_BLOCKING = "pika.adapters.blocking_connection:BlockingChannel"
_CHANNEL = "pika.channel:Channel"

POINTS = (
    Point(_BLOCKING, "basic_publish", sends(amqp.PUBLISH, basic_publish), basic_publish),
    Point(_BLOCKING, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(_BLOCKING, "consume", iterates(consume, remember_loop), consume),
    Point(_BLOCKING, "cancel", notifies(cancel), cancel),
    Point(_BLOCKING, "basic_get", receives(basic_get), basic_get),
    Point(
        _CHANNEL,
        "basic_publish",
        sends(amqp.PUBLISH, basic_publish, wait_for_confirm),
        basic_publish,
    ),
    Point(_CHANNEL, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(
        _CHANNEL,
        "basic_get",
        consumes(basic_get_callback),
        basic_get_callback,
        carries_policy=True,
    ),
    Point(_CHANNEL, "confirm_delivery", notifies(confirm_delivery), confirm_delivery),
)

INSTANCE_POINTS = (
    Point(
        "pika.adapters.blocking_connection:BlockingConnection", "channel", returns_wrapped, channel
    ),
    Point("pika.connection:Connection", "channel", returns_wrapped, channel),
)
