"""What hopspan keeps for one channel: on the inner channel, where all settlements arrive."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika.channel import Channel
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    UnroutableError,
)
from pika.spec import Basic

from hopspan.adapters.amqp import Server
from hopspan.adapters.pika import PikaDelivery
from hopspan.adapters.pika.channel import (
    error_type,
    inner,
    newest_tag,
    notice_thread,
    state_of,
)
from hopspan.model import Verdict
from tests.unit.adapters.pika.conftest import (
    Begin,
    Blocking,
    Connection,
    channel_of,
    deliver,
    properties,
)
from tests.unit.support import in_thread


def received(channel: Any, tag: int = 1) -> PikaDelivery:
    found = PikaDelivery.of((deliver(tag), properties(), b"body"), channel)
    assert found is not None
    return found


def is_here(channel: Any) -> bool:
    """Whether a delivery of this channel may be settled in this thread."""
    return received(channel).is_here()


# -- the state -------------------------------------------------------------------------------------


def test_the_inner_channel_is_found(blocking: Blocking) -> None:
    assert (inner(blocking.channel), inner(blocking.inner)) == (blocking.inner, blocking.inner)


def test_both_channels_have_one_state(blocking: Blocking) -> None:
    assert state_of(blocking.channel) is state_of(blocking.inner)


def test_channels_do_not_share_their_state(connection: Connection) -> None:
    assert state_of(channel_of(connection)) is not state_of(channel_of(connection))


def test_a_state_goes_with_its_channel(connection: Connection) -> None:
    channel = channel_of(connection)
    state_of(channel)
    gone = weakref.ref(channel)
    del channel
    gc.collect()
    assert gone() is None


def test_a_state_is_made_once_by_many_threads(channel: Channel) -> None:
    """Twice would record every settlement twice."""
    barrier, found = threading.Barrier(8, timeout=10), []

    def ask() -> None:
        barrier.wait()
        found.append(state_of(channel))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({id(state) for state in found}) == 1


def test_a_state_that_another_thread_has_just_made_is_taken(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Slow:
        """A lock that was waited for: the other thread was first."""

        def __enter__(self) -> None:
            made.append(object())
            channel.__dict__["_hopspan_state"] = made[0]

        def __exit__(self, *exc: object) -> None: ...

    monkeypatch.setattr("hopspan.adapters.pika.channel._making", Slow())
    found: Any = state_of(channel)
    assert found is made[0]


@pytest.mark.parametrize(
    ("params", "server"),
    [
        (pika.ConnectionParameters("broker", 5673), Server("broker", 5673)),
        (pika.URLParameters("amqp://user:secret@broker:5673/"), Server("broker", 5673)),
        (None, Server()),
        (type("Mocked", (), {"host": object(), "port": "5672"}), Server()),
    ],
)
def test_the_server_is_read_from_the_parameters(
    params: Any, server: Server, connection: Connection
) -> None:
    """Never with user or password; a double's attributes are none."""
    connection.params = params
    assert state_of(channel_of(connection)).server == server


def test_a_channel_without_a_connection_has_no_server() -> None:
    class Double:
        """What a test might give to a handler."""

        def basic_ack(self) -> None: ...

        basic_nack = basic_reject = basic_recover = basic_ack

    assert state_of(Double()).server == Server()


# -- settlements -----------------------------------------------------------------------------------

#  method, arguments: verdict of delivery 1, of 2
SETTLEMENTS: list[tuple[str, Any, Any, Verdict | None, Verdict | None]] = [
    ("basic_ack", (1,), {}, Verdict.ACK, None),
    ("basic_ack", (), {"delivery_tag": 2}, None, Verdict.ACK),
    ("basic_ack", (2, True), {}, Verdict.ACK, Verdict.ACK),
    ("basic_ack", (), {"multiple": True}, Verdict.ACK, Verdict.ACK),
    ("basic_nack", (1,), {}, Verdict.REQUEUE, None),
    ("basic_nack", (1, False, False), {}, Verdict.REJECT, None),
    ("basic_nack", (2,), {"multiple": True, "requeue": False}, Verdict.REJECT, Verdict.REJECT),
    ("basic_nack", (0, True), {}, Verdict.REQUEUE, Verdict.REQUEUE),
    ("basic_reject", (1,), {}, Verdict.REQUEUE, None),
    ("basic_reject", (2, False), {}, None, Verdict.REJECT),
    ("basic_reject", (), {"delivery_tag": 2, "requeue": True}, None, Verdict.REQUEUE),
    ("basic_recover", (True,), {}, Verdict.REQUEUE, Verdict.REQUEUE),
    ("basic_recover", (), {"requeue": True}, Verdict.REQUEUE, Verdict.REQUEUE),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "first", "second"), SETTLEMENTS)
@pytest.mark.parametrize("which", ["channel", "inner"])
def test_every_settlement_is_noted_whichever_channel_it_was_called_on(
    which: str,
    method: str,
    args: Any,
    kwargs: Any,
    first: Verdict | None,
    second: Verdict | None,
    blocking: Blocking,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The defaults of pika count: a nack requeues, and tag 0 is tag 0."""
    monkeypatch.setattr(blocking.inner, "_rpc", lambda *args, **kwargs: None)
    one, two = begin(blocking.channel, 1), begin(blocking.channel, 2)
    target: Any = getattr(blocking, which)
    if method == "basic_recover":  # the blocking one waits for an answer
        target = blocking.inner
    getattr(target, method)(*args, **kwargs)
    assert (one.verdict, two.verdict) == (first, second)


def test_recovering_without_requeue_settles_nothing(
    channel: Channel, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_rpc", lambda *args, **kwargs: None)
    delivery = begin(channel)
    channel.basic_recover()
    assert delivery.verdict is None


def test_parameters_that_a_newer_pika_adds_do_not_hide_a_settlement(
    connection: Connection, begin: Begin
) -> None:
    class Newer(Channel):
        def basic_ack(
            self, delivery_tag: int = 0, multiple: bool = False, reason: str = ""
        ) -> None:
            super().basic_ack(delivery_tag, multiple)

    given: Any = connection
    channel = Newer(given, 1, None)
    channel._set_state(Channel.OPEN)
    delivery = begin(channel)
    channel.basic_ack(1, False, "because")
    assert delivery.verdict is Verdict.ACK


def test_a_settlement_still_goes_on_the_wire(channel: Channel, connection: Connection) -> None:
    state_of(channel)
    channel.basic_nack(7, multiple=True, requeue=False)
    assert connection.sent == [(Basic.Nack(7, True, False), None)]


# -- error types -----------------------------------------------------------------------------------


def unroutable(*codes: int | None) -> UnroutableError:
    messages: Any = [
        type("Returned", (), {"method": Basic.Return(code, "text", "", "")})() for code in codes
    ]
    return UnroutableError(messages)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ChannelClosedByBroker(404, "NOT_FOUND"), "not-found"),
        (ChannelClosedByBroker(799, "new"), "799"),
        (ConnectionClosedByBroker(320, "CONNECTION_FORCED"), "connection-forced"),
        (unroutable(312), "no-route"),
        (unroutable(313, 312), "no-consumers"),
        (unroutable(799), "799"),
        (unroutable(None), "no-route"),
        (unroutable(), "no-route"),
        (NackError([]), "nack"),
        (AMQPConnectionError("gone"), None),
        (ValueError(), None),
    ],
)
def test_the_brokers_own_word_for_an_error(error: BaseException, kind: str | None) -> None:
    assert error_type(error) == kind


# -- the client's thread ---------------------------------------------------------------------------


def test_in_an_unknown_thread_we_stay_where_it_is_the_main_one(channel: Channel) -> None:
    """A program that asks for messages by itself does so there."""
    assert is_here(channel)


def test_in_an_unknown_thread_we_do_not_stay_where_it_is_another(channel: Channel) -> None:
    assert not in_thread(lambda: is_here(channel))


def test_inside_the_running_asyncio_loop_we_stay(channel: Channel, connection: Connection) -> None:
    async def scenario() -> tuple[bool, bool]:
        connection.ioloop = asyncio.get_running_loop()
        return is_here(channel), await asyncio.to_thread(is_here, channel)

    assert asyncio.run(scenario()) == (True, False)


def test_outside_of_the_running_asyncio_loop_we_do_not_stay(
    channel: Channel, connection: Connection
) -> None:
    loop = connection.ioloop = asyncio.new_event_loop()
    assert not is_here(channel)
    loop.close()


@pytest.fixture
def in_client() -> Iterator[Callable[[], int]]:
    """Keep a thread in pika's code until the end of the test; its id."""
    done, threads = threading.Event(), []

    def start() -> int:
        running = threading.Event()
        globals_ = {"__name__": "pika.somewhere", "running": running, "done": done}
        exec("def wait():\n    running.set()\n    done.wait(10)\n", globals_)  # noqa: S102
        wait: Any = globals_["wait"]
        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        assert running.wait(10)
        return threads[-1].ident or 0

    yield start
    done.set()
    for thread in threads:
        thread.join(10)


def test_the_only_thread_that_runs_the_client_is_its_own(
    channel: Channel, in_client: Callable[[], int]
) -> None:
    thread = in_client()
    assert (is_here(channel), state_of(channel).thread) == (False, thread)


def test_of_several_threads_that_run_a_client_none_can_be_told(
    channel: Channel, in_client: Callable[[], int]
) -> None:
    in_client()
    in_client()
    assert (is_here(channel), state_of(channel).thread) == (True, None)


def test_in_the_clients_thread_we_stay_and_in_no_other(channel: Channel) -> None:
    state_of(channel).thread = threading.get_ident()
    assert (is_here(channel), in_thread(lambda: is_here(channel))) == (True, False)


def test_a_blocking_connections_thread_is_reached_by_its_own_way(blocking: Blocking) -> None:
    scheduled: list[Any] = []
    blocking.channel.connection.add_callback_threadsafe = scheduled.append  # type: ignore[method-assign]
    received(blocking.channel).post(print)
    assert scheduled == [print]


@pytest.mark.parametrize(
    "name", ["add_callback_threadsafe", "call_soon_threadsafe", "add_callback"]
)
def test_another_connections_thread_is_reached_by_its_loops_own_way(
    name: str, channel: Channel, connection: Connection
) -> None:
    """Of the select, the asyncio and the tornado adapter."""
    scheduled: list[Any] = []
    connection.ioloop = type("Loop", (), {name: staticmethod(scheduled.append)})()
    received(channel).post(print)
    assert scheduled == [print]


def test_without_a_known_way_it_is_done_at_once(channel: Channel, connection: Connection) -> None:
    connection.ioloop, done = object(), []
    received(channel).post(lambda: done.append(1))
    assert done == [1]


def called_by_pika(channel: Channel, depth: int = 0) -> None:
    """Call as pika calls a handler, through some frames of the user's."""
    globals_ = {"notice": lambda: nested(channel, depth), "__name__": "pika.somewhere"}
    exec("def dispatch(): notice()\ndispatch()", globals_)  # noqa: S102 - a module of pika's name


def nested(channel: Channel, depth: int) -> None:
    if depth:
        nested(channel, depth - 1)
    else:
        notice_thread(state_of(channel))


def test_called_by_the_client_its_thread_is_noticed(channel: Channel) -> None:
    called_by_pika(channel)
    assert state_of(channel).thread == threading.get_ident()


def test_called_by_somebody_else_no_thread_is_noticed(channel: Channel) -> None:
    """A decorated handler that is called by hand, anywhere."""
    notice_thread(state_of(channel))
    assert state_of(channel).thread is None


def test_a_client_too_far_up_the_stack_is_not_looked_for(channel: Channel) -> None:
    called_by_pika(channel, depth=50)
    assert state_of(channel).thread is None


def test_the_thread_that_was_noticed_first_stays(channel: Channel) -> None:
    state_of(channel).thread = 7
    called_by_pika(channel)
    assert state_of(channel).thread == 7


def test_the_top_of_the_stack_is_reached(channel: Channel) -> None:
    in_thread(lambda: notice_thread(state_of(channel)))
    assert state_of(channel).thread is None


# -- what a blocking channel holds back ------------------------------------------------------------


def test_the_newest_message_that_is_held_back(blocking: Blocking) -> None:
    class Event:
        def __init__(self, tag: int) -> None:
            self.method = deliver(tag)

    blocking.inner._consumers["c1"] = blocking.channel._on_consumer_message_delivery
    blocking.channel._pending_events.extend([Event(4), Event(9), Event(7), object()])
    assert newest_tag(weakref.ref(blocking.inner)) == 9


def test_the_newest_message_that_a_loop_holds_back(blocking: Blocking) -> None:
    class Event:
        method = deliver(5)

    class Generator:
        pending_events = (Event(),)

    generator: Any = Generator()
    blocking.inner._consumers["c1"] = blocking.channel._on_consumer_message_delivery
    blocking.channel._queue_consumer_generator = generator
    assert newest_tag(weakref.ref(blocking.inner)) == 5


def test_nothing_is_held_back_for_plain_callbacks(channel: Channel) -> None:
    channel._consumers["c1"] = print
    assert newest_tag(weakref.ref(channel)) == 0


def test_nothing_is_held_back_by_a_channel_that_is_gone(connection: Connection) -> None:
    channel = channel_of(connection)
    gone = weakref.ref(channel)
    del channel
    gc.collect()
    assert newest_tag(gone) == 0
