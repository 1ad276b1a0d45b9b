"""A thread that waits to be needed: it flushes and shuts down, and whoever asks waits only so long.

Started early, because Python starts no thread any more while it exits (3.12), and because a signal
handler must not. Nothing here takes a lock that an interrupted thread may hold.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Call", "Worker", "wait_for"]


class Call:
    """Something to do once."""

    def __init__(self, function: Callable[[], object], doing: str) -> None:
        self._function = function
        self._doing = doing
        self._is_done = threading.Event()
        self._is_begun = False
        self.has_worked: bool = False

    def __call__(self) -> None:
        """Do it, if it was not done; in the worker's thread only."""
        if self._is_begun:
            return
        self._is_begun = True
        try:
            self.has_worked = self._function() is not False
        except Exception:  # noqa: BLE001 - of any exporter
            faults.report(self._doing)
        finally:
            self._is_done.set()

    def wait(self, until: float) -> bool:
        """Whether it is done, and has worked, by then (monotonic clock)."""
        return self._is_done.wait(max(0.0, until - time.monotonic())) and self.has_worked


class Worker:
    """Does calls, one after the other, in a daemon thread; each forked child has one of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()
        _every_worker.add(self)

    def _begin(self) -> None:
        self._calls: SimpleQueue[Call] = SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True)
        thread.start()

    def do(self, call: Call) -> Call:
        """Have it done, some time soon; returns at once. Safe in a signal handler."""
        self._calls.put(call)
        return call


def _work(calls: SimpleQueue[Call]) -> None:
    while True:
        calls.get()()


def wait_for(calls: Iterable[Call], seconds: float) -> bool:
    """Whether all of them are done, and have worked, within so many seconds."""
    until = time.monotonic() + seconds
    return min([call.wait(until) for call in calls], default=True)


_every_worker: weakref.WeakSet[Worker] = weakref.WeakSet()


def _begin_anew() -> None:
    for each in list(_every_worker):
        each._begin()  # noqa: SLF001 - ours


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
