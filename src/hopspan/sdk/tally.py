"""How many spans wait, how many are lost, and why. One for each exporter."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter

from hopspan.faults import logger

__all__ = ["EXPORT_FAILED", "QUEUE_FULL", "SHUT_DOWN", "Tally"]

QUEUE_FULL = "queue_full"
EXPORT_FAILED = "export_failed"
SHUT_DOWN = "shut_down"

_SAID = {
    QUEUE_FULL: "spans are lost: %d wait for their export already, and no more fit. Is the "
    "receiver slow or down? OTEL_BSP_MAX_QUEUE_SIZE makes the queue longer",
    SHUT_DOWN: "spans are lost: they ended after telemetry was shut down",
}


class Tally:
    """Counts what enters the queue of a batch processor, and what leaves it.

    Nothing is refused by the processor's own queue, because this refuses it before: so the count is
    exact. Thread-safe; a forked child begins anew, as its processor does.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._is_over = False
        self._begin()
        _every_tally.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._exported = 0
        """In the hands of the exporter just now."""
        self.lost: Counter[str] = Counter()

    def admit(self) -> bool:
        """Whether there is room for one more span; it is counted either way."""
        with self._lock:
            if not self._is_over and self._waiting < self._room:
                self._waiting += 1
                return True
            reason = SHUT_DOWN if self._is_over else QUEUE_FULL
            self.lost[reason] += 1
            is_first = self.lost[reason] == 1
        if is_first:
            said = _SAID[reason]
            logger.warning(said, *([self._room] if "%d" in said else []))
        return False

    def hand_over(self, spans: int) -> None:
        """An export begins."""
        with self._lock:
            self._waiting -= spans
            self._exported += spans

    def settle(self, spans: int, *, is_lost: bool) -> None:
        """An export has ended."""
        with self._lock:
            if self._is_over:  # too late: it was counted as lost
                return
            self._exported -= spans
            if is_lost:
                self.lost[EXPORT_FAILED] += spans

    def losses(self) -> Counter[str]:
        """What is lost so far, by reason."""
        with self._lock:
            return self.lost.copy()

    def give_up(self) -> int:
        """What waits now is lost, and all that comes; how many wait."""
        with self._lock:
            if self._is_over:
                return 0
            left = self._waiting + self._exported
            self._is_over = True
            if left:
                self.lost[SHUT_DOWN] += left
            return left


_every_tally: weakref.WeakSet[Tally] = weakref.WeakSet()


def _begin_anew() -> None:
    for each in list(_every_tally):
        each._begin()  # noqa: SLF001 - ours


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
