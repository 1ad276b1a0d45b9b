"""Many records handled as one: what concerns all of them takes no value for each.

All records of a partition that one consumer has handed out share its frontier, so that a batch is
entered there once. A single record of it is a value as soon as somebody asks for that.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from hopspan.adapters._kafka_frontier import OFFSET
from hopspan.adapters.kafka.consumers import Received, Shared
from hopspan.adapters.kafka.describing import HEADERS, TOPIC, OnDemand, delivery, endpoint
from hopspan.adapters.kafka.partitions import Runs, partition_of
from hopspan.model import Delivery, Verdict
from hopspan.processing import Together
from hopspan.telemetry import Several

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from kafka.structs import TopicPartition

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.adapters.kafka.consumers import State
    from hopspan.model import Endpoint
    from hopspan.processing import Processing

_NUMBER = attrgetter("partition")
_NONE: Mapping[TopicPartition, Frontier] = {}


def runs_of(records: Sequence[Any]) -> Runs:
    """Records by their partitions."""
    if len(set(map(_NUMBER, records))) == 1 and len(set(map(TOPIC, records))) == 1:
        return {partition_of(records[0]): records}
    runs: dict[TopicPartition, list[Any]] = {}
    for record in records:
        runs.setdefault(partition_of(record), []).append(record)
    return runs


class Batch(OnDemand[Received], Together):
    """Records in our hands that are all of one consumer, or all of nobody knows whom."""

    __slots__ = ("_consumer", "_frontiers", "_runs", "_shared", "_state")

    def __init__(
        self,
        records: Sequence[Any],
        runs: Runs,
        state: State | None = None,
        frontiers: Mapping[TopicPartition, Frontier] = _NONE,
    ) -> None:
        super().__init__(records)
        self._shared = Shared()
        self._runs = runs
        self._consumer = None if state is None else state.consumer()
        self._state = state
        self._frontiers = frontiers

    def make(self, record: Any) -> Received:
        """A record of ours."""
        frontier = self._frontiers.get(partition_of(record))
        return Received(self._consumer, record, frontier, self._state, self._shared)

    @property
    def processing(self) -> Any:
        """Who handles them just now."""
        return self._shared.processing

    def of(self, frontier: Frontier) -> list[Received]:
        """Those that are of a frontier."""
        return [each for each in self if each.frontier is frontier]

    def deliveries(self) -> Described:
        """The same as values."""
        return Described(self)

    def opened(self, processing: Processing) -> Iterable[tuple[Received, Verdict]]:
        """Enter them in their frontiers; returns those that were settled already."""
        state, self._shared.processing = self._state, processing
        if state is None:
            return ()
        with state.lock:
            state.settles = state.settles or processing.policy.settles
            state.committer.instrumenter = processing.instrumenter
            for frontier in self._frontiers.values():
                frontier.batches.append(self)
            if not any(each.settled_below for each in self._frontiers.values()):
                return ()
            return [
                (self.make(record), Verdict.ACK)
                for record in self.records
                if record.offset < self._frontiers[partition_of(record)].settled_below
            ]

    def closed(self, processing: Processing) -> None:  # noqa: ARG002 - there is no other
        """The handling is over."""
        if self._state is not None:
            with self._state.lock:
                for frontier in self._frontiers.values():
                    if self in frontier.batches:
                        frontier.batches.remove(self)
        self._shared.processing = None

    def endpoints(self) -> AbstractSet[Endpoint]:
        """Where they are from."""
        return {endpoint(each.topic, self._state) for each in self._runs}

    def uncounted(self) -> int:
        """How many of them no poll has counted."""
        counted = 0
        for each, frontier in self._frontiers.items():
            if frontier.counted:
                counted += sum(map(frontier.counted.__contains__, map(OFFSET, self._runs[each])))
        return len(self.records) - counted


class Described(OnDemand[Delivery], Several):
    """The records of a batch as values, each made when it is asked for."""

    __slots__ = ("_batch", "_uncounted")

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.records)
        self._batch = batch
        self._uncounted = batch.uncounted()  # now: what is done is not remembered

    def make(self, record: Any) -> Delivery:
        """A record as a value."""
        return delivery(self._batch.make(record))

    def endpoints(self) -> AbstractSet[Endpoint]:
        """Where they are from."""
        return self._batch.endpoints()

    def headers(self, most: int) -> list[Any]:
        """Those of the newest."""
        return [*map(HEADERS, self.records[-most:])] if most else []

    def uncounted(self) -> int:
        """How many of them no poll had counted when they were handed over."""
        return self._uncounted
