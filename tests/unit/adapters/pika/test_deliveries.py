"""Reading what pika hands out, and settling it."""

from __future__ import annotations

from typing import Any

import pytest
from pika.channel import Channel
from pika.spec import Basic

import hopspan
from hopspan.adapters.pika import ADAPTER, PikaDelivery
from hopspan.adapters.pika.channel import state_of
from hopspan.adapters.pika.points import basic_get
from hopspan.delivery import Adapter
from hopspan.delivery.batch import Batch, given
from hopspan.model import Endpoint, MessageInfo, PolicyError, Settlement, Verdict
from tests.unit.adapters.pika.conftest import (
    Begin,
    Blocking,
    Connection,
    deliver,
    end,
    fields,
    got,
    properties,
)
from tests.unit.support import Telemetry

BODY = b"body"


def of(channel: Any, method: Any = None, header: Any = None) -> PikaDelivery:
    """The delivery of a message, as `hopspan.process` finds it."""
    found = PikaDelivery.of((method or deliver(), header or properties(), BODY), channel)
    assert found is not None
    return found


# -- finding the message ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [deliver, got])
@pytest.mark.parametrize(("before", "after"), [((), ()), (("self",), ()), ((), ("extra",))])
def test_a_message_is_found_among_a_handlers_arguments(
    kind: Any, before: Any, after: Any, channel: Channel
) -> None:
    method, header = kind(), properties()
    found = PikaDelivery.handed((*before, channel, method, header, BODY, *after), None)
    assert fields(found) == (channel, method, header, BODY, None, False)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("text",),
        (deliver(),),
        (deliver(), properties(), BODY),
        ("channel", deliver(), properties()),
        ("channel", Basic.Ack(), properties(), BODY),
    ],
)
def test_what_is_no_message_is_not_found(args: Any) -> None:
    assert PikaDelivery.handed(args, None) is None


def test_a_message_with_its_channel_as_via(channel: Channel) -> None:
    method, header = deliver(), properties()
    found = PikaDelivery.given((method, header, BODY), channel)
    assert fields(found) == (channel, method, header, BODY, None, False)


def test_a_message_with_its_channel_in_it(channel: Channel) -> None:
    method, header = deliver(), properties()
    found = PikaDelivery.given((channel, method, header, BODY), None)
    assert fields(found) == (channel, method, header, BODY, None, False)


def test_the_messages_own_channel_goes_before_via(channel: Channel, blocking: Blocking) -> None:
    found: Any = PikaDelivery.given((channel, deliver(), properties(), BODY), blocking.channel)
    assert found.channel is channel


def test_a_list_of_messages(channel: Channel) -> None:
    one, two, header = deliver(1), deliver(2), properties()
    found: Any = given(PikaDelivery, [(one, header, BODY), (channel, two, header, BODY)], channel)
    assert type(found) is Batch
    assert [fields(each) for each in found.members] == [
        (channel, one, header, BODY, None, False),
        (channel, two, header, BODY, None, False),
    ]


@pytest.mark.parametrize("message", [(None, None, None), []])
def test_an_empty_get_is_no_message_and_no_mistake(message: Any, channel: Channel) -> None:
    assert given(PikaDelivery, message, channel) == ()


@pytest.mark.parametrize(
    "message",
    [
        None,
        "text",
        BODY,
        3,
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        deliver(),
        {"method": deliver()},
        [(1, 2, 3)],
        [(deliver(), properties(), BODY), 3],
    ],
)
def test_what_was_given_and_is_no_message(message: Any, channel: Channel) -> None:
    assert given(PikaDelivery, message, channel) is None


def test_without_a_channel_a_message_cannot_be_settled() -> None:
    assert given(PikaDelivery, (deliver(), properties(), BODY), None) is None


def fetch(channel: Any, message: Any, *, auto_ack: bool = False) -> None:
    """`basic_get` has brought a message from the queue `billing`."""
    basic_get(channel, "billing", auto_ack).read(message)


def test_what_only_basic_get_knew_is_remembered(channel: Channel) -> None:
    method, header = got(), properties()
    fetch(channel, (method, header, BODY), auto_ack=True)
    assert fields(of(channel, method, header)) == (channel, method, header, BODY, "billing", True)


def test_another_delivery_of_the_same_tag_is_not_mistaken(channel: Channel) -> None:
    fetch(channel, (got(), properties(), BODY), auto_ack=True)
    method, header = got(), properties()
    assert fields(of(channel, method, header)) == (channel, method, header, BODY, None, False)


# -- what it says of its message -------------------------------------------------------------------

ORDERS = Endpoint("rabbitmq", "orders:created", server_address="broker", server_port=5673)
ATTRIBUTES = {"messaging.rabbitmq.message.delivery_tag": 1}


def test_all_that_a_policy_may_ask_it(blocking: Blocking) -> None:
    header = properties(headers={"a": 1}, message_id="m1", correlation_id="c1")
    found = of(blocking.channel, deliver(), header)
    identity = {"messaging.message.id": "m1", "messaging.message.conversation_id": "c1"}
    assert (found.endpoint, found.message, found.message_id) == (
        ORDERS,
        MessageInfo("m1", "c1", {**ATTRIBUTES, **identity}),
        "m1",
    )
    assert (found.headers, found.redelivered, found.attempt) == ({"a": 1}, False, 1)
    assert (found.settles, found.counted, found.native, found.source) == (
        True,
        False,
        found,
        blocking.channel,
    )


def test_with_its_queue_it_is_named_by_it_as_well(channel: Channel) -> None:
    method, header = got(), properties()
    fetch(channel, (method, header, BODY))
    expected = ORDERS._replace(destination="orders:created:billing")
    assert of(channel, method, header).endpoint == expected


def test_without_a_queue_it_is_named_by_exchange_and_routing_key(channel: Channel) -> None:
    assert of(channel).endpoint == ORDERS


def test_headers_are_the_clients_own_object(channel: Channel) -> None:
    headers = {"a": 1}
    assert of(channel, header=properties(headers=headers)).headers is headers


@pytest.mark.parametrize("headers", [None, [], "text"])
def test_headers_that_are_no_table_are_none(headers: Any, channel: Channel) -> None:
    header = properties()
    header.headers = headers
    assert of(channel, header=header).headers is None


@pytest.mark.parametrize(("routing_key", "said"), [("created", "created"), ("", None)])
def test_a_span_says_the_routing_key_unless_it_is_empty(
    routing_key: str, said: str | None, channel: Channel, telemetry: Telemetry
) -> None:
    message = Basic.Deliver("c1", 1, False, "orders", routing_key), properties(), BODY
    with hopspan.process(message, via=channel, **telemetry.settings):
        pass
    attributes = telemetry.only.attributes
    assert attributes.get("messaging.rabbitmq.destination.routing_key") == said


def test_history_is_part_of_it(channel: Channel) -> None:
    header = properties(
        headers={
            "x-delivery-count": 2,
            "x-death": [{"reason": "rejected", "queue": "orders", "count": 1}],
        }
    )
    found = of(channel, deliver(redelivered=True), header)
    assert (found.redelivered, found.attempt, found.message.attributes) == (
        True,
        3,
        {
            **ATTRIBUTES,
            "hopspan.redelivered": True,
            "hopspan.attempt": 3,
            "hopspan.death.reason": "rejected",
            "hopspan.death.queue": "orders",
            "hopspan.death.count": 1,
        },
    )


@pytest.mark.parametrize(("auto_ack", "settles"), [(True, False), (False, True)])
def test_whether_it_is_to_be_settled_is_what_the_call_said(
    auto_ack: bool, settles: bool, channel: Channel
) -> None:
    method, header = got(), properties()
    fetch(channel, (method, header, BODY), auto_ack=auto_ack)
    assert of(channel, method, header).settles is settles


@pytest.mark.parametrize(("unacked", "settles"), [({"c1"}, False), ({"c2"}, True), (set(), True)])
def test_else_it_is_what_pika_knows_of_the_consumer(
    unacked: set[str], settles: bool, blocking: Blocking
) -> None:
    blocking.inner._consumers_with_noack = unacked
    assert (of(blocking.channel).settles, of(blocking.inner).settles) == (settles, settles)


def test_a_got_message_has_no_consumer(channel: Channel) -> None:
    channel._consumers_with_noack = {"c1", None}  # type: ignore[arg-type]
    assert of(channel, got()).settles in {True, False}


@pytest.mark.parametrize("unacked", [None, ["c1"], object()])
def test_a_pika_without_that_knowledge_tells_nothing(unacked: Any, channel: Channel) -> None:
    channel._consumers_with_noack = unacked
    assert of(channel).settles is True


def test_what_a_receive_has_counted_is_counted(channel: Channel) -> None:
    fetch(channel, (got(), properties(), BODY))
    assert (of(channel).counted, of(channel, deliver(2)).counted) == (True, False)


# -- identity --------------------------------------------------------------------------------------


def test_who_handles_this_very_message_is_found(channel: Channel, telemetry: Telemetry) -> None:
    """By pika's own object: methods compare by value."""
    method, header = deliver(), properties()
    with hopspan.process((method, header, BODY), via=channel, **telemetry.settings) as going:
        assert of(channel, method, header).ongoing() is going
        assert of(channel, deliver(), header).ongoing() is None
        assert of(channel, deliver(2), header).ongoing() is None
    assert of(channel, method, header).ongoing() is None


def test_the_same_tag_of_another_channel_is_another_message(
    channel: Channel, blocking: Blocking, telemetry: Telemetry
) -> None:
    method, header = deliver(), properties()
    with hopspan.process((method, header, BODY), via=channel, **telemetry.settings):
        assert of(blocking.channel, method, header).ongoing() is None


def test_of_two_handlings_of_a_message_the_one_that_can_be_joined_is_found(
    channel: Channel, telemetry: Telemetry
) -> None:
    """In a batch, alone in its block, and once more: the last joins the one before."""
    message: Any = deliver(), properties(), BODY
    settings = {"via": channel, **telemetry.settings}
    with hopspan.process([message], **settings), hopspan.process(message, **settings) as alone:
        with hopspan.process(message, **settings) as inner:
            assert inner is alone
    assert len(telemetry.spans) == 2


def test_a_turn_that_has_left_a_message_unsettled_is_continued(
    channel: Channel, telemetry: Telemetry
) -> None:
    message = deliver(), properties(), BODY
    for _ in hopspan.each([message], via=channel, **telemetry.settings):
        pass
    (turn,) = telemetry.spans
    found = of(channel, *message[:2]).finished_turn()
    assert (found, of(channel, deliver(2)).finished_turn()) == (turn.context, None)
    channel.basic_ack(1)
    assert of(channel, *message[:2]).finished_turn() is None


def test_a_turn_of_a_message_that_needs_no_settlement_is_continued(
    channel: Channel, telemetry: Telemetry
) -> None:
    """Its block in another thread, say, is no second process span, and counts nothing."""
    message = got(), properties(), BODY
    fetch(channel, message, auto_ack=True)
    settings = {"via": channel, **telemetry.settings}
    for _ in hopspan.each([message], **settings):
        pass
    with hopspan.process(message, **settings):
        pass
    turn, block = telemetry.spans
    assert (block.parent, block.name) == (turn.context, "continue orders:created:billing")


def test_a_settlement_of_several_is_not_of_those_that_need_none(
    channel: Channel, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    message = got(), properties(), BODY
    fetch(channel, message, auto_ack=True)
    for _ in hopspan.each([message], via=channel, **telemetry.settings):
        pass
    channel.basic_nack(0, multiple=True)
    assert (len(telemetry.spans), logged.records) == (1, [])


# -- settling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "sent"),
    [
        (Verdict.ACK, [Basic.Ack(1, False)]),
        (Verdict.REQUEUE, [Basic.Nack(1, False, True)]),
        (Verdict.REJECT, [Basic.Nack(1, False, False)]),
        (Verdict.LEAVE, []),
    ],
)
@pytest.mark.parametrize("which", ["channel", "inner"])
def test_a_verdict_on_the_wire(
    which: str, verdict: Verdict, sent: list[Any], blocking: Blocking, connection: Connection
) -> None:
    of(getattr(blocking, which)).settle(Settlement(verdict))
    assert connection.methods == sent


@pytest.mark.parametrize(("state", "open_"), [(Channel.OPEN, True), (Channel.CLOSED, False)])
def test_whether_the_channel_can_still_settle(state: int, open_: bool, blocking: Blocking) -> None:
    blocking.inner._set_state(state)
    for channel in blocking:
        assert of(channel).is_open() is open_


def test_what_was_fetched_is_forgotten_when_it_is_handled(
    channel: Channel, telemetry: Telemetry
) -> None:
    message = got(), properties(), BODY
    fetch(channel, message)
    with hopspan.process(message, via=channel, **telemetry.settings):
        pass
    assert state_of(channel).fetched == {}


def test_what_was_settled_before_is_not_settled_again(
    channel: Channel, connection: Connection, begin: Begin, logged: pytest.LogCaptureFixture
) -> None:
    state_of(channel)
    channel.basic_ack(1)
    delivery = begin(channel, policy=hopspan.reject_on_error)
    assert delivery.verdict is Verdict.ACK
    end(delivery)
    assert connection.methods == [Basic.Ack(1, False)]
    assert "it was settled before this handler began" in logged.text


def test_a_policy_settles_once_on_the_wire(
    blocking: Blocking, begin: Begin, connection: Connection
) -> None:
    delivery = begin(blocking.channel, policy=hopspan.ack_always)
    blocking.inner.basic_nack(1, requeue=False)
    end(delivery)
    assert connection.methods == [Basic.Nack(1, False, False)]


# -- refusals --------------------------------------------------------------------------------------


def test_dead_lettering_is_the_brokers_own(channel: Channel) -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.wrap(channel, policy=hopspan.dead_letter("dlt", producer=None))
    assert str(raised.value).endswith(
        "RabbitMQ dead-letters by itself. Declare the queue with the argument "
        "x-dead-letter-exchange and use policy=hopspan.reject_on_error"
    )


@pytest.mark.parametrize(
    "policy", [hopspan.manual, hopspan.reject_on_error, hopspan.requeue_times(3)]
)
def test_other_policies_work(policy: hopspan.Policy, channel: Channel) -> None:
    assert hopspan.wrap(channel, policy=policy) is channel


def test_a_pause_is_refused(channel: Channel) -> None:
    """RabbitMQ hands out at once what was requeued."""
    with pytest.raises(PolicyError) as raised:
        hopspan.wrap(channel, policy=hopspan.requeue_times(3, pause=0.5))
    assert str(raised.value).endswith(
        "RabbitMQ hands a requeued message out again at once. Leave out pause=, or dead-letter to "
        "a queue whose messages expire back (x-message-ttl, x-dead-letter-exchange)"
    )


def test_it_is_an_adapter_of_its_deliveries() -> None:
    assert (type(ADAPTER), ADAPTER.name, ADAPTER.delivery) == (Adapter, "pika", PikaDelivery)
