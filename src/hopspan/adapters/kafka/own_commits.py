"""The application's own commits: each settles what lies below its offsets."""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import get_current_span

from hopspan import faults
from hopspan.adapters.kafka.commits import done_of, hear, inside, record_commit
from hopspan.adapters.kafka.errors import failure
from hopspan.interception import INTERCEPTED
from hopspan.model import SUCCESS, Outcome, Verdict
from hopspan.telemetry import binding_of, instrumenter_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.adapters._kafka_frontier import Done
    from hopspan.adapters.kafka.consumers import State
    from hopspan.telemetry import Instrumenter


def _telemetry(state: State, consumer: Any) -> Instrumenter | None:
    """Whose settings hold for what the application does with a consumer by itself."""
    bound = binding_of(consumer)
    if bound is not None:
        return bound.instrumenter
    if state.committer.instrumenter is None and hasattr(state.kind.poll, INTERCEPTED):
        return instrumenter_for("kafka")
    return state.committer.instrumenter


class _Commit:
    """A commit by the application: it settles what lies below its offsets."""

    def __init__(self, state: State, consumer: Any, offsets: Any) -> None:
        if state.is_here():  # what was to be sought back must not be in the client's position
            state.attend()
        self._state = state
        self._instrumenter = _telemetry(state, consumer)
        with state.lock:
            positions = {each: at.position for each, at in state.frontiers.items()}
        self._targets = (
            positions
            if offsets is None
            else {each: getattr(at, "offset", None) for each, at in dict(offsets).items()}
        )
        self._began, self._clock = time_ns(), perf_counter()
        self._here = get_current_span().get_span_context()

    def answered(self, answer: Any) -> None:
        """What the client calls back with."""
        hear(self, answer)

    def succeeded(self) -> None:
        """The broker has it."""
        covered: list[Done] = []
        handled: list[tuple[Any, Any]] = []
        with self._state.lock:
            for partition, offset in self._targets.items():
                frontier = self._state.find(partition)
                if frontier is not None and offset is not None:
                    covered.extend(frontier.settle_below(offset))
                    handled.extend(frontier.handled_below(offset))
        for processing, native in handled:
            processing.wire.note(native, Verdict.ACK)
        self._record(SUCCESS, covered + [done_of(*each) for each in handled])

    def failed(self, error: BaseException) -> None:
        """The broker has not."""
        self._record(failure(error), [])

    def _record(self, outcome: Outcome, covered: list[Done]) -> None:
        if self._instrumenter is not None:
            timing = (self._began, perf_counter() - self._clock)
            what = (self._targets, covered)
            part_of = inside(covered, self._here)
            record_commit(self._state, self._instrumenter, what, outcome, timing, part_of)


def _began(state: State, consumer: Any, offsets: Any) -> _Commit | None:
    if not (offsets is None or isinstance(offsets, dict)):
        return None  # the client is about to say so
    try:
        return _Commit(state, consumer, offsets)
    except Exception:  # noqa: BLE001 - the client is about to judge the arguments
        faults.report("reading what is committed")
        return None


def commit(
    state: State,
    consumer: Any,
    original: Callable[..., Any],
    offsets: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`KafkaConsumer.commit`."""
    own = _began(state, consumer, offsets)
    try:
        result = original(consumer, offsets, *args, **kwargs)
    except Exception as error:
        if own is not None:
            own.failed(error)
        raise
    if own is not None:
        own.succeeded()
    return result


def commit_async(
    state: State,
    consumer: Any,
    original: Callable[..., Any],
    offsets: Any = None,
    callback: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`KafkaConsumer.commit_async`."""
    own = _began(state, consumer, offsets)
    if own is None or (callback is not None and not callable(callback)):
        return original(consumer, offsets, callback, *args, **kwargs)
    if not _must_look_up(consumer):
        future = original(consumer, offsets, callback, *args, **kwargs)
        future.add_callback(own.answered)
        future.add_errback(own.answered)
        return future
    theirs = callback or consumer.config.get("default_offset_commit_callback")

    # The future is the lookup's: only the callback hears of the commit.
    def answered(told: Any, answer: Any) -> None:
        own.answered(answer)
        if theirs is not None:
            theirs(told, answer)

    return original(consumer, offsets, answered, *args, **kwargs)


def _must_look_up(consumer: Any) -> bool:
    """Whether the group's coordinator is not known just now. Private to the client."""
    unknown = getattr(getattr(consumer, "_coordinator", None), "coordinator_unknown", None)
    return bool(unknown()) if callable(unknown) else True
