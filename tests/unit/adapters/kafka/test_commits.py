"""When what is done is committed, and what becomes of the answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kafka import OffsetAndMetadata
from kafka.errors import NotCoordinatorError, OffsetMetadataTooLargeError
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import hopspan
from hopspan import Commits
from hopspan.adapters.kafka.consumer import ConsumerState
from hopspan.model import Verdict
from hopspan.offsets.frontier import Frontier
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Clock,
    Consumer,
    Handle,
    polled,
    record,
)
from tests.unit.support import Seen, Telemetry, in_thread

WAITING = Commits(every=1, seconds=None, wait=True)
EACH = Commits(every=1, seconds=None)

COMMITTED = {
    "messaging.system": "kafka",
    "messaging.operation.name": "commit",
    "messaging.operation.type": "settle",
    "messaging.destination.name": "orders",
    "messaging.consumer.group.name": "billing",
    "messaging.client.id": "c1",
    "messaging.destination.partition.id": "0",
    "messaging.kafka.offset": 10,
    "hopspan.settlement": "ack",
    "server.address": "broker",
    "server.port": 9093,
}


def commit_spans(telemetry: Telemetry) -> list[Seen]:
    return [span for span in telemetry.seen if span.name.startswith("commit")]


# -- the strategy ----------------------------------------------------------------------------------


def test_by_default_a_second_has_to_go_by(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(first).conclude()
    assert consumer.commits() == []
    clock.now += 0.999
    consumer.poll()
    assert consumer.commits() == []
    clock.now += 0.001
    handling(second).conclude()
    assert consumer.asked("commit", "commit_async") == [("commit_async", {ORDERS: 12})]


def test_a_poll_commits_what_is_due(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    """Or what was handled last would wait for the next record, which may never come."""
    (first,) = polled(consumer, record(10))
    handling(first).conclude()
    clock.now += 1
    consumer.poll()
    assert consumer.commits() == [{ORDERS: 11}]
    clock.now += 100
    consumer.poll()
    assert consumer.commits() == [{ORDERS: 11}]


def test_seconds_count_from_the_last_commit(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    for offset in (10, 11):
        handling(*polled(consumer, record(offset)), commits=Commits(seconds=5.0)).conclude()
        clock.now += 5
        consumer.poll()
        consumer.answer()
    clock.now += 4.9
    handling(*polled(consumer, record(12)), commits=Commits(seconds=5.0)).conclude()
    assert consumer.commits() == [{ORDERS: 11}, {ORDERS: 12}]


def test_seconds_of_none_are_never(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, commits=Commits(every=2, seconds=None)).conclude()
    clock.now += 1_000
    consumer.poll()
    assert consumer.commits() == []


@pytest.mark.parametrize(
    ("every", "commits"),
    [
        (1, [{ORDERS: 11}, {ORDERS: 12}, {ORDERS: 13}, {ORDERS: 14}]),
        (2, [{ORDERS: 12}, {ORDERS: 14}]),
        (3, [{ORDERS: 13}]),
        (5, []),
    ],
)
def test_every_so_many_records(
    every: int, commits: list[Any], consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    for each in polled(consumer, *(record(offset) for offset in range(10, 14))):
        handling(each, commits=Commits(every=every, seconds=None)).conclude()
        if consumer.unanswered:
            consumer.answer()
    assert consumer.asked("commit", "commit_async") == [("commit_async", at) for at in commits]


def test_whichever_comes_first(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    both = Commits(every=2, seconds=5.0)
    first, second, third = polled(consumer, record(10), record(11), record(12))
    handling(first, commits=both).conclude()
    handling(second, commits=both).conclude()
    assert consumer.commits() == [{ORDERS: 12}]
    consumer.answer()
    clock.now += 5
    handling(third, commits=both).conclude()
    assert consumer.commits() == [{ORDERS: 12}, {ORDERS: 13}]


def test_waiting_is_a_synchronous_commit(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, commits=WAITING).conclude()
    assert consumer.asked("commit", "commit_async") == [("commit", {ORDERS: 11}, 10_000)]


def test_a_consumer_without_a_group_has_nowhere_to_commit(
    consumer: Consumer, handling: Handle
) -> None:
    consumer.config["group_id"] = None
    (first,) = polled(hopspan.wrap(consumer), record(10))
    handling(first, commits=WAITING).conclude()
    consumer.close()
    assert consumer.commits() == []


def test_a_policy_that_settles_nothing_does_not_set_the_strategy(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """A listener somewhere that only looks must not change how the others commit."""
    first, second = polled(consumer, record(10), record(11))
    handling(first, commits=WAITING).conclude()
    handling(second, policy=hopspan.manual, commits=Commits(every=100)).conclude()
    handling(second, commits=WAITING).conclude()
    assert consumer.commits() == [{ORDERS: 11}, {ORDERS: 12}]


# -- what is committed -----------------------------------------------------------------------------


def test_nothing_past_an_open_record(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    first, second, third = polled(consumer, record(10), record(11), record(12))
    handling(third, commits=EACH).conclude()
    handling(second, commits=EACH).conclude()
    assert consumer.commits() == []
    handling(first, commits=EACH).conclude()
    assert consumer.commits() == [{ORDERS: 13}]


def test_partitions_are_committed_together(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    two = Commits(every=2, seconds=None)
    first, second = polled(consumer, record(10), record(20, partition=1))
    handling(first, commits=two).conclude()
    handling(second, commits=two).conclude()
    assert consumer.commits() == [{ORDERS: 11, OTHERS: 21}]


def test_a_partition_without_news_is_left_out(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(20, partition=1))
    handling(first, commits=WAITING).conclude()
    handling(second, commits=WAITING).conclude()
    assert consumer.commits() == [{ORDERS: 11}, {OTHERS: 21}]


def test_the_epoch_goes_with_it(
    consumer: Consumer, state: ConsumerState, handling: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        Consumer, "commit", lambda self, offsets, timeout_ms: told.append(dict(offsets))
    )
    first, second = polled(consumer, record(10, leader_epoch=7), record(11))
    handling(first, second, commits=WAITING).conclude()
    assert told[-1] == {ORDERS: OffsetAndMetadata(12, "", 7)}


def test_closing_commits_what_is_done_and_waits_for_it(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    first, _ = polled(consumer, record(10), record(11))
    handling(first).conclude()
    consumer.close()
    assert consumer.asked("commit", "commit_async", "close") == [
        ("commit", {ORDERS: 11}, 10_000),
        ("close", True, None),
    ]


def test_closing_with_nothing_done_commits_nothing(
    consumer: Consumer, state: ConsumerState
) -> None:
    polled(consumer, record(10))
    consumer.close()
    assert consumer.commits() == []


def test_another_thread_leaves_committing_to_the_consumers(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    in_thread(lambda: handling(first, commits=WAITING).conclude())
    assert consumer.commits() == []
    consumer.poll()
    assert consumer.commits() == [{ORDERS: 11}]


# -- the answer ------------------------------------------------------------------------------------


def test_a_commit_that_succeeded_is_not_sent_again(
    consumer: Consumer, state: ConsumerState, clock: Clock, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, commits=EACH).conclude()
    consumer.answer()
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


def test_a_commit_that_failed_is_sent_again(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, commits=EACH).conclude()
    consumer.answer(NotCoordinatorError("moved"))
    consumer.poll()
    assert consumer.commits() == [{ORDERS: 11}, {ORDERS: 11}]
    (said,) = [each.message for each in logged.records if each.name == "hopspan"]
    assert said.startswith("could not commit {'orders-0': 11}; the next commit tries again: ")


@pytest.mark.parametrize("strategy", [EACH, WAITING])
def test_a_commit_that_cannot_be_sent_does_not_reach_the_handler(
    strategy: Commits,
    consumer: Consumer,
    state: ConsumerState,
    handling: Handle,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    error = OffsetMetadataTooLargeError("too large")
    consumer.errors = {"commit": error, "commit_async": error}
    (first,) = polled(consumer, record(10))
    processing = handling(first, commits=strategy)
    processing.conclude()
    assert processing.settled is True
    (span,) = commit_spans(telemetry)
    assert (span.status[0], span.attributes["error.type"]) == (
        "ERROR",
        "OFFSET_METADATA_TOO_LARGE",
    )
    assert len(logged.records) == 1
    consumer.errors = {}
    consumer.poll()
    assert consumer.commits()[-1] == {ORDERS: 11}


def test_one_commit_is_on_its_way_at_a_time(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """The client refuses more than a few."""
    for each in polled(consumer, record(10), record(11), record(12)):
        handling(each, commits=EACH).conclude()
    assert consumer.commits() == [{ORDERS: 11}]
    consumer.answer()
    consumer.poll()
    assert consumer.commits() == [{ORDERS: 11}, {ORDERS: 13}]


def test_an_answer_that_comes_after_a_further_commit_is_no_step_back(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    first, _, _ = polled(consumer, record(10), record(11), record(12))
    handling(first, commits=EACH).conclude()
    consumer.commit()
    consumer.answer()
    assert state.tracker.partitions.frontiers[ORDERS].committed == 13


@pytest.mark.parametrize("error", [None, NotCoordinatorError("moved")])
def test_after_any_answer_the_next_one_goes(
    error: Exception | None, consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(first, commits=EACH).conclude()
    consumer.answer(error)
    handling(second, commits=EACH).conclude()
    assert consumer.commits() == [{ORDERS: 11}, {ORDERS: 12}]


def test_closing_does_not_rely_on_a_commit_that_nobody_has_answered(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    """It may still be in the client, which closes."""
    (first,) = polled(consumer, record(10))
    handling(first, commits=EACH).conclude()
    consumer.close()
    assert consumer.asked("commit", "commit_async") == [
        ("commit_async", {ORDERS: 11}),
        ("commit", {ORDERS: 11}, 10_000),
    ]


def test_a_commit_that_is_answered_late_is_over_already(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, commits=EACH).conclude()
    consumer.close()
    told = len(commit_spans(telemetry))
    consumer.answer(NotCoordinatorError("moved"))
    assert len(commit_spans(telemetry)) == told


def test_what_a_failed_commit_covered_is_covered_by_the_next(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first, commits=EACH)
    span = processing.span.get_span_context().span_id
    processing.conclude()
    consumer.answer(NotCoordinatorError("moved"))
    consumer.poll()
    consumer.answer()
    assert [(each.status[0], each.links) for each in commit_spans(telemetry)] == [
        ("ERROR", (span,)),
        ("UNSET", (span,)),
    ]


def test_where_nothing_settles_nothing_is_ever_committed(
    consumer: Consumer, state: ConsumerState, handling: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the application does, and however much it reads: these offsets are its own."""
    monkeypatch.setattr(Frontier, "MOST_UNSETTLED", 2)
    for offset in range(10, 20):
        for each in polled(consumer, record(offset)):
            handling(each, policy=hopspan.manual).conclude()
    consumer.seek(ORDERS, 50)
    consumer.close()
    assert consumer.commits() == []


def test_seeking_by_itself_is_nothing_to_commit(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    for each in polled(consumer, record(10), record(20, partition=1)):
        handling(each, commits=WAITING).conclude()
    consumer.seek(ORDERS, 50)
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}, {OTHERS: 21}]


# -- what is told ----------------------------------------------------------------------------------


def test_a_commit_for_one_record_is_told_with_its_record(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    span = processing.span.get_span_context().span_id
    processing.conclude()
    consumer.close()
    assert commit_spans(telemetry) == [
        Seen("commit orders", SpanKind.CLIENT, COMMITTED, links=(span,))
    ]


def test_a_commit_for_several_tells_their_number_and_links_to_them(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    processings = [handling(each) for each in polled(consumer, record(10), record(11))]
    spans = tuple(each.span.get_span_context().span_id for each in processings)
    for each in processings:
        each.conclude()
    consumer.close()
    (span,) = commit_spans(telemetry)
    assert (span.links, span.attributes["messaging.batch.message_count"]) == (spans, 2)
    assert "messaging.kafka.offset" not in span.attributes


def test_a_commit_within_the_handling_of_its_one_record_is_a_part_of_it(
    consumer: Consumer, state: ConsumerState, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    settings: Any = {"commits": WAITING, "policy": hopspan.ack_always, **telemetry.settings}
    with hopspan.process(first, via=consumer, **settings) as operation:
        pass
    (span,) = commit_spans(telemetry)
    assert (span.parent, span.links) == (operation.span.get_span_context().span_id, ())


def test_a_commit_elsewhere_is_in_nobodys_trace(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    """What happens to be current there has nothing to do with what was done."""
    (first,) = polled(consumer, record(10))
    handling(first).conclude()
    with telemetry.tracer.start_as_current_span("something else"):
        consumer.close()
    assert commit_spans(telemetry)[0].parent is None


def test_a_commit_of_several_topics_names_none(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    first, second = polled(consumer, record(10), record(5, topic="bills"))
    handling(first).conclude()
    handling(second).conclude()
    consumer.close()
    (span,) = commit_spans(telemetry)
    assert span.name == "commit"
    assert "messaging.destination.name" not in span.attributes


def test_a_commit_can_be_left_untold(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    handling(first, settle_spans="none").conclude()
    consumer.close()
    assert (commit_spans(telemetry), consumer.commits()) == ([], [{ORDERS: 11}])


def test_a_fault_while_telling_is_logged_and_the_commit_stands(
    consumer: Consumer,
    state: ConsumerState,
    handling: Handle,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    def cannot(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("hopspan.offsets.committer.record_settle", cannot)
    (first,) = polled(consumer, record(10))
    handling(first, commits=WAITING).conclude()
    assert (consumer.commits(), state.tracker.partitions.frontiers[ORDERS].committed) == (
        [{ORDERS: 11}],
        11,
    )
    assert len(logged.records) == 1


# -- what holds back -------------------------------------------------------------------------------


def test_a_record_that_nobody_concludes_is_told_once(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    _, second, third = polled(consumer, record(10), record(11), record(12))
    handling(second, commits=EACH).conclude()
    handling(third, commits=EACH).conclude()
    assert [each.message for each in logged.records] == [
        "commits of partition 0 of orders stop below offset 10: this record was handed out, and "
        "nobody concluded it. Give every record to hopspan.process or to a handler, also those "
        "that you skip, or commit by yourself"
    ]


def test_a_record_that_is_being_handled_is_none_of_them(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(first, commits=EACH)
    handling(second, commits=EACH).conclude()
    assert logged.records == []


# -- the application's own commits -----------------------------------------------------------------


def test_an_own_commit_settles_everything_handed_out(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    first, _ = polled(consumer, record(10), record(11))
    processing = handling(first, policy=hopspan.requeue_times(2, then=Verdict.LEAVE))
    consumer.commit()
    processing.conclude(ValueError("bad"))
    assert consumer.asked("commit", "commit_async", "seek") == [("commit", None, None)]
    assert processing.settled is True
    assert state.tracker.partitions.frontiers[ORDERS].committable() is None
    assert [span.name for span in telemetry.seen] == ["commit orders", "process orders"]


@pytest.mark.parametrize(("offset", "settled"), [(10, False), (11, True)])
def test_an_own_commit_settles_what_lies_below_its_offsets(
    offset: int, settled: bool, consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first, policy=hopspan.manual)
    consumer.commit({ORDERS: OffsetAndMetadata(offset, "", -1)})
    processing.conclude()
    assert processing.settled is settled


def test_an_own_commit_that_fails_settles_nothing_and_is_raised(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first, policy=hopspan.manual)
    consumer.errors["commit"] = error = NotCoordinatorError("moved")
    with pytest.raises(NotCoordinatorError) as raised:
        consumer.commit()
    processing.conclude()
    assert (raised.value is error, processing.settled) == (True, False)
    assert commit_spans(telemetry)[0].attributes["error.type"] == "NOT_COORDINATOR"


@pytest.mark.parametrize("succeeds", [True, False])
def test_an_own_asynchronous_commit_settles_when_it_is_answered(
    succeeds: bool, consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first, policy=hopspan.manual)
    consumer.commit_async()
    assert commit_spans(telemetry) == []
    consumer.answer(None if succeeds else NotCoordinatorError("moved"))
    processing.conclude()
    assert (processing.settled, len(commit_spans(telemetry))) == (succeeds, 1)


def test_the_applications_callback_is_called_as_well(
    consumer: Consumer, state: ConsumerState
) -> None:
    told: list[Any] = []
    consumer.commit_async(None, lambda offsets, answer: told.append((offsets, answer)))
    consumer.answer()
    assert told == [(None, "a response")]


def test_the_consumers_own_callback_is_called_where_none_is_given(
    consumer: Consumer, state: ConsumerState
) -> None:
    told: list[Any] = []
    consumer.config["default_offset_commit_callback"] = lambda *given: told.append(given)
    consumer.commit_async()
    consumer.answer()
    assert told == [(None, "a response")]


def test_an_own_commit_that_cannot_be_read_is_the_clients_to_judge(
    consumer: Consumer, state: ConsumerState, logged: pytest.LogCaptureFixture
) -> None:
    consumer.errors["commit"] = AssertionError("offsets")
    with pytest.raises(AssertionError, match="offsets"):
        Consumer.commit(consumer, {})
    consumer.errors.clear()
    nonsense: Any = {3: None}
    with pytest.raises(AttributeError):
        consumer.commit(nonsense)


def test_after_a_fault_while_handing_out_nothing_is_committed(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    """What was not seen could be passed over."""
    broken = record(10)._replace(offset=None)
    consumer.coming.append([broken])
    consumer.poll()
    (second,) = polled(consumer, record(11))
    handling(second, commits=WAITING).conclude()
    consumer.close()
    assert consumer.commits() == []
    assert len(logged.records) == 1


def test_commits_of_a_handling_are_on_its_own_thread() -> None:
    """The tests above rest on it: the thread that polls is the one that commits."""
    assert threading.current_thread() is threading.main_thread()
    assert trace.get_current_span().get_span_context().is_valid is False
