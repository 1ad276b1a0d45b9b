"""What hopspan keeps of a channel of aiormq, beneath aio-pika's: it carries the messages."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from functools import lru_cache
from typing import Any, NamedTuple

from aio_pika import Channel
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionClosed,
)

from hopspan.adapters import _amqp, _amqp_ledger, _amqp_recording
from hopspan.adapters._amqp_settlements import SETTLEMENTS
from hopspan.interception import bind_new, subclass
from hopspan.telemetry import binding_of

_STATE, _SERVER = "_hopspan_state", "_hopspan_server"


class Received(NamedTuple):
    """A message in our hands, with what it does not know itself."""

    message: Any
    state: State
    """What is kept of its channel."""
    queue: str | None
    settles: bool
    via: Any
    """The queue or channel that it came by, where that is known."""


class Fetched(NamedTuple):
    """What is known of a message that `Queue.get` has returned; not itself, for it may be large."""

    identity: int
    queue: str | None
    settles: bool
    via: weakref.ref[Any]


class State:
    """One aiormq channel's. Used in its event loop only."""

    __slots__ = ("__weakref__", "fetched", "ledger", "server")

    def __init__(self, channel: Any) -> None:
        kept = weakref.ref(channel)
        self.ledger: _amqp_ledger.Ledger = _amqp_ledger.Ledger(lambda: newest_tag(kept))
        self.server: _amqp.Server = server(getattr(channel, "connection", None))
        self.fetched: OrderedDict[int, Fetched] = OrderedDict()
        """What `Queue.get` has returned, by delivery tag."""

    def remember(self, native: Received) -> None:
        """A message was fetched; what becomes of it shows only later."""
        message, _, queue, settles, via = native
        self.fetched[message.delivery_tag] = Fetched(id(message), queue, settles, weakref.ref(via))
        if len(self.fetched) > _amqp_ledger.Ledger.MOST:
            self.fetched.popitem(last=False)


def received(message: Any, queue: str | None, via: Any, settles: bool | None = None) -> Received:
    """A message that came by a channel, which is recorded from now on.

    `settles` is whether the application is to settle it; looked for in the message when omitted.
    """
    if settles is None:
        # Private to aio-pika: where it is missing, nothing is known to be wrong.
        settles = not getattr(message, "_IncomingMessage__no_ack", False)
    channel = underlay(message)
    state = state_of(_Nowhere() if channel is None else channel)
    return Received(message, state, queue, settles, via)


class _Nowhere:
    """Stands for the channel of a message that has come by none, as one made in a test."""


def newest_tag(kept: weakref.ref[Any]) -> int:
    """The highest tag of what iterators hold back of a channel, for loops to come."""
    newest = 0
    for registered in getattr(kept(), "consumers", {}).values():
        callback = next(iter(getattr(registered, "args", ())), None)
        buffer = getattr(getattr(callback, "__self__", None), "_queue", None)
        for message in getattr(buffer, "_queue", ()):  # of the standard library
            newest = max(newest, getattr(message, "delivery_tag", 0) or 0)
    return newest


def underlay(message: Any) -> Any:
    """The channel of aiormq that a message came by, also when it is closed."""
    return getattr(message, "_IncomingMessage__channel", None)


def state_of(channel: Any) -> State:
    """A channel's state; made, and its settlements recorded, when it is asked for first."""
    state = channel.__dict__.get(_STATE)
    if state is None:
        state = State(channel)
        for name, read in SETTLEMENTS.items():
            original = getattr(channel, name, None)
            if original is not None:
                channel.__dict__[name] = _amqp_recording.recording_async(
                    original, state.ledger, name.removeprefix("basic_"), read, error_type
                )
        channel.__dict__[_STATE] = state
    return state  # type: ignore[no-any-return]


def server(connection: Any) -> _amqp.Server:
    """The broker's address as the application gave it; never its credentials.

    Kept on the connection: taking a URL apart costs more than all else that a publish is asked.
    """
    url = getattr(connection, "url", None)
    kept = getattr(connection, _SERVER, None)
    if kept is None or kept[0] is not url:
        kept = (url, _server_in(url))
        if url is not None:
            setattr(connection, _SERVER, kept)
    return kept[1]


def _server_in(url: Any) -> _amqp.Server:
    host, port = getattr(url, "host", None), getattr(url, "port", None)
    if host is not None and port is None:
        port = _PORTS.get(getattr(url, "scheme", ""))
    return _amqp.Server(
        host if isinstance(host, str) else None, port if isinstance(port, int) else None
    )


_PORTS = {"amqp": 5672, "amqps": 5671}


def error_type(error: BaseException) -> str | None:
    """The broker's own word for an error, where it said one."""
    if isinstance(error, PublishError):  # returned; before DeliveryError, which it derives from
        return _amqp.REPLY_CODES[312]
    if isinstance(error, DeliveryError):
        return _amqp.NACKED
    for kind, number in _CODES.items():
        if isinstance(error, kind):
            return _amqp.REPLY_CODES[number]
    code = error.args[0] if error.args else None
    if isinstance(error, ChannelClosed | ConnectionClosed) and isinstance(code, int):
        return _amqp.REPLY_CODES.get(code, str(code))
    return None


_CODES = {
    ChannelAccessRefused: 403,
    ChannelNotFoundEntity: 404,
    ChannelLockedResource: 405,
    ChannelPreconditionFailed: 406,
}


def hop(native: Received) -> None:
    """Settlement is awaited, so it happens in the loop where it is asked for."""


def prepare(instance: Any) -> None:
    """A wrapped channel's default exchange is wrapped as well, whenever it comes to be."""
    if isinstance(instance, Channel):
        instance.__class__ = _channel(type(instance))


@lru_cache(maxsize=64)
def _channel(kind: Any) -> type:
    def default_exchange(self: Any) -> Any:
        try:
            exchange = self.__dict__["default_exchange"]
        except KeyError:
            raise AttributeError("default_exchange") from None  # as without us: not opened yet
        binding = binding_of(self)
        return exchange if binding is None else bind_new(exchange, binding)

    def keep(self: Any, exchange: Any) -> None:
        self.__dict__["default_exchange"] = exchange

    return subclass(kind, {"default_exchange": property(default_exchange, keep)})
