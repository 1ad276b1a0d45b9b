"""Finding the consumer of a record that does not know it."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from hopspan.adapters.kafka.consumers import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kafka.structs import TopicPartition

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.adapters.kafka.consumers import State
    from hopspan.adapters.kafka.partitions import Runs

_tracked: dict[int, weakref.ref[Any]] = {}
_all: dict[int, weakref.ref[State]] = {}
"""What is kept of each of them."""
_last: list[Callable[[], Any]] = [lambda: None]
"""The one that was found last is most likely to be asked for next."""


def remember(consumer: Any, state: State) -> None:
    """Look for records in this consumer as well, for as long as it lives."""
    key, mine = id(consumer), id(state)
    _tracked[key] = weakref.ref(consumer, lambda _: _tracked.pop(key, None))
    _all[mine] = weakref.ref(state, lambda _: _all.pop(mine, None))
    state.others = partial(_others, mine)


def _others(mine: int) -> Iterable[State]:
    if len(_all) == 1:
        return ()
    others = [kept() for key, kept in list(_all.items()) if key != mine]
    return [other for other in others if other is not None]


def tracker_of(record: Any) -> Any:
    """The consumer that has handed out this very record, or None."""
    for kept, state in _states():
        if state.holds(record):
            _last[0] = kept
            return state.consumer()
    return None


class SeveralError(Exception):
    """Not all records are of one consumer, or not of nobody's."""


def holding_all(runs: Runs) -> tuple[State, dict[TopicPartition, Frontier]] | None:
    """The consumer that has handed out these very records, or None where nobody has.

    Raises:
        SeveralError: each of them has to be looked for.
    """
    for kept, state in _states():
        frontiers = state.holding(runs)
        if frontiers is not None:
            _last[0] = kept
            return state, frontiers
    if any(state.holds_some(runs) for _, state in _states()):
        raise SeveralError
    return None


def _states() -> Iterator[tuple[Callable[[], Any], State]]:
    candidates: list[Callable[[], Any]] = [*_last, *_tracked.values()]
    for kept in candidates:
        state = state_of(kept())
        if state is not None:
            yield kept, state
