"""The calls of pika that are intercepted, on its own channels: what pika gets, what is told."""

from __future__ import annotations

import copy
import gc
import inspect
import threading
from typing import Any

import pytest
from opentelemetry import propagate, trace
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

import hopspan
from hopspan.adapters.amqp_ledger import Ledger
from hopspan.adapters.pika import points
from hopspan.adapters.pika.channel import state_of
from hopspan.adapters.pika.delivery import PikaDelivery
from hopspan.model import PolicyError, Verdict
from tests.unit.adapters.pika.conftest import (
    Blocking,
    Connection,
    deliver,
    fields,
    got,
    properties,
)
from tests.unit.support import Telemetry, in_thread

BODY = b"body"
SENT = {"traceparent": f"00-{1:032x}-{2:016x}-01"}


def carried(telemetry: Telemetry) -> dict[str, str]:
    """The headers that carry the only span's context."""
    context = telemetry.spans[0].context
    assert context is not None
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(trace.NonRecordingSpan(context)))
    return headers


# -- publishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["channel", "inner"])
def test_a_publish_is_one_span_and_carries_it(
    which: str, blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    """The blocking channel publishes through its inner one: that is no second publish."""
    for channel in blocking:
        hopspan.wrap(channel, **telemetry.settings)
    getattr(blocking, which).basic_publish("orders", "created", BODY)
    ((method, (header, body)),) = connection.sent
    assert (method, header.headers, body) == (
        Basic.Publish(exchange="orders", routing_key="created", mandatory=False, immediate=False),
        carried(telemetry),
        BODY,
    )
    assert [span.name for span in telemetry.spans] == ["publish orders:created"]


def test_a_publish_describes_its_message(blocking: Blocking, telemetry: Telemetry) -> None:
    channel = hopspan.wrap(blocking.channel, **telemetry.settings)
    channel.basic_publish(
        "orders", "created", BODY, properties(message_id="m1", correlation_id="c1")
    )
    assert telemetry.only.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders:created",
        "messaging.rabbitmq.destination.routing_key": "created",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
        "server.address": "broker",
        "server.port": 5673,
    }


def test_an_empty_routing_key_is_not_an_attribute(blocking: Blocking, telemetry: Telemetry) -> None:
    hopspan.wrap(blocking.channel, **telemetry.settings).basic_publish("orders", "", BODY)
    assert "messaging.rabbitmq.destination.routing_key" not in telemetry.only.attributes


class Mine(BasicProperties):
    """A user's subclass."""


@pytest.mark.parametrize(
    "given",
    [
        None,
        properties(),
        properties(headers={}),
        properties(headers={"color": "red", "n": {"x": 1}}, content_type="text/plain", priority=3),
        Mine(headers={"color": "red"}, expiration="1000"),
    ],
)
def test_properties_are_copied_with_all_their_fields(
    given: Any, blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    """The caller's object is often a constant, shared by all publishes."""
    before = copy.deepcopy(given)
    channel = hopspan.wrap(blocking.channel, **telemetry.settings)
    channel.basic_publish("orders", "created", BODY, given)
    ((_, (header, _)),) = connection.sent
    wanted = BasicProperties() if before is None else before
    wanted.headers = {**(wanted.headers or {}), **carried(telemetry)}
    assert (header, type(header)) == (wanted, type(wanted))
    assert header is not given


def test_the_callers_properties_are_not_touched(blocking: Blocking, telemetry: Telemetry) -> None:
    given = properties(headers={"color": "red"}, message_id="m1")
    before = copy.deepcopy(given)
    channel = hopspan.wrap(blocking.channel, **telemetry.settings)
    channel.basic_publish("orders", "created", BODY, given)
    assert given == before


def call_of(channel: Any, *args: Any, **kwargs: Any) -> Any:
    """How to call pika with other headers, as the reader of a publish says it."""
    leaving = points.basic_publish(channel, *args, **kwargs)
    assert leaving is not None
    return leaving[3]


def test_a_copy_has_every_field_that_pika_knows(blocking: Blocking) -> None:
    fields = inspect.signature(BasicProperties).parameters
    given = BasicProperties(**{name: f"the {name}" for name in fields})
    call = call_of(blocking.channel, "orders", "created", BODY, given)
    (_, _, _, copied, _), _ = call({"other": 1})
    assert vars(copied) == {**vars(given), "headers": {"other": 1}}


def test_a_copy_shares_nothing_that_is_changed(blocking: Blocking) -> None:
    """The headers are replaced on the copy, not changed."""
    given = properties(headers={"color": "red"})
    call = call_of(blocking.channel, "orders", "created", BODY, given)
    (_, _, _, copied, _), _ = call({"other": 1})
    assert (copied.headers, given.headers) == ({"other": 1}, {"color": "red"})


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("orders", "created", BODY, None, True), {}),
        (
            (),
            {"exchange": "orders", "routing_key": "created", "body": BODY, "mandatory": True},
        ),
    ],
)
def test_arguments_may_be_given_in_every_way(
    args: Any, kwargs: Any, blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    hopspan.wrap(blocking.channel, **telemetry.settings).basic_publish(*args, **kwargs)
    ((method, (_, body)),) = connection.sent
    assert (method.exchange, method.routing_key, method.mandatory, body) == (
        "orders",
        "created",
        True,
        BODY,
    )


def test_parameters_that_a_newer_pika_adds_are_passed_through(blocking: Blocking) -> None:
    call = call_of(blocking.channel, "orders", "created", BODY, None, False, 7, immediate=True)
    args, kwargs = call({})
    assert (args[5:], kwargs) == ((7,), {"immediate": True})


@pytest.mark.parametrize("falsy", [{}, [], "", 0, False])
def test_falsy_properties_are_none_for_pika_and_so_for_us(
    falsy: Any, blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    hopspan.wrap(blocking.channel, **telemetry.settings).basic_publish("a", "b", BODY, falsy)
    assert connection.sent[0][1][0].headers == carried(telemetry)


def test_names_may_be_bytes(
    blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    """Since pika takes them, what we say of them is text, whatever they are."""
    exchange: Any = b"orders"
    routing_key: Any = b"\xff"
    channel = hopspan.wrap(blocking.channel, **telemetry.settings)
    channel.basic_publish(exchange, routing_key, BODY)
    assert telemetry.only.name == "publish orders:\\xff"
    assert connection.sent[0][0].exchange == b"orders"


def test_the_thread_that_publishes_is_the_clients(blocking: Blocking) -> None:
    """A channel is used on one thread."""
    thread = in_thread(
        lambda: points.basic_publish(blocking.channel, "a", "b", BODY) and threading.get_ident()
    )
    assert state_of(blocking.channel).thread == thread
    points.basic_publish(blocking.channel, "a", "b", BODY)
    assert state_of(blocking.channel).thread == thread


def test_what_another_instrumentation_has_is_left_to_it(
    blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    """The outer channel's publish is theirs, so the inner one's is not ours either."""
    blocking.inner._set_cookie(blocking.channel)
    hopspan.wrap(blocking.inner, **telemetry.settings).basic_publish("a", "b", BODY)
    assert telemetry.spans == []


def test_the_inner_channel_of_an_instrumented_one_is_not_left_alone(
    blocking: Blocking, telemetry: Telemetry
) -> None:
    blocking.inner._set_cookie(blocking.channel)
    hopspan.instrument("pika", **telemetry.settings)
    try:
        blocking.inner.basic_publish("a", "b", BODY)
    finally:
        hopspan.uninstrument()
    assert len(telemetry.spans) == 1


# -- consuming by callback -------------------------------------------------------------------------


def test_a_delivery_knows_its_queue_and_its_thread(blocking: Blocking) -> None:
    registration = points.basic_consume(blocking.channel, "billing", print, True)
    assert registration is not None
    method, header = deliver(), properties()
    made = in_thread(lambda: registration.make(blocking.channel, method, header, BODY))
    assert fields(made) == (blocking.channel, method, header, BODY, "billing", True)
    assert state_of(blocking.channel).thread not in {None, threading.get_ident()}


@pytest.mark.parametrize(("auto_ack", "settles"), [(False, True), (True, False)])
def test_a_consumer_with_auto_ack_does_not_settle(
    auto_ack: bool, settles: bool, blocking: Blocking
) -> None:
    registration = points.basic_consume(blocking.channel, "billing", print, auto_ack)
    assert registration is not None
    assert (registration.settles, registration.whom) == (settles, "a consumer of 'billing'")


def test_a_consumers_other_arguments_are_passed_through(blocking: Blocking) -> None:
    registration = points.basic_consume(
        blocking.channel, "billing", print, False, True, consumer_tag="mine", arguments={"x": 1}
    )
    assert registration is not None
    assert registration.call(len) == (
        ("billing", len, False, True),
        {"consumer_tag": "mine", "arguments": {"x": 1}},
    )


def test_what_a_blocking_channel_registers_of_its_own_is_left_alone(blocking: Blocking) -> None:
    """It enqueues; the handler runs later, and is wrapped where the user gave it."""
    internal = blocking.channel._on_consumer_message_delivery
    assert points.basic_consume(blocking.inner, "billing", internal) is None
    assert points.basic_get_callback(blocking.inner, "billing", internal) is None


def test_a_handler_is_wrapped_where_it_is_registered(
    channel: Channel, connection: Connection, telemetry: Telemetry
) -> None:
    connection.publisher_confirms = True
    hopspan.wrap(channel, policy=hopspan.ack_always, **telemetry.settings)
    names: list[str] = []

    def handler(*delivered: Any) -> None:
        names.append(hopspan.current().delivery.endpoint.destination)

    channel._rpc = lambda *args, **kwargs: None  # type: ignore[method-assign]
    tag = channel.basic_consume("billing", handler)
    channel._consumers[tag](channel, deliver(), properties(headers=SENT), BODY)
    assert names == ["orders:created:billing"]
    assert connection.sent == [(Basic.Ack(1, False), None)]
    assert [span.name for span in telemetry.spans] == ["process orders:created:billing"]
    assert telemetry.seen[0].parent == 2


def test_a_policy_on_auto_ack_is_refused(channel: Channel, telemetry: Telemetry) -> None:
    hopspan.wrap(channel, policy=hopspan.ack_always, **telemetry.settings)
    with pytest.raises(PolicyError, match="a consumer of 'billing'"):
        channel.basic_consume("billing", print, auto_ack=True)
    with pytest.raises(PolicyError, match="basic_get of 'billing'"):
        channel.basic_get("billing", print, auto_ack=True)


# -- getting ---------------------------------------------------------------------------------------


def test_a_get_knows_where_it_came_from(blocking: Blocking) -> None:
    assert points.basic_get(blocking.channel, "billing").endpoint.destination == "billing"


def test_an_empty_get_is_nothing(blocking: Blocking) -> None:
    fetch = points.basic_get(blocking.channel, "billing")
    assert fetch.read((None, None, None)) == []
    assert state_of(blocking.channel).fetched == {}


def test_a_get_is_remembered_until_it_is_handled(blocking: Blocking) -> None:
    """What only the call knew, and that a receive span has counted the message."""
    method, header = got(3), properties(message_id="m1")
    (made,) = points.basic_get(blocking.channel, "billing", True).read((method, header, BODY))
    assert fields(made) == (blocking.channel, method, header, BODY, "billing", True)
    found = PikaDelivery.of((method, header, BODY), blocking.channel)
    assert found is not None
    assert (fields(found), found.counted) == (fields(made), True)
    assert state_of(blocking.channel).thread == threading.get_ident()


def test_what_is_remembered_of_gets_is_bounded(
    blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "MOST", 2)
    fetch = points.basic_get(blocking.channel, "billing")
    for tag in (1, 2, 3):
        fetch.read((got(tag), properties(), BODY))
    assert list(state_of(blocking.channel).fetched) == [2, 3]


def test_a_get_and_its_handling_count_one_message(
    blocking: Blocking, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, header = got(), properties(headers=SENT)
    monkeypatch.setattr(BlockingChannel, "basic_get", lambda *_: (method, header, BODY))
    channel = hopspan.wrap(blocking.channel, **telemetry.settings)
    channel.basic_get("billing")
    with hopspan.process((method, header, BODY), via=channel, **telemetry.settings):
        pass
    points = telemetry.points("messaging.client.consumed.messages")
    assert [value for _, value in points] == [1]


def test_an_asynchronous_get_is_a_push(channel: Channel) -> None:
    registration = points.basic_get_callback(channel, "billing", print, True, 7, reason="x")
    assert registration is not None
    assert (registration.settles, registration.whom) == (False, "basic_get of 'billing'")
    assert registration.call(len) == (("billing", len, True, 7), {"reason": "x"})


# -- iterating -------------------------------------------------------------------------------------


def test_an_item_of_a_loop_is_a_delivery_and_a_tick_is_none(blocking: Blocking) -> None:
    make = points.consume(blocking.channel, "billing", True)
    method, header = deliver(), properties()
    assert make((None, None, None)) is None
    made = make((method, header, BODY))
    assert fields(made) == (blocking.channel, method, header, BODY, "billing", True)
    assert state_of(blocking.channel).thread == threading.get_ident()


class Turning:
    """A loop that takes note of being left."""

    def __init__(self) -> None:
        self.left = 0

    def leave(self) -> None:
        self.left += 1


def test_cancelling_leaves_the_loop(blocking: Blocking) -> None:
    loop: Any = Turning()
    points.remember_loop(blocking.channel, loop)
    points.cancel(blocking.channel)
    points.cancel(blocking.channel, "what a newer pika adds", requeue=True)
    assert loop.left == 2


def test_cancelling_without_a_loop_is_harmless(blocking: Blocking) -> None:
    points.cancel(blocking.channel)


def test_cancelling_after_the_loop_has_gone_is_harmless(blocking: Blocking) -> None:
    loop: Any = Turning()
    points.remember_loop(blocking.channel, loop)
    del loop
    gc.collect()
    points.cancel(blocking.channel)


# -- process ---------------------------------------------------------------------------------------


def test_settings_of_a_wrapped_channel_hold_for_process(
    blocking: Blocking, connection: Connection, telemetry: Telemetry
) -> None:
    channel = hopspan.wrap(blocking.channel, policy=hopspan.reject_on_error, **telemetry.settings)
    with pytest.raises(ValueError, match="bad"):
        with hopspan.process((got(), properties(), BODY), via=channel):
            raise ValueError("bad")
    assert connection.sent == [(Basic.Nack(1, False, False), None)]
    assert telemetry.spans[-1].attributes["hopspan.settlement"] == Verdict.REJECT.value  # type: ignore[index]
