"""Counts of messages, in cells of our own behind observable counters.

Adding to a count costs a fraction of a synchronous record, and what is exported is the same
monotonic sum. Counts are bounded: once full, new combinations of attributes share the count of the
overflow, so that no exported sum ever falls.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from hopspan.conventions import METRIC_OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions

    from hopspan.conventions import MetricAttributes

MOST_COUNTS = 1024
OVERFLOW: MetricAttributes = ((METRIC_OVERFLOW, True),)


class Count:
    """How many messages there were with the same attributes. Thread-safe.

    Its lock can be taken twice by a thread: the garbage collector may end an operation anywhere.
    """

    __slots__ = ("_lock", "messages")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.messages: int = 0

    def add(self, messages: int) -> None:
        """Count so many more."""
        with self._lock:
            self.messages += messages

    def unlock(self) -> None:
        """Replace a lock that another thread may have held while the process forked."""
        self._lock = threading.RLock()


class Counts:
    """The counts of one counter, by their attributes. Thread-safe."""

    def __init__(self, most: int = MOST_COUNTS) -> None:
        self._most = most
        self._by_attributes: dict[MetricAttributes, Count] = {}
        self._lock = threading.RLock()

    def of(self, attributes: MetricAttributes) -> Count:
        """The count of these attributes, or the one of the overflow."""
        found = self._by_attributes.get(attributes)
        return self._new(attributes) if found is None else found

    def _new(self, attributes: MetricAttributes) -> Count:
        counts = self._by_attributes
        with self._lock:
            if attributes not in counts and len(counts) >= self._most:
                attributes = OVERFLOW
            return counts.setdefault(attributes, Count())

    def observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        """The counts so far, for an observable counter."""
        with self._lock:
            counts = list(self._by_attributes.items())
        return [
            Observation(count.messages, dict(attributes))
            for attributes, count in counts
            if count.messages
        ]

    def unlock(self) -> None:
        """Replace locks that other threads may have held while the process forked."""
        self._lock = threading.RLock()
        for count in self._by_attributes.values():
            count.unlock()

    def begin_again(self) -> None:
        """Count from zero."""
        for count in self._by_attributes.values():
            count.messages = 0
