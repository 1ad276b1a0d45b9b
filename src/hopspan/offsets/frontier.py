"""The commit frontier of one assigned partition: the lowest record that is not done.

Kafka settles by offsets: a commit says that everything below it is done. So nothing may be
committed past a record that was handed out and is not concluded, whatever became of the others.

Rules: pure bookkeeping, no client; its owner holds a lock around every call.
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.trace import SpanContext

OFFSET: Callable[[Any], int] = attrgetter("offset")


class Done(NamedTuple):
    """A record that is done, for the span of the commit that covers it."""

    offset: int
    is_tombstone: bool
    span: SpanContext
    """The process span of its handling."""


class Handling(Protocol):
    """The handling of one record, while it goes on. Every method is safe from any thread."""

    @property
    def offset(self) -> int:
        """The record's offset."""
        ...

    def revoke(self, reason: str) -> None:
        """End the handling, and settle nothing: the partition is gone. Idempotent."""

    def committed(self) -> None:
        """Note that the application has committed beyond the record, which acknowledges it."""

    def as_done(self) -> Done:
        """The record for the span of the commit that covers it."""
        ...


class BatchHandling(Protocol):
    """The handling of several records as one, while it goes on. Safe from any thread."""

    def revoke(self, reason: str) -> None:
        """End the handling, and settle nothing: a partition of it is gone. Idempotent."""

    def offsets(self, frontier: Frontier) -> Iterable[int]:
        """The offsets of those of its records that are of a frontier's partition."""
        ...

    def committed_below(self, frontier: Frontier, offset: int) -> list[Done]:
        """Note that the application has committed an offset of a frontier's partition.

        Returns the records below it, for the span of the commit.
        """
        ...


class Frontier:
    """One partition from its assignment to its revocation; a later assignment has another one."""

    __slots__ = (
        "_ceiling", "_offset_of", "_open", "alive", "attempts", "batches", "committed",
        "counted_by_poll", "done", "epoch", "handling", "is_dirty", "is_guess", "left", "position",
        "settled_below",
    )  # fmt: skip

    MOST = 100_000
    """The number of open records that are kept apart; commits stop below those that are not."""
    MOST_UNSETTLED = 10_000
    """The same where no policy settles, and nothing depends on it."""
    MOST_DONE = 1_000
    MOST_LEFT = 1_000

    def __init__(self, offset_of: Callable[[Any], int] = OFFSET, *, alive: bool = True) -> None:
        self._offset_of = offset_of
        self.alive: bool = alive
        """Whether the partition is still ours."""
        self.is_guess: bool = True
        """Whether no handing out was seen yet, so that records are inferred from their handling."""
        self.counted_by_poll: set[int] = set()
        """The open records that a poll has counted."""
        self.position: int | None = None
        """The offset after the record that was handed out last; None while it is unknown."""
        self.epoch: int = -1
        """The highest leader epoch seen; -1 for none (KIP-320)."""
        self.committed: int | None = None
        """The offset that a commit has to exceed; None before the first record."""
        self.settled_below: int = 0
        """The offset that the application has committed by itself."""
        self.is_dirty: bool = False
        """Whether something is done that no commit has covered yet."""
        self.handling: dict[int, Handling | list[Handling]] = {}
        """The handlings that go on, by offset; a list where one record has several."""
        self.batches: list[BatchHandling] = []
        """The batches with records of this partition that are being handled."""
        self.done: list[Done] = []
        self.attempts: dict[int, int] = {}
        """By offset, how often an open record was requeued."""
        self.left: dict[int, Any] = {}
        """By offset, the open records whose handling is over: a loop's turn as given, or None."""
        # From offset to the record's identity. Not the records themselves: they may be large.
        self._open: dict[int, int] = {}
        self._ceiling: int | None = None

    # -- handing out -----------------------------------------------------------------------------

    def handed_out(self, records: Sequence[Any], *, settles: bool) -> None:
        """Records are handed out.

        Args:
            records: In the order of their offsets.
            settles: Whether hopspan settles at all here. Where it never does, no frontier needs to
                be kept, and the oldest records are forgotten.
        """
        if not records:
            return
        offset_of = self._offset_of
        first, self.position = offset_of(records[0]), offset_of(records[-1]) + 1
        self.is_guess = False
        if self.committed is None:
            self.committed = first  # where the first record was read from needs no commit
        if first < self.settled_below:  # noqa: PLR1730 - for every record: a call costs more
            self.settled_below = first
        if len(self.counted_by_poll) > self.MOST:
            self.counted_by_poll.intersection_update(map(offset_of, records))
        kept = records
        if len(self._open) + len(records) > (self.MOST if settles else self.MOST_UNSETTLED):
            kept = self._fitting(records, settles=settles)
        self._open.update(zip(map(offset_of, kept), map(id, kept), strict=True))
        if self.left:
            for offset in map(offset_of, records):  # what comes now is another delivery
                self.left.pop(offset, None)

    def handed_out_one(self, record: Any, *, settles: bool) -> None:
        """A record is handed out by itself, as loops get them."""
        offset = self._offset_of(record)
        if self.is_guess or offset < self.settled_below or len(self._open) >= self.MOST_UNSETTLED:
            self.handed_out((record,), settles=settles)
            return
        self._open[offset] = id(record)
        self.position = offset + 1
        if self.left:
            self.left.pop(offset, None)

    def _fitting(self, records: Sequence[Any], *, settles: bool) -> Sequence[Any]:
        """Those that can be kept apart; commits stop below the first that cannot."""
        if not settles and len(self._open) >= self.MOST_UNSETTLED:
            self._forget_idle()
        room = self.MOST - len(self._open)
        for index, offset in enumerate(map(self._offset_of, records)):
            if offset not in self._open:
                if room <= 0:
                    self._lower_ceiling(offset)
                    return records[:index]
                room -= 1
        return records

    def _lower_ceiling(self, offset: int) -> None:
        self._ceiling = offset if self._ceiling is None else min(offset, self._ceiling)

    def infer(self, *records: Any) -> None:
        """Records are handled; where no handing out was seen, they must have been handed out.

        Otherwise such a record is open already, or it does not count: it is done, or of a batch
        from before the partition was lost or the application went elsewhere, and comes again.
        """
        for record in records if self.is_guess else ():
            offset = self._offset_of(record)
            if offset >= self.settled_below:
                self._open[offset] = id(record)
                if self.committed is None:
                    self.committed = offset
                if self.position is None or offset >= self.position:
                    self.position = offset + 1

    def holds(self, record: Any) -> bool:
        """Whether this very record is open."""
        return self._open.get(self._offset_of(record)) == id(record)

    def holds_all(self, records: Sequence[Any]) -> bool:
        """Whether each of these very records is open."""
        return [*map(self._open.get, map(self._offset_of, records))] == [*map(id, records)]

    def holds_any(self) -> bool:
        """Whether there is an open record at all."""
        return bool(self._open)

    def count_counted(self, records: Sequence[Any]) -> int:
        """The number of those that a poll or another handling counts, which may still go on."""
        if not self.counted_by_poll and not self.left and not self.handling:
            return 0
        offsets, others = {*map(self._offset_of, records)}, (self.left, self.handling)
        return len((offsets & self.counted_by_poll).union(*(offsets & {*each} for each in others)))

    def is_in_batch(self, offset: int) -> bool:
        """Whether a batch is being handled that a record is of."""
        return any(offset in each.offsets(self) for each in self.batches)

    def is_open(self, offset: int) -> bool:
        """Whether a record was handed out and is neither done nor left by the application."""
        return offset in self._open

    def attempt(self, offset: int) -> int:
        """The number of the current attempt at a record, from 1, in this process."""
        return self.attempts.get(offset, 0) + 1

    # -- handling --------------------------------------------------------------------------------

    def handle_again(self, handling: Handling) -> None:
        """A record that is being handled is so twice from now on."""
        # Another list: somebody may be reading this one.
        self.handling[handling.offset] = [*_listed(self.handling[handling.offset]), handling]

    def leave(self, handling: Handling, turn: Any = None) -> None:
        """The handling is over; of a loop's turn that leaves the record open, `turn` is kept."""
        if handling.offset in self._open:
            self.left[handling.offset] = turn
            if len(self.left) > self.MOST_LEFT:
                for oldest in [*islice(self.left, self.MOST_LEFT // 2)]:
                    del self.left[oldest]
        found = self.handling.get(handling.offset)
        if found is handling:
            del self.handling[handling.offset]
        elif isinstance(found, list):
            self.handling[handling.offset] = [each for each in found if each is not handling]
            if not self.handling[handling.offset]:
                del self.handling[handling.offset]

    # Of copies: while these run, the garbage collector may end a handling that was dropped. One
    # more that has just ended only keeps its records open.

    def handlings(self) -> list[Handling | BatchHandling]:
        """The handlings that go on, a batch as one."""
        alone = [each for found in self.handling.copy().values() for each in _listed(found)]
        return [*alone, *self.batches]

    def handled(self) -> set[int]:
        """The offsets of the records that are being handled."""
        together = {at for each in self.batches.copy() for at in each.offsets(self)}
        return {*self.handling.copy(), *together}

    def committed_below(self, offset: int) -> list[Done]:
        """The application committed an offset: its records below are settled, also those handled.

        Returns them, as far as no commit had covered them before.
        """
        covered = []
        for at, found in self.handling.copy().items():
            for each in _listed(found) if at < offset else ():
                covered.append(each.as_done())
                each.committed()
        for batch in self.batches.copy():
            covered += batch.committed_below(self, offset)
        return self.settle_below(offset) + covered

    def conclude(self, offset: int, epoch: int | None, done: Done | None) -> None:
        """A record is done."""
        self._forget(offset)
        self.epoch = max(self.epoch, -1 if epoch is None else epoch)
        self.is_dirty = True
        if done is not None:
            self.done.append(done)
            del self.done[: -self.MOST_DONE]

    def _forget(self, offset: int) -> None:
        self._open.pop(offset, None)
        self.attempts.pop(offset, None)
        self.counted_by_poll.discard(offset)
        if self.left:
            self.left.pop(offset, None)

    def requeue(self, offset: int, attempt: int | None = None) -> None:
        """An open record is to be handed out again; it stays open until it is done.

        Args:
            offset: The record's.
            attempt: The attempt that failed; the last one when omitted. Two that go on at a time,
                because the record has come again with an earlier one, are the same attempt.
        """
        self.counted_by_poll.discard(offset)
        self.left.pop(offset, None)
        failed = self.attempt(offset) if attempt is None else attempt
        self.attempts[offset] = max(failed, self.attempts.get(offset, 0))

    # -- what the application does by itself -----------------------------------------------------

    def _forget_idle(self) -> None:
        handled = self.handled()
        self._open = {at: self._open[at] for at in handled if at in self._open}
        self.counted_by_poll.intersection_update(self._open)

    def on_seek(self, offset: int | None) -> None:
        """The application went to another place, and left what it has not begun to handle."""
        self._forget_idle()
        self.attempts.clear()
        self.left.clear()
        self._ceiling = None
        self.position = self.committed = offset
        self.settled_below = 0 if offset is None else min(self.settled_below, offset)

    def settle_below(self, offset: int) -> list[Done]:
        """The application committed an offset. Returns what no commit had covered before."""
        for each in [each for each in self._open if each < offset]:
            self._forget(each)
        if self._ceiling is not None:
            is_past_all = self.position is not None and offset >= self.position
            self._ceiling = None if is_past_all else max(offset, self._ceiling)
        self.settled_below = self.committed = offset
        covered = self.take_done(offset)
        self.is_dirty = bool(self.done)
        return covered

    # -- committing ------------------------------------------------------------------------------

    def frontier(self) -> int | None:
        """The offset below which everything is done; None while it is unknown."""
        if self.position is None:
            return None
        lowest = min(self._open, default=self.position)
        return min(each for each in (lowest, self.position, self._ceiling) if each is not None)

    def committable(self) -> int | None:
        """The frontier, where it is further than what was committed."""
        frontier = self.frontier()
        return None if frontier is None or frontier <= (self.committed or 0) else frontier

    def blocking_offset(self) -> int | None:
        """The open record that stops commits although nobody handles it, nor will get it again."""
        lowest = self.frontier()
        is_left = lowest in self._open and lowest not in self.handled()
        return lowest if is_left and lowest not in self.attempts else None

    def take_done(self, below: int) -> list[Done]:
        """The records that a commit covers; forgotten from now on."""
        covered = [each for each in self.done if each.offset < below]
        self.done = [each for each in self.done if each.offset >= below]
        return covered

    def give_back(self, covered: Sequence[Done]) -> None:
        """The commit failed: the next one covers them."""
        self.done = [*covered, *self.done][-self.MOST_DONE :]
        self.is_dirty = True


def _listed(found: Handling | list[Handling]) -> list[Handling]:
    return found if isinstance(found, list) else [found]
