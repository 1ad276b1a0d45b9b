"""Reading what pika hands out, and settling it."""

from __future__ import annotations

from typing import Any

import pytest
from pika.channel import Channel
from pika.spec import Basic

import hopspan
from hopspan.adapters import pika as adapter
from hopspan.adapters.pika.channels import Fetched, Received, state_of
from hopspan.adapters.pika.deliveries import (
    closed,
    delivery,
    given,
    handed,
    is_open,
    opened,
    owner,
    refusal,
    same,
    settle,
)
from hopspan.model import Delivery, Endpoint, MessageInfo, Settlement, Verdict
from hopspan.processing import Adapter
from tests.unit.adapters.pika.conftest import (
    Blocking,
    Connection,
    Handle,
    deliver,
    got,
    properties,
)

BODY = b"body"


# -- finding the message ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [deliver, got])
@pytest.mark.parametrize(("before", "after"), [((), ()), (("self",), ()), ((), ("extra",))])
def test_a_message_is_found_among_a_handlers_arguments(
    kind: Any, before: Any, after: Any, channel: Channel
) -> None:
    method, header = kind(), properties()
    assert handed((*before, channel, method, header, BODY, *after)) == [
        Received(channel, method, header, BODY)
    ]


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
    assert handed(args) is None


def test_a_message_with_its_channel_as_via(channel: Channel) -> None:
    method, header = deliver(), properties()
    assert given((method, header, BODY), channel) == [Received(channel, method, header, BODY)]


def test_a_message_with_its_channel_in_it(channel: Channel) -> None:
    method, header = deliver(), properties()
    expected = [Received(channel, method, header, BODY)]
    assert given((channel, method, header, BODY), None) == expected


def test_the_messages_own_channel_goes_before_via(channel: Channel, blocking: Blocking) -> None:
    found = given((channel, deliver(), properties(), BODY), blocking.channel)
    assert found is not None
    assert found[0].channel is channel


def test_a_list_of_messages(channel: Channel) -> None:
    one, two, header = deliver(1), deliver(2), properties()
    assert given([(one, header, BODY), (channel, two, header, BODY)], channel) == [
        Received(channel, one, header, BODY),
        Received(channel, two, header, BODY),
    ]


@pytest.mark.parametrize(
    "message", [(None, None, None), [], [(None, None, None)], [[(None, None, None)]]]
)
def test_an_empty_get_is_no_message_and_no_mistake(message: Any, channel: Channel) -> None:
    assert given(message, channel) == []


@pytest.mark.parametrize(
    "message",
    [
        None,
        "text",
        BODY,
        3,
        (),
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
    assert given(message, channel) is None


def test_without_a_channel_a_message_cannot_be_settled() -> None:
    assert given((deliver(), properties(), BODY), None) is None


def test_what_only_basic_get_knew_is_remembered(channel: Channel) -> None:
    method, header = got(), properties()
    state_of(channel).fetched[1] = Fetched(method, "billing", True)
    assert given((method, header, BODY), channel) == [
        Received(channel, method, header, BODY, "billing", True)
    ]


def test_another_delivery_of_the_same_tag_is_not_mistaken(channel: Channel) -> None:
    """After a reconnect tags begin again."""
    method, header = got(), properties()
    state_of(channel).fetched[1] = Fetched(got(), "billing", True)
    assert given((method, header, BODY), channel) == [Received(channel, method, header, BODY)]


# -- as a value ------------------------------------------------------------------------------------


def read(channel: Any, method: Any = None, header: Any = None, **fields: Any) -> Delivery:
    native = Received(channel, method or deliver(), header or properties(), BODY)
    return delivery(native._replace(**fields))


ORDERS = Endpoint("rabbitmq", "orders:created", server_address="broker", server_port=5673)
ATTRIBUTES = {
    "messaging.rabbitmq.message.delivery_tag": 1,
    "messaging.rabbitmq.destination.routing_key": "created",
}


def test_a_delivery_as_a_value(channel: Channel) -> None:
    header = properties(headers={"a": 1}, message_id="m1", correlation_id="c1")
    native = Received(channel, deliver(), header, BODY, "billing", False)
    assert delivery(native) == Delivery(
        ORDERS._replace(destination="orders:created:billing"),
        MessageInfo("m1", "c1", ATTRIBUTES),
        {"a": 1},
        native,
        redelivered=False,
        attempt=1,
        settles=True,
        counted=False,
    )


def test_without_a_queue_it_is_named_by_exchange_and_routing_key(channel: Channel) -> None:
    assert read(channel).endpoint == ORDERS


def test_headers_are_the_clients_own_object(channel: Channel) -> None:
    headers = {"a": 1}
    assert read(channel, header=properties(headers=headers)).headers is headers


@pytest.mark.parametrize("headers", [None, [], "text"])
def test_headers_that_are_no_table_are_none(headers: Any, channel: Channel) -> None:
    header = properties()
    header.headers = headers
    assert read(channel, header=header).headers is None


def test_an_empty_routing_key_is_not_an_attribute(channel: Channel) -> None:
    method = Basic.Deliver("c1", 1, False, "orders", "")
    assert read(channel, method).message.attributes == {
        "messaging.rabbitmq.message.delivery_tag": 1
    }


def test_history_is_part_of_it(channel: Channel) -> None:
    header = properties(
        headers={
            "x-delivery-count": 2,
            "x-death": [{"reason": "rejected", "queue": "orders", "count": 1}],
        }
    )
    found = read(channel, deliver(redelivered=True), header)
    assert (found.redelivered, found.attempt, found.message.attributes) == (
        True,
        3,
        {
            **ATTRIBUTES,
            "hopspan.death.reason": "rejected",
            "hopspan.death.queue": "orders",
            "hopspan.death.count": 1,
        },
    )


@pytest.mark.parametrize(("auto_ack", "settles"), [(True, False), (False, True)])
def test_whether_it_is_to_be_settled_is_what_the_call_said(
    auto_ack: bool, settles: bool, channel: Channel
) -> None:
    assert read(channel, auto_ack=auto_ack).settles is settles


@pytest.mark.parametrize(("unacked", "settles"), [({"c1"}, False), ({"c2"}, True), (set(), True)])
def test_else_it_is_what_pika_knows_of_the_consumer(
    unacked: set[str], settles: bool, blocking: Blocking
) -> None:
    blocking.inner._consumers_with_noack = unacked
    assert (read(blocking.channel).settles, read(blocking.inner).settles) == (settles, settles)


def test_a_got_message_has_no_consumer(channel: Channel) -> None:
    channel._consumers_with_noack = {"c1", None}  # type: ignore[arg-type]
    assert read(channel, got()).settles in {True, False}


@pytest.mark.parametrize("unacked", [None, ["c1"], object()])
def test_a_pika_without_that_knowledge_tells_nothing(unacked: Any, channel: Channel) -> None:
    channel._consumers_with_noack = unacked
    assert read(channel).settles is True


def test_what_a_receive_has_counted_is_counted(channel: Channel) -> None:
    state_of(channel).fetched[1] = Fetched(got(), "billing", False)
    assert (read(channel).counted, read(channel, deliver(2)).counted) == (True, False)


# -- identity --------------------------------------------------------------------------------------


def test_one_delivery_is_one_method_object(channel: Channel) -> None:
    """Methods compare by value, and two channels have the same tags."""
    method, header = deliver(), properties()
    mine = Received(channel, method, header, BODY)
    assert same(mine, Received(None, method, header, BODY, "orders")) is True
    assert same(mine, Received(channel, deliver(), header, BODY)) is False


def test_the_owner_is_the_channel(channel: Channel) -> None:
    assert owner(Received(channel, deliver(), properties(), BODY)) is channel


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
    native = Received(getattr(blocking, which), deliver(), properties(), BODY)
    settle(native, Settlement(verdict))
    assert [method for method, _ in connection.sent] == sent


@pytest.mark.parametrize(("state", "open_"), [(Channel.OPEN, True), (Channel.CLOSED, False)])
def test_whether_the_channel_can_still_settle(state: int, open_: bool, blocking: Blocking) -> None:
    blocking.inner._set_state(state)
    for channel in blocking:
        assert is_open(Received(channel, deliver(), properties(), BODY)) is open_


def test_a_delivery_is_entered_in_the_ledger_until_it_is_closed(
    channel: Channel, handling: Handle
) -> None:
    native = Received(channel, deliver(), properties(), BODY, "orders", False)
    processing = handling(native)
    ledger = state_of(channel).ledger
    assert ledger.known(1, multiple=False) == [(processing, native)]
    processing.finish()
    assert ledger.known(1, multiple=False)[0] != (processing, native)


def test_what_was_fetched_is_forgotten_when_it_is_closed(
    channel: Channel, handling: Handle
) -> None:
    method = got()
    state_of(channel).fetched[1] = Fetched(method, "orders", False)
    handling(Received(channel, method, properties(), BODY)).finish()
    assert state_of(channel).fetched == {}


def test_what_was_settled_before_is_known(channel: Channel, handling: Handle) -> None:
    native = Received(channel, deliver(), properties(), BODY, "orders", False)
    state_of(channel)
    channel.basic_ack(1)
    processing = handling(native, policy=hopspan.reject_on_error)
    assert opened(native, processing) is Verdict.ACK
    processing.finish()
    closed(native, processing)


def test_a_policy_settles_once_on_the_wire(
    blocking: Blocking, handling: Handle, connection: Connection
) -> None:
    native = Received(blocking.channel, deliver(), properties(), BODY, "orders", False)
    processing = handling(native, policy=hopspan.ack_always)
    blocking.inner.basic_nack(1, requeue=False)
    processing.finish()
    assert [method for method, _ in connection.sent] == [Basic.Nack(1, False, False)]


# -- refusals --------------------------------------------------------------------------------------


def test_dead_lettering_is_the_brokers_own() -> None:
    assert refusal(hopspan.dead_letter("dlt", producer=None), object()) == (
        "RabbitMQ dead-letters by itself. Declare the queue with the argument "
        "x-dead-letter-exchange and use policy=hopspan.reject_on_error"
    )


@pytest.mark.parametrize(
    "policy", [hopspan.manual, hopspan.reject_on_error, hopspan.requeue_times(3)]
)
def test_other_policies_work(policy: hopspan.Policy) -> None:
    assert refusal(policy) is None


def test_a_pause_is_refused() -> None:
    """RabbitMQ hands out at once what was requeued."""
    assert refusal(hopspan.requeue_times(3, pause=0.5)) == (
        "RabbitMQ hands a requeued message out again at once. Leave out pause=, or dead-letter to "
        "a queue whose messages expire back (x-message-ttl, x-dead-letter-exchange)"
    )


def test_the_module_is_an_adapter() -> None:
    """Every name of the protocol is there."""
    wanted = {*Adapter.__annotations__, *(n for n in vars(Adapter) if not n.startswith("_"))}
    assert {name for name in wanted if not hasattr(adapter, name)} == set()
