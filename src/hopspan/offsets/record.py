"""Records in hand: the handlings that frontiers keep, and settlement by what a commit tells.

A client's adapter derives a class that reads its records. Of several that are handled as one the
client's own records are kept, and a single one becomes a delivery only when somebody asks for it.
"""

from __future__ import annotations

import weakref
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from opentelemetry.trace import SpanContext

from hopspan.delivery import Batch, Delivery
from hopspan.model import Endpoint, Verdict
from hopspan.offsets.frontier import OFFSET, Done
from hopspan.telemetry import Members
from hopspan.telemetry.spans import UNRECORDED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from hopspan.model import Settlement
    from hopspan.offsets.consumer import Partition
    from hopspan.offsets.frontier import Frontier
    from hopspan.offsets.partitions import Runs
    from hopspan.offsets.tracker import Tracker
    from hopspan.settlement import Policy

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
        self.counted = False
        self.attempt = 1
        if frontier is not None and frontier.attempts:
            self.attempt = frontier.attempt(self.offset)  # pyright: ignore[reportIncompatibleMethodOverride]

    def dead_letter(self, target: Any) -> None:
        """Publish a copy, and wait until the broker has it. Raises what the client raises."""
        raise NotImplementedError

    @property
    def consumer(self) -> Any:
        """The client's consumer; None where nobody knows it, or when it is gone."""
        return None if self.tracker is None else self.tracker.consumer.native

    source = consumer  # pyright: ignore[reportIncompatibleMethodOverride]

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
        frontier = self.frontier
        found: Any = None
        known: Any = (
            nobodys.get(id(self.record)) if frontier is None else frontier.handling.get(self.offset)
        )
        if known is None:
            return None
        for each in known if type(known) is list else (known,):
            if each.record is self.record and (found is None or not each.is_over):
                found = each
        return found  # type: ignore[no-any-return]

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
                self.counted = frontier.is_in_batch(offset)  # pyright: ignore[reportIncompatibleMethodOverride]
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
            self.verdict: Verdict | None = Verdict.ACK

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


# -- several ---------------------------------------------------------------------------------------

_NO_FRONTIERS: Mapping[Partition, Frontier] = {}


class Records(Members):
    """Records of one consumer, or of none that is known; those of a poll belong to no batch."""

    __slots__ = ("_uncounted", "batch", "frontiers", "kind", "made", "records", "runs", "tracker")

    def __init__(
        self,
        kind: type[Record],
        records: Sequence[Any],
        runs: Runs,
        tracker: Tracker | None = None,
        frontiers: Mapping[Partition, Frontier] = _NO_FRONTIERS,
    ) -> None:
        self.kind: type[Record] = kind
        self.records: Sequence[Any] = records
        self.runs: Runs = runs
        self.tracker: Tracker | None = tracker
        self.frontiers: Mapping[Partition, Frontier] = frontiers
        self.made: dict[int, Record] = {}
        """The deliveries that somebody has asked for, by index."""
        self.batch: weakref.ref[RecordBatch] | None = None
        """The batch in which they are handled."""
        self._uncounted = len(records)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self.records)))]
        index += len(self.records) if index < 0 else 0
        if index not in self.made:
            made = self.made[index] = self.delivery_of(self.records[index])
            batch = None if self.batch is None else self.batch()
            if batch is not None:
                batch.take_in(made)
        return self.made[index]

    def delivery_of(self, record: Any) -> Record:
        """A delivery of one of the records, which nobody handles."""
        at = None if self.tracker is None else self.tracker.consumer.partition_of(record)
        return self.kind(record, self.tracker, self.frontiers.get(at))

    def endpoints(self) -> Collection[Endpoint]:
        topics = {each.topic for each in self.runs}
        if self.tracker is not None:
            return {*map(self.tracker.consumer.endpoint, topics)}
        return {Endpoint(self.kind.client.system, each) for each in topics}

    def headers(self, most: int) -> list[Any]:
        return [*map(self.kind.headers_of, self.records[-most:])] if most else []

    def uncounted(self) -> int:
        return self._uncounted

    def belong_to(self, batch: RecordBatch) -> None:
        """Belong to a batch that begins."""
        self.batch = weakref.ref(batch)
        # As it is now: what is done will be forgotten.
        self._uncounted -= sum(
            frontier.count_counted(self.runs[at]) for at, frontier in self.frontiers.items()
        )


class RecordBatch(Batch):
    """Records of one consumer, or of none that is known, handled as one."""

    __slots__ = ("_committed",)

    members: Records  # pyright: ignore[reportIncompatibleVariableOverride]
    _committed: dict[Partition, int]
    """The offsets that the application has committed by itself."""

    @property
    def kind(self) -> type[Record]:
        return self.members.kind

    @property
    def client(self) -> Any:  # type: ignore[override]
        return self.members.kind.client

    @property
    def source(self) -> Any:
        tracker = self.members.tracker
        return None if tracker is None else tracker.consumer.native

    @property
    def settles(self) -> bool:
        tracker = self.members.tracker
        return tracker is None or not tracker.consumer.commits_by_itself

    def unfit(self, policy: Policy) -> str | None:
        members = self.members
        # All are of one consumer; only their copies may differ.
        asked = members.records if policy.target is not None else members.records[:1]
        reasons = (members.delivery_of(each).unfit(policy) for each in asked)
        return next(filter(None, reasons), None)

    def is_open(self) -> bool:
        return all(each.alive for each in self.members.frontiers.values())

    def verdicts(self) -> Sequence[Verdict | None]:
        records = self.members.records
        verdicts: list[Verdict | None] = [None] * len(records)
        if self._committed:
            verdicts = [*map(self._verdict_of, records)]
        for index, made in self.members.made.items():
            verdicts[index] = made.verdict
        return verdicts

    def _verdict_of(self, record: Any) -> Verdict | None:
        """The verdict of a record of which no delivery was made."""
        tracker = self.members.tracker
        if tracker is None:
            return None
        below = self._committed.get(tracker.consumer.partition_of(record), 0)
        return Verdict.ACK if self.members.kind.offset_of(record) < below else None

    def take_in(self, made: Record) -> None:
        """A delivery of one of the records is made while they are handled."""
        made.join_batch(self)
        made.verdict = self._verdict_of(made.record)

    # -- handling --------------------------------------------------------------------------------

    def ongoing(self) -> Delivery | None:
        members = self.members
        going_on: Iterable[Any] = (  # handlings of batches
            filter(None, [nobodys.get(self._address())])
            if members.tracker is None
            else next(iter(members.frontiers.values())).batches.copy()
        )
        for each in going_on:
            theirs = cast("RecordBatch", each).members.records
            if len(theirs) == len(members) and all(map(is_, theirs, members.records)):
                return each  # type: ignore[no-any-return]
        return None

    def _address(self) -> tuple[int, int]:
        records = self.members.records
        return id(records[0]), len(records)

    def opened(self) -> Verdict | None:
        """Enter the frontiers, each once."""
        members, tracker = self.members, self.members.tracker
        self._committed = {}
        members.belong_to(self)
        if tracker is None:
            nobodys[self._address()] = self
        else:
            tracker.begin_batch(members.frontiers.values(), self, self.subscription)
            for at, frontier in members.frontiers.items():
                if frontier.settled_below:
                    self._committed[at] = frontier.settled_below
        for made in members.made.values():
            self.take_in(made)
        return next(filter(None, self.verdicts()), None) if self._committed else None

    def closed(self) -> None:
        tracker = self.members.tracker
        if tracker is None:
            nobodys.pop(self._address(), None)
        else:
            tracker.end_batch(self.members.frontiers.values(), self)

    def _settles_at_once(self, settlement: Settlement, seconds: float) -> bool:  # noqa: ARG002
        members, tracker = self.members, self.members.tracker
        is_whole = not members.made and not self._committed and self.is_open() and self.settles
        if tracker is None or not is_whole or settlement.verdict is not Verdict.ACK:
            return False
        kind, span = members.kind, self.span.get_span_context()
        for at, records in members.runs.items():
            done = [Done(kind.offset_of(r), kind.value_of(r) is None, span) for r in records]
            epochs = filter(None, map(kind.epoch_of, records))
            epoch = max(epochs, default=kind.epoch_of(records[-1]))
            tracker.conclude_all(members.frontiers[at], done, epoch, self.commits)
            self._committed[at] = done[-1].offset + 1
        return True

    # -- as frontiers see it ---------------------------------------------------------------------

    def _run(self, frontier: Frontier) -> tuple[Partition | None, Sequence[Any]]:
        members = self.members
        for at, each in members.frontiers.items():
            if each is frontier:
                return at, members.runs[at]
        return None, ()

    def offsets(self, frontier: Frontier) -> Iterable[int]:
        """The offsets of those records that are of a frontier's partition."""
        return map(self.members.kind.offset_of, self._run(frontier)[1])

    def committed_below(self, frontier: Frontier, offset: int) -> list[Done]:
        """Note that the application has committed an offset of a frontier's partition.

        Returns the records below it, for the span of the commit.
        """
        members = self.members
        at, run = self._run(frontier)
        if at is not None:
            self._committed[at] = max(offset, self._committed.get(at, 0))
        for made in list(members.made.values()):
            if made.frontier is frontier and made.offset < offset:
                made.committed()
        kind, span = members.kind, self.span.get_span_context()
        return [
            Done(kind.offset_of(each), kind.value_of(each) is None, span)
            for each in run
            if kind.offset_of(each) < offset
        ]
