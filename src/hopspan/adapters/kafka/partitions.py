"""The partitions of a consumer, each with its frontier, and whose records are open in them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from kafka.structs import TopicPartition

from hopspan.adapters._kafka_frontier import OFFSET, Frontier

Runs = Mapping[TopicPartition, Sequence[Any]]
"""Records by their partitions."""


@lru_cache(maxsize=1_024)
def _partition(topic: str, number: int) -> TopicPartition:
    return TopicPartition(topic, number)


def partition_of(record: Any) -> TopicPartition:
    """The partition that a record is of."""
    return _partition(record.topic, record.partition)


class Partitions:
    """One consumer's. A lock guards what is changed; what is only looked up needs none."""

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.frontiers: dict[TopicPartition, Frontier] = {}
        self._seen: set[TopicPartition] = set()
        self._suspended: dict[TopicPartition, tuple[Frontier, object]] = {}

    def count(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """A poll has counted these records; who handles them need not."""
        with self.lock:
            for partition, records in batches.items():
                frontier = self.find(partition) or self.frontier(partition)
                frontier.counted.update(map(OFFSET, records))

    def frontier(self, partition: TopicPartition) -> Frontier:
        """That of a partition that is ours; begun, if need be."""
        frontier = self.frontiers.get(partition)
        if frontier is None:
            frontier = self.frontiers[partition] = Frontier()
            self._seen.add(partition)
        return frontier

    def seen(self, partition: TopicPartition, records: Sequence[Any]) -> Frontier:
        """That of records that are handled now; a dead one where their partition is not ours."""
        frontier = self.find(partition)
        if frontier is None or frontier.is_guess:
            return self._guessed(partition, records)
        return frontier

    def _guessed(self, partition: TopicPartition, records: Sequence[Any]) -> Frontier:
        """Nobody has told us of these records' partition, or not yet."""
        with self.lock:
            frontier = self.find(partition)
            if frontier is None:
                was_ours = partition in self._seen
                frontier = Frontier(alive=False) if was_ours else self.frontier(partition)
            frontier.saw(*records)
            return frontier

    def find(self, partition: TopicPartition) -> Frontier | None:
        """The frontier of a partition that is ours, or may turn out to be."""
        found = self._look(partition)
        # Or it was on its way from the one to the other. Without the lock: others ask as well, and
        # whoever has it may take long, or be in a process that this one was forked from.
        return self._look(partition) if found is None else found

    def _look(self, partition: TopicPartition) -> Frontier | None:
        suspended = self._suspended.get(partition)
        return self.frontiers.get(partition) if suspended is None else suspended[0]

    def holds(self, record: Any) -> bool:
        """Whether this consumer has handed out this very record, and it is still open."""
        frontier = self.find(partition_of(record))
        return frontier is not None and frontier.holds(record)

    def holding(self, runs: Runs) -> dict[TopicPartition, Frontier] | None:
        """The frontiers in which each of these very records is open; None where one is not."""
        found = {}
        for partition, records in runs.items():
            frontier = self.find(partition)
            if frontier is None or not frontier.holds_all(records):
                return None
            found[partition] = frontier
        return found

    def holds_some(self, runs: Runs) -> bool:
        """Whether any records of the same partitions are open."""
        known = [self.find(each) for each in runs]
        return any(frontier is not None and frontier.holds_any() for frontier in known)

    def is_suspended(self, partition: TopicPartition) -> bool:
        """Whether nobody knows yet whose a partition is."""
        return partition in self._suspended

    def partitions(self) -> list[TopicPartition]:
        """Those that are ours, or may turn out to be."""
        return [*self.frontiers, *self._suspended]
