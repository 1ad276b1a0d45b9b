"""Committing what is done: explicit offsets, by strategy, and never past an open record.

A failed commit is an error of its settle span; its records stay to be committed, so the next one
tries again. Nothing here raises into the application.
"""

from __future__ import annotations

from time import monotonic, perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from kafka import OffsetAndMetadata
from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters.kafka.errors import failure
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.settlement import Commits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka import TopicPartition
    from opentelemetry.trace import SpanContext

    from hopspan.adapters._kafka_frontier import Done, Frontier
    from hopspan.adapters.kafka.consumers import State
    from hopspan.telemetry import Instrumenter

_CLOSING_MS = 10_000
"""How long to wait for the last commit."""

Offsets = dict["TopicPartition", OffsetAndMetadata]


class Committer:
    """The commits of one consumer. Its methods run on the consumer's thread, but for answers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.strategy: Commits = Commits()
        self.instrumenter: Instrumenter | None = None
        """Of the handling seen last: whose settings the commits' spans follow."""
        self.is_off: bool = False
        """Whether nothing may be committed, because hopspan has lost sight of the consumer."""
        self._since = 0
        self._last = monotonic()

    def concluded(self) -> None:
        """A record is done. Commits if that is due, and if this is the consumer's thread."""
        with self._state.lock:
            self._since += 1
        if self._state.is_here():
            self.commit_if_due()

    def commit_if_due(self) -> None:
        """As the strategy says."""
        if not self._since or self._state.group is None:
            return
        strategy = self.strategy
        if (strategy.every is not None and self._since >= strategy.every) or (
            strategy.seconds is not None and monotonic() - self._last >= strategy.seconds
        ):
            self.commit(wait=strategy.wait)

    def commit(self, *, wait: bool) -> None:
        """Commit what is done and not committed. Never raises."""
        call = self.prepare()
        if call is None:
            return
        consumer, kind = self._state.consumer(), self._state.kind
        try:
            if wait:
                kind.commit(consumer, call.offsets, _CLOSING_MS)
            else:
                future = kind.commit_async(consumer, call.offsets)
                future.add_callback(call.succeeded)
                future.add_errback(call.failed)
                return
        except Exception as error:  # noqa: BLE001 - the client's: told by the span and the log
            call.failed(error)
        else:
            call.succeeded()

    def prepare(self, partitions: Iterable[TopicPartition] | None = None) -> Call | None:
        """The commit that is to be sent now; None where there is nothing to commit."""
        state = self._state
        if state.group is None or self.is_off:
            return None
        told: list[tuple[TopicPartition, Frontier, int]] = []
        with state.lock:
            self._since, self._last = 0, monotonic()
            for partition in list(state.frontiers) if partitions is None else partitions:
                frontier = state.frontiers.get(partition)
                if frontier is None or not frontier.is_dirty:
                    continue
                frontier.is_dirty = False
                offset = frontier.due()
                if offset is not None:
                    told.append((partition, frontier, offset))
                else:
                    _warn(partition, frontier)
            covered = [each for _, frontier, offset in told for each in frontier.take_done(offset)]
        return Call(self, told, covered) if told else None

    def again(self) -> None:
        """Something that was to be committed is not."""
        self._since += 1


def _warn(partition: TopicPartition, frontier: Frontier) -> None:
    """Say once what holds commits back, where that looks like an oversight."""
    held = frontier.held_by()
    if held is not None:
        faults.once(
            "commits of partition %s of %s stop below offset %s: this record was handed out, and "
            "nobody concluded it. Give every record to hopspan.process or to a handler, also those "
            "that you skip, or commit by yourself",
            partition.partition,
            partition.topic,
            held,
        )


class Call:
    """One commit, from before it is sent to its answer, which may come on another thread."""

    __slots__ = ("_began", "_clock", "_committer", "_covered", "_inside", "_told", "offsets")

    def __init__(
        self,
        committer: Committer,
        told: list[tuple[TopicPartition, Frontier, int]],
        covered: list[Done],
    ) -> None:
        self._committer = committer
        self._told = told
        self._covered = covered
        self._inside = inside(covered, get_current_span().get_span_context())
        self._began, self._clock = time_ns(), perf_counter()
        self.offsets: Offsets = {
            partition: OffsetAndMetadata(offset, "", frontier.epoch)
            for partition, frontier, offset in told
        }

    def succeeded(self, _answer: Any = None) -> None:
        """The broker has it."""
        with self._committer._state.lock:  # noqa: SLF001 - both are one thing
            for _, frontier, offset in self._told:
                frontier.committed = max(offset, frontier.committed or 0)
        self._record(SUCCESS)

    def failed(self, error: BaseException) -> None:
        """The broker has not: the next commit is to tell it."""
        with self._committer._state.lock:  # noqa: SLF001
            for _, frontier, _offset in self._told:
                frontier.is_dirty = True
        self._committer.again()
        self._record(failure(error))
        faults.logger.warning(
            "could not commit %s; the next commit tries again: %s",
            {f"{each.topic}-{each.partition}": at.offset for each, at in self.offsets.items()},
            error,
        )

    def _record(self, outcome: Outcome) -> None:
        instrumenter = self._committer.instrumenter
        if instrumenter is None:
            return
        record_commit(
            self._committer._state,  # noqa: SLF001
            instrumenter,
            (self.offsets, self._covered),
            outcome,
            (self._began, perf_counter() - self._clock),
            self._inside,
        )


def inside(covered: list[Done], here: SpanContext) -> Context:
    """A commit for the one record that is being handled is part of that; any other has links."""
    return get_current() if [each.span for each in covered] == [here] else Context()


def record_commit(  # noqa: PLR0917 - all that a settlement says
    state: State,
    instrumenter: Instrumenter,
    what: tuple[Iterable[TopicPartition], list[Done]],
    outcome: Outcome,
    timing: tuple[int, float],
    part_of: Context,
) -> None:
    """The settle span of a commit, of hopspan's or of the application's."""
    partitions, covered = what
    try:
        topics = {each.topic for each in partitions}
        endpoint = state.endpoint(topics.pop() if len(topics) == 1 else "")
        instrumenter.record_settle(
            _kafka.COMMIT,
            Settlement(Verdict.ACK),
            [each.delivery for each in covered],
            outcome,
            timing,
            inside=part_of,
            of=() if part_of else [each.span for each in covered],
            endpoint=endpoint,
            always=True,
        )
    except Exception:  # noqa: BLE001
        faults.report("recording a commit")
