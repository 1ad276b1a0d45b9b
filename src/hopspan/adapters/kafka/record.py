"""Records as deliveries: read, handled alone or as a batch, settled, and dead-lettered.

A batch takes no value for each of its records: all records of a partition that one consumer has
handed out share its frontier, and a single one is a value as soon as somebody asks for that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from kafka import KafkaConsumer
from kafka.consumer.fetcher import ConsumerRecord

from hopspan.adapters import kafka_common
from hopspan.adapters.kafka import producer as producers
from hopspan.adapters.kafka.consumer import partition_named, registry, state_of, track
from hopspan.model import Delivery, MessageInfo, Settlement, Verdict
from hopspan.offsets import Done, MixedConsumersError, RevokedError
from hopspan.processing import Together
from hopspan.telemetry import Several

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from kafka.structs import TopicPartition

    from hopspan.adapters.kafka.consumer import ConsumerState
    from hopspan.model import Endpoint
    from hopspan.offsets import Frontier
    from hopspan.processing import Processing
    from hopspan.settlement import Policy

    Runs = Mapping[TopicPartition, Sequence[Any]]

Item = TypeVar("Item")

_NO_ATTRIBUTES: dict[str, Any] = {}
_NO_FRONTIERS: Mapping[TopicPartition, Frontier] = {}
_NO_SERVER = kafka_common.Server()
_TOPIC, _HEADERS, _NUMBER = attrgetter("topic"), attrgetter("headers"), attrgetter("partition")

RETRY_PAUSE = 1.0
"""Seconds before a record is handed out again whose dead letter could not be published."""


class Record:
    """A record in our hands, and its handling while that goes on."""

    __slots__ = ("_processing", "attempt", "consumer", "frontier", "record", "state")

    def __init__(
        self,
        record: Any,
        state: ConsumerState | None = None,
        frontier: Frontier | None = None,
        consumer: Any = None,
    ) -> None:
        self.record: Any = record
        self.state: ConsumerState | None = state
        """Of the consumer; None where nobody knows it."""
        self.frontier: Frontier | None = frontier
        """Its partition's, as it was when the record was seen first."""
        self.consumer: Any = consumer
        self.attempt: int = 1 if frontier is None else frontier.attempt(record.offset)
        """As it was known when the handling began: another may have concluded the record since."""
        self._processing: Processing | None = None

    @property
    def processing(self) -> Processing | None:
        """The handling; None before and after."""
        return self._processing

    @property
    def offset(self) -> int:
        """The record's offset."""
        offset: int = self.record.offset
        return offset

    def begin(self, processing: Processing) -> bool:
        """Handle it from now on. Whether the application has committed beyond it already."""
        state, frontier = self.state, self.frontier
        if state is None or frontier is None:
            return False
        self._processing = processing
        settles = processing.policy.settles
        return state.tracker.begin(frontier, self, processing.instrumenter, settles=settles)

    def end(self) -> None:
        """The handling is over."""
        if self.state is not None and self.frontier is not None:
            self.state.tracker.end(self.frontier, self)
        self._processing = None

    def revoke(self, reason: str) -> None:
        """End the handling, and settle nothing: the partition is gone."""
        processing = self.processing
        if processing is not None:
            processing.lose(reason)

    def committed(self) -> None:
        """Note that the application has committed beyond the record."""
        processing = self.processing
        if processing is not None:
            processing.wire.note(self, Verdict.ACK)

    def as_done(self) -> Done | None:
        """The record for the span of its commit; None where nobody handles it."""
        processing, record = self.processing, self.record
        if processing is None:
            return None
        return Done(record.offset, record.value is None, processing.span.get_span_context())


def _endpoint(topic: str, state: ConsumerState | None) -> Endpoint:
    return kafka_common.endpoint(topic, _NO_SERVER) if state is None else state.endpoint(topic)


def _message(record: Any, state: ConsumerState | None) -> MessageInfo:
    about = _NO_ATTRIBUTES if state is None else state.attributes()
    attributes = kafka_common.record_attributes(
        about, record.partition, record.offset, is_tombstone=record.value is None
    )
    key = record.key
    return MessageInfo(None, None, attributes, None if key is None else kafka_common.key(key))


def delivery(native: Record) -> Delivery:
    """A record as a value."""
    record, state, frontier, attempt = native.record, native.state, native.frontier, native.attempt
    return Delivery(
        _endpoint(record.topic, state),
        _message(record, state),
        record.headers,
        native,
        attempt > 1,
        attempt,
        state is None or not state.commits_by_itself,
        frontier is not None and record.offset in frontier.counted_by_poll,
    )


# -- several ---------------------------------------------------------------------------------------


class Lazy(Sequence[Item], Generic[Item]):
    """Values made of records when they are asked for: one, some, or all of them at last."""

    __slots__ = ("_all", "records")

    def __init__(self, records: Sequence[Any]) -> None:
        self.records: Sequence[Any] = records
        self._all: list[Item] | None = None

    @abstractmethod
    def make(self, record: Any) -> Item:
        """The value of one record."""

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if self._all is not None:
            return self._all[index]
        if isinstance(index, slice):
            return [*map(self.make, self.records[index])]
        return self.make(self.records[index])

    def __iter__(self) -> Iterator[Item]:
        if self._all is None:
            self._all = [*map(self.make, self.records)]
        return iter(self._all)


class LazyBatch(Lazy[Delivery], Several):
    """The records of a batch as values, or those of a poll, which nobody can settle."""

    __slots__ = ("_batch", "_state", "_uncounted")

    def __init__(
        self,
        records: Sequence[Any],
        state: ConsumerState | None,
        uncounted: int,
        batch: Batch | None = None,
    ) -> None:
        super().__init__(records)
        self._state = state
        self._batch = batch
        self._uncounted = uncounted  # given, not looked up: records that are done are forgotten

    def make(self, record: Any) -> Delivery:
        """A record as a value."""
        if self._batch is not None:
            return delivery(self._batch.make(record))
        endpoint, message = _endpoint(record.topic, self._state), _message(record, self._state)
        return Delivery(endpoint, message, record.headers, None)

    def endpoints(self) -> AbstractSet[Endpoint]:
        """Where they are from."""
        return {_endpoint(each, self._state) for each in set(map(_TOPIC, self.records))}

    def headers(self, most: int) -> list[Any]:
        """Those of the newest."""
        return [*map(_HEADERS, self.records[-most:])] if most else []

    def uncounted(self) -> int:
        """How many of them no poll had counted when they were handed over."""
        return self._uncounted


def polled(records: Sequence[Any], state: ConsumerState) -> LazyBatch:
    """The records of a poll, for its span."""
    return LazyBatch(records, state, len(records))


class Part(Record):
    """A record of a batch."""

    __slots__ = ("_shared",)

    def __init__(self, shared: _Shared, *about: Any) -> None:
        super().__init__(*about)
        self._shared = shared

    @property
    def processing(self) -> Processing | None:
        """The handling of the batch; None before and after."""
        return self._shared.processing


class _Shared:
    """The handling of a batch. Apart from the batch, which its records must not keep."""

    __slots__ = ("processing",)

    def __init__(self) -> None:
        self.processing: Processing | None = None


class Batch(Lazy[Record], Together):
    """Records in our hands that are all of one consumer, or all of no known one."""

    __slots__ = ("_consumer", "_frontiers", "_runs", "_shared", "_state")

    def __init__(
        self,
        records: Sequence[Any],
        runs: Runs,
        state: ConsumerState | None = None,
        frontiers: Mapping[TopicPartition, Frontier] = _NO_FRONTIERS,
    ) -> None:
        super().__init__(records)
        self._shared = _Shared()
        self._runs = runs
        self._consumer = None if state is None else state.native
        self._state = state
        self._frontiers = frontiers

    def make(self, record: Any) -> Record:
        """A record of the batch."""
        frontier = self._frontiers.get(partition_named(record.topic, record.partition))
        return Part(self._shared, record, self._state, frontier, self._consumer)

    def parts(self, frontier: Frontier) -> list[Record]:
        """Those of a frontier's partition, while the batch is handled."""
        if self._shared.processing is None:
            return []
        return [each for each in self if each.frontier is frontier]

    def revoke(self, reason: str) -> None:
        """End the handling, and settle nothing: a partition of it is gone."""
        processing = self._shared.processing
        if processing is not None:
            processing.lose(reason)

    def deliveries(self) -> LazyBatch:
        """The same as values."""
        return LazyBatch(self.records, self._state, self._count_uncounted(), self)

    def _count_uncounted(self) -> int:
        counted = 0
        for partition, frontier in self._frontiers.items():
            known = frontier.counted_by_poll
            if known:
                counted += sum(each.offset in known for each in self._runs[partition])
        return len(self.records) - counted

    def opened(self, processing: Processing) -> Iterable[tuple[Record, Verdict]]:
        """Enter them in their frontiers; returns those that were settled already."""
        state, frontiers, self._shared.processing = self._state, self._frontiers, processing
        if state is None:
            return ()
        state.tracker.begin_batch(
            frontiers.values(), self, processing.instrumenter, settles=processing.policy.settles
        )
        return [
            (self.make(record), Verdict.ACK)
            for partition, frontier in frontiers.items()
            if frontier.settled_below
            for record in self._runs[partition]
            if record.offset < frontier.settled_below
        ]

    def closed(self, processing: Processing) -> None:  # noqa: ARG002 - there is no other
        """The handling is over."""
        if self._state is not None:
            self._state.tracker.end_batch(self._frontiers.values(), self)
        self._shared.processing = None


def runs_of(records: Sequence[Any]) -> Runs:
    """Records by their partitions."""
    first = records[0]
    if len(set(map(_NUMBER, records))) == 1 and len(set(map(_TOPIC, records))) == 1:
        return {partition_named(first.topic, first.partition): records}
    runs: dict[TopicPartition, list[Any]] = {}
    for record in records:
        runs.setdefault(partition_named(record.topic, record.partition), []).append(record)
    return runs


# -- finding ---------------------------------------------------------------------------------------


def handed(args: tuple[Any, ...], via: Any = None) -> Sequence[Record] | None:
    """The record, or the batch of records, among a handler's arguments."""
    return next((found for found in (given(each, via) for each in args) if found), None)


def given(message: Any, via: Any) -> Sequence[Record] | None:
    """A record, a list of records, or a poll's result."""
    if isinstance(message, ConsumerRecord):
        return [_of(message, via)]
    if isinstance(message, dict) and all(isinstance(each, list) for each in message.values()):
        message = [record for several in message.values() for record in several]
    if not isinstance(message, list | tuple) or not _are_records(message):
        return None
    return _batch(tuple(message), via) if len(message) > 1 else [_of(each, via) for each in message]


def _are_records(given: Sequence[Any]) -> bool:
    if all(issubclass(kind, ConsumerRecord) for kind in set(map(type, given))):
        return True
    return all(isinstance(each, ConsumerRecord) for each in given)  # doubles say so one by one


def _of(record: Any, via: Any) -> Record:
    if isinstance(via, KafkaConsumer):
        return taken(record, track(via))
    tracker = registry.tracker_of(record)
    state = None if tracker is None else state_of(tracker.consumer.native)
    return Record(record) if state is None else taken(record, state)


def taken(record: Any, state: ConsumerState) -> Record:
    """A record of a consumer that is handled now."""
    return Record(record, state, state.tracker.of_handled((record,)), state.native)


def _batch(records: Sequence[Any], via: Any) -> Sequence[Record]:
    runs = runs_of(records)
    if isinstance(via, KafkaConsumer):
        state = track(via)
        frontiers = {at: state.tracker.of_handled(several) for at, several in runs.items()}
        return Batch(records, runs, state, frontiers)
    try:
        found = registry.tracker_of_all(runs)
    except MixedConsumersError:
        return [_of(each, via) for each in records]
    if found is None:
        return Batch(records, runs)
    tracker, known = found
    return Batch(records, runs, state_of(tracker.consumer.native), known)


# -- settling --------------------------------------------------------------------------------------


def settles_by_itself(instance: Any) -> bool:
    """Whether a consumer commits whatever becomes of its records."""
    state = state_of(instance)
    return state is not None and state.commits_by_itself


def owner(native: Record) -> Any:
    """The consumer that the record came by."""
    return native.consumer


def same(native: Record, other: Record) -> bool:
    """Whether both are one delivery: the client makes one object for each hand-over."""
    return native.record is other.record


def opened(native: Record, processing: Processing) -> Verdict | None:
    """Enter a record in its partition's frontier."""
    return Verdict.ACK if native.begin(processing) else None


def closed(native: Record, processing: Processing) -> None:  # noqa: ARG001 - there is no other
    """The handling is over."""
    native.end()


def is_open(native: Record) -> bool:
    """Whether the record can still be settled."""
    return native.frontier is not None and native.frontier.alive


def hop(native: Record) -> None:
    """Any thread will do: the work of the client's own is left for it."""


def settle(native: Record, settlement: Settlement) -> None:
    """Perform a verdict, from any thread.

    Raises:
        RevokedError: the partition is not ours any more.
    """
    state, frontier, record = native.state, native.frontier, native.record
    if state is None or frontier is None or not frontier.alive:
        raise RevokedError
    if settlement.verdict is Verdict.REQUEUE:
        _requeue(native, state, frontier, settlement.pause)
        return
    processing = native.processing
    if settlement.verdict is Verdict.REJECT:
        try:
            dead_letter(native, settlement.target)
        except BaseException:
            _requeue(native, state, frontier, RETRY_PAUSE)
            raise
    strategy = None if processing is None else processing.commits
    state.tracker.conclude(frontier, record.offset, record.leader_epoch, native.as_done(), strategy)


def _requeue(native: Record, state: ConsumerState, frontier: Frontier, pause: float) -> None:
    partition = state.partition_of(native.record)
    state.tracker.requeue(frontier, partition, native.record.offset, native.attempt, pause)


def refusal(policy: Policy, native: Record | None = None) -> str | None:
    """Why a policy cannot work here."""
    if Verdict.REJECT in policy.verdicts and policy.target is None:
        return (
            "Kafka cannot reject a record. Say where it is to go: "
            "policy=hopspan.dead_letter(topic, producer=...), or "
            "hopspan.requeue_times(n, then=hopspan.dead_letter(...))"
        )
    if native is None:
        return None
    if native.consumer is None:
        return (
            "a record does not know its consumer. Give it as via=, or wrap the consumer with "
            "hopspan.wrap(consumer)"
        )
    return None if policy.target is None else producers.refusal(policy.target, native.record)


def dead_letter(native: Record, target: tuple[str, Any]) -> None:
    """Publish a copy that tells the attempt that failed, and wait until the broker has it.

    Raises:
        Exception: the producer's; the record is then not done.
    """
    record, processing = native.record, native.processing
    outcome = None if processing is None else processing.outcome
    origin = kafka_common.Origin(
        record.topic,
        record.partition,
        record.offset,
        None if outcome is None else outcome.error_type,
        native.attempt,
    )
    headers = kafka_common.dead_letter_headers(record.headers, origin)
    instrumenter = None if processing is None else processing.instrumenter
    producers.publish_copy(target, record, headers, instrumenter)
