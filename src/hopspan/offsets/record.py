"""A record in hand: the handling that frontiers keep, and settlement by what a commit tells.

A client's adapter derives a class that reads its records.
"""

from __future__ import annotations

import weakref
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry.trace import SpanContext

from hopspan.delivery import Delivery
from hopspan.model import Verdict
from hopspan.offsets.frontier import OFFSET, Done
from hopspan.telemetry.spans import UNRECORDED

if TYPE_CHECKING:
    from hopspan.model import Settlement
    from hopspan.offsets.frontier import Frontier
    from hopspan.offsets.tracker import Tracker

RETRY_PAUSE = 1.0
"""Seconds before a record is handed out again whose dead letter could not be published."""

nobodys: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
"""The handlings that go on of records whose consumer is not known, by the records' addresses."""


class RevokedError(Exception):
    """The partition is not ours any more: its new consumer gets the record."""

    def __init__(self) -> None:
        super().__init__("the partition was revoked, or the consumer is closed")


class Record(Delivery):
    """A record of one client's. `record` is the client's own; `consumer` has handed it out."""

    __slots__ = ("attempt", "counted", "frontier", "offset", "record", "tracker")

    offset_of: ClassVar[Any] = OFFSET
    headers_of: ClassVar[Any] = attrgetter("headers")
    value_of: ClassVar[Any] = attrgetter("value")
    epoch_of: ClassVar[Any] = attrgetter("leader_epoch")

    attempt: int
    """As it was when the handling began: another may have concluded the record since."""
    counted: bool
    """Whether a poll or another handling counts it for the metrics; as it was then."""

    def __init__(
        self, record: Any, tracker: Tracker | None = None, frontier: Frontier | None = None
    ) -> None:
        """A record.

        Args:
            record: The client's.
            tracker: Its consumer's; None where nobody knows it.
            frontier: Its partition's, as it was when the record was seen first.
        """
        self.record: Any = record
        self.tracker: Tracker | None = tracker
        self.frontier: Frontier | None = frontier
        self.offset: int = self.offset_of(record)
        self.counted, self.attempt = False, 1
        if frontier is not None and frontier.attempts:
            self.attempt = frontier.attempt(self.offset)

    def dead_letter(self, target: Any) -> None:
        """Publish a copy, and wait until the broker has it. Raises what the client raises."""
        raise NotImplementedError

    @property
    def consumer(self) -> Any:
        """The client's consumer; None where nobody knows it, or when it is gone."""
        return None if self.tracker is None else self.tracker.consumer.native

    source = consumer

    @property
    def headers(self) -> Any:
        return self.headers_of(self.record)

    @property
    def redelivered(self) -> bool:
        return self.attempt > 1

    @property
    def settles(self) -> bool:
        return self.tracker is None or not self.tracker.consumer.commits_by_itself

    # -- handling --------------------------------------------------------------------------------

    def ongoing(self) -> Record | None:
        """The handling of this very record: the client makes one object for each hand-over."""
        frontier, found = self.frontier, None
        known = (
            nobodys.get(id(self.record)) if frontier is None else frontier.handling.get(self.offset)
        )
        if known is None:
            return None
        for each in known if type(known) is list else (known,):
            if each.record is self.record and (found is None or not each.is_over):
                found = each
        return found

    def finished_turn(self) -> SpanContext | None:
        frontier = self.frontier
        turn = None if frontier is None else frontier.left.get(self.offset)
        if turn is None or frontier is None or not frontier.holds(self.record):
            return None
        return turn if isinstance(turn, SpanContext) else turn.get_span_context()

    def opened(self) -> Verdict | None:
        tracker, frontier = self.tracker, self.frontier
        if tracker is None or frontier is None:
            nobodys[id(self.record)] = self
            return None
        offset, handled, left = self.offset, frontier.handling, frontier.left
        with tracker.partitions.lock:
            self.counted = offset in frontier.counted_by_poll or offset in left
            if frontier.batches and not self.counted:
                self.counted = frontier.is_in_batch(offset)
            if self.subscription is not tracker.noted:
                tracker.note(self.subscription)
            if offset in handled:
                frontier.handle_again(self)
            else:
                handled[offset] = self
            return Verdict.ACK if offset < frontier.settled_below else None

    def closed(self) -> None:
        tracker, frontier, turn = self.tracker, self.frontier, None
        if tracker is None or frontier is None:
            nobodys.pop(id(self.record), None)
            return
        if self.is_turn:
            turn = self.span if type(self.span) in UNRECORDED else self.span.get_span_context()
        with tracker.partitions.lock:
            frontier.leave(self, turn)

    def is_open(self) -> bool:
        return self.frontier is None or self.frontier.alive

    # -- as frontiers see it ---------------------------------------------------------------------

    def revoke(self, reason: str) -> None:
        if self.batch is None:
            super().revoke(reason)
        else:
            self.batch.revoke(reason)

    def committed(self) -> None:
        """Note that the application has committed beyond the record, which acknowledges it."""
        if self.verdict is None:
            self.verdict = Verdict.ACK

    def as_done(self) -> Done:
        """The record for the span of the commit that covers it."""
        is_tombstone = self.value_of(self.record) is None
        return Done(self.offset, is_tombstone, self.span.get_span_context())

    # -- settling --------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> None:
        """Perform a verdict, from any thread.

        Raises:
            RevokedError: the partition is not ours any more.
        """
        tracker, frontier = self.tracker, self.frontier
        if tracker is None or frontier is None or not frontier.alive:
            raise RevokedError
        if settlement.verdict is Verdict.REQUEUE:
            self._requeue(tracker, frontier, settlement.pause)
            return
        if settlement.verdict is Verdict.REJECT:
            try:
                self.dead_letter(settlement.target)
            except BaseException:
                self._requeue(tracker, frontier, RETRY_PAUSE)
                raise
        commits = (self.batch or self).commits
        tracker.conclude(frontier, self.offset, self.epoch_of(self.record), self.as_done(), commits)

    def _requeue(self, tracker: Tracker, frontier: Frontier, pause: float) -> None:
        partition = tracker.consumer.partition_of(self.record)
        tracker.requeue(frontier, partition, self.offset, self.attempt, pause)
