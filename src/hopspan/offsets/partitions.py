"""The partitions of a consumer, each with its frontier, and the records that are open in them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from hopspan.offsets.frontier import Frontier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hopspan.offsets.consumer import Consumer, Partition
    from hopspan.offsets.frontier import BatchHandling, Handling

    Runs = Mapping[Partition, Sequence[Any]]
    """Records by their partitions."""


class Partitions:
    """One consumer's. A lock guards changes; a look-up needs none."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.lock: Any = threading.RLock()
        self.frontiers: dict[Partition, Frontier] = {}
        """The frontiers of those that are ours."""
        self.settles: bool = False
        """Whether a policy has ever settled here."""
        self._known: set[Partition] = set()
        # Of each partition that was taken away, as it was then: a batch of it may be in hand.
        self._lost: dict[Partition, Frontier] = {}
        self._suspended: dict[Partition, tuple[Frontier, object]] = {}

    # -- looking up ------------------------------------------------------------------------------

    def all(self) -> list[Partition]:
        """Those that are ours, or may turn out to be."""
        return [*self.frontiers, *self._suspended]

    def find(self, partition: Partition) -> Frontier | None:
        """The frontier of a partition that is ours, or may turn out to be."""
        found = self._look(partition)
        # Or it was on its way from the one to the other. Without the lock: others ask as well, and
        # whoever has it may take long, or be in a process that this one was forked from.
        return self._look(partition) if found is None else found

    def _look(self, partition: Partition) -> Frontier | None:
        suspended = self._suspended.get(partition)
        return self.frontiers.get(partition) if suspended is None else suspended[0]

    def is_suspended(self, partition: Partition) -> bool:
        """Whether a partition is revoked, and may still come back."""
        return partition in self._suspended

    def holding(self, runs: Runs) -> dict[Partition, Frontier] | None:
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

    def lost(self, record: Any) -> Frontier | None:
        """The frontier in which this very record was open when its partition was taken away."""
        frontier = self._lost.get(self._consumer.partition_of(record))
        return frontier if frontier is not None and frontier.holds(record) else None

    def lost_some(self, runs: Runs) -> bool:
        """Whether any of these very records was open when its partition was taken away."""
        return any(self.lost(each) is not None for records in runs.values() for each in records)

    # -- records ---------------------------------------------------------------------------------

    def begun(self, partition: Partition) -> Frontier:
        """A new frontier, for a partition that turns out to be ours. Under the lock."""
        frontier = self.frontiers[partition] = Frontier(self._consumer.offset_of)
        self._known.add(partition)
        return frontier

    def counted_by_poll(self, runs: Runs) -> None:
        """A poll has counted these records; their handling need not."""
        with self.lock:
            for partition, records in runs.items():
                frontier = self.find(partition) or self.begun(partition)
                frontier.counted_by_poll.update(map(self._consumer.offset_of, records))

    def of_handled(self, partition: Partition, records: Sequence[Any]) -> Frontier:
        """The frontier of records that are handled now; a dead one if their partition is gone."""
        frontier = self.find(partition)
        if frontier is None or frontier.is_guess:
            return self._inferred(partition, records)
        return frontier

    def _inferred(self, partition: Partition, records: Sequence[Any]) -> Frontier:
        with self.lock:
            frontier = self.find(partition)
            if frontier is None:
                was_ours = partition in self._known
                frontier = Frontier(alive=False) if was_ours else self.begun(partition)
            frontier.infer(*records)
            return frontier

    # -- assignment ------------------------------------------------------------------------------

    def suspend(
        self, partitions: Iterable[Partition], kept: Mapping[Any, object]
    ) -> list[Partition]:
        """Partitions are revoked: nothing is committed for them unless they come back.

        In an eager rebalance every partition is revoked first, and most come back to the same
        consumer. kafka-python 3 then goes on where it was, so that nothing is handed out again, and
        what is being handled is still ours. 2.x starts from what is committed.

        Args:
            partitions: Those that are revoked.
            kept: The client's state of each partition that it has; a new object where it starts
                afresh.

        Returns:
            Those that are gone at once.
        """
        gone = []
        with self.lock:
            for partition in partitions:
                if partition not in kept:
                    gone.append(partition)
                elif partition in self.frontiers:
                    # First there, then gone from here: others look without the lock.
                    self._suspended[partition] = (self.frontiers[partition], kept[partition])
                    del self.frontiers[partition]
        return gone

    def reinstate(self, kept: Mapping[Any, object]) -> list[Partition]:
        """The new assignment is known. Returns the suspended ones that have not come back as is."""
        with self.lock:
            suspended = self._suspended
            self.frontiers.update({each: known[0] for each, known in suspended.items()})
            self._suspended = {}
            return [each for each, known in suspended.items() if kept.get(each) is not known[1]]

    def remove(self, partition: Partition) -> list[Handling | BatchHandling]:
        """A partition is gone. Returns the handlings to be ended. Under the lock."""
        frontier = self.frontiers.pop(partition, None)
        if frontier is None and partition in self._suspended:
            frontier = self._suspended.pop(partition)[0]
        if frontier is None:
            return []
        frontier.alive = False
        self._lost[partition] = frontier
        return frontier.handlings()
