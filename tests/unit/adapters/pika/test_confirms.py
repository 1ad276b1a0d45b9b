"""Publisher confirms on pika's asynchronous channel: a publish ends when the broker has said."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.context import attach, detach, set_value
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.frame import Method
from pika.spec import Basic

import hopspan
from hopspan.adapters.pika import confirms
from hopspan.adapters.pika.channel import state_of
from tests.unit.adapters.pika.conftest import Blocking, Connection, properties
from tests.unit.support import Telemetry


@pytest.fixture
def confirming(channel: Channel, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """A wrapped channel in confirm mode."""
    monkeypatch.setattr(channel, "_rpc", lambda *args, **kwargs: None)
    hopspan.wrap(channel, **telemetry.settings)
    channel.confirm_delivery(lambda frame: None)
    return channel


def publish(channel: Channel, *keys: str) -> None:
    for key in keys:
        channel.basic_publish("orders", key, b"body")


def answer(channel: Channel, method: Any) -> None:
    """Let the broker say something."""
    channel.callbacks.process(1, method.INDEX and type(method), channel, Method(1, method))


def ended(telemetry: Telemetry) -> list[tuple[str, Any]]:
    return [
        (span.name.rpartition(":")[2], span.attributes.get("error.type")) for span in telemetry.seen
    ]


def test_a_publish_is_open_until_it_is_confirmed(confirming: Channel, telemetry: Telemetry) -> None:
    publish(confirming, "a")
    assert telemetry.spans == []
    answer(confirming, Basic.Ack(1))
    assert ended(telemetry) == [("a", None)]


def test_confirms_are_counted_from_one(confirming: Channel, telemetry: Telemetry) -> None:
    publish(confirming, "a", "b", "c")
    for tag in (2, 1, 3):
        answer(confirming, Basic.Ack(tag))
    assert ended(telemetry) == [("b", None), ("a", None), ("c", None)]


def test_a_confirm_of_many_ends_all_up_to_it(confirming: Channel, telemetry: Telemetry) -> None:
    publish(confirming, "a", "b", "c")
    answer(confirming, Basic.Ack(2, multiple=True))
    assert ended(telemetry) == [("a", None), ("b", None)]


def test_a_confirm_of_one_ends_one(confirming: Channel, telemetry: Telemetry) -> None:
    publish(confirming, "a", "b")
    answer(confirming, Basic.Ack(2))
    assert ended(telemetry) == [("b", None)]


def test_a_nack_is_a_failure(confirming: Channel, telemetry: Telemetry) -> None:
    publish(confirming, "a", "b")
    answer(confirming, Basic.Nack(2, multiple=True))
    assert ended(telemetry) == [("a", "nack"), ("b", "nack")]


def test_a_confirm_of_something_unknown_is_harmless(
    confirming: Channel, telemetry: Telemetry
) -> None:
    answer(confirming, Basic.Ack(7))
    answer(confirming, Basic.Ack(7, multiple=True))
    assert telemetry.spans == []


def test_publishes_that_are_not_traced_are_counted_too(
    confirming: Channel, telemetry: Telemetry
) -> None:
    """The broker counts them as well."""
    token = attach(set_value("suppress_instrumentation", True))
    publish(confirming, "silent")
    detach(token)
    publish(confirming, "a")
    answer(confirming, Basic.Ack(1))
    assert ended(telemetry) == []
    answer(confirming, Basic.Ack(2))
    assert ended(telemetry) == [("a", None)]


def test_a_publish_that_failed_is_not_counted(
    confirming: Channel, connection: Connection, telemetry: Telemetry
) -> None:
    connection.error = ConnectionError("closed")
    with pytest.raises(ConnectionError):
        publish(confirming, "failed")
    connection.error = None
    publish(confirming, "a")
    answer(confirming, Basic.Ack(1))
    assert ended(telemetry) == [("failed", "ConnectionError"), ("a", None)]


def returned(channel: Channel, headers: Any) -> None:
    method = Basic.Return(312, "NO_ROUTE", "orders", "a")
    channel.callbacks.process(
        1, "_on_return", channel, channel, method, properties(headers=headers), b"body"
    )


def sent_headers(connection: Connection, index: int = -1) -> Any:
    return connection.sent[index][1][0].headers


def test_a_returned_message_is_a_failure_whose_confirm_changes_nothing(
    confirming: Channel, connection: Connection, telemetry: Telemetry
) -> None:
    """An unroutable message comes back before its confirm."""
    publish(confirming, "a", "b")
    returned(confirming, sent_headers(connection, 0))
    answer(confirming, Basic.Ack(2, multiple=True))
    assert ended(telemetry) == [("a", "no-route"), ("b", None)]
    assert telemetry.seen[0].status == ("ERROR", "NO_ROUTE")


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"color": "red"},
        {"traceparent": 3},
        {"traceparent": f"00-{1:032x}-{2:016x}-01"},
        {"id": "x" + "0" * 17},
    ],
)
def test_a_returned_message_that_is_not_ours_is_harmless(
    headers: Any, confirming: Channel, telemetry: Telemetry
) -> None:
    publish(confirming, "a")
    returned(confirming, headers)
    assert ended(telemetry) == []


def test_a_channel_that_is_closed_fails_what_was_open(
    confirming: Channel, telemetry: Telemetry
) -> None:
    publish(confirming, "a", "b")
    confirming.callbacks.process(
        1, "_on_channel_close", confirming, confirming, ChannelClosedByBroker(404, "NOT_FOUND")
    )
    assert ended(telemetry) == [("a", "not-found"), ("b", "not-found")]


def test_a_channel_that_is_closed_in_another_way_has_its_reasons_class(
    confirming: Channel, telemetry: Telemetry
) -> None:
    publish(confirming, "a")
    confirming.callbacks.process(
        1, "_on_channel_close", confirming, confirming, ConnectionError("reset")
    )
    assert ended(telemetry) == [("a", "ConnectionError")]


def test_so_many_at_most_are_waited_for(
    confirming: Channel,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    """An application that never looks at its confirms must not fill the memory."""
    monkeypatch.setattr(confirms, "_MOST_PENDING", 2)
    publish(confirming, "a", "b", "c", "d")
    assert ended(telemetry) == [("c", None), ("d", None)]
    assert [record.message for record in logged.records if record.name == "hopspan"] == [
        "more than 2 publishes wait for their confirm; further ones are not waited for"
    ]


def test_without_confirms_a_publish_ends_at_once(channel: Channel, telemetry: Telemetry) -> None:
    hopspan.wrap(channel, **telemetry.settings)
    publish(channel, "a")
    assert ended(telemetry) == [("a", None)]


def test_the_users_callback_is_called_all_the_same(
    channel: Channel, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_rpc", lambda *args, **kwargs: None)
    hopspan.wrap(channel, **telemetry.settings)
    heard: list[int] = []
    channel.confirm_delivery(lambda frame: heard.append(frame.method.delivery_tag))
    publish(channel, "a")
    answer(channel, Basic.Ack(1))
    assert (heard, ended(telemetry)) == ([1], [("a", None)])


def test_confirming_twice_is_once(confirming: Channel, telemetry: Telemetry) -> None:
    first = state_of(confirming).confirms
    confirming.confirm_delivery(lambda frame: None)
    assert state_of(confirming).confirms is first


def test_a_blocking_channel_waits_for_its_own_confirms(
    blocking: Blocking, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its publishes return when they are confirmed: they end by themselves."""
    monkeypatch.setattr(blocking.inner, "_rpc", lambda *args, **kwargs: None)
    hopspan.wrap(blocking.inner, **telemetry.settings)
    internal: Any = blocking.channel._on_puback_message_returned
    blocking.inner.confirm_delivery(internal)
    publish(blocking.inner, "a")
    assert (state_of(blocking.inner).confirms, ended(telemetry)) == (None, [("a", None)])


def test_other_methods_than_publishes_are_not_counted(
    confirming: Channel, telemetry: Telemetry
) -> None:
    confirming.basic_ack(1)
    publish(confirming, "a")
    answer(confirming, Basic.Ack(1))
    assert ended(telemetry) == [("a", None)]


def test_a_fault_of_ours_does_not_reach_the_clients_loop(
    confirming: Channel, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    returned(confirming, 3)
    returned(confirming, 3)
    assert len([record for record in logged.records if record.name == "hopspan"]) == 1


def test_confirms_that_were_switched_on_before_us_are_remarked_once(
    channel: Channel,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(channel, "_rpc", lambda *args, **kwargs: None)
    channel.confirm_delivery(lambda frame: None)
    hopspan.wrap(channel, **telemetry.settings)
    publish(channel, "a", "b")
    assert ended(telemetry) == [("a", None), ("b", None)]
    assert [record.message for record in logged.records if record.name == "hopspan"] == [
        "publisher confirms were switched on before hopspan came to the channel, so spans do not "
        "tell what the broker confirmed: wrap or instrument before confirm_delivery"
    ]
