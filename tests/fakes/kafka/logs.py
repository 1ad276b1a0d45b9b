"""Partitions: their batches, how far they may be read, and what open transactions hold back."""

from __future__ import annotations

import time
from typing import NamedTuple

from .protocol import Error
from .records import NO_PRODUCER, Batch, Headers, Record, build, marker

# Not 0 and not -1, so that a test sees whether it was passed on.
LEADER_EPOCH = 5
_REMEMBERED = 5


class RefusedError(Exception):
    """A request, or its part for one partition, that is answered with an error code."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.name)
        self.error = error


class Aborted(NamedTuple):
    producer_id: int
    first: int
    last: int


class Partition:
    """A log. Offsets only grow; what is taken out of it leaves a gap."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.end = 0
        self._batches: list[Batch] = []
        self._sequences: dict[int, list[Batch]] = {}  # of each producer, its latest batches
        self._open: dict[int, int] = {}  # transactions: the producer, and its first offset
        self._aborted: list[Aborted] = []

    # Writing

    def append(self, batch: Batch) -> int:
        """Store a batch; the offset of its first record, also for one that was stored before."""
        known = self._sequences.setdefault(batch.producer_id, [])
        if batch.producer_id != NO_PRODUCER:
            for earlier in known:
                if (earlier.producer_epoch, earlier.sequence) == batch[-3:-1]:
                    return earlier.base
            self._check_sequence(batch, known)
        stored = self._store(batch)
        if batch.producer_id != NO_PRODUCER:
            known[:] = [*known, stored][-_REMEMBERED:]
        if batch.transactional:
            self._open.setdefault(batch.producer_id, stored.base)
        return stored.base

    def _check_sequence(self, batch: Batch, known: list[Batch]) -> None:
        latest = known[-1] if known else None
        if latest and batch.producer_epoch < latest.producer_epoch:
            raise RefusedError(Error.INVALID_PRODUCER_EPOCH)
        same = latest and batch.producer_epoch == latest.producer_epoch
        expected = latest.sequence + latest.record_count if latest and same else 0
        # A producer that this partition has not heard of may begin anywhere.
        if latest and batch.sequence != expected:
            raise RefusedError(Error.OUT_OF_ORDER_SEQUENCE_NUMBER)

    def _store(self, batch: Batch) -> Batch:
        stored = batch.at(self.end, LEADER_EPOCH)
        self._batches.append(stored)
        self.end = stored.last + 1
        return stored

    def add(
        self, key: bytes | None, value: bytes | None, headers: Headers, timestamp: int | None
    ) -> int:
        stamp = int(time.time() * 1000) if timestamp is None else timestamp
        return self.append(build(key, value, headers, stamp, self.index))

    def skip(self, count: int) -> None:
        self._store(marker(committed=True, producer_id=0, producer_epoch=0, offsets=count))

    def compact(self, offsets: set[int]) -> None:
        missing = offsets - {record.offset for record in self.records()}
        if missing:
            raise KeyError(f"no records at {sorted(missing)}")
        for at, batch in enumerate(self._batches):
            if not batch.control:
                self._batches[at] = batch.without(offsets, self.index)

    def end_transaction(self, producer_id: int, producer_epoch: int, *, commit: bool) -> None:
        first = self._open.pop(producer_id, None)
        ending = marker(committed=commit, producer_id=producer_id, producer_epoch=producer_epoch)
        stored = self._store(ending)
        if first is not None and not commit:
            self._aborted.append(Aborted(producer_id, first, stored.base))

    # Reading

    def records(self) -> list[Record]:
        return [record for batch in self._batches for record in batch.records(self.index)]

    def readable(self, *, committed: bool) -> int:
        """The offset up to which may be read; for who wants only what is committed, less."""
        return min(self._open.values(), default=self.end) if committed else self.end

    def read(self, offset: int, size: int, *, committed: bool) -> bytes:
        """Batches from the one with `offset` on: one whatever its size, more as they fit."""
        if not 0 <= offset <= self.end:
            raise RefusedError(Error.OFFSET_OUT_OF_RANGE)
        limit, found = self.readable(committed=committed), b""
        for batch in self._batches:
            if offset <= batch.last < limit:
                if found and len(found) + len(batch.raw) > size:
                    break
                found += batch.raw
        return found

    def aborted(self, offset: int) -> list[Aborted]:
        return [each for each in self._aborted if each.last >= offset]

    def offset_at(self, timestamp: int) -> tuple[int, int]:
        """Of the first record that is not older, its timestamp and offset; -1 where none is."""
        for record in self.records():
            if record.timestamp >= timestamp:
                return record.timestamp, record.offset
        return -1, -1
