"""The tracker of a consumer: its partitions' frontiers, and the work that is left for its thread.

And the registry of a client's trackers, for records do not know the consumer that they came by.

Rules: a consumer is used on one thread, but records may be concluded on any; so conclusions only
change what is kept here, under a lock, and the client is called (seek, pause, commit) on its own
thread: at once where that is the current one, else when it next asks for records.
"""

from __future__ import annotations

import weakref
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.offsets.committer import TIMEOUT, Committer, UserCommit
from hopspan.offsets.partitions import Partitions
from hopspan.offsets.rewinding import Rewinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Sized

    from hopspan.delivery import Subscription
    from hopspan.offsets.consumer import Consumer, Partition
    from hopspan.offsets.frontier import BatchHandling, Done, Frontier, Handling
    from hopspan.offsets.partitions import Runs
    from hopspan.settlement import Commits
    from hopspan.telemetry import Instrumenter

_SLICE = 1.0
"""Seconds after which a blocking poll looks for what other threads have concluded. Not much less:
polls of less than 0.3 s can keep a consumer of kafka-python 3 from ever joining its group."""


class Tracker:
    """One consumer's, from when hopspan first sees it."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer: Consumer = consumer
        self.partitions: Partitions = Partitions(consumer)
        self.committer: Committer = Committer(consumer, self.partitions)
        self.rewinding: Rewinding = Rewinding(consumer, self.partitions)
        self.noted: Subscription | None = None
        """The settings of the last handling."""
        self.siblings: Sized = ()
        """The trackers of the client, this one included."""
        self.claim: Callable[[Sequence[Any]], object] = len
        """Called with the records that are handed out, where there are several."""

    # -- handing out -----------------------------------------------------------------------------

    def handed_out(self, runs: Runs) -> None:
        """The application gets records. Never raises."""
        partitions = self.partitions
        try:
            for partition, records in runs.items():
                if len(self.siblings) > 1:
                    self.claim(records)
                with partitions.lock:
                    frontier = partitions.frontiers.get(partition) or partitions.begun(partition)
                    frontier.handed_out(records, settles=partitions.settles)
        except Exception:  # noqa: BLE001 - what is not seen must not be committed
            self._lose_sight()

    def handed_out_one(self, record: Any) -> Frontier | None:
        """The application gets one record; returns its partition's frontier. Never raises."""
        partitions = self.partitions
        try:
            partition = self.consumer.partition_of(record)
            if len(self.siblings) > 1:
                self.claim((record,))
            with partitions.lock:
                frontier = partitions.frontiers.get(partition) or partitions.begun(partition)
                frontier.handed_out_one(record, settles=partitions.settles)
                return frontier
        except Exception:  # noqa: BLE001 - as above
            self._lose_sight()
            return None

    def _lose_sight(self) -> None:
        self.committer.is_off = True
        faults.report("seeing what a consumer hands out; nothing more is committed for it")

    # -- handling --------------------------------------------------------------------------------

    def of_handled(self, records: Sequence[Any]) -> Frontier:
        """The frontier of records of one partition that are handled now."""
        self.consumer.guess_thread()
        return self.partitions.of_handled(self.consumer.partition_of(records[0]), records)

    def note(self, subscription: Subscription) -> None:
        """A handling begins with these settings; spans of commits follow them. Under the lock."""
        self.noted = subscription
        self.committer.instrumenter = subscription.instrumenter
        self.partitions.settles = self.partitions.settles or subscription.settles

    def begin_batch(
        self, frontiers: Iterable[Frontier], batch: BatchHandling, subscription: Subscription
    ) -> None:
        """The handling of several records as one begins."""
        with self.partitions.lock:
            self.note(subscription)
            for frontier in frontiers:
                frontier.batches.append(batch)

    def end_batch(self, frontiers: Iterable[Frontier], batch: BatchHandling) -> None:
        """The handling of several records as one is over. Idempotent."""
        with self.partitions.lock:
            for frontier in frontiers:
                if batch in frontier.batches:
                    frontier.batches.remove(batch)

    # -- settling --------------------------------------------------------------------------------

    def conclude(
        self,
        frontier: Frontier,
        offset: int,
        epoch: int | None,
        done: Done | None = None,
        strategy: Commits | None = None,
    ) -> None:
        """A record is done. Commits if that is due, and if this is the consumer's thread.

        Args:
            frontier: Of the record's partition.
            offset: The record's.
            epoch: The record's leader epoch, if it has one.
            done: The record for the span of the commit.
            strategy: When to commit from now on; as before where it is omitted.
        """
        with self.partitions.lock:
            if strategy is not None:
                self.committer.strategy = strategy
            self.partitions.settles = True
            frontier.conclude(offset, epoch, done)
            self.committer.pending += 1
        if self.consumer.is_here():
            self.committer.commit_if_due()

    def conclude_all(
        self, frontier: Frontier, done: Sequence[Done], epoch: int | None, strategy: Commits
    ) -> None:
        """Records of a partition are done together."""
        with self.partitions.lock:
            for each in done[:-1]:
                frontier.conclude(each.offset, epoch, each)
            self.committer.pending += len(done) - 1
        self.conclude(frontier, done[-1].offset, epoch, done[-1], strategy)

    def requeue(
        self, frontier: Frontier, partition: Partition, offset: int, attempt: int, pause: float
    ) -> None:
        """Hand a record out again; `pause` seconds later, if the client is to wait.

        Nothing is done for one that is done already, or that the application has left by a seek.
        """
        with self.partitions.lock:
            self.partitions.settles = True
            if not frontier.is_open(offset):
                return
            frontier.requeue(offset, attempt)
            self.rewinding.add(partition, offset, pause)
        if self.consumer.is_here():
            self.rewinding.run()

    # -- what the application does by itself -----------------------------------------------------

    def on_seek(self, partition: Partition, offset: int | None) -> None:
        """The application went to another place; None for one that is not known."""
        with self.partitions.lock:
            self.rewinding.forget(partition)
            frontier = self.partitions.find(partition)
            if frontier is not None:
                frontier.on_seek(offset)

    def user_commit(
        self, positions: Mapping[Any, int | None] | None, instrumenter: Instrumenter | None
    ) -> UserCommit:
        """The application commits; see `UserCommit`."""
        if self.consumer.is_here():  # what was to be sought back must not be in the position
            self.run_pending()
        return UserCommit(self.committer, positions, instrumenter)

    # -- on the consumer's thread ----------------------------------------------------------------

    def run_pending(self) -> None:
        """Do what was left for the consumer's thread, which is the calling one. Never raises."""
        self.consumer.thread = get_ident()
        try:
            if self.rewinding.rewinds or self.rewinding.pauses:
                self.rewinding.run()
            if self.committer.pending:
                self.committer.commit_if_due()
        except Exception:  # noqa: BLE001 - the record is not done, so it comes back one day
            faults.report("seeking, resuming or committing")

    def max_block(self) -> float | None:
        """Seconds for which a poll may block; None for as long as it likes."""
        waits = self.rewinding.seconds_left() if self.rewinding.pauses else []
        with self.partitions.lock:
            frontiers = self.partitions.frontiers.values()
            if any(each.handling or each.batches or each.is_dirty for each in frontiers):
                waits.append(_SLICE)
        return min(waits, default=None)

    def before_close(self, seconds: float) -> None:
        """The consumer is about to close: commit what is done, and end what is being handled."""
        self.run_pending()
        self.committer.commit(wait=True, seconds=min(seconds, TIMEOUT))
        self.revoke(self.partitions.all(), "closed")

    # -- losing partitions -----------------------------------------------------------------------

    def on_revoked(self, partitions: Iterable[Partition], kept: Mapping[Any, object]) -> None:
        """Partitions are revoked; see `Partitions.suspend`."""
        self.revoke(self.partitions.suspend(partitions, kept))

    def on_assigned(self, kept: Mapping[Any, object]) -> None:
        """The new assignment is known; see `Partitions.reinstate`."""
        self.revoke(self.partitions.reinstate(kept))

    def keep_only(self, partitions: Iterable[Partition]) -> None:
        """The application has assigned these, and no others."""
        kept = set(partitions)
        self.revoke([each for each in self.partitions.all() if each not in kept])

    def revoke(self, partitions: Iterable[Partition], reason: str = "revoked") -> None:
        """Partitions are somebody else's: open spans end, and nothing more is committed."""
        ended: list[Handling | BatchHandling] = []
        with self.partitions.lock:
            for partition in partitions:
                self.rewinding.forget(partition)
                self.rewinding.hand_back_pause([partition])
                ended += self.partitions.remove(partition)
        for handling in ended:
            _end(handling, reason)


class Registry:
    """The trackers of one client, and which of them has handed out records that do not tell.

    Safe from any thread.
    """

    MOST_OWNED = 100_000

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
        if len(self._owners) > self.MOST_OWNED:
            self._owners.clear()  # a record that is not found here is looked for everywhere
        self._owners.update(dict.fromkeys(map(id, records), owner))

    def find(self, runs: Runs) -> tuple[Tracker, dict[Partition, Frontier]] | None:
        """The tracker of the consumer that has handed out these very records, and is alive.

        With the frontiers of their partitions. None where one of them is nobody's, or another's.
        """
        owner = next((self._owners.get(id(each[0])) for each in runs.values()), None)
        known = self._all() if owner is None or _alive(owner) is None else (owner,)
        for kept in known:
            tracker = _alive(kept)
            frontiers = None if tracker is None else tracker.partitions.holding(runs)
            if tracker is not None and frontiers is not None:
                self._last = kept
                return tracker, frontiers
        return None

    def knows_some(self, runs: Runs) -> bool:
        """Whether a consumer has records of the same partitions in hand, or has lost these."""
        known = [each.partitions for each in map(_alive, self._all()) if each is not None]
        return any(each.holds_some(runs) or each.lost_some(runs) for each in known)

    def loss_of(self, record: Any) -> tuple[Tracker, Frontier] | None:
        """The tracker whose consumer has lost this very record with its partition, or None."""
        for tracker in filter(None, map(_alive, self._all())):
            frontier = tracker.partitions.lost(record)
            if frontier is not None:
                return tracker, frontier
        return None

    def _all(self) -> list[Callable[[], Tracker | None]]:
        # Copied in one step: the garbage collector may take a consumer away.
        return [self._last, *(each for _, each in list(self._trackers.values()))]


def _alive(kept: Callable[[], Tracker | None]) -> Tracker | None:
    """A tracker may outlive its consumer, for as long as a record of it is handled."""
    tracker = kept()
    return None if tracker is None or tracker.consumer.native is None else tracker


def _none() -> None:
    return None


def _end(handling: Handling | BatchHandling, reason: str) -> None:
    try:
        handling.revoke(reason)
    except Exception:  # noqa: BLE001 - we are in the middle of the client's rebalance
        faults.report("ending the span of a record that is not ours any more")
