"""The consumers of one client, and the one that has handed out a record that does not know it."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hopspan.offsets.consumer import Partition
    from hopspan.offsets.frontier import Frontier
    from hopspan.offsets.partitions import Runs
    from hopspan.offsets.tracker import Tracker

_MOST_OWNED = 100_000


class MixedConsumersError(Exception):
    """Some records are of one consumer and some are not, so each has to be looked up by itself."""


class Registry:
    """One client's trackers. Safe from any thread."""

    def __init__(self) -> None:
        self._trackers: dict[int, tuple[weakref.ref[Any], weakref.ref[Tracker]]] = {}
        # From a record's address to the consumer that handed it out last, where there are several
        # consumers. Records are not kept, so another may lie there by now: its owner has to
        # confirm that it holds the record.
        self._owners: dict[int, weakref.ref[Tracker]] = {}
        # The tracker that was found last is most likely to be asked for next.
        self._last: Callable[[], Tracker | None] = _none

    def add(self, native: Any, tracker: Tracker) -> None:
        """Look for records in this consumer as well, for as long as it lives."""
        key, mine = id(native), weakref.ref(tracker)
        self._trackers[key] = weakref.ref(native, partial(self._remove, key)), mine
        tracker.siblings, tracker.claim = self._trackers, partial(self._claim, mine)

    def _remove(self, key: int, _: object) -> None:
        self._trackers.pop(key, None)
        if len(self._trackers) < 2:  # noqa: PLR2004 - the others are gone
            self._owners.clear()

    def _claim(self, owner: weakref.ref[Tracker], records: Sequence[Any]) -> None:
        if len(self._owners) > _MOST_OWNED:
            self._owners.clear()  # a record that is not found here is looked for everywhere
        self._owners.update(dict.fromkeys(map(id, records), owner))

    def tracker_of(self, record: Any) -> Tracker | None:
        """The tracker of the consumer that has handed out this very record, or None."""
        owner = self._owner(record)
        if owner is not None:
            return owner if owner.partitions.holds(record) else None
        for kept, tracker in self._all():
            if tracker.partitions.holds(record):
                self._last = kept
                return tracker
        return None

    def tracker_of_all(self, runs: Runs) -> tuple[Tracker, dict[Partition, Frontier]] | None:
        """The tracker of the consumer that has handed out these very records, or None.

        Raises:
            MixedConsumersError: each of them has to be looked up by itself.
        """
        owner = next((self._owner(each[0]) for each in runs.values() if each), None)
        if owner is not None:
            frontiers = owner.partitions.holding(runs)
            if frontiers is not None:
                return owner, frontiers
        else:
            for kept, tracker in self._all():
                frontiers = tracker.partitions.holding(runs)
                if frontiers is not None:
                    self._last = kept
                    return tracker, frontiers
        for _, tracker in self._all():
            partitions = tracker.partitions
            if partitions.holds_some(runs) or partitions.lost_some(runs):
                raise MixedConsumersError
        return None

    def loss_of(self, record: Any) -> tuple[Tracker, Frontier] | None:
        """The tracker whose consumer has lost this very record with its partition, or None."""
        for _, tracker in self._all():
            frontier = tracker.partitions.lost(record)
            if frontier is not None:
                return tracker, frontier
        return None

    def _owner(self, record: Any) -> Tracker | None:
        return _alive(self._owners.get(id(record), _none))

    def _all(self) -> Iterator[tuple[Callable[[], Tracker | None], Tracker]]:
        # Copied in one step: the garbage collector may take a consumer away.
        known = [each for _, each in list(self._trackers.values())]
        candidates: list[Callable[[], Tracker | None]] = [self._last, *known]
        for kept in candidates:
            tracker = _alive(kept)
            if tracker is not None:
                yield kept, tracker


def _alive(kept: Callable[[], Tracker | None]) -> Tracker | None:
    """A tracker may outlive its consumer, for as long as a record of it is handled."""
    tracker = kept()
    return None if tracker is None or tracker.consumer.native is None else tracker


def _none() -> None:
    return None
