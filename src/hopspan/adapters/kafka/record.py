"""Records of kafka-python: read, found among the consumers' and dead-lettered."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import ConsumerRecord

from hopspan import conventions as names
from hopspan.adapters import kafka_common
from hopspan.adapters.kafka import producer as producers
from hopspan.adapters.kafka.consumer import partition_named, registry, runs_of_one, state_of, track
from hopspan.adapters.kafka.producer import CLIENT
from hopspan.delivery import Batch
from hopspan.model import Verdict
from hopspan.offsets import Record, RecordBatch, Records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kafka.structs import TopicPartition

    from hopspan.conventions import Route
    from hopspan.delivery import Delivery
    from hopspan.offsets import Tracker
    from hopspan.settlement import Policy

    Runs = Mapping[TopicPartition, Sequence[Any]]

_TOPIC, _NUMBER = attrgetter("topic"), attrgetter("partition")


class KafkaRecord(Record):
    """A record of kafka-python. `record` is the client's own; `consumer` has handed it out."""

    __slots__ = ()
    client = CLIENT

    @classmethod
    def of(cls, message: Any, via: Any) -> KafkaRecord | None:
        if not isinstance(message, ConsumerRecord):
            return None
        if isinstance(via, KafkaConsumer):
            return taken(message, track(via).tracker)
        found = registry.find(runs_of_one(message))
        if found is None:
            return _not_open(message)
        return cls(message, found[0], *found[1].values())

    @classmethod
    def given(cls, message: Any, via: Any) -> Delivery | tuple[()] | None:
        """A record, a list of records, or a poll's result."""
        if isinstance(message, dict) and all(isinstance(each, list) for each in message.values()):
            message = [record for several in message.values() for record in several]
        if not isinstance(message, list | tuple) or isinstance(message, ConsumerRecord):
            return cls.of(message, via)
        if not message:
            return ()
        return _batch(tuple(message), via) if _are_records(message) else None

    def read(self) -> tuple[Route, Any]:
        record, tracker = self.record, self.tracker
        consumer: Any = None if tracker is None else tracker.consumer
        routes = kafka_common.NOBODYS if consumer is None else consumer.routes
        return routes[record.topic, record.partition], record.headers

    def describe(self, attributes: dict[str, Any]) -> None:
        attributes[kafka_common.OFFSET] = self.offset
        if self.record.value is None:
            attributes[kafka_common.TOMBSTONE] = True
        if self.attempt > 1:
            attributes[names.ATTEMPT] = self.attempt
            attributes[names.REDELIVERED] = True
        consumer: Any = None if self.tracker is None else self.tracker.consumer
        if consumer is not None and consumer.cluster_id is None:
            consumer.add_cluster(attributes)

    def describe_message(self, attributes: dict[str, Any]) -> None:
        attributes.update(self.read()[0].particular)
        super().describe_message(attributes)

    @property
    def key(self) -> tuple[str, str] | None:
        key = self.record.key
        return None if key is None else kafka_common.key(key)

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:
        if Verdict.REJECT in policy.verdicts and policy.target is None:
            return (
                "Kafka cannot reject a record. Say where it is to go: "
                "policy=hopspan.dead_letter(topic, producer=...), or "
                "hopspan.requeue_times(n, then=hopspan.dead_letter(...))"
            )
        return None

    def unfit(self, policy: Policy) -> str | None:
        if self.tracker is None:
            return (
                "a record does not know its consumer. Give it as via=, or wrap the consumer with "
                "hopspan.wrap(consumer)"
            )
        return None if policy.target is None else producers.refusal(policy.target, self.record)

    def dead_letter(self, target: Any) -> None:
        """Publish a copy that tells the attempt that failed, and wait until the broker has it."""
        record, outcome = self.record, (self.batch or self).outcome
        headers = kafka_common.dead_letter_headers(
            record.headers,
            (record.topic, record.partition, record.offset),
            None if outcome is None else outcome.error_type,
            self.attempt,
        )
        producers.publish_copy(target, record, headers, self.subscription.instrumenter)


def settles_by_itself(instance: Any) -> bool:
    """Whether a consumer commits whatever becomes of its records."""
    state = state_of(instance)
    return state is not None and state.commits_by_itself


# -- finding ---------------------------------------------------------------------------------------


def taken(record: Any, tracker: Tracker) -> KafkaRecord:
    """A record of a consumer that is handled now."""
    return KafkaRecord(record, tracker, tracker.of_handled((record,)))


def _not_open(record: Any) -> KafkaRecord:
    """A record that no consumer has in hand; perhaps one has lost it in the middle of a batch.

    That is no mistake of the application's: the handler runs, and nothing is settled.
    """
    tracker, frontier = registry.loss_of(record) or (None, None)
    return KafkaRecord(record, tracker, frontier)


def _are_records(given: Sequence[Any]) -> bool:
    if all(issubclass(kind, ConsumerRecord) for kind in set(map(type, given))):
        return True
    return all(isinstance(each, ConsumerRecord) for each in given)  # doubles say so one by one


def _batch(records: Sequence[Any], via: Any) -> Batch:
    runs = runs_of(records)
    if isinstance(via, KafkaConsumer):
        tracker = track(via).tracker
        frontiers = {at: tracker.of_handled(several) for at, several in runs.items()}
        return RecordBatch(Records(KafkaRecord, records, runs, tracker, frontiers))
    found = registry.find(runs)
    if found is None and registry.knows_some(runs):
        return Batch([KafkaRecord.of(each, via) for each in records])
    owner, known = found or (None, {})
    return RecordBatch(Records(KafkaRecord, records, runs, owner, known))


def runs_of(records: Sequence[Any]) -> Runs:
    """Records by their partitions."""
    first = records[0]
    if len(set(map(_NUMBER, records))) == 1 and len(set(map(_TOPIC, records))) == 1:
        return {partition_named(first.topic, first.partition): records}
    runs: dict[TopicPartition, list[Any]] = {}
    for record in records:
        runs.setdefault(partition_named(record.topic, record.partition), []).append(record)
    return runs
