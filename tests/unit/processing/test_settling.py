"""What becomes of deliveries on the wire: noted whoever sent it, and never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.context import Context, get_current
from opentelemetry.trace import SpanKind

from hopspan.model import Delivery, Settlement, Verdict
from hopspan.processing.settling import Settling, refused, summary
from hopspan.telemetry import Instrumenter
from hopspan.testing import Message, memory
from tests.unit.support import Adapting, Seen, Telemetry

ACK, REJECT = Settlement(Verdict.ACK), Settlement(Verdict.REJECT, "failed")

SETTLED = {
    "messaging.system": "memory",
    "messaging.operation.name": "reject",
    "messaging.operation.type": "settle",
    "messaging.destination.name": "test",
    "hopspan.settlement": "reject",
    "hopspan.settlement.reason": "failed",
}

Make = Callable[..., Settling]


@pytest.fixture
def settling(telemetry: Telemetry) -> Make:
    def make(*messages: Message, adapter: Any = memory, **settings: Any) -> Settling:
        deliveries: Sequence[Delivery] = [memory.delivery(message) for message in messages]
        instrumenter = telemetry.instrumenter(**settings)
        unknown: list[Verdict | None] = [None] * len(messages)
        return Settling(adapter, messages, deliveries, instrumenter, Context(), unknown)

    return make


def sends(wire: Settling, settlement: Settlement, index: int = 0) -> bool:
    return wire.send(index, settlement)


def sends_async(wire: Settling, settlement: Settlement, index: int = 0) -> bool:
    return asyncio.run(wire.send_async(index, settlement))


BOTH = pytest.mark.parametrize("send", [sends, sends_async])


def test_nothing_is_known_at_first(settling: Make) -> None:
    wire = settling(Message(), Message())
    assert (wire.verdicts, wire.is_ours, wire.lost) == ([None, None], False, None)


def test_a_verdict_is_noted_for_its_own_delivery(settling: Make) -> None:
    first, second = Message(), Message()
    wire = settling(first, second)
    wire.note(second, Verdict.ACK)
    assert wire.verdicts == [None, Verdict.ACK]


def test_a_verdict_of_another_message_is_not_noted(settling: Make) -> None:
    wire = settling(Message())
    wire.note(Message(), Verdict.ACK)
    assert wire.verdicts == [None]


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([None], None),
        ([Verdict.ACK], None),
        ([Verdict.LEAVE], None),
        ([Verdict.ACK, Verdict.REJECT], Verdict.REJECT),
        ([Verdict.REQUEUE, Verdict.REJECT], Verdict.REQUEUE),
    ],
)
def test_the_handler_says_by_its_verdict_that_it_failed(
    verdicts: list[Verdict | None], verdict: Verdict | None
) -> None:
    assert refused(verdicts) == verdict


@BOTH
def test_sending_performs_the_verdict(send: Callable[..., bool], settling: Make) -> None:
    first, second = Message(), Message()
    assert send(settling(first, second), REJECT, 1) is True
    assert (first.verdict, second.verdict) == (None, Verdict.REJECT)


@BOTH
def test_what_is_settled_already_is_not_sent(send: Callable[..., bool], settling: Make) -> None:
    """The user was faster, while we were on our way to the client's thread."""
    message = Message()
    wire = settling(message)
    wire.note(message, Verdict.ACK)
    assert send(wire, REJECT) is False
    assert message.verdict is None


@BOTH
def test_it_is_ours_only_while_we_send(send: Callable[..., bool], settling: Make) -> None:
    ours: list[bool] = []
    adapter = Adapting(settle=lambda native, settlement: ours.append(wire.is_ours))
    wire = settling(Message(), adapter=adapter)
    send(wire, ACK)
    assert (ours, wire.is_ours) == ([True], False)


@BOTH
def test_what_was_sent_is_recorded(
    send: Callable[..., bool], settling: Make, telemetry: Telemetry
) -> None:
    send(settling(Message()), REJECT)
    assert telemetry.only == Seen("reject test", SpanKind.CLIENT, SETTLED)


@BOTH
def test_what_was_sent_is_recorded_inside_the_processing(
    send: Callable[..., bool], telemetry: Telemetry
) -> None:
    with telemetry.tracer.start_as_current_span("process") as span:
        context = get_current()
    message = Message()
    deliveries = [memory.delivery(message)]
    adapter: Any = memory
    wire = Settling(adapter, [message], deliveries, telemetry.instrumenter(), context, [None])
    send(wire, REJECT)
    assert telemetry.seen[-1].parent == span.get_span_context().span_id


@BOTH
@pytest.mark.parametrize("error", [None, ConnectionError("closed")])
def test_what_was_sent_is_timed(
    send: Callable[..., bool],
    error: Exception | None,
    settling: Make,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def settle(native: Message, settlement: Settlement) -> None:
        if error is not None:
            raise error

    clock = iter([100.0, 103.0])
    monkeypatch.setattr("hopspan.processing.settling.perf_counter", lambda: next(clock))
    monkeypatch.setattr("hopspan.processing.settling.time_ns", lambda: 1_000)
    send(settling(Message(), adapter=Adapting(settle=settle)), REJECT)
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert (telemetry.spans[0].start_time, point.sum) == (1_000, 3.0)


def fails(native: Message, settlement: Settlement) -> None:
    raise ConnectionError("closed")


@BOTH
def test_a_settlement_that_fails_is_recorded_and_logged_never_raised(
    send: Callable[..., bool],
    settling: Make,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    wire = settling(Message(), adapter=Adapting(settle=fails))
    assert send(wire, REJECT) is False
    assert (wire.verdicts, wire.is_ours) == ([None], False)
    assert telemetry.only == Seen(
        "reject test",
        SpanKind.CLIENT,
        {**SETTLED, "error.type": "ConnectionError"},
        status=("ERROR", "closed"),
        events=("exception",),
    )
    assert [(record.levelname, record.message) for record in logged.records] == [
        ("WARNING", "could not reject a message of test; the broker will hand it out again")
    ]


def sends_with(settling: Make, before: Any, after: Any) -> Settling:
    """A settlement that fails, on a channel that is open before and after as told."""
    states = iter([before, after])

    def is_open(native: Message) -> bool:
        state = next(states)
        if isinstance(state, Exception):
            raise state
        return bool(state)

    wire = settling(Message(), adapter=Adapting(settle=fails, is_open=is_open))
    wire.send(0, REJECT)
    return wire


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (True, RuntimeError("cannot tell"), True),
    ],
)
def test_a_settlement_that_cost_the_channel_is_remembered(
    before: Any, after: Any, lost: bool, settling: Make, logged: pytest.LogCaptureFixture
) -> None:
    wire = sends_with(settling, before, after)
    assert isinstance(wire.lost, ConnectionError) is lost
    ours = [record for record in logged.records if record.message.startswith("hopspan failed")]
    assert len(ours) == isinstance(after, Exception)


@BOTH
def test_a_settlement_that_failed_half_way_counts_as_not_sent(
    send: Callable[..., bool], settling: Make
) -> None:
    """The adapter noted it, and then the connection broke: nobody knows, so nobody claims it."""
    message = Message()

    def half_way(native: Message, settlement: Settlement) -> None:
        wire.note(native, settlement.verdict)
        raise ConnectionError("closed")

    wire = settling(message, adapter=Adapting(settle=half_way))
    send(wire, ACK)
    assert wire.verdicts == [None]


@BOTH
def test_a_fault_while_recording_is_logged_and_the_settlement_stands(
    send: Callable[..., bool],
    settling: Make,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(Instrumenter, "record_settle", cannot)
    message = Message()
    assert send(settling(message), ACK) is True
    assert (message.verdict, len(logged.records)) == (Verdict.ACK, 1)


@BOTH
def test_a_verdict_without_a_name_goes_nowhere_by_itself_and_has_no_span(
    send: Callable[..., bool], settling: Make, telemetry: Telemetry
) -> None:
    message = Message()
    adapter = Adapting(SETTLE_NAMES={Verdict.REJECT: "reject"})
    assert send(settling(message, adapter=adapter, settle_spans="all"), ACK) is True
    assert (message.verdict, telemetry.spans) == (Verdict.ACK, [])


@BOTH
def test_a_verdict_without_a_name_that_failed_is_told_all_the_same(
    send: Callable[..., bool],
    settling: Make,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    def cannot(native: Message, settlement: Settlement) -> None:
        raise ConnectionError("gone")

    adapter = Adapting(SETTLE_NAMES={}, settle=cannot)
    assert send(settling(Message(), adapter=adapter), ACK) is False
    assert [span.name for span in telemetry.spans] == ["ack test"]
    assert [record.message for record in logged.records] == [
        "could not ack a message of test; the broker will hand it out again"
    ]


def test_an_awaited_settlement_is_awaited(settling: Make) -> None:
    async def later(native: Message, settlement: Settlement) -> None:
        await asyncio.sleep(0)
        memory.settle(native, settlement)

    message = Message()
    assert sends_async(settling(message, adapter=Adapting(settle=later)), ACK) is True
    assert message.verdict is Verdict.ACK


# -- hop -------------------------------------------------------------------------------------------


def test_the_first_delivery_tells_the_clients_thread(settling: Make) -> None:
    first, second = Message(), Message()
    asked: list[Message] = []

    def hop(native: Message) -> Any:
        asked.append(native)
        return asked.append

    wire = settling(first, second, adapter=Adapting(hop=hop))
    assert wire.hop() == asked.append
    assert asked == [first]


def test_a_client_that_cannot_tell_its_thread_has_none(
    settling: Make, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(native: Message) -> Any:
        raise RuntimeError("an adapter that cannot")

    assert settling(Message(), adapter=Adapting(hop=cannot)).hop() is None
    assert len(logged.records) == 1


# -- summary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "sent", "settled", "common"),
    [
        ([None], {}, False, None),
        ([None], {0: REJECT}, True, REJECT),
        ([Verdict.REJECT], {0: REJECT}, True, REJECT),
        ([Verdict.ACK], {}, True, ACK),
        ([Verdict.ACK, Verdict.ACK], {}, True, ACK),
        ([Verdict.ACK, Verdict.REJECT], {}, True, None),
        ([Verdict.ACK, None], {}, False, None),
        ([None, None], {}, False, None),
        ([None, Verdict.REJECT], {0: REJECT}, True, REJECT),
    ],
)
def test_what_is_known_of_all_deliveries(
    verdicts: list[Verdict | None],
    sent: dict[int, Settlement],
    settled: bool,
    common: Settlement | None,
) -> None:
    assert summary(verdicts, sent) == (settled, common)
