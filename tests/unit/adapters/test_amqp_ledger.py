"""Who has settled what on a channel: silently, in any way, and never a second time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

import hopspan
from hopspan.adapters._amqp_ledger import Ledger, Left, Sent
from hopspan.adapters._amqp_recording import recording
from hopspan.model import Settlement, Verdict
from hopspan.processing.delivery import Processing
from hopspan.processing.opening import begin
from hopspan.telemetry import Face
from hopspan.testing import Message, memory
from tests.unit.support import DEADLINE, Adapting, Telemetry

ACK, REQUEUE, REJECT = Verdict.ACK, Verdict.REQUEUE, Verdict.REJECT
Open = Callable[..., Processing]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def handling(ledger: Ledger, telemetry: Telemetry) -> Iterator[Open]:
    """Begin to handle the delivery of a tag, which the ledger is told."""
    begun: list[Processing] = []

    def handle(tag: int, **settings: Any) -> Processing:
        adapter: Any = Adapting(
            opened=lambda native, processing: ledger.open(tag, native, processing),
            closed=lambda native, processing: ledger.close(tag, processing, processing.delivery),
            settle=lambda native, settlement: None,
        )
        face = Face({**telemetry.settings, **settings})
        begun.append(begin(adapter, [Message(id=str(tag))], pushed=True, face=face))
        return begun[-1]

    yield handle
    for processing in begun:
        processing.finish()


def tags(entries: Sequence[Any]) -> list[str | None]:
    """The messages that ledger entries are about, in order."""
    return [
        (each.delivery if isinstance(each, Left) else each[0].delivery).message.id
        for each in entries
    ]


# -- one at a time ---------------------------------------------------------------------------------


def test_what_nobody_settled_is_open(ledger: Ledger, handling: Open) -> None:
    assert handling(1).wire.verdicts == [None]


@pytest.mark.parametrize("verdict", [ACK, REQUEUE, REJECT])
def test_what_was_settled_before_it_is_opened_is_known(
    verdict: Verdict, ledger: Ledger, handling: Open
) -> None:
    ledger.settled(1, verdict, multiple=False)
    assert handling(1).wire.verdicts == [verdict]


def test_a_settlement_finds_the_handling_that_goes_on(ledger: Ledger, handling: Open) -> None:
    processing = handling(1)
    ((found, native),) = ledger.settled(1, ACK, multiple=False)
    assert (found, native) == (processing, processing.delivery.native)


def test_a_settlement_of_another_delivery_finds_nothing(ledger: Ledger, handling: Open) -> None:
    handling(1)
    assert ledger.settled(2, ACK, multiple=False) == []


def test_a_settlement_finds_a_handling_once(ledger: Ledger, handling: Open) -> None:
    handling(1)
    ledger.settled(1, ACK, multiple=False)
    assert ledger.settled(1, ACK, multiple=False) == []


def test_a_settlement_finds_what_is_left_of_a_handling_that_is_over(
    ledger: Ledger, handling: Open
) -> None:
    processing = handling(1)
    processing.finish()
    (left,) = ledger.settled(1, ACK, multiple=False)
    assert isinstance(left, Left)
    assert (left.delivery.message.id, left.span) == ("1", processing.span.get_span_context())
    assert ledger.settled(1, ACK, multiple=False) == []


def test_what_is_left_holds_neither_body_nor_headers(ledger: Ledger, handling: Open) -> None:
    """Ten thousand of them may be kept."""
    handling(1).finish()
    (left,) = ledger.settled(1, ACK, multiple=False)
    assert isinstance(left, Left)
    assert (left.delivery.native, left.delivery.headers) == (None, None)


def test_nothing_is_left_of_what_the_broker_forgot(ledger: Ledger, telemetry: Telemetry) -> None:
    adapter: Any = Adapting(
        opened=lambda native, processing: ledger.open(1, native, processing),
        closed=lambda native, processing: ledger.close(1, processing, processing.delivery),
    )
    message = Message(auto_ack=True)
    begin(adapter, [message], pushed=True, face=Face(telemetry.settings)).finish()
    assert ledger.settled(1, ACK, multiple=False) == []


def test_only_who_opened_it_closes_it(ledger: Ledger, handling: Open) -> None:
    """A second handling of the same message must not take it from the first."""
    first = handling(1)
    second = handling(2)
    ledger.close(1, second, second.delivery)
    assert tags(ledger.known(1, multiple=False)) == ["1"]
    assert ledger.known(1, multiple=False)[0][0] is first


def test_a_delivery_may_be_handled_twice_at_a_time(ledger: Ledger, handling: Open) -> None:
    """Alone and in a batch, say: a settlement is told to both, and one may end before the other."""
    first, second = handling(1), handling(1)
    assert [entry[0] for entry in ledger.known(1, multiple=False)] == [first, second]
    first.finish()
    assert [entry[0] for entry in ledger.known(1, multiple=False)] == [second]
    second.finish()
    assert tags(ledger.known(1, multiple=False)) == ["1"]


@pytest.mark.parametrize("settle", [True, False])
def test_what_was_handled_or_settled_is_known(settle: bool, ledger: Ledger, handling: Open) -> None:
    before = ledger.is_known(1)
    if settle:
        ledger.settled(1, ACK, multiple=False)
        known = [ledger.is_known(1)]
    else:
        processing = handling(1)
        known = [ledger.is_known(1)]
        processing.finish()
        known.append(ledger.is_known(1))
    assert (before, set(known), ledger.is_known(2)) == (False, {True}, False)


def test_opening_again_forgets_what_was_left(ledger: Ledger, handling: Open) -> None:
    handling(1).finish()
    processing = handling(1)
    assert ledger.known(1, multiple=False)[0][0] is processing


# -- multiple --------------------------------------------------------------------------------------


@pytest.fixture
def five(handling: Open) -> list[Processing]:
    """Five deliveries, of which the second is over."""
    begun = [handling(tag) for tag in range(1, 6)]
    begun[1].finish()
    return begun


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(
    ("tag", "found"),
    [
        (3, {"1", "2", "3"}),
        (1, {"1"}),
        (9, {"1", "2", "3", "4", "5"}),
        (0, {"1", "2", "3", "4", "5"}),
    ],
)
def test_multiple_settles_all_up_to_a_tag(tag: int, found: set[str], ledger: Ledger) -> None:
    """Tag 0 is everything."""
    assert set(tags(ledger.known(tag, multiple=True))) == found
    assert set(tags(ledger.settled(tag, ACK, multiple=True))) == found
    assert ledger.settled(tag, ACK, multiple=True) == []


@pytest.mark.usefixtures("five")
def test_not_multiple_settles_one(ledger: Ledger) -> None:
    assert tags(ledger.settled(3, ACK, multiple=False)) == ["3"]


def test_multiple_settles_what_no_handler_has_seen_yet(ledger: Ledger, handling: Open) -> None:
    """The client holds messages back; they are settled on the broker all the same."""
    ledger.settled(3, REJECT, multiple=True)
    assert [handling(tag).wire.verdicts for tag in (2, 3, 4)] == [[REJECT], [REJECT], [None]]


def test_tag_0_settles_up_to_the_newest_that_the_client_holds_back(
    telemetry: Telemetry,
) -> None:
    ledger = Ledger(newest=lambda: 7)
    ledger.settled(0, ACK, multiple=True)
    processing: Any = None
    assert [ledger.open(tag, None, processing) for tag in (7, 8)] == [ACK, None]


def test_tag_0_settles_up_to_the_newest_that_we_know(ledger: Ledger, handling: Open) -> None:
    handling(4)
    ledger.settled(6, ACK, multiple=False)
    ledger.settled(0, REJECT, multiple=True)
    assert [handling(tag).wire.verdicts for tag in (5, 7)] == [[REJECT], [None]]


def test_tag_0_of_nothing_settles_nothing(ledger: Ledger, handling: Open) -> None:
    assert ledger.settled(0, ACK, multiple=True) == []
    assert handling(1).wire.verdicts == [None]


def test_what_was_settled_by_itself_keeps_its_own_verdict(ledger: Ledger, handling: Open) -> None:
    ledger.settled(2, REJECT, multiple=False)
    ledger.settled(3, ACK, multiple=True)
    assert handling(2).wire.verdicts == [REJECT]


def test_a_lower_multiple_does_not_take_back_a_higher_one(ledger: Ledger, handling: Open) -> None:
    ledger.settled(5, ACK, multiple=True)
    ledger.settled(2, REJECT, multiple=True)
    assert handling(4).wire.verdicts == [ACK]


# -- bounds ----------------------------------------------------------------------------------------


def test_what_is_remembered_is_bounded_and_the_oldest_forgotten(
    ledger: Ledger, handling: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "MOST", 3)
    for tag in range(1, 6):
        ledger.settled(tag, ACK, multiple=False)
    assert (list(ledger._settled), handling(5).wire.verdicts) == ([3, 4, 5], [ACK])


def test_what_is_left_is_bounded_and_the_oldest_forgotten(
    ledger: Ledger, handling: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "MOST", 3)
    for tag in range(1, 6):
        handling(tag).finish()
    assert tags(ledger.known(0, multiple=True)) == ["3", "4", "5"]


def test_ten_thousand_are_remembered() -> None:
    assert Ledger.MOST == 10_000


def test_threads_find_each_delivery_once(ledger: Ledger, handling: Open) -> None:
    for tag in range(1, 201):
        handling(tag)
    found: list[Any] = []
    barrier = threading.Barrier(4, timeout=DEADLINE)

    def settle(first: int) -> None:
        barrier.wait()
        for tag in range(first, 201, 10):
            found.extend(ledger.settled(tag, ACK, multiple=bool(tag % 3)))

    threads = [threading.Thread(target=settle, args=(number,)) for number in (1, 4, 7, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(tags(found)) == len(set(tags(found))) == 200


# -- recording -------------------------------------------------------------------------------------


def read(tag: int = 0, multiple: bool = False, verdict: Verdict = ACK) -> Sent:
    return tag, multiple, verdict


class Wire:
    """A channel's settlement method, and its recording replacement."""

    def __init__(self, ledger: Ledger, reader: Any = read) -> None:
        self.sent: list[Any] = []
        self.error: Exception | None = None
        self.settle = recording(self.original, ledger, "nack", reader, self.error_type)

    def original(self, *args: Any, **kwargs: Any) -> str:
        self.sent.append((args, kwargs))
        if self.error is not None:
            raise self.error
        return "sent"

    def error_type(self, error: BaseException) -> str | None:
        return "not-open" if isinstance(error, ConnectionError) else None


@pytest.fixture
def wire(ledger: Ledger) -> Wire:
    return Wire(ledger)


def settle_spans(telemetry: Telemetry) -> list[Any]:
    return [span for span in telemetry.seen if span.name.startswith("nack")]


def test_the_clients_method_is_called_with_the_users_arguments(wire: Wire) -> None:
    assert wire.settle(3, multiple=True) == "sent"
    assert wire.sent == [((3,), {"multiple": True})]


def test_a_settlement_by_the_handler_is_noted(wire: Wire, handling: Open) -> None:
    processing = handling(1, policy=hopspan.ack_always)
    wire.settle(1, verdict=REJECT)
    assert processing.wire.verdicts == [REJECT]


def test_a_settlement_by_the_handler_has_a_span_inside_the_process_span(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    processing = handling(1)
    wire.settle(1, verdict=REJECT)
    (span,) = settle_spans(telemetry)
    assert (span.parent, span.links, span.attributes["hopspan.settlement"]) == (
        processing.span.get_span_context().span_id,
        (),
        "reject",
    )


def test_our_own_settlement_is_noted_and_told_of_elsewhere(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    processing = handling(1)
    processing.wire.is_ours = True
    wire.settle(1, verdict=REJECT)
    assert (processing.wire.verdicts, settle_spans(telemetry)) == ([REJECT], [])


def test_a_settlement_after_the_handling_is_linked_to_it(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    processing = handling(1)
    processing.finish()
    wire.settle(1, verdict=REJECT)
    (span,) = settle_spans(telemetry)
    assert (span.parent, span.links) == (None, (processing.span.get_span_context().span_id,))


def test_a_settlement_of_several_is_linked_to_all(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    spans = []
    for tag in (1, 2):
        processing = handling(tag)
        spans.append(processing.span.get_span_context().span_id)
    processing.finish()
    wire.settle(2, multiple=True, verdict=REJECT)
    (span,) = settle_spans(telemetry)
    assert set(span.links) == set(spans)
    assert span.attributes["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("error", [None, ConnectionError("closed")])
def test_a_settlement_by_the_handler_is_timed(
    error: Exception | None,
    wire: Wire,
    handling: Open,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handling(1)
    clock = iter([100.0, 103.0])
    monkeypatch.setattr("hopspan.adapters._amqp_recording.perf_counter", lambda: next(clock))
    monkeypatch.setattr("hopspan.adapters._amqp_recording.time_ns", lambda: 1_000)
    wire.error = error
    with suppress(ConnectionError):
        wire.settle(1, verdict=REJECT)
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert (telemetry.spans[0].start_time, point.sum) == (1_000, 3.0)


def test_a_settlement_of_an_unknown_delivery_says_nothing(wire: Wire, telemetry: Telemetry) -> None:
    wire.settle(99, verdict=REJECT)
    assert telemetry.spans == []


def test_a_settlement_that_fails_is_raised_and_settles_nothing(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    processing = handling(1)
    wire.error = ConnectionError("closed")
    with pytest.raises(ConnectionError) as raised:
        wire.settle(1, verdict=REJECT)
    (span,) = settle_spans(telemetry)
    assert (raised.value, processing.wire.verdicts) == (wire.error, [None])
    assert (span.attributes["error.type"], span.status) == ("not-open", ("ERROR", "closed"))


def test_a_failure_without_a_word_of_the_clients_has_its_class(
    wire: Wire, handling: Open, telemetry: Telemetry
) -> None:
    handling(1)
    wire.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        wire.settle(1)
    assert settle_spans(telemetry)[0].attributes["error.type"] == "ValueError"


def test_a_call_that_settles_nothing_is_only_passed_on(
    ledger: Ledger, handling: Open, telemetry: Telemetry
) -> None:
    wire = Wire(ledger, lambda *args: None)
    processing = handling(1)
    assert wire.settle(1) == "sent"
    assert (processing.wire.verdicts, telemetry.spans) == ([None], [])


def test_the_users_wrong_arguments_are_the_clients_to_refuse(
    wire: Wire, logged: pytest.LogCaptureFixture
) -> None:
    wire.settle(1, nonsense=True)
    assert (len(wire.sent), logged.records) == (1, [])


def test_a_fault_while_entering_it_is_logged_and_the_settlement_stands(
    wire: Wire, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(Ledger, "settled", cannot)
    assert [wire.settle(1), wire.settle(2)] == ["sent", "sent"]
    assert len(logged.records) == 1


def test_a_policy_settles_once_whatever_the_handler_did(
    wire: Wire, ledger: Ledger, telemetry: Telemetry
) -> None:
    """The whole way: handler, ledger, policy, wire."""

    def settle(native: Message, settlement: Settlement) -> None:
        wire.settle(1, verdict=settlement.verdict)

    adapter: Any = Adapting(
        opened=lambda native, processing: ledger.open(1, native, processing), settle=settle
    )
    face = Face({**telemetry.settings, "policy": hopspan.ack_always})
    processing = begin(adapter, [Message()], pushed=True, face=face)
    wire.settle(1, multiple=True, verdict=REQUEUE)
    processing.finish()
    assert (len(wire.sent), processing.settled) == (1, True)


def test_the_in_memory_adapter_is_no_part_of_this() -> None:
    """The doubles here replace all that it does with a settlement."""
    assert memory.NAME == "memory"
