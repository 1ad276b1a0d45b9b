"""Several messages that are handled as one: one span, and a verdict for each of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hopspan
from hopspan import Settlement, Verdict
from hopspan.testing import Message
from tests.unit.delivery.client import Channel, ClosedError, Letter
from tests.unit.delivery.ways import WAYS, Way, handle, raises, succeeds
from tests.unit.support import Seen, Telemetry

BAD = ValueError("bad")
CLOSED = ClosedError("closed")


def letters(way: Way, *names: str, channel: Channel | None = None) -> list[Any]:
    """Letters that came by one channel."""
    came_by = Channel() if channel is None else channel
    return [way.letter(name, came_by) for name in names]


def by_name(outcome: Any, delivery: Any) -> Settlement:
    """Acks what is good, and says why."""
    name = delivery.message.id
    return Settlement(Verdict.ACK if name.startswith("good") else Verdict.REJECT, name.strip("12"))


def process_span(telemetry: Telemetry) -> Seen:
    (span,) = (span for span in telemetry.seen if span.name.startswith("process"))
    return span


def test_a_batch_is_one_handling_of_so_many_messages(way: Way, telemetry: Telemetry) -> None:
    def body(_batch: Any) -> None:
        operation = hopspan.current()
        seen.append([each.message.id for each in operation.deliveries])
        seen.append(operation.delivery.native is batch[0])

    batch, seen = letters(way, "1", "2", "3"), list[Any]()
    way.run(batch, body, policy=hopspan.ack_always, **telemetry.settings)
    assert [["1", "2", "3"], True] == seen
    assert [("ack", "1"), ("ack", "2"), ("ack", "3")] == batch[0].channel.sent
    assert {
        "messaging.system": "letters",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.batch.message_count": 3,
        "hopspan.settlement": "ack",
    } == telemetry.only.attributes
    assert [3] == [value for _, value in telemetry.points("messaging.client.consumed.messages")]
    assert [1] == [value for _, value in telemetry.points("messaging.process.duration")]


@pytest.mark.parametrize(
    ("names", "sent", "told"),
    [
        (("good", "bad"), ["ack", "reject"], {}),
        (("good1", "good2"), ["ack", "ack"], {"": "ack", ".reason": "good"}),
        (("bad1", "bad2"), ["reject", "reject"], {"": "reject", ".reason": "bad"}),
    ],
)
def test_each_message_has_its_own_verdict_and_the_span_tells_what_is_common(
    names: Any, sent: list[str], told: dict[str, str], way: Way, telemetry: Telemetry
) -> None:
    batch = letters(way, *names)
    way.run(batch, succeeds, policy=by_name, **telemetry.settings)
    assert [*zip(sent, names, strict=True)] == batch[0].channel.sent
    attributes = process_span(telemetry).attributes
    prefix = "hopspan.settlement"
    assert {f"{prefix}{key}": value for key, value in told.items()} == {
        key: value for key, value in attributes.items() if key.startswith(prefix)
    }


@pytest.mark.parametrize("index", [0, 1])
def test_what_the_user_settled_of_a_batch_is_left_out(
    index: int, plain_way: Way, telemetry: Telemetry
) -> None:
    batch = letters(plain_way, "1", "2")
    plain_way.run(
        batch, lambda _: batch[index].requeue(), policy=hopspan.ack_always, **telemetry.settings
    )
    assert ["requeue", "ack"] == [verb for verb, _ in batch[0].channel.sent]
    assert {"requeue", "ack"} == {letter.verb for letter in batch}


def test_what_was_settled_before_is_left_out_and_said(
    plain_way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    batch = letters(plain_way, "1", "2")
    batch[1].ack()
    policy = hopspan.reject_on_error
    handle(plain_way, batch, raises(BAD), policy=policy, **telemetry.settings)
    assert [("ack", "2"), ("reject", "1")] == batch[0].channel.sent
    (warning,) = (each.message for each in logged.records if each.levelname == "WARNING")
    assert "came too late for a message of orders" in warning


@pytest.mark.parametrize(("settles", "escapes"), [(("1", "2"), False), (("1",), True), ((), True)])
def test_a_failure_stays_inside_only_where_every_message_is_settled(
    settles: tuple[str, ...], escapes: bool, telemetry: Telemetry
) -> None:
    def policy(outcome: Any, delivery: Any) -> Verdict:
        return Verdict.REJECT if delivery.message.id in settles else Verdict.LEAVE

    batch = letters(WAYS[0], "1", "2")
    escaped = handle(WAYS[0], batch, raises(BAD), policy=policy, **telemetry.settings)
    assert [("reject", name) for name in settles] == batch[0].channel.sent
    assert (BAD if escapes else None) is escaped


def test_a_settlement_that_fails_does_not_keep_the_others(way: Way, telemetry: Telemetry) -> None:
    batch = letters(way, "1", "2", "3", channel=Channel(fails={"2": CLOSED}))
    assert BAD is handle(
        way, batch, raises(BAD), policy=hopspan.reject_on_error, **telemetry.settings
    )
    assert [("reject", "1"), ("reject", "3")] == batch[0].channel.sent
    assert "hopspan.settlement" not in process_span(telemetry).attributes


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_is_interrupted_while_it_settles_still_ends_its_span(
    stop: BaseException, way: Way, telemetry: Telemetry
) -> None:
    batch = letters(way, "1", "2", channel=Channel(fails={"2": stop}))
    policy = hopspan.ack_always
    assert stop is handle(way, batch, succeeds, policy=policy, **telemetry.settings)
    assert ([("ack", "1")], 1) == (batch[0].channel.sent, len(telemetry.spans))


def test_a_batch_is_settled_on_the_clients_own_thread(plain_way: Way, telemetry: Telemetry) -> None:
    batch = letters(plain_way, "1", "2", channel=Channel(own_thread=True))
    plain_way.run(batch, succeeds, policy=hopspan.ack_always, **telemetry.settings)
    assert ([], 1) == (batch[0].channel.sent, len(batch[0].channel.callbacks))
    batch[0].channel.run()
    assert [("ack", "1"), ("ack", "2")] == batch[0].channel.sent


def test_hooks_are_told_all_of_a_batch(plain_way: Way, telemetry: Telemetry) -> None:
    told: list[Any] = []
    batch = letters(plain_way, "1", "2")
    hook = lambda operation, natives: told.append([*natives])  # noqa: E731
    plain_way.run(batch, succeeds, on_start=hook, **telemetry.settings)
    assert [batch] == told


@pytest.mark.parametrize("empty", [[], (), {}])
def test_an_empty_batch_is_handled_without_a_span(
    empty: Any, way: Way, telemetry: Telemetry
) -> None:
    """A poll that brought nothing: the body runs, and says what it says."""

    def body(batch: Any) -> tuple[bool, Any]:
        return bool(hopspan.current()), batch

    settings = {"policy": hopspan.ack_always, **telemetry.settings}
    assert (False, empty) == way.run(empty, body, **settings)
    assert [] == telemetry.spans


def test_messages_of_two_clients_are_no_batch() -> None:
    with pytest.raises(hopspan.UnknownMessageError):
        hopspan.process([Letter(), Message()])


def test_a_message_that_was_settled_before_does_not_keep_the_others_from_it(
    telemetry: Telemetry,
) -> None:
    first, second, third = Message(), Message(), Message()
    second.reject()
    with hopspan.process(
        [first, second, third], policy=hopspan.reject_on_error, **telemetry.settings
    ):
        pass
    assert [each.verdict for each in (first, second, third)] == [
        hopspan.Verdict.ACK,
        hopspan.Verdict.REJECT,
        hopspan.Verdict.ACK,
    ]
