"""Finding the consumer of a record that does not know it."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from hopspan.adapters.kafka.consumers import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kafka.structs import TopicPartition

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.adapters.kafka.consumers import State
    from hopspan.adapters.kafka.partitions import Runs

_tracked: dict[int, weakref.ref[Any]] = {}
_MOST_OWNED = 100_000
_owners: dict[int, weakref.ref[State]] = {}
"""Who has handed out last what lies at an address, where there is more than one consumer.

Records are known by their addresses and not kept: another consumer may have had one there that is
open and was dropped."""
_last: list[Callable[[], Any]] = [lambda: None]
"""The one that was found last is most likely to be asked for next."""


def remember(consumer: Any, state: State) -> None:
    """Look for records in this consumer as well, for as long as it lives."""
    key = id(consumer)
    _tracked[key] = weakref.ref(consumer, lambda _: _tracked.pop(key, None))
    state.own = partial(_own, weakref.ref(state))


def _own(mine: weakref.ref[State], records: Sequence[Any]) -> None:
    if len(_tracked) > 1:
        if len(_owners) > _MOST_OWNED:
            _owners.clear()  # who is not found here is looked for in all of them
        _owners.update(dict.fromkeys(map(id, records), mine))
    elif _owners:
        _owners.clear()  # the others are gone, and what was theirs is nobody's


def tracker_of(record: Any) -> Any:
    """The consumer that has handed out this very record, or None."""
    owner = _owner(record)
    if owner is not None:
        return owner.consumer() if owner.holds(record) else None
    for kept, state in _states():
        if state.holds(record):
            _last[0] = kept
            return state.consumer()
    return None


def _owner(record: Any) -> State | None:
    kept = _owners.get(id(record))
    state = None if kept is None else kept()
    # It may outlive its consumer, for as long as a record of it is handled.
    return None if state is None or state.consumer() is None else state


class SeveralError(Exception):
    """Not all records are of one consumer, or not of nobody's."""


def holding_all(runs: Runs) -> tuple[State, dict[TopicPartition, Frontier]] | None:
    """The consumer that has handed out these very records, or None where nobody has.

    Raises:
        SeveralError: each of them has to be looked for.
    """
    owner = next((_owner(each[0]) for each in runs.values() if each), None)
    if owner is not None:
        frontiers = owner.holding(runs)
        if frontiers is not None:
            return owner, frontiers
    else:
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
