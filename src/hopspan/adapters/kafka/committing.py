"""Committing what is done: explicit offsets, by strategy, and never past an open record.

A failed commit is an error of its settle span; its records stay to be committed, so the next one
tries again. Nothing here raises into the application.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.adapters.kafka.commits import Call, record_commit
from hopspan.settlement import Commits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.structs import TopicPartition
    from opentelemetry.context import Context

    from hopspan.adapters._kafka_frontier import Done, Frontier
    from hopspan.adapters.kafka.consumers import State
    from hopspan.model import Outcome
    from hopspan.telemetry import Instrumenter

PATIENCE_MS = 10_000.0
"""How long to wait for a commit's answer."""
_ROUND_TRIP = 0.5
"""Seconds in which an answer is expected."""


class Committer:
    """The commits of one consumer. Its methods run on the consumer's thread, but for answers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.strategy: Commits = Commits()
        self.instrumenter: Instrumenter | None = None
        """Of the handling seen last: whose settings the commits' spans follow."""
        self.is_off: bool = False
        """Whether nothing may be committed, because hopspan has lost sight of the consumer."""
        self.since: int = 0
        """How many records are done that no commit was begun for."""
        self._last = monotonic()
        self._unanswered: list[Call] = []

    def concluded(self) -> None:
        """A record is done. Commits if that is due, and if this is the consumer's thread."""
        with self._state.lock:
            self.since += 1
        if self._state.is_here():
            self.commit_if_due()

    def commit_if_due(self) -> None:
        """As the strategy says."""
        if not self.since or self._state.group is None or self._is_waiting():
            return
        strategy = self.strategy
        if (strategy.every is not None and self.since >= strategy.every) or (
            strategy.seconds is not None and monotonic() - self._last >= strategy.seconds
        ):
            self.commit(wait=strategy.wait)

    def _is_waiting(self) -> bool:
        """Whether to leave it to the answer that is on its way: the client refuses more than a few.

        kafka-python 2 hears it only when it is asked for records, so not for long.
        """
        return bool(self._unanswered) and self._unanswered[-1].is_on_its_way(_ROUND_TRIP)

    def commit(self, *, wait: bool, patience_ms: float = PATIENCE_MS) -> None:
        """Commit what is done and not committed. Never raises.

        Args:
            wait: Until the broker has answered; also for what was sent before and is not answered.
            patience_ms: For how long at most.
        """
        call = self.prepare()
        if call is not None:
            try:
                self._send(call, patience_ms if wait else None)
            except Exception as error:  # noqa: BLE001 - the client's: told by the span and the log
                call.failed(error)
                return
        for before in list(self._unanswered) if wait else ():
            before.succeeded()  # what was committed since covers it

    def _send(self, call: Call, patience_ms: float | None) -> None:
        state = self._state
        if patience_ms is not None:
            state.kind.commit(state.consumer(), call.offsets, patience_ms)
            call.succeeded()
        else:
            self._unanswered.append(call)
            # Answered by the callback: where the coordinator has to be looked up, the future is
            # the lookup's.
            call.future = state.kind.commit_async(state.consumer(), call.offsets, call.answered)

    def prepare(self, partitions: Iterable[TopicPartition] | None = None) -> Call | None:
        """The commit that is to be sent now; None where there is nothing to commit."""
        state = self._state
        if state.group is None or self.is_off or not state.settles:
            return None
        told: list[tuple[TopicPartition, Frontier, int]] = []
        with state.lock:
            self.since, self._last = 0, monotonic()
            for partition in list(state.frontiers) if partitions is None else partitions:
                frontier = state.frontiers.get(partition)
                offset = None if frontier is None else frontier.due()
                if frontier is not None and offset is not None:
                    told.append((partition, frontier, offset))
                elif frontier is not None and frontier.is_dirty:
                    _warn(partition, frontier)
                if frontier is not None:
                    frontier.is_dirty = False
            return Call(self, told) if told else None

    @property
    def lock(self) -> Any:
        """What guards the frontiers."""
        return self._state.lock

    def record(
        self,
        what: tuple[Iterable[TopicPartition], list[Done]],
        outcome: Outcome,
        timing: tuple[int, float],
        part_of: Context,
    ) -> None:
        """The settle span of a commit, as the handling seen last would have it."""
        if self.instrumenter is not None:
            record_commit(self._state, self.instrumenter, what, outcome, timing, part_of)

    def over(self, call: Call, *, failed: bool) -> None:
        """A commit is answered."""
        if call in self._unanswered:
            self._unanswered.remove(call)
        self.since += failed


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
