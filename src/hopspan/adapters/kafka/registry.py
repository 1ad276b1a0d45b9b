"""Finding the consumer of a record that does not know it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from hopspan.adapters.kafka.consumers import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

_tracked: dict[int, weakref.ref[Any]] = {}
_last: list[Callable[[], Any]] = [lambda: None]
"""The one that was found last is most likely to be asked for next."""


def remember(consumer: Any) -> None:
    """Look for records in this consumer as well, for as long as it lives."""
    key = id(consumer)
    _tracked[key] = weakref.ref(consumer, lambda _: _tracked.pop(key, None))


def tracker_of(record: Any) -> Any:
    """The consumer that has handed out this very record, or None."""
    candidates: list[Callable[[], Any]] = [*_last, *_tracked.values()]
    for kept in candidates:
        consumer = kept()
        state = state_of(consumer)
        if state is not None and state.holds(record):
            _last[0] = kept
            return consumer
    return None
