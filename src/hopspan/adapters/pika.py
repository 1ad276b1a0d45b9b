"""pika 1.3 and 1.4: `BlockingChannel`, and `Channel` of the asynchronous connections.

A `BlockingChannel` has a `Channel` inside (`_impl`) and calls it for everything that goes on the wire. So
publishes and consumers are intercepted where the user calls them, and settlements on the inner channel, where
all of them arrive, whichever object the user called.
"""

from __future__ import annotations

import sys
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    UnroutableError,
)
from pika.spec import Basic, BasicProperties

from hopspan.adapters import _amqp
from hopspan.adapters._pika_confirms import Confirms
from hopspan.interception import (
    Fetch,
    Point,
    Subscription,
    consumes,
    iterates,
    receives,
    returns_wrapped,
    runs_first,
    sends,
)
from hopspan.processing import failure
from hopspan.model import Delivery, MessageInfo, Outgoing, Settlement, Verdict
from hopspan.propagation import MAPPING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.processing import Loop, Processing
    from hopspan.settlement import Policy
    from hopspan.telemetry import Operation

NAME = "pika"
SYSTEM = _amqp.SYSTEM
CODEC = MAPPING
ASYNCHRONOUS = False
SETTLE_NAMES = _amqp.SETTLE_NAMES
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RIVALS = ("pika.adapters.blocking_connection:BlockingConnection.channel",)

_STATE = "_hopspan_state"


class Received(NamedTuple):
    """A delivery as pika hands it out. `queue` and `auto_ack` are None where the call did not tell."""

    channel: Any
    method: Any
    properties: Any
    body: Any
    queue: str | None = None
    auto_ack: bool | None = None


class State:
    """What hopspan knows of one channel: kept on the inner channel, so that it goes with it."""

    __slots__ = ("confirms", "fetched", "ledger", "loop", "server", "thread")

    def __init__(self, channel: Any) -> None:
        self.ledger = _amqp.Ledger()
        self.server = _server(channel)
        self.thread: int | None = None
        """The thread that the client does its I/O in, once we have seen it there."""
        self.fetched: dict[int, Received] = {}
        """What a `basic_get` brought, and a receive span has counted."""
        self.loop: weakref.ref[Loop[Any]] | None = None
        self.confirms: Confirms | None = None


def inner(channel: Any) -> Any:
    """The channel that talks to the connection."""
    return getattr(channel, "_impl", channel)


def state_of(channel: Any) -> State:
    """The channel's state; made, and its settlements recorded, from the first time that it is asked for."""
    impl = inner(channel)
    state: State | None = impl.__dict__.get(_STATE)
    if state is None:
        state = impl.__dict__[_STATE] = State(impl)
        for name, read in _SETTLEMENTS.items():
            bound = getattr(impl, name)
            recorded = _amqp.recording(bound, state.ledger, name.removeprefix("basic_"), read, error_type)
            impl.__dict__[name] = recorded
    return state


def _server(impl: Any) -> _amqp.Server:
    parameters = getattr(getattr(impl, "connection", None), "params", None)
    return _amqp.Server(getattr(parameters, "host", None), getattr(parameters, "port", None))


# -- reading ---------------------------------------------------------------------------------------


def handed(args: tuple[Any, ...], via: Any = None) -> list[Received] | None:  # noqa: ARG001
    """`(channel, method, properties, body)` among a handler's arguments."""
    for index, argument in enumerate(args):
        if isinstance(argument, Basic.Deliver | Basic.GetOk) and 0 < index < len(args) - 2:
            received = Received(args[index - 1], argument, args[index + 1], args[index + 2])
            _notice_thread(state_of(received.channel))
            return [received]
    return None


def given(message: Any, via: Any) -> list[Received] | None:
    """`(method, properties, body)` or a list of them with the channel as `via`; nothing for an empty get."""
    if isinstance(message, list):
        several = [given(each, via) for each in message]
        if any(each is None for each in several):
            return None
        return [native for each in several for native in each or ()]
    if not isinstance(message, tuple):
        return None
    if len(message) == 4:
        via, message = message[0], message[1:]
    if len(message) != 3 or not isinstance(message[0], Basic.Deliver | Basic.GetOk | None):
        return None
    if message[0] is None:
        return []
    if via is None:
        return None
    method, properties, body = message
    known = state_of(via).fetched.get(method.delivery_tag)
    if known is not None and known.method is method:
        return [known._replace(channel=via)]
    return [Received(via, method, properties, body)]


def delivery(native: Received) -> Delivery:
    """A delivery as a value."""
    method, properties = native.method, native.properties
    state = state_of(native.channel)
    headers = properties.headers if isinstance(properties.headers, dict) else None
    attributes = {_amqp.DELIVERY_TAG: int(method.delivery_tag), **_amqp.death(headers)}
    if method.routing_key:
        attributes[_amqp.ROUTING_KEY] = method.routing_key
    return Delivery(
        _amqp.consumed_from(method.exchange, method.routing_key, native.queue, state.server),
        MessageInfo(properties.message_id, properties.correlation_id, attributes),
        headers,
        native,
        bool(method.redelivered),
        _amqp.attempt(headers, bool(method.redelivered)),
        not _is_auto_acked(native),
        method.delivery_tag in state.fetched,
    )


def _is_auto_acked(native: Received) -> bool:
    if native.auto_ack is not None:
        return native.auto_ack
    unacked = getattr(inner(native.channel), "_consumers_with_noack", ())
    return getattr(native.method, "consumer_tag", None) in unacked


def same(native: Received, other: Received) -> bool:
    """Whether both are one delivery: pika makes one method object for each."""
    return native.method is other.method


def error_type(error: BaseException) -> str | None:
    """The broker's own word for an error, where it said one."""
    if isinstance(error, ChannelClosedByBroker | ConnectionClosedByBroker):
        return _amqp.REPLY_CODES.get(error.reply_code, str(error.reply_code))
    if isinstance(error, UnroutableError):
        code = error.messages[0].method.reply_code if error.messages else 312
        return _amqp.REPLY_CODES.get(code, str(code))
    return _amqp.NACKED if isinstance(error, NackError) else None


# -- acting ----------------------------------------------------------------------------------------


def opened(native: Received, processing: Processing) -> Verdict | None:
    """Enter a delivery in its channel's ledger."""
    return state_of(native.channel).ledger.open(native.method.delivery_tag, native, processing)


def closed(native: Received, processing: Processing) -> None:
    """The handling is over."""
    state = state_of(native.channel)
    state.fetched.pop(native.method.delivery_tag, None)
    described = next(each for each in processing.deliveries if each.native is native)
    state.ledger.close(native.method.delivery_tag, processing, described)


def is_open(native: Received) -> bool:
    """Whether the channel can still settle."""
    return bool(native.channel.is_open)


def settle(native: Received, settlement: Settlement) -> None:
    """Perform a verdict. On the connection's own thread only (pika FAQ: *Is Pika thread safe?*)."""
    channel, tag = native.channel, native.method.delivery_tag
    if settlement.verdict is Verdict.ACK:
        channel.basic_ack(tag)
    elif settlement.verdict is not Verdict.LEAVE:
        channel.basic_nack(tag, requeue=settlement.verdict is Verdict.REQUEUE)


def hop(native: Received) -> Callable[[Callable[[], None]], None] | None:
    """How to run something on the connection's thread; None when we are on it, or know no better."""
    if state_of(native.channel).thread in {None, threading.get_ident()}:
        return None
    connection = native.channel.connection
    loop = connection if isinstance(native.channel, BlockingChannel) else connection.ioloop
    for name in ("add_callback_threadsafe", "call_soon_threadsafe", "add_callback"):
        schedule: Callable[[Callable[[], None]], None] | None = getattr(loop, name, None)
        if schedule is not None:
            return schedule
    return None


def refusal(policy: Policy) -> str | None:
    """Why a policy can never work here."""
    if policy.target is None:
        return None
    return (
        "RabbitMQ dead-letters by itself. Declare the queue with the argument x-dead-letter-exchange and use "
        "policy=hopspan.reject_on_error"
    )


def _notice_thread(state: State) -> None:
    """Remember the client's thread when we are called from inside the client, which is only there."""
    if state.thread is None:
        frame = sys._getframe(1)  # noqa: SLF001 - once a channel
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith("pika."):
                state.thread = threading.get_ident()
                return
            frame = frame.f_back  # type: ignore[assignment]


# -- interception: each reader has the parameters of what it reads -----------------------------------


def basic_publish(
    channel: Any,
    exchange: str,
    routing_key: str,
    body: Any,
    properties: Any = None,
    mandatory: bool = False,
    *rest: Any,
    **added: Any,
) -> Outgoing:
    """`basic_publish` of both channels."""
    server = state_of(channel).server

    def call(headers: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        carrying = BasicProperties() if properties is None else _copied(properties)
        carrying.headers = headers
        return (exchange, routing_key, body, carrying, mandatory, *rest), added

    attributes = {_amqp.ROUTING_KEY: routing_key} if routing_key else {}
    message = (
        MessageInfo(None, None, attributes)
        if properties is None
        else MessageInfo(properties.message_id, properties.correlation_id, attributes)
    )
    headers = None if properties is None else properties.headers
    return Outgoing(_amqp.sent_to(exchange, routing_key, server), message, headers, call)


def _copied(properties: Any) -> Any:
    """A shallow copy: pika keeps all fields in the instance's `__dict__`."""
    copied = object.__new__(type(properties))
    copied.__dict__.update(properties.__dict__)
    return copied


def basic_consume(
    channel: Any,
    queue: str,
    on_message_callback: Any,
    auto_ack: bool = False,
    *rest: Any,
    **added: Any,
) -> Subscription | None:
    """`basic_consume` of both channels; not the inner one that a `BlockingChannel` makes of its own."""
    if _is_of_blocking(on_message_callback):
        return None
    state = state_of(channel)

    def native(delivered_by: Any, method: Any, properties: Any, body: Any) -> Received:
        state.thread = threading.get_ident()
        return Received(delivered_by, method, properties, body, queue, auto_ack)

    return Subscription(
        on_message_callback,
        lambda handler: ((queue, handler, auto_ack, *rest), added),
        native,
        not auto_ack,
        f"a consumer of {queue!r}",
    )


def consume(
    channel: Any, queue: str, auto_ack: bool = False, *rest: Any, **added: Any
) -> Callable[[Any], Received | None]:
    """`BlockingChannel.consume`: a tick of `inactivity_timeout` is no message."""
    state = state_of(channel)

    def native_of(item: Any) -> Received | None:
        method, properties, body = item
        state.thread = threading.get_ident()
        return None if method is None else Received(channel, method, properties, body, queue, auto_ack)

    return native_of


def _keep_loop(channel: Any, loop: Loop[Any]) -> None:
    state_of(channel).loop = weakref.ref(loop)


def cancel(channel: Any) -> None:
    """`BlockingChannel.cancel` ends the loop of `consume`."""
    kept = state_of(channel).loop
    loop = kept() if kept is not None else None
    if loop is not None:
        loop.leave()


def basic_get(channel: Any, queue: str, auto_ack: bool = False, *rest: Any, **added: Any) -> Fetch:
    """`BlockingChannel.basic_get`."""
    state = state_of(channel)

    def read(result: Any) -> list[Delivery]:
        method, properties, body = result
        if method is None:
            return []
        received = Received(channel, method, properties, body, queue, auto_ack)
        described = delivery(received)
        state.thread = threading.get_ident()
        state.fetched[method.delivery_tag] = received
        while len(state.fetched) > _amqp.Ledger.MOST:
            del state.fetched[next(iter(state.fetched))]
        return [described]

    return Fetch(_amqp.consumed_from("", queue, queue, state.server), read)


def async_get(channel: Any, queue: str, callback: Any, auto_ack: bool = False) -> Subscription | None:
    """`Channel.basic_get`: the message is pushed to a callback; not the one that a `BlockingChannel` waits for."""
    if _is_of_blocking(callback):
        return None
    subscription = basic_consume(channel, queue, callback, auto_ack)
    return subscription and subscription._replace(
        call=lambda handler: ((queue, handler, auto_ack), {}), whom=f"basic_get of {queue!r}"
    )


def _is_of_blocking(callback: Any) -> bool:
    return type(getattr(callback, "__self__", None)).__module__ == "pika.adapters.blocking_connection"


def confirm_delivery(channel: Any, ack_nack_callback: Any, callback: Any = None) -> None:  # noqa: ARG001
    """`Channel.confirm_delivery`: from now on the broker says what became of each publish."""
    state = state_of(channel)
    if state.confirms is None and not _is_of_blocking(ack_nack_callback):
        failed = partial(failure, sys.modules[__name__])
        state.confirms = Confirms(channel, failed, _amqp.REPLY_CODES[312], _amqp.NACKED)


def _awaits_confirm(channel: Any, operation: Operation, _result: Any) -> bool:
    confirms = state_of(channel).confirms
    return confirms is not None and confirms.expect(operation)


_SETTLEMENTS: dict[str, Callable[..., tuple[int, bool, Verdict]]] = {
    "basic_ack": lambda delivery_tag=0, multiple=False: (delivery_tag, multiple, Verdict.ACK),
    "basic_nack": lambda delivery_tag=0, multiple=False, requeue=True: (
        delivery_tag,
        multiple,
        Verdict.REQUEUE if requeue else Verdict.REJECT,
    ),
    "basic_reject": lambda delivery_tag=0, requeue=True: (
        delivery_tag,
        False,
        Verdict.REQUEUE if requeue else Verdict.REJECT,
    ),
    "basic_recover": lambda requeue=False, callback=None: (0, True, Verdict.REQUEUE),  # noqa: ARG005
}


# -- points ----------------------------------------------------------------------------------------

_BLOCKING = "pika.adapters.blocking_connection:BlockingChannel"
_CHANNEL = "pika.channel:Channel"

POINTS = (
    Point(_BLOCKING, "basic_publish", sends(_amqp.PUBLISH, basic_publish), basic_publish),
    Point(_BLOCKING, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(_BLOCKING, "consume", iterates(consume, _keep_loop), consume),
    Point(_BLOCKING, "cancel", runs_first(cancel), cancel),
    Point(_BLOCKING, "basic_get", receives(basic_get), basic_get),
    Point(_CHANNEL, "basic_publish", sends(_amqp.PUBLISH, basic_publish, _awaits_confirm), basic_publish),
    Point(_CHANNEL, "basic_consume", consumes(basic_consume), basic_consume, carries_policy=True),
    Point(_CHANNEL, "basic_get", consumes(async_get), async_get, carries_policy=True),
    Point(_CHANNEL, "confirm_delivery", runs_first(confirm_delivery), confirm_delivery),
)


def channel(connection: Any, channel_number: Any = None, *rest: Any, **added: Any) -> None:
    """`channel` of every connection: a wrapped connection's channels are wrapped."""


INSTANCE_POINTS = (
    Point("pika.adapters.blocking_connection:BlockingConnection", "channel", returns_wrapped, channel),
    Point("pika.connection:Connection", "channel", returns_wrapped, channel),
)
