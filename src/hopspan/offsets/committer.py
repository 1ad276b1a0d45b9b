"""Committing what is done: explicit offsets, by strategy, and never past an open record.

A failed commit is an error of its settle span; its records stay to be committed, so the next one
tries again. Nothing here raises into the application.
"""

from __future__ import annotations

from functools import partial
from time import monotonic, perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import get_current_span

from hopspan import faults
from hopspan.delivery import failure
from hopspan.delivery.outcomes import PLAIN
from hopspan.model import SUCCESS, Outcome, SettledMessage, Verdict
from hopspan.offsets.consumer import Position
from hopspan.settlement import Commits
from hopspan.telemetry import EMPTY, get_current, record_settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hopspan.offsets.consumer import Consumer, Partition, Positions
    from hopspan.offsets.frontier import Done, Frontier
    from hopspan.offsets.partitions import Partitions
    from hopspan.telemetry import Instrumenter

    Covered = Mapping[Partition, list[Done]]
    """The records that a commit covers."""

COMMIT = "commit"
"""The settlement of everything that is done, in Kafka's words."""
TIMEOUT = 10.0
"""Seconds to wait for a commit's answer."""
_ROUND_TRIP = 0.5
"""Seconds in which an answer is expected."""


class Committer:
    """The commits of one consumer. Its methods run on the consumer's thread, but for answers."""

    def __init__(self, consumer: Consumer, partitions: Partitions) -> None:
        self.consumer: Consumer = consumer
        self.partitions: Partitions = partitions
        self.strategy: Commits = Commits()
        self.instrumenter: Instrumenter | None = None
        """Of the last handling: the commits' spans follow its settings."""
        self.is_off: bool = False
        """Whether nothing may be committed, because hopspan has lost sight of the consumer."""
        self.pending: int = 0
        """The number of records that are done and of which no commit was begun."""
        self._last = monotonic()
        self._unanswered: list[Commit] = []

    def commit_if_due(self) -> None:
        """Commit when the strategy says so. Never raises."""
        if not self.pending or self.consumer.group is None or self._is_waiting():
            return
        strategy = self.strategy
        if (strategy.every is not None and self.pending >= strategy.every) or (
            strategy.seconds is not None and monotonic() - self._last >= strategy.seconds
        ):
            self.commit(wait=strategy.wait)

    def _is_waiting(self) -> bool:
        """Whether to wait for the answer that is on its way: the client refuses more than a few.

        kafka-python 2 hears it only when it is asked for records, so not for long.
        """
        return bool(self._unanswered) and self._unanswered[-1].is_on_its_way(_ROUND_TRIP)

    def commit(self, *, wait: bool, seconds: float = TIMEOUT) -> None:
        """Commit what is done and not committed. Never raises.

        Args:
            wait: Until the broker has answered; also for what was sent before and is not answered.
            seconds: For how long at most.
        """
        commit = self.prepare()
        try:
            if commit is not None and wait:
                self.consumer.commit(commit.positions, seconds)
            elif commit is not None:
                self._unanswered.append(commit)
                answered = partial(on_answer, commit)
                commit.is_answered = self.consumer.commit_async(commit.positions, answered)
        except Exception as error:  # noqa: BLE001 - the client's: on the span and in the log
            if commit is not None:
                commit.failed(error)
            return
        if wait:
            for each in (*filter(None, [commit]), *self._unanswered):
                each.succeeded()  # it covers what was sent before

    async def commit_awaited(self, partitions: Iterable[Partition]) -> None:
        """Commit what is done of these partitions, on the client's own loop. Never raises."""
        commit = self.prepare(partitions)
        if commit is None:
            return
        try:
            await self.consumer.commit_awaited(commit.positions)
        except Exception as error:  # noqa: BLE001 - the client's: on the span and in the log
            commit.failed(error)
        else:
            commit.succeeded()

    def prepare(self, partitions: Iterable[Partition] | None = None) -> Commit | None:
        """The commit that is to be sent now; None where there is nothing to commit."""
        if self.consumer.group is None or self.is_off or not self.partitions.settles:
            return None
        frontiers = self.partitions.frontiers
        committed: dict[Partition, tuple[Frontier, int]] = {}
        with self.partitions.lock:
            self.pending, self._last = 0, monotonic()
            for partition in list(frontiers) if partitions is None else partitions:
                frontier = frontiers.get(partition)
                if frontier is None:
                    continue
                offset = frontier.committable()
                if offset is not None:
                    committed[partition] = frontier, offset
                elif frontier.is_dirty:
                    _warn_of_blocked(partition, frontier)
                frontier.is_dirty = False
            return Commit(self, committed) if committed else None

    def on_end(self, commit: Commit, *, failed: bool) -> None:
        """A commit is answered."""
        if commit in self._unanswered:
            self._unanswered.remove(commit)
        self.pending += failed


def on_answer(commit: Commit | UserCommit, answer: Any) -> None:
    """Tell a commit its answer: the client gives an error, or the broker's response."""
    try:
        if isinstance(answer, BaseException):
            commit.failed(answer)
        else:
            commit.succeeded()
    except Exception:  # noqa: BLE001 - we are in the client's poll
        faults.report("hearing the answer to a commit")


class _Sent:
    """A commit that is sent now, for its settle span."""

    def __init__(self, committer: Committer) -> None:
        self._consumer = committer.consumer
        self._partitions = committer.partitions
        self._context = get_current()
        self._within = get_current_span(self._context).get_span_context()
        self._began, self._clock = time_ns(), perf_counter()

    def elapsed(self) -> float:
        """Seconds since the commit began."""
        return perf_counter() - self._clock

    def _record(
        self,
        instrumenter: Instrumenter | None,
        partitions: Iterable[Partition],
        covered: Covered,
        outcome: Outcome,
    ) -> None:
        """Record the span. A commit for the one record that is being handled is a part of that.

        Any other has links to the process spans of its records.
        """
        if instrumenter is None:
            return
        try:
            spans = [each.span for several in covered.values() for each in several]
            topics = {each.topic for each in partitions}
            is_part = spans == [self._within]
            record_settle(
                instrumenter,
                COMMIT,
                PLAIN[Verdict.ACK],
                _messages(self._consumer, covered, len(spans)),
                outcome,
                (self._began, self.elapsed()),
                inside=self._context if is_part else EMPTY,
                of=() if is_part else spans,
                endpoint=self._consumer.endpoint(topics.pop() if len(topics) == 1 else ""),
                always=True,
            )
        except Exception:  # noqa: BLE001
            faults.report("recording a commit")


class Commit(_Sent):
    """One commit of hopspan's, from before it is sent to its answer."""

    def __init__(
        self, committer: Committer, committed: Mapping[Partition, tuple[Frontier, int]]
    ) -> None:
        super().__init__(committer)
        self._committer = committer
        self._committed = committed
        self._covered = {at: frontier.take_done(to) for at, (frontier, to) in committed.items()}
        self._is_over = False
        self.is_answered: Callable[[], bool] = bool
        """Whether the client has the answer, where it is not waited for."""
        self.positions: Positions = {
            at: Position(to, frontier.epoch) for at, (frontier, to) in committed.items()
        }

    def is_on_its_way(self, seconds: float) -> bool:
        """Whether it was sent less than these seconds ago, and the broker may still answer."""
        return not self.is_answered() and self.elapsed() < seconds

    def succeeded(self) -> None:
        """The broker has it."""
        if self._end(failed=False):
            for frontier, offset in self._committed.values():
                frontier.committed = max(offset, frontier.committed or 0)
            if any(self._covered.values()):  # or it only repeats what had no answer yet
                self._record(self._committer.instrumenter, self.positions, self._covered, SUCCESS)

    def failed(self, error: BaseException) -> None:
        """The broker does not have it: the next commit repeats it."""
        if not self._end(failed=True):
            return
        with self._partitions.lock:
            for partition, (frontier, _) in self._committed.items():
                frontier.give_back(self._covered[partition])
        outcome = failure(self._consumer.client, error)
        self._record(self._committer.instrumenter, self.positions, self._covered, outcome)
        faults.logger.warning(
            "could not commit %s; the next commit tries again: %s",
            {f"{each.topic}-{each.partition}": at.offset for each, at in self.positions.items()},
            error,
        )

    def _end(self, *, failed: bool) -> bool:
        is_first, self._is_over = not self._is_over, True
        if is_first:
            self._committer.on_end(self, failed=failed)
        return is_first


class UserCommit(_Sent):
    """One commit of the application's: it settles everything below its offsets."""

    def __init__(
        self,
        committer: Committer,
        positions: Mapping[Any, int | None] | None,
        instrumenter: Instrumenter | None,
    ) -> None:
        """The commit is about to be sent.

        Args:
            committer: The consumer's.
            positions: The offset for each partition; None for all that was handed out.
            instrumenter: The settings of its span; None for no span.
        """
        super().__init__(committer)
        self._instrumenter = instrumenter
        with self._partitions.lock:
            current = {each: at.position for each, at in self._partitions.frontiers.items()}
        self._positions = current if positions is None else positions

    def succeeded(self) -> None:
        """The broker has it."""
        covered: dict[Partition, list[Done]] = {}
        with self._partitions.lock:
            for partition, offset in self._positions.items():
                frontier = self._partitions.find(partition)
                if frontier is not None and offset is not None:
                    covered[partition] = frontier.committed_below(offset)
        self._record(self._instrumenter, self._positions, covered, SUCCESS)

    def failed(self, error: BaseException) -> None:
        """The broker does not have it."""
        outcome = failure(self._consumer.client, error)
        self._record(self._instrumenter, self._positions, {}, outcome)


def _messages(consumer: Consumer, covered: Covered, count: int) -> list[SettledMessage]:
    """The records for the span: one is described, of several only the topics and the number."""
    return [
        SettledMessage(
            consumer.endpoint(at.topic), consumer.describe(at, done) if count == 1 else {}
        )
        for at, several in covered.items()
        for done in several
    ]


def _warn_of_blocked(partition: Partition, frontier: Frontier) -> None:
    """Say once which record stops commits, where that looks like an oversight."""
    offset = frontier.blocking_offset()
    if offset is not None:
        faults.once(
            "commits of partition %s of %s stop below offset %s: this record was handed out, and "
            "nobody concluded it. Give every record to hopspan.process or to a handler, also those "
            "that you skip, or commit by yourself",
            partition.partition,
            partition.topic,
            offset,
        )
