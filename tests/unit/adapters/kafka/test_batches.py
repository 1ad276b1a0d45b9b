"""Many records handled as one: looked up by their partitions, and values only on demand."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.structs import TopicPartition

import hopspan
from hopspan.adapters import kafka as adapter
from hopspan.adapters.kafka.consumer import ConsumerState
from hopspan.adapters.kafka.record import Batch, runs_of
from hopspan.adapters.kafka.record import polled as described
from hopspan.model import Endpoint, Settlement, Verdict
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Consumer,
    Handle,
    polled,
    record,
)
from tests.unit.support import Telemetry


def given(records: Any, via: Any = None) -> Batch:
    """A batch, as the adapter makes it."""
    found = adapter.given(records, via)
    assert isinstance(found, Batch)
    return found


@pytest.fixture
def processing(telemetry: Telemetry, handling: Handle) -> Any:
    """Somebody who handles a batch."""
    return handling(record(99, topic="bills"), via=None, policy=hopspan.manual)


# -- whose they are --------------------------------------------------------------------------------


def test_records_are_taken_by_their_partitions() -> None:
    first, second, third = record(10), record(5, 1), record(11)
    assert runs_of([first, third]) == {ORDERS: [first, third]}
    assert runs_of([first, second, third]) == {ORDERS: [first, third], OTHERS: [second]}
    bill = record(7, topic="bills")
    assert runs_of([first, bill]) == {ORDERS: [first], TopicPartition("bills", 0): [bill]}


@pytest.mark.parametrize("knows", [False, True])
def test_a_batch_is_of_the_consumer_that_has_handed_it_out(
    knows: bool, consumer: Consumer, state: ConsumerState
) -> None:
    records = polled(consumer, record(10), record(11), record(5, 1))
    batch = given(records, consumer if knows else None)
    assert [each.record for each in batch] == records
    assert {id(each.consumer) for each in batch} == {id(consumer)}
    assert [each.frontier for each in batch] == [
        state.tracker.partitions.frontiers[ORDERS], state.tracker.partitions.frontiers[ORDERS], state.tracker.partitions.frontiers[OTHERS]
    ]  # fmt: skip


def test_a_batch_may_be_of_nobodys(state: ConsumerState) -> None:
    batch = given([record(10, topic="nobodys"), record(11, topic="nobodys")])
    assert [(each.consumer, each.frontier, each.state) for each in batch] == [(None,) * 3] * 2
    assert batch.deliveries().endpoints() == {Endpoint("kafka", "nobodys")}
    assert batch.deliveries().uncounted() == 2


@pytest.mark.parametrize("others", [[record(12)], [record(10)]])
def test_records_of_which_some_are_nobodys_are_looked_up_one_by_one(
    others: list[Any], consumer: Consumer, state: ConsumerState
) -> None:
    mine = polled(consumer, record(10), record(11))
    found = adapter.given([*others, *mine], None)
    assert isinstance(found, list)
    assert [each.consumer for each in found] == [None, consumer, consumer]


def test_those_that_are_done_already_are_nobodys(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    records = polled(consumer, record(10), record(11))
    handling(records[0]).finish()
    found = adapter.given(records, None) or []
    assert [each.consumer for each in found] == [None, consumer]


def test_records_of_two_consumers_are_looked_up_one_by_one(
    consumer: Consumer, state: ConsumerState
) -> None:
    other = Consumer()
    hopspan.wrap(other)
    mine, theirs = polled(consumer, record(10)), polled(other, record(10))
    found = adapter.given(mine + theirs, None) or []
    assert [each.consumer for each in found] == [consumer, other]


def test_what_the_user_does_to_the_list_does_nothing_to_the_batch(
    consumer: Consumer, state: ConsumerState
) -> None:
    records = polled(consumer, record(10), record(11))
    batch = given(records)
    records.clear()
    assert [each.record.offset for each in batch] == [10, 11]


def test_a_batch_is_seen_where_no_handing_out_was(consumer: Consumer, state: ConsumerState) -> None:
    records = [record(10), record(11)]
    given(records, consumer)
    assert [state.tracker.partitions.holds(each) for each in records] == [True, True]
    assert state.tracker.partitions.frontiers[ORDERS].frontier() == 10


# -- one, some, all --------------------------------------------------------------------------------


@pytest.mark.parametrize("all_before", [False, True])
def test_a_batch_is_a_sequence(all_before: bool, consumer: Consumer, state: ConsumerState) -> None:
    records = polled(consumer, record(10), record(11), record(12))
    for sequence in (given(records), given(records).deliveries(), described(records, state)):
        if all_before:
            assert len(list(sequence)) == 3
        assert len(sequence) == 3
        offset = _offsets([sequence[0], sequence[-1], *sequence[1:]])
        assert offset == [10, 12, 11, 12]
        with pytest.raises(IndexError):
            sequence[3]


def _offsets(several: Any) -> list[int]:
    return [
        each.message.attributes["messaging.kafka.offset"]
        if isinstance(each, hopspan.Delivery)
        else each.record.offset
        for each in several
    ]


def test_what_is_said_of_all_is_what_each_says(consumer: Consumer, state: ConsumerState) -> None:
    records = polled(
        consumer, record(10, headers=[("a", b"1")]), record(5, 1), record(7, topic="bills")
    )
    state.tracker.partitions.counted_by_poll({ORDERS: records[:1]})
    for several in (given(records).deliveries(), described(records, state)):
        assert several.endpoints() == {each.endpoint for each in several}
        assert several.headers(2) == [each.headers for each in several][-2:]
        assert several.headers(9) == [each.headers for each in several]
        assert several.headers(0) == []
        assert several.uncounted() == sum(not each.counted for each in several)


# -- handling --------------------------------------------------------------------------------------


def test_who_handles_a_batch_handles_its_records(
    consumer: Consumer, state: ConsumerState, processing: Any
) -> None:
    records = polled(consumer, record(10), record(11), record(5, 1))
    batch = given(records)
    assert list(batch.opened(processing)) == []
    frontier = state.tracker.partitions.frontiers[ORDERS]
    assert (frontier.handled(), frontier.handlings()) == ({10, 11}, [batch])
    below: list[Any] = frontier.handled_below(11)
    assert [each.record for each in below] == [records[0]]
    assert (frontier.is_handled(), frontier.blocking_offset()) == (True, None)
    batch.closed(processing)
    assert (frontier.is_handled(), frontier.handled(), frontier.handlings()) == (False, set(), [])
    assert frontier.blocking_offset() == 10
    batch.closed(processing)


def test_a_record_of_a_batch_is_settled_by_itself(
    consumer: Consumer, state: ConsumerState, processing: Any
) -> None:
    batch = given(polled(consumer, record(10), record(11)))
    batch.opened(processing)
    adapter.settle(batch[0], Settlement(Verdict.ACK))
    frontier = state.tracker.partitions.frontiers[ORDERS]
    assert (frontier.frontier(), [each.offset for each in frontier.done]) == (11, [10])
    assert frontier.done[0].span == processing.span.get_span_context()
    batch.closed(processing)


def test_what_was_committed_by_oneself_is_settled_already(
    consumer: Consumer, state: ConsumerState, processing: Any
) -> None:
    records = polled(consumer, record(10), record(11))
    state.tracker.partitions.frontiers[ORDERS].settle_below(11)
    batch = given(records, consumer)
    settled = [(each.record.offset, verdict) for each, verdict in batch.opened(processing)]
    assert settled == [(10, Verdict.ACK)]
    batch.closed(processing)


def test_a_batch_whose_partition_goes_is_over(
    consumer: Consumer, state: ConsumerState, processing: Any
) -> None:
    batch = given(polled(consumer, record(10), record(5, 1)))
    batch.opened(processing)
    state.tracker.revoke([OTHERS])
    assert processing.is_over
    assert [adapter.is_open(each) for each in batch] == [True, False]


def test_nobody_is_told_of_a_batch_of_nobodys(processing: Any) -> None:
    batch = given([record(10, topic="nobodys"), record(11, topic="nobodys")])
    assert list(batch.opened(processing)) == []
    batch.closed(processing)


@pytest.mark.parametrize("policy", [hopspan.ack_always, hopspan.manual])
def test_what_a_poll_has_counted_is_counted_once(policy: Any, telemetry: Telemetry) -> None:
    """What is done is forgotten, and with it that a poll has counted it."""
    consumer = Consumer()
    hopspan.wrap(consumer, **telemetry.settings)
    records = polled(consumer, record(10), record(11), record(5, 1))
    with hopspan.process(records, via=consumer, policy=policy):
        pass
    ((attributes, count),) = telemetry.points("messaging.client.consumed.messages")
    assert (attributes["messaging.operation.name"], count) == ("poll", 3)
