"""One commit, from before it is sent to its answer, and the settle span that tells of it."""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from kafka.structs import OffsetAndMetadata
from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters._kafka_frontier import Done
from hopspan.adapters.kafka.describing import endpoint, info
from hopspan.adapters.kafka.errors import failure
from hopspan.model import SUCCESS, Delivery, Outcome, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.structs import TopicPartition
    from opentelemetry.trace import SpanContext

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.adapters.kafka.committing import Committer
    from hopspan.adapters.kafka.consumers import Received, State
    from hopspan.processing import Processing
    from hopspan.telemetry import Instrumenter

Offsets = dict["TopicPartition", OffsetAndMetadata]


def hear(commit: Any, answer: Any) -> None:
    """Tell a commit what became of it: the client gives an error, or the broker's response."""
    try:
        if isinstance(answer, BaseException):
            commit.failed(answer)
        else:
            commit.succeeded()
    except Exception:  # noqa: BLE001 - we are in the client's poll
        faults.report("hearing what became of a commit")


class Call:
    """One commit, from before it is sent to its answer."""

    __slots__ = (
        "_began",
        "_clock",
        "_committer",
        "_covered",
        "_inside",
        "_is_over",
        "_told",
        "future",
        "offsets",
    )

    def __init__(
        self, committer: Committer, told: list[tuple[TopicPartition, Frontier, int]]
    ) -> None:
        self._committer = committer
        self._told = told
        self._covered = [frontier.take_done(offset) for _, frontier, offset in told]
        self._is_over = False
        self.future: Any = None
        """The client's, where it is not waited for."""
        covered = [each for several in self._covered for each in several]
        self._inside = inside(covered, get_current_span().get_span_context())
        self._began, self._clock = time_ns(), perf_counter()
        self.offsets: Offsets = {
            partition: OffsetAndMetadata(offset, "", frontier.epoch)
            for partition, frontier, offset in told
        }

    def is_on_its_way(self, seconds: float) -> bool:
        """Whether it was sent less than these seconds ago, and the broker may still answer."""
        is_done = getattr(self.future, "is_done", False)
        return not is_done and perf_counter() - self._clock < seconds

    def answered(self, _offsets: Any, answer: Any) -> None:
        """What the client calls back with."""
        hear(self, answer)

    def succeeded(self) -> None:
        """The broker has it."""
        if self._end(failed=False):
            for _, frontier, offset in self._told:
                frontier.committed = max(offset, frontier.committed or 0)
            if any(self._covered):  # or it only told once more what had no answer yet
                self._record(SUCCESS)

    def failed(self, error: BaseException) -> None:
        """The broker has not: the next commit is to tell it."""
        if not self._end(failed=True):
            return
        with self._committer.lock:
            for (_, frontier, _offset), covered in zip(self._told, self._covered, strict=True):
                frontier.give_back(covered)
        self._record(failure(error))
        faults.logger.warning(
            "could not commit %s; the next commit tries again: %s",
            {f"{each.topic}-{each.partition}": at.offset for each, at in self.offsets.items()},
            error,
        )

    def _end(self, *, failed: bool) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        self._committer.over(self, failed=failed)
        return True

    def _record(self, outcome: Outcome) -> None:
        covered = [each for several in self._covered for each in several]
        timing = (self._began, perf_counter() - self._clock)
        self._committer.record((self.offsets, covered), outcome, timing, self._inside)


def done_of(processing: Processing, native: Received) -> Done:
    """What the span of a commit is to say of a record."""
    record, state = native.record, native.state
    light = Delivery(endpoint(record.topic, state), info(record, state), None, None)
    return Done(native.record.offset, light, processing.span.get_span_context())


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
