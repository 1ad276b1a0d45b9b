"""The state that hopspan keeps of one channel of aiormq, which is beneath aio-pika's.

Rules: what is kept of a channel or connection goes with it, and holds no message.
"""

from __future__ import annotations

import weakref
from functools import lru_cache, partial
from typing import Any

from aio_pika import Channel
from aiormq import exceptions as errors

from hopspan.adapters import amqp
from hopspan.adapters.amqp_ledger import SETTLEMENTS, Ledger, recorded_async
from hopspan.interception import bind_child, subclass
from hopspan.telemetry import binding_of

STATE, DESTINATIONS = "_hopspan_state", "_hopspan_destinations"
"""Where a channel keeps its state, and a connection the routes of its publishes."""


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


def state_of(channel: Any) -> amqp.ChannelState:
    """A channel's state; settlements are recorded from the first time that it is asked for."""
    if channel is None:
        channel = _Nowhere()
    state: amqp.ChannelState | None = channel.__dict__.get(STATE)
    if state is None:
        ledger = Ledger(partial(newest_tag, weakref.ref(channel)))
        state = amqp.ChannelState(server(getattr(channel, "connection", None)), ledger)
        channel.__dict__[STATE] = state
        for name, read in SETTLEMENTS.items():
            if hasattr(channel, name):
                verb, original = name.removeprefix("basic_"), getattr(channel, name)
                channel.__dict__[name] = recorded_async(original, ledger, verb, read, error_type)
    return state


def server(connection: Any) -> amqp.Server:
    """The broker's address as the application gave it; never its credentials."""
    url = getattr(connection, "url", None)
    port = getattr(url, "port", None)
    if port is None and getattr(url, "scheme", None) == "amqps":
        port = 5671
    return amqp.server(getattr(url, "host", None), port)


class Destinations(amqp.Destinations):
    """The routes of one connection's publishes; which can be given another address."""

    def __init__(self, connection: Any) -> None:
        super().__init__(server(connection))
        self.url: Any = getattr(connection, "url", None)


def destinations_of(connection: Any) -> Destinations:
    """The routes of a connection's publishes, kept on it from now on: to read a URL is slow."""
    made = Destinations(connection)
    if made.url is not None:
        setattr(connection, DESTINATIONS, made)
    return made


def error_type(error: BaseException) -> str | None:
    """The broker's own word for an error, where it said one."""
    for kind, word in _WORDS.items():
        if isinstance(error, kind):
            return word
    code = error.args[0] if error.args else None
    if isinstance(error, errors.ChannelClosed | errors.ConnectionClosed) and isinstance(code, int):
        return amqp.REPLY_CODES.get(code, str(code))
    return None


_WORDS = {
    errors.PublishError: amqp.REPLY_CODES[312],  # before DeliveryError, which it derives from
    errors.DeliveryError: amqp.NACKED,
    errors.ChannelAccessRefused: amqp.REPLY_CODES[403],
    errors.ChannelNotFoundEntity: amqp.REPLY_CODES[404],
    errors.ChannelLockedResource: amqp.REPLY_CODES[405],
    errors.ChannelPreconditionFailed: amqp.REPLY_CODES[406],
}


def prepare(instance: Any) -> None:
    """A wrapped channel's default exchange is wrapped as well, whenever it comes to be."""
    if isinstance(instance, Channel):
        instance.__class__ = _with_default_exchange(type(instance))


@lru_cache(maxsize=64)
def _with_default_exchange(kind: Any) -> type:
    def default_exchange(self: Any) -> Any:
        try:
            exchange = self.__dict__["default_exchange"]
        except KeyError:
            raise AttributeError("default_exchange") from None  # as without us: not opened yet
        binding = binding_of(self)
        return exchange if binding is None else bind_child(exchange, binding)

    def keep(self: Any, exchange: Any) -> None:
        self.__dict__["default_exchange"] = exchange

    return subclass(kind, {"default_exchange": property(default_exchange, keep)})
