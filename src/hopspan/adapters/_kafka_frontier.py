"""The commit frontier of one assigned partition: the lowest record that is not done.

Kafka settles by offsets: to commit one is to say that everything below it is done. So nothing may
be committed past a record that was handed out and is not concluded, whatever became of the others.

Rules: pure bookkeeping, no client; its owner holds a lock around every call.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.trace import SpanContext

    from hopspan.model import Delivery
    from hopspan.processing import Processing


OFFSET = attrgetter("offset")


class Done(NamedTuple):
    """A record that is done, for the span of the commit that says so."""

    offset: int
    delivery: Delivery
    span: SpanContext


class Frontier:
    """One partition from its assignment to its revocation; a later assignment has another one."""

    __slots__ = (
        "_attempts", "_ceiling", "_open", "alive", "batches", "committed", "counted", "done",
        "epoch", "handling", "is_dirty", "is_guess", "position", "settled_below",
    )  # fmt: skip

    MOST = 100_000
    """How many open records are kept apart; commits stop below those that are not."""
    MOST_UNSETTLED = 10_000
    """How many are kept where nobody settles, and it does not matter."""
    MOST_DONE = 1_000

    def __init__(self, *, alive: bool = True) -> None:
        self.alive: bool = alive
        """Whether the partition is still ours."""
        self.is_guess: bool = True
        """Whether no handing out was seen yet, so that what is handled has to tell."""
        self.counted: set[int] = set()
        """The open records that a poll has counted."""
        self.position: int | None = None
        """What comes next: one above what was handed out last. None: nobody knows."""
        self.epoch: int = -1
        """The highest leader epoch seen; -1 for none (KIP-320)."""
        self.committed: int | None = None
        """What a commit would have to go beyond; None before the first record."""
        self.settled_below: int = 0
        """Below which the application has committed by itself."""
        self.is_dirty: bool = False
        """Whether something is done that no commit has told yet."""
        self.handling: dict[int, list[tuple[Processing, Any]]] = {}
        """Who handles which record just now; more than one where several do."""
        self.batches: list[Any] = []
        """Those that are handled just now, with all of their records that are of this partition."""
        self.done: list[Done] = []
        # From offset to the record's identity. Not the records themselves: they may be large.
        self._open: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._ceiling: int | None = None

    def hand(self, records: Sequence[Any], *, settles: bool) -> None:
        """Records are handed out.

        Args:
            records: In the order of their offsets.
            settles: Whether hopspan settles at all here. Where it never does, there is no frontier
                to be kept, and the oldest are forgotten.
        """
        first, self.position = records[0].offset, records[-1].offset + 1
        self.is_guess = False
        if self.committed is None:
            self.committed = first  # where the first record was read from needs no commit
        if first < self.settled_below:  # noqa: PLR1730 - for every record: a call costs more
            self.settled_below = first
        if len(self.counted) > self.MOST:
            self.counted.intersection_update(each.offset for each in records)
        kept = records
        if len(self._open) + len(records) > (self.MOST if settles else self.MOST_UNSETTLED):
            kept = self._fitting(records, settles=settles)
        opened = self._open
        for record in kept:
            opened[record.offset] = id(record)

    def _fitting(self, records: Sequence[Any], *, settles: bool) -> Sequence[Any]:
        """Those that can be kept apart; commits stop below the first that cannot."""
        if not settles and len(self._open) >= self.MOST_UNSETTLED:
            self._forget_idle()
        room = self.MOST - len(self._open)
        for index, record in enumerate(records):
            if record.offset not in self._open:
                if room <= 0:
                    self._lower_ceiling(record.offset)
                    return records[:index]
                room -= 1
        return records

    def _lower_ceiling(self, offset: int) -> None:
        self._ceiling = offset if self._ceiling is None else min(offset, self._ceiling)

    def saw(self, *records: Any) -> None:
        """Records are handled. Where no handing out was seen, this is what tells of them.

        Otherwise one is open already, or it is not to count: it is done, or of a batch from before
        the partition was lost or the application went elsewhere, and will be handed out again.
        """
        for record in records if self.is_guess else ():
            offset = record.offset
            if offset >= self.settled_below:
                self._open[offset] = id(record)
                if self.committed is None:
                    self.committed = offset
                if self.position is None or offset >= self.position:
                    self.position = offset + 1

    def holds(self, record: Any) -> bool:
        """Whether this very record is open."""
        return self._open.get(record.offset) == id(record)

    def holds_all(self, records: Sequence[Any]) -> bool:
        """Whether each of these very records is open."""
        return [*map(self._open.get, map(OFFSET, records))] == [*map(id, records)]

    def holds_any(self) -> bool:
        """Whether there is an open record at all."""
        return bool(self._open)

    def attempt(self, offset: int) -> int:
        """Which attempt at a record this is, from 1, in this process."""
        return self._attempts.get(offset, 0) + 1

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
        self._attempts.pop(offset, None)
        self.counted.discard(offset)

    def is_open(self, offset: int) -> bool:
        """Whether a record was handed out and is not done, nor left by the application."""
        return offset in self._open

    def requeue(self, offset: int, attempt: int | None = None) -> None:
        """An open record is to be handed out again; it stays open until it is done.

        Args:
            offset: The record's.
            attempt: Which one failed; the last one when omitted. Two that go on at a time, because
                the record has come again with an earlier one, are the same attempt.
        """
        self.counted.discard(offset)
        failed = self.attempt(offset) if attempt is None else attempt
        self._attempts[offset] = max(failed, self._attempts.get(offset, 0))

    def _forget_idle(self) -> None:
        handled = self.handled()
        self._open = {at: self._open[at] for at in handled if at in self._open}
        self.counted.intersection_update(self._open)

    def sought(self, offset: int | None) -> None:
        """The application went to another place: what it has not begun to handle, it has left."""
        self._forget_idle()
        self._attempts.clear()
        self._ceiling = None
        self.position = self.committed = offset
        self.settled_below = 0 if offset is None else min(self.settled_below, offset)

    def settle_below(self, offset: int) -> list[Done]:
        """The application committed an offset. Returns what hopspan had not told yet."""
        for each in [each for each in self._open if each < offset]:
            self._forget(each)
        if self._ceiling is not None:
            is_past_all = self.position is not None and offset >= self.position
            self._ceiling = None if is_past_all else max(offset, self._ceiling)
        self.settled_below = self.committed = offset
        covered = self.take_done(offset)
        self.is_dirty = bool(self.done)
        return covered

    def handle(self, processing: Processing, native: Any) -> None:
        """Somebody handles a record from now on."""
        offset = native.record.offset
        others = self.handling.get(offset)
        if others is None:
            self.handling[offset] = [(processing, native)]
        else:
            others.append((processing, native))

    def leave(self, processing: Processing, native: Any) -> None:
        """The handling is over."""
        offset = native.record.offset
        several = self.handling.get(offset, [])
        for index, (one, _) in enumerate(several):
            if one is processing:
                if len(several) == 1:
                    del self.handling[offset]
                else:  # another list: somebody may be reading this one
                    self.handling[offset] = [*several[:index], *several[index + 1 :]]
                return

    def _handlings(self) -> Iterator[tuple[int, list[tuple[Processing, Any]]]]:
        """Who handles which record just now, one by one.

        Of copies: while values are made, the garbage collector may end a handling that was dropped.
        One more that has just ended only keeps its records open.
        """
        alone = self.handling.copy()
        batches = [(each, each.processing) for each in self.batches.copy()]
        yield from alone.items()
        for batch, processing in batches:
            if processing is not None:
                for native in batch.of(self):
                    yield native.record.offset, [(processing, native)]

    def handlers(self) -> list[Processing]:
        """Who handles anything just now."""
        alone = [each for several in self.handling.copy().values() for each, _ in several]
        together = [each.processing for each in self.batches.copy()]
        return [each for each in dict.fromkeys([*alone, *together]) if each is not None]

    def handled(self) -> set[int]:
        """The offsets of what is handled just now."""
        return {offset for offset, _ in self._handlings()}

    def is_handled(self) -> bool:
        """Whether anything is handled just now."""
        return bool(self.handling or self.batches)

    def handled_below(self, offset: int) -> list[tuple[Processing, Any]]:
        """Who handles the records below an offset just now."""
        return [each for at, several in self._handlings() if at < offset for each in several]

    def frontier(self) -> int | None:
        """What may be committed: everything below it is done. None where nobody knows."""
        if self.position is None:
            return None
        lowest = min(self._open, default=self.position)
        return min(each for each in (lowest, self.position, self._ceiling) if each is not None)

    def due(self) -> int | None:
        """The frontier, where it is further than what was committed."""
        frontier = self.frontier()
        return None if frontier is None or frontier <= (self.committed or 0) else frontier

    def held_by(self) -> int | None:
        """The open record that nobody handles and that nobody is to get again, if it holds back."""
        lowest = self.frontier()
        is_left = lowest in self._open and lowest not in self.handled()
        return lowest if is_left and lowest not in self._attempts else None

    def take_done(self, below: int) -> list[Done]:
        """The records that a commit covers; forgotten from now on."""
        covered = [each for each in self.done if each.offset < below]
        self.done = [each for each in self.done if each.offset >= below]
        return covered

    def give_back(self, covered: Sequence[Done]) -> None:
        """The commit failed: the next one covers them."""
        self.done = [*covered, *self.done][-self.MOST_DONE :]
        self.is_dirty = True
