"""Many records handled as one: looked up by their partitions, and values only on demand."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.structs import OffsetAndMetadata, TopicPartition

import hopspan
from hopspan.adapters.kafka import KafkaRecord
from hopspan.adapters.kafka.consumer import ConsumerState
from hopspan.adapters.kafka.record import runs_of
from hopspan.delivery import Batch
from hopspan.model import Endpoint, Settlement, Verdict
from hopspan.offsets import RecordBatch, Records
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Consumer,
    Handle,
    found,
    polled,
    record,
)
from tests.unit.support import Telemetry


def given(records: Any, via: Any = None) -> Records:
    """The members of a batch, as the adapter makes it."""
    batch = found(records, via)
    assert isinstance(batch, RecordBatch)
    return batch.members


def described(records: list[Any], state: ConsumerState) -> Records:
    """The records of a poll."""
    return Records(KafkaRecord, records, runs_of(records), state.tracker)


@pytest.fixture
def manually(handling: Handle) -> Handle:
    """Begin to handle records, of which nothing is settled."""
    return lambda *records, **settings: handling(*records, policy=hopspan.manual, **settings)


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
    assert [(each.consumer, each.frontier, each.tracker) for each in batch] == [(None,) * 3] * 2
    assert batch.endpoints() == {Endpoint("kafka", "nobodys")}
    assert batch.uncounted() == 2


@pytest.mark.parametrize("others", [[record(12)], [record(10)]])
def test_records_of_which_some_are_nobodys_are_looked_up_one_by_one(
    others: list[Any], consumer: Consumer, state: ConsumerState
) -> None:
    mine = polled(consumer, record(10), record(11))
    batch = found([*others, *mine])
    assert type(batch) is Batch
    assert [each.consumer for each in batch.members] == [None, consumer, consumer]


def test_those_that_are_done_already_are_nobodys(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    records = polled(consumer, record(10), record(11))
    handling(records[0]).conclude()
    assert [each.consumer for each in found(records).members] == [None, consumer]


def test_records_of_two_consumers_are_looked_up_one_by_one(
    consumer: Consumer, state: ConsumerState
) -> None:
    other = Consumer()
    hopspan.wrap(other)
    mine, theirs = polled(consumer, record(10)), polled(other, record(10))
    assert [each.consumer for each in found(mine + theirs).members] == [consumer, other]


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
    assert state.tracker.partitions.frontiers[ORDERS].holds_all(records)
    assert state.tracker.partitions.frontiers[ORDERS].frontier() == 10


# -- one, some, all --------------------------------------------------------------------------------


@pytest.mark.parametrize("all_before", [False, True])
def test_a_batch_is_a_sequence(all_before: bool, consumer: Consumer, state: ConsumerState) -> None:
    records = polled(consumer, record(10), record(11), record(12))
    for sequence in (given(records), described(records, state)):
        if all_before:
            assert len(list(sequence)) == 3
        assert len(sequence) == 3
        some = [sequence[0], sequence[-1], *sequence[1:]]
        assert [each.offset for each in some] == [10, 12, 11, 12]
        assert sequence[0] is sequence[-3]
        with pytest.raises(IndexError):
            sequence[3]


def test_what_is_said_of_all_is_what_each_says(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    records = polled(
        consumer, record(10, headers=[("a", b"1")]), record(5, 1), record(7, topic="bills")
    )
    state.tracker.partitions.counted_by_poll({ORDERS: records[:1]})
    for several in (manually(*records).deliveries, described(records, state)):
        assert isinstance(several, Records)
        assert several.endpoints() == {each.endpoint for each in several}
        assert several.headers(2) == [each.headers for each in several][-2:]
        assert several.headers(9) == [each.headers for each in several]
        assert several.headers(0) == []
    assert manually(*records).messages_to_count() == 2
    assert described(records, state).uncounted() == 3


# -- handling --------------------------------------------------------------------------------------


def test_a_batch_that_is_handled_makes_no_object_of_a_record(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    """Nor one that is committed meanwhile, by the application."""
    batch = manually(*polled(consumer, record(10), record(11), record(5, 1)))
    assert isinstance(batch, RecordBatch)
    consumer.commit({ORDERS: OffsetAndMetadata(11, "", -1)})
    assert batch.verdicts() == [Verdict.ACK, None, None]
    batch.conclude()
    assert batch.members.made == {}


def test_who_handles_a_batch_handles_its_records(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    batch = manually(*polled(consumer, record(10), record(11), record(5, 1)))
    frontier = state.tracker.partitions.frontiers[ORDERS]
    assert (frontier.handled(), frontier.handlings()) == ({10, 11}, [batch])
    assert frontier.blocking_offset() is None
    batch.conclude()
    assert (frontier.handled(), frontier.handlings()) == (set(), [])
    assert frontier.blocking_offset() == 10
    batch.closed()


def test_a_batch_is_found_by_its_very_records(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    records = polled(consumer, record(10), record(11))
    batch = manually(*records)
    assert found(records, consumer).ongoing() is batch
    assert found(records[:1], consumer).ongoing() is None
    assert found([record(10), record(11)], consumer).ongoing() is None
    batch.conclude()
    assert found(records, consumer).ongoing() is None


def test_a_batch_of_nobodys_is_found_by_its_very_records(manually: Handle) -> None:
    records = [record(10, topic="nobodys"), record(11, topic="nobodys")]
    batch = manually(*records, via=None)
    assert found(records).ongoing() is batch
    assert found(records[:1]).ongoing() is None
    batch.conclude()
    assert found(records).ongoing() is None


def test_a_record_of_a_batch_is_settled_by_itself(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    batch = manually(*polled(consumer, record(10), record(11)))
    batch.deliveries[0].settle(Settlement(Verdict.ACK))
    frontier = state.tracker.partitions.frontiers[ORDERS]
    assert (frontier.frontier(), [each.offset for each in frontier.done]) == (11, [10])
    assert frontier.done[0].span == batch.span.get_span_context()
    batch.conclude()


@pytest.mark.parametrize("asked", [False, True])
def test_what_was_committed_by_oneself_is_settled_already(
    asked: bool, consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    records = polled(consumer, record(10), record(11))
    state.tracker.partitions.frontiers[ORDERS].settle_below(11)
    batch = manually(*records)
    if asked:
        assert [each.verdict for each in batch.deliveries] == [Verdict.ACK, None]
    assert batch.verdicts() == [Verdict.ACK, None]
    batch.conclude()


@pytest.mark.parametrize("asked", [False, True])
def test_what_the_application_commits_meanwhile_is_not_settled_again(
    asked: bool, consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    batch = handling(*polled(consumer, record(10), record(11)))
    if asked:
        assert [each.verdict for each in batch.deliveries] == [None, None]
    consumer.commit({ORDERS: OffsetAndMetadata(11, "", -1)})
    assert batch.verdicts() == [Verdict.ACK, None]
    batch.conclude()
    assert batch.verdicts() == [Verdict.ACK, Verdict.ACK]
    frontier = state.tracker.partitions.frontiers[ORDERS]
    assert [each.offset for each in frontier.done] == [11]


def test_a_batch_is_acked_without_an_object_of_a_record(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    at_once = hopspan.Commits(every=1, seconds=None, wait=True)
    batch = handling(
        *polled(consumer, record(10), record(11, value=None), record(5, 1)), commits=at_once
    )
    assert isinstance(batch, RecordBatch)
    span = batch.span.get_span_context()
    batch.conclude()
    assert (batch.verdicts(), batch.members.made) == ([Verdict.ACK] * 3, {})
    assert consumer.commits() == [{ORDERS: 12}, {OTHERS: 6}]
    assert [each.verdict for each in batch.deliveries] == [Verdict.ACK] * 3
    assert span.is_valid


def test_of_a_batch_that_was_committed_in_part_the_others_are_acked(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    records = polled(consumer, record(10), record(11))
    consumer.commit({ORDERS: OffsetAndMetadata(11, "", -1)})
    batch = handling(*records)
    batch.conclude()
    assert batch.verdicts() == [Verdict.ACK, Verdict.ACK]
    assert [each.offset for each in state.tracker.partitions.frontiers[ORDERS].done] == [11]


def test_a_batch_of_which_a_partition_has_gone_is_not_settled(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    batch = handling(*polled(consumer, record(10), record(5, 1)))
    state.tracker.partitions.frontiers[OTHERS].alive = False
    batch.conclude()
    assert batch.verdicts() == [Verdict.ACK, None]


def test_a_batch_whose_partition_goes_is_over(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    batch = manually(*polled(consumer, record(10), record(5, 1)))
    state.tracker.revoke([OTHERS])
    assert batch.is_over
    assert [each.is_open() for each in batch.deliveries] == [True, False]


def test_records_that_are_looked_up_one_by_one_are_over_with_their_batch(
    consumer: Consumer, state: ConsumerState, manually: Handle
) -> None:
    mine = polled(consumer, record(10))
    batch = manually(*mine, record(11, topic="nobodys"), via=None)
    assert type(batch) is Batch
    assert found([*mine, *(each.record for each in batch.deliveries[1:])]).ongoing() is batch
    state.tracker.revoke([ORDERS])
    assert batch.is_over


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
