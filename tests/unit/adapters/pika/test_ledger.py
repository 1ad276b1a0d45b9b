"""Who has settled what on a channel: silently, in any way, and never a second time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pika.channel import Channel
from pika.spec import Basic

import hopspan
from hopspan.adapters.amqp import Destinations, QueueRoutes, Routes, Server
from hopspan.adapters.amqp_ledger import Ledger, recorded
from hopspan.adapters.pika import PikaDelivery
from hopspan.adapters.pika.channel import error_type, state_of
from hopspan.adapters.pika.points import basic_get
from hopspan.delivery import Delivery
from hopspan.model import Verdict
from tests.unit.adapters.pika.conftest import (
    Begin,
    Connection,
    channel_of,
    deliver,
    end,
    got,
    properties,
)
from tests.unit.support import DEADLINE, Telemetry

ACK, REQUEUE, REJECT = Verdict.ACK, Verdict.REQUEUE, Verdict.REJECT


@pytest.fixture
def ledger(channel: Channel) -> Ledger:
    return state_of(channel).ledger


def left(ledger: Ledger) -> list[int]:
    """The tags whose handling is over, and which nobody has settled."""
    return list(ledger.left)


def settles(telemetry: Telemetry) -> list[Any]:
    """Spans of settlements."""
    return [
        span
        for span in telemetry.seen
        if span.attributes.get("messaging.operation.type") == "settle"
    ]


def span_of(delivery: Delivery) -> int:
    return delivery.span.get_span_context().span_id


# -- one at a time ---------------------------------------------------------------------------------


def test_what_nobody_settled_has_no_verdict(channel: Channel, begin: Begin) -> None:
    assert begin(channel).verdict is None


@pytest.mark.parametrize(
    ("settle", "verdict"),
    [
        (lambda channel: channel.basic_ack(1), ACK),
        (lambda channel: channel.basic_nack(1), REQUEUE),
        (lambda channel: channel.basic_reject(1, requeue=False), REJECT),
    ],
)
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_settlement_by_the_user_is_the_deliverys_verdict(
    when: str, settle: Callable[[Any], None], verdict: Verdict, channel: Channel, begin: Begin
) -> None:
    state_of(channel)
    if when == "before":
        settle(channel)
    delivery = begin(channel)
    if when == "while":
        settle(channel)
    assert (delivery.verdict, delivery.settled_by_policy) == (verdict, False)


def test_a_settlement_of_another_delivery_is_not(channel: Channel, begin: Begin) -> None:
    delivery = begin(channel)
    channel.basic_ack(2)
    assert delivery.verdict is None


def test_what_is_settled_is_not_left(channel: Channel, ledger: Ledger, begin: Begin) -> None:
    for tag in (1, 2, 3):
        begin(channel, tag)
    channel.basic_ack(1)
    channel.basic_nack(2)
    for tag in (1, 2, 3):
        end(ledger.open[tag])
    assert (ledger.open, left(ledger)) == ({}, [3])
    channel.basic_ack(3)
    assert left(ledger) == []


def test_what_is_left_holds_neither_body_nor_headers(
    channel: Channel, ledger: Ledger, begin: Begin
) -> None:
    """Ten thousand of them may be kept."""
    delivery = begin(channel)
    end(delivery)
    unsettled = ledger.left[1]
    assert unsettled.message is not None
    assert unsettled.message.attributes == {
        "messaging.rabbitmq.destination.routing_key": "created",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.id": "m1",
    }
    assert unsettled.span == delivery.span.get_span_context()


def test_nothing_is_left_of_what_the_broker_forgot(
    channel: Channel, ledger: Ledger, begin: Begin
) -> None:
    channel._consumers_with_noack = {"c1"}
    end(begin(channel))
    assert (ledger.open, left(ledger)) == ({}, [])


# -- two handlings of one delivery -----------------------------------------------------------------


@contextmanager
def twice(channel: Channel, telemetry: Telemetry) -> Iterator[tuple[Delivery, Delivery]]:
    """One message in a batch, and alone in its own block."""
    message: Any = deliver(), properties(), b"body"
    settings: dict[str, Any] = {"via": channel, **telemetry.settings}
    with hopspan.process([message], **settings) as batch:
        with hopspan.process(message, **settings) as alone:
            yield batch.deliveries[0], alone


@pytest.mark.parametrize("multiple", [True, False])
def test_a_delivery_that_is_handled_twice_at_a_time_is_settled_for_both(
    multiple: bool, channel: Channel, telemetry: Telemetry
) -> None:
    with twice(channel, telemetry) as (member, alone):
        channel.basic_ack(1, multiple)
    assert (member.verdict, alone.verdict) == (ACK, ACK)


def test_one_handling_may_end_before_the_other(
    channel: Channel, ledger: Ledger, telemetry: Telemetry
) -> None:
    message: Any = deliver(), properties(), b"body"
    settings: dict[str, Any] = {"via": channel, **telemetry.settings}
    with hopspan.process([message], **settings) as batch:
        with hopspan.process(message, **settings):
            pass
        assert (ledger.handlings(1), left(ledger)) == ([batch.deliveries[0]], [])
        channel.basic_ack(1)
        assert batch.settled
    assert (ledger.open, left(ledger)) == ({}, [])


def test_the_policy_of_one_settles_for_the_other_and_is_recorded_once(
    channel: Channel, connection: Connection, telemetry: Telemetry
) -> None:
    message: Any = deliver(), properties(), b"body"
    settings: dict[str, Any] = {
        "via": channel,
        "policy": hopspan.ack_always,
        "settle_spans": "all",
        **telemetry.settings,
    }
    with hopspan.process([message], **settings), hopspan.process(message, **settings):
        pass
    assert connection.methods == [Basic.Ack(1, False)]
    assert [span.name for span in settles(telemetry)] == ["ack orders:created"]


def test_two_handlings_of_a_message_count_it_once(channel: Channel, telemetry: Telemetry) -> None:
    with twice(channel, telemetry):
        pass
    points = telemetry.points("messaging.client.consumed.messages")
    assert sum(value for _, value in points) == 1


def test_a_handling_after_another_counts_it_no_more(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    end(begin(channel))
    end(begin(channel))
    points = telemetry.points("messaging.client.consumed.messages")
    assert [value for _, value in points] == [1]


def test_a_handling_after_another_takes_over_what_was_left(
    channel: Channel, ledger: Ledger, begin: Begin
) -> None:
    end(begin(channel))
    delivery = begin(channel)
    assert (left(ledger), ledger.handlings(1)) == ([], [delivery])


# -- multiple --------------------------------------------------------------------------------------


@pytest.fixture
def five(channel: Channel, begin: Begin) -> list[Delivery]:
    """Five deliveries, of which the second is over."""
    begun = [begin(channel, tag) for tag in range(1, 6)]
    end(begun[1])
    return begun


@pytest.mark.parametrize(("tag", "upto"), [(3, 3), (1, 1), (9, 5), (0, 5)])
def test_multiple_settles_all_up_to_a_tag(
    tag: int, upto: int, channel: Channel, ledger: Ledger, five: list[Delivery]
) -> None:
    """Tag 0 is everything."""
    channel.basic_ack(tag, multiple=True)
    settled = [index for index, each in enumerate(five, 1) if each.verdict is ACK]
    assert settled == [each for each in range(1, upto + 1) if each != 2]
    assert left(ledger) == ([] if upto >= 2 else [2])
    assert ledger.verdict_of(2) is (ACK if upto >= 2 else None)


def test_not_multiple_settles_one(channel: Channel, ledger: Ledger, five: list[Delivery]) -> None:
    channel.basic_ack(3)
    assert [each.verdict for each in five] == [None, None, ACK, None, None]
    assert left(ledger) == [2]


def test_multiple_settles_what_no_handler_has_seen_yet(channel: Channel, begin: Begin) -> None:
    """The client holds messages back; they are settled on the broker all the same."""
    state_of(channel)
    channel.basic_nack(3, multiple=True, requeue=False)
    assert [begin(channel, tag).verdict for tag in (2, 4, 3, 5)] == [REJECT, None, REJECT, None]


def test_tag_0_settles_up_to_the_newest_that_the_client_holds_back(channel: Channel) -> None:
    ledger = Ledger(newest=lambda: 7)
    ledger.settle_up_to(0, ACK)
    assert [ledger.verdict_of(tag) for tag in (7, 8)] == [ACK, None]


def test_tag_0_settles_up_to_the_newest_that_we_know(channel: Channel, begin: Begin) -> None:
    begin(channel, 4)
    channel.basic_ack(6)
    channel.basic_nack(0, multiple=True, requeue=False)
    assert [begin(channel, tag).verdict for tag in (5, 7)] == [REJECT, None]


def test_tag_0_of_nothing_settles_nothing(channel: Channel, begin: Begin) -> None:
    state_of(channel)
    channel.basic_ack(0, multiple=True)
    assert begin(channel).verdict is None


def test_recovering_settles_everything_and_what_comes_after_is_new(
    channel: Channel, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker hands all of it out again, under new tags."""
    monkeypatch.setattr(channel, "_rpc", lambda *args, **kwargs: None)
    going = begin(channel, 1)
    end(begin(channel, 2))
    channel.basic_recover(requeue=True)
    assert [going.verdict, begin(channel, 3).verdict] == [REQUEUE, None]


def test_what_was_settled_by_itself_keeps_its_own_verdict(channel: Channel, begin: Begin) -> None:
    state_of(channel)
    channel.basic_reject(2, requeue=False)
    channel.basic_ack(3, multiple=True)
    assert begin(channel, 2).verdict is REJECT


def test_a_lower_multiple_does_not_take_back_a_higher_one(channel: Channel, begin: Begin) -> None:
    state_of(channel)
    channel.basic_ack(5, multiple=True)
    channel.basic_nack(2, multiple=True)
    assert begin(channel, 4).verdict is ACK


# -- what happens while a settlement is on its way -------------------------------------------------


@pytest.mark.parametrize("tag", [2, 0])
def test_a_delivery_that_is_begun_while_several_are_settled_is_one_of_them(
    tag: int, channel: Channel, connection: Connection, begin: Begin
) -> None:
    begin(channel, 2)
    begun: list[Delivery] = []
    connection.on_its_way = lambda: (
        begun or begun.append(begin(channel, 1, policy=hopspan.ack_always))
    )
    channel.basic_nack(tag, multiple=True)
    end(begun[0])
    assert (begun[0].verdict, connection.methods) == (REQUEUE, [Basic.Nack(tag, True, True)])


def test_another_handling_that_is_begun_while_a_delivery_is_acked_knows_of_it(
    channel: Channel, connection: Connection, telemetry: Telemetry
) -> None:
    message: Any = deliver(), properties(), b"body"
    settings: dict[str, Any] = {"via": channel, **telemetry.settings}
    begun: list[Any] = []

    def handle() -> None:
        if not begun:
            begun.append(hopspan.process(message, policy=hopspan.ack_always, **settings))
            begun[0].__enter__()

    with hopspan.process([message], **settings):
        connection.on_its_way = handle
        channel.basic_ack(1)
        begun[0].__exit__(None, None, None)
    assert connection.methods == [Basic.Ack(1, False)]


@pytest.mark.parametrize("verdict", [ACK, REQUEUE])
def test_a_handling_that_ends_while_its_delivery_is_settled_leaves_nothing(
    verdict: Verdict, channel: Channel, connection: Connection, ledger: Ledger, begin: Begin
) -> None:
    delivery = begin(channel)
    connection.on_its_way = lambda: delivery.is_over or end(delivery)
    channel.basic_ack(1) if verdict is ACK else channel.basic_nack(1)
    assert (ledger.open, left(ledger), ledger.verdict_of(1)) == ({}, [], verdict)


def test_a_delivery_that_is_settled_while_its_handling_ends_is_not_left(
    channel: Channel, ledger: Ledger, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = PikaDelivery.described

    def settled_meanwhile(delivery: Any) -> Any:
        channel.basic_ack(delivery.tag)
        return described(delivery)

    monkeypatch.setattr(PikaDelivery, "described", settled_meanwhile)
    end(begin(channel))
    assert (ledger.open, left(ledger)) == ({}, [])


def test_a_delivery_and_a_settlement_on_two_threads_always_find_each_other(
    telemetry: Telemetry,
) -> None:
    """Neither of them takes a lock on the message path."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            channel = channel_of(Connection())
            ledger, begun = state_of(channel).ledger, []
            barrier = threading.Barrier(3, timeout=DEADLINE)

            def open_some(tags: Any, channel: Any = channel, barrier: Any = barrier) -> None:
                barrier.wait()
                for tag in tags:
                    message = deliver(tag), properties(), b""
                    delivery: Any = PikaDelivery.of(message, channel)
                    delivery.verdict = None
                    delivery.verdict = delivery.opened() or delivery.verdict
                    begun.append(delivery)  # noqa: B023 - of this round

            def settle_some(channel: Any = channel, barrier: Any = barrier) -> None:
                barrier.wait()
                for tag in range(5, 101, 5):
                    channel.basic_ack(tag, multiple=True)

            threads = [
                threading.Thread(target=open_some, args=(range(1, 100, 2),)),
                threading.Thread(target=open_some, args=(range(2, 101, 2),)),
                threading.Thread(target=settle_some),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            assert [each.tag for each in begun if each.verdict is None] == []
            assert len(ledger.open) == len(begun) == 100
    finally:
        sys.setswitchinterval(interval)


# -- bounds ----------------------------------------------------------------------------------------


def test_ten_thousand_are_remembered() -> None:
    assert Ledger.MOST == 10_000


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    for kind in (Ledger, Routes, QueueRoutes):
        monkeypatch.setattr(kind, "MOST", 3)
    return 3


def test_of_what_is_settled_the_newest_are_remembered(
    few: int, channel: Channel, ledger: Ledger
) -> None:
    for tag in range(1, 31):
        channel.basic_ack(tag)
        newest = range(max(1, tag - few + 1), tag + 1)
        assert {ledger.verdict_of(each) for each in newest} == {ACK}
    assert ledger.verdict_of(20) is None


def test_of_what_is_left_the_newest_are_remembered(
    few: int, channel: Channel, ledger: Ledger, begin: Begin
) -> None:
    for tag in range(1, 31):
        end(begin(channel, tag))
    assert left(ledger) == list(range(31 - few, 31))


def _acked(channel: Any, message: Any, settings: Any) -> None:
    with hopspan.process(message, via=channel, **settings):
        channel.basic_ack(message[0].delivery_tag)


def _rejected(channel: Any, message: Any, settings: Any) -> None:
    with hopspan.process(message, via=channel, **settings):
        channel.basic_reject(message[0].delivery_tag, requeue=False)


def _by_policy(channel: Any, message: Any, settings: Any) -> None:
    with hopspan.process(message, via=channel, policy=hopspan.ack_always, **settings):
        pass


def _unsettled(channel: Any, message: Any, settings: Any) -> None:
    with hopspan.process(message, via=channel, **settings):
        pass


def _in_a_loop(channel: Any, message: Any, settings: Any) -> None:
    for _ in hopspan.each([message], via=channel, **settings):
        pass


def _fetched(channel: Any, message: Any, settings: Any) -> None:
    method = got(message[0].delivery_tag)
    basic_get(channel, f"q{method.delivery_tag}", True).read((method, *message[1:]))
    _in_a_loop(channel, (method, *message[1:]), settings)


def _together(channel: Any, message: Any, settings: Any) -> None:
    with hopspan.process([message], via=channel, policy=hopspan.ack_always, **settings):
        _unsettled(channel, message, settings)


def _settled_without_being_handled(channel: Any, message: Any, settings: Any) -> None:
    channel.basic_ack(message[0].delivery_tag, multiple=bool(message[0].delivery_tag % 2))


@pytest.mark.parametrize(
    "handle",
    [
        _acked,
        _rejected,
        _by_policy,
        _unsettled,
        _in_a_loop,
        _fetched,
        _together,
        _settled_without_being_handled,
    ],
)
def test_what_is_kept_of_a_channel_is_bounded_whatever_its_messages_meet(
    handle: Any, few: int, channel: Channel, ledger: Ledger, telemetry: Telemetry
) -> None:
    state = state_of(channel)
    for tag in range(1, 41):
        method = Basic.Deliver("c1", tag, False, "orders", f"key-{tag}")
        handle(channel, (method, properties(), b"body"), telemetry.settings)
    assert ledger.open == {}
    for kept in (ledger.left, state.fetched, state.routes, *state.routes.values()):
        assert len(kept) <= few
    assert len(ledger.young) + len(ledger._old) <= 2 * few + 1


def test_the_routes_of_publishes_are_bounded(few: int) -> None:
    destinations = Destinations(Server())
    for number in range(10):
        assert destinations["", f"reply-{number}"].endpoint.destination == f"reply-{number}"
        assert len(destinations) <= few


# -- what a settlement is recorded as --------------------------------------------------------------


def test_the_clients_method_is_called_with_the_users_arguments_and_its_answer_returned() -> None:
    called: list[Any] = []

    def original(*args: Any, **kwargs: Any) -> str:
        called.append((args, kwargs))
        return "sent"

    settle = recorded(original, Ledger(), "ack", lambda *_, **__: (3, True, ACK), error_type)
    assert (settle(3, multiple=True), called) == ("sent", [((3,), {"multiple": True})])


def test_a_notable_settlement_of_the_users_has_a_span_inside_the_process_span(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    delivery = begin(channel)
    channel.basic_reject(1, requeue=False)
    (span,) = settles(telemetry)
    assert (span.name, span.parent, span.links) == ("reject orders:created", span_of(delivery), ())
    assert span.attributes["hopspan.settlement"] == "reject"


def test_an_ack_has_none_unless_asked_for(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    begin(channel, 1)
    begin(channel, 2, settle_spans="all")
    for tag in (1, 2):
        channel.basic_ack(tag)
    (span,) = settles(telemetry)
    assert span.attributes["messaging.rabbitmq.message.delivery_tag"] == 2


def test_our_own_settlement_is_recorded_once(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    end(begin(channel, policy=hopspan.ack_always, settle_spans="all"))
    assert len(settles(telemetry)) == 1


def test_a_settlement_after_the_handling_is_linked_to_it(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    delivery = begin(channel)
    end(delivery)
    channel.basic_reject(1, requeue=False)
    (span,) = settles(telemetry)
    assert (span.parent, span.links) == (None, (span_of(delivery),))
    assert span.attributes["messaging.message.id"] == "m1"


def test_a_settlement_of_several_is_linked_to_all(
    channel: Channel, begin: Begin, telemetry: Telemetry
) -> None:
    one, two = begin(channel, 1), begin(channel, 2)
    end(two)
    channel.basic_nack(2, multiple=True)
    (span,) = settles(telemetry)
    assert (span.parent, set(span.links)) == (None, {span_of(one), span_of(two)})
    assert span.attributes["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("verdict", [ACK, REJECT])
@pytest.mark.parametrize("error", [None, ConnectionError("closed")])
def test_a_settlement_of_the_users_is_timed(
    error: Exception | None,
    verdict: Verdict,
    channel: Channel,
    connection: Connection,
    begin: Begin,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(channel, settle_spans="all" if error is None else "notable")
    connection.error = error
    clock = [100.0]
    for module in ("adapters.amqp_ledger", "delivery.delivery"):
        monkeypatch.setattr(f"hopspan.{module}.perf_counter", lambda: clock[0])
    connection.on_its_way = lambda: clock.append(clock.pop() + 3)
    try:
        channel.basic_ack(1) if verdict is ACK else channel.basic_reject(1, requeue=False)
    except ConnectionError as raised:
        assert raised is error
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert point.sum == 3.0


def test_a_settlement_of_an_unknown_delivery_says_nothing(
    channel: Channel, telemetry: Telemetry
) -> None:
    state_of(channel)
    channel.basic_reject(99, requeue=False)
    assert telemetry.spans == []


@pytest.mark.parametrize("multiple", [True, False])
@pytest.mark.parametrize("method", ["basic_ack", "basic_nack"])
def test_a_settlement_that_fails_is_raised_and_settles_nothing(
    method: str,
    multiple: bool,
    channel: Channel,
    connection: Connection,
    begin: Begin,
    telemetry: Telemetry,
) -> None:
    delivery = begin(channel)
    connection.error = ConnectionError("closed")
    with pytest.raises(ConnectionError) as raised:
        getattr(channel, method)(1, multiple)
    (span,) = settles(telemetry)
    assert (raised.value, delivery.verdict, span.parent) == (
        connection.error,
        None,
        span_of(delivery),
    )
    assert (span.attributes["error.type"], span.status) == ("ConnectionError", ("ERROR", "closed"))
    assert begin(channel, 2).verdict is None


def test_a_settlement_that_fails_after_the_handling_is_linked_to_it(
    channel: Channel, connection: Connection, begin: Begin, telemetry: Telemetry
) -> None:
    delivery = begin(channel)
    end(delivery)
    connection.error = ConnectionError("closed")
    with pytest.raises(ConnectionError):
        channel.basic_ack(1)
    (span,) = settles(telemetry)
    assert (span.links, span.status) == ((span_of(delivery),), ("ERROR", "closed"))


def test_a_settlement_of_ours_that_fails_is_recorded_once(
    channel: Channel, connection: Connection, begin: Begin, telemetry: Telemetry
) -> None:
    delivery = begin(channel, policy=hopspan.ack_always)
    connection.error = ConnectionError("closed")
    end(delivery)
    assert ([span.name for span in settles(telemetry)], delivery.verdict) == (
        ["ack orders:created"],
        None,
    )


def test_an_interrupted_settlement_settles_nothing(
    channel: Channel, connection: Connection, begin: Begin
) -> None:
    delivery = begin(channel)
    connection.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        channel.basic_ack(1)
    connection.error = None
    assert delivery.verdict is None


def test_the_users_wrong_arguments_are_the_clients_to_refuse(
    channel: Channel, begin: Begin, logged: pytest.LogCaptureFixture
) -> None:
    delivery = begin(channel)
    wrong: Any = {"nonsense": True}
    with pytest.raises(TypeError, match="nonsense"):
        channel.basic_ack(**wrong)
    assert (delivery.verdict, logged.records) == (None, [])


def test_a_fault_of_ours_is_logged_and_the_settlement_stands(
    channel: Channel,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    state_of(channel)
    monkeypatch.setattr(Ledger, "settle", broken)
    for tag in (1, 2):
        channel.basic_ack(tag)
    assert connection.methods == [Basic.Ack(1, False), Basic.Ack(2, False)]
    assert len(logged.records) == 1


def test_a_policy_settles_once_whatever_the_handler_did(
    channel: Channel, connection: Connection, begin: Begin
) -> None:
    """The whole way: handler, ledger, policy, wire."""
    delivery = begin(channel, policy=hopspan.ack_always)
    channel.basic_nack(1, multiple=True)
    end(delivery)
    assert (connection.methods, delivery.settled) == ([Basic.Nack(1, True, True)], True)
    assert delivery.settled_by_policy is False
