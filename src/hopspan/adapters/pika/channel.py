"""The state that hopspan keeps of one pika channel: its ledger, its thread, its destinations.

A `BlockingChannel` has a `Channel` inside (`_impl`) and calls it for everything that goes on the
wire. So the state is kept on the inner channel, and settlements are recorded there: all of them
arrive there, whichever object the user called.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    UnroutableError,
)

from hopspan.adapters import amqp
from hopspan.adapters.amqp_ledger import SETTLEMENTS, Ledger, recorded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from hopspan.adapters.pika.confirms import Confirms
    from hopspan.delivery import Loop

STATE = "_hopspan_state"
"""The attribute of the inner channel that holds its state."""
_making = threading.Lock()


class Fetched(NamedTuple):
    """A delivery that `basic_get` brought, with what only that call knew about it."""

    method: Any
    source: tuple[Any, str | None, bool]


class State(amqp.ChannelState):
    """The state of one channel: kept on the inner channel, so that it goes with it."""

    __slots__ = ("confirms", "destinations", "loop", "thread")

    def __init__(self, channel: Any) -> None:
        super().__init__(_server(channel), Ledger(partial(newest_tag, weakref.ref(channel))))
        self.destinations: amqp.Destinations = amqp.Destinations(self.server)
        self.thread: int | None = None
        """The thread that the client does its I/O in, once we have seen it there."""
        self.loop: weakref.ref[Loop[Any]] | None = None
        self.confirms: Confirms | None = None

    def source(self, queue: str | None, auto_ack: bool) -> tuple[amqp.Routes, str | None, bool]:
        """The part that all deliveries of a queue have in common."""
        return self.routes[queue], queue, auto_ack


def inner(channel: Any) -> Any:
    """The channel that talks to the connection."""
    return getattr(channel, "_impl", channel)


def state_of(channel: Any) -> State:
    """The channel's state; settlements are recorded from the first time that it is asked for."""
    impl = inner(channel)
    state: State | None = impl.__dict__.get(STATE)
    return _made(impl) if state is None else state


def _made(impl: Any) -> State:
    with _making:  # twice would record every settlement twice
        state: State | None = impl.__dict__.get(STATE)
        if state is not None:
            return state
        state = State(impl)
        for name, read in SETTLEMENTS.items():
            bound = getattr(impl, name)
            impl.__dict__[name] = recorded(
                bound, state.ledger, name.removeprefix("basic_"), read, error_type
            )
        impl.__dict__[STATE] = state
        return state


def _server(impl: Any) -> amqp.Server:
    parameters = getattr(getattr(impl, "connection", None), "params", None)
    host, port = getattr(parameters, "host", None), getattr(parameters, "port", None)
    return amqp.server(host, port)


def error_type(error: BaseException) -> str | None:
    """The broker's own word for an error, where it said one."""
    if isinstance(error, ChannelClosedByBroker | ConnectionClosedByBroker):
        return amqp.REPLY_CODES.get(error.reply_code, str(error.reply_code))
    if isinstance(error, UnroutableError):
        code = (error.messages[0].method.reply_code if error.messages else None) or 312
        return amqp.REPLY_CODES.get(code, str(code))
    return amqp.NACKED if isinstance(error, NackError) else None


def scheduler(channel: Any) -> Callable[[Callable[[], None]], None] | None:
    """The function that runs something on the connection's thread; None where there is none."""
    loop = _loop(channel)
    for name in ("add_callback_threadsafe", "call_soon_threadsafe", "add_callback"):
        schedule: Callable[[Callable[[], None]], None] | None = getattr(loop, name, None)
        if schedule is not None:
            return schedule
    return None


def _loop(channel: Any) -> Any:
    """The object that runs callbacks on the connection's thread."""
    connection = getattr(channel, "connection", None)
    return (
        connection if isinstance(channel, BlockingChannel) else getattr(connection, "ioloop", None)
    )


def is_here(state: State, channel: Any) -> bool:
    """Whether this is the connection's thread, where no call has told yet which one that is.

    Nothing in pika tells. The thread that runs pika's code is it; where none does, the program asks
    for messages by itself, and does so in its main thread, or else had better be waited for.
    """
    loop = _loop(channel)
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop is asyncio._get_running_loop()  # noqa: SLF001 - None where there is none
    state.thread = _thread_in_client()
    here = threading.get_ident()
    if state.thread is None:
        return here == threading.main_thread().ident
    return state.thread == here


def _thread_in_client() -> int | None:
    """The only thread that runs pika's code just now; None where there is none, or more."""
    running = [
        thread
        for thread, frame in sys._current_frames().items()  # noqa: SLF001 - once a channel
        if _runs_client(frame)
    ]
    return running[0] if len(running) == 1 else None


def _runs_client(frame: FrameType | None, depth: int = 200) -> bool:
    while frame is not None and depth:
        if frame.f_globals.get("__name__", "").startswith("pika."):
            return True
        frame, depth = frame.f_back, depth - 1
    return False


_NEAR = 12
"""How many calls away the client can be from a handler: our wrappers, and a few of the user's."""


def newest_tag(kept: weakref.ref[Any]) -> int:
    """The highest tag of what a `BlockingChannel` has received and not dispatched."""
    newest = 0
    for callback in getattr(kept(), "_consumers", {}).values():
        blocking = getattr(callback, "__self__", None)
        generator = getattr(blocking, "_queue_consumer_generator", None)
        waiting = getattr(blocking, "_pending_events", ())
        for event in (*waiting, *getattr(generator, "pending_events", ())):
            tag = getattr(getattr(event, "method", None), "delivery_tag", 0)
            newest = max(newest, tag)
    return newest


def notice_thread(state: State) -> None:
    """Remember the client's thread when we are called from inside the client: it is this one."""
    if state.thread is None and _runs_client(sys._getframe(1), _NEAR):  # noqa: SLF001
        state.thread = threading.get_ident()
