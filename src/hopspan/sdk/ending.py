"""When the process ends: normal exit, signals with the default action, children of multiprocessing.

A handler of the application's is never replaced. One for SIGTERM or SIGINT is set only where the
system's default would end the process on the spot; it ends all the same, by that very signal.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import threading
import time
from multiprocessing import parent_process
from multiprocessing.util import Finalize, register_after_fork
from typing import TYPE_CHECKING

from hopspan import faults

if TYPE_CHECKING:
    from types import FrameType

    from hopspan.sdk.telemetry import Telemetry

__all__ = ["end_with_process", "end_with_signals"]

_LAST = -100
"""Priority of a finaliser: after all those of the application."""

_HOLDS_LOCKS = (
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "logging",
    "hopspan.telemetry.aggregations",
    "hopspan.telemetry.counts",
    "hopspan.telemetry.durations",
    "hopspan.telemetry.instruments",
    "hopspan.sdk.tally",
)
"""Code that locks what an export needs. Never waited in: who is waited for might wait for it."""

_PAUSE = 0.005
"""Seconds until an interrupted lock holder is looked at again."""


_MOST_TRIES = 200
"""A thread that sends the signal gets to run when the main thread lets it, as in the write of a log
line: a process that logs as it works would be found there every time."""


def end_with_process(telemetry: Telemetry) -> None:
    """Shut down at a normal exit, after an unhandled exception, in multiprocessing's children.

    Those end through `os._exit`, which runs nothing that `atexit` knows of, on Python before 3.14.
    """
    atexit.register(telemetry.shutdown)
    register_after_fork(telemetry, _finalize)
    if parent_process() is not None:
        _finalize(telemetry)


def _finalize(telemetry: Telemetry) -> None:
    Finalize(None, telemetry.shutdown, exitpriority=_LAST)


def end_with_signals(telemetry: Telemetry) -> None:
    """Shut down before SIGTERM, or SIGINT, does what the system does by default."""
    if threading.current_thread() is not threading.main_thread():
        faults.once(
            "hopspan.sdk.setup() was not called in the main thread: spans of the last seconds are "
            "lost when SIGTERM ends this process"
        )
        return
    ending = _Ending(telemetry)
    for number in (signal.SIGTERM, signal.SIGINT):
        # SIGINT is Python's KeyboardInterrupt as a rule, which ends the process the normal way.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, ending)


class _Ending:
    """The signal handler."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._until: float | None = None
        self._tries = 0
        self._is_over = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Export what there is, then die of the signal, as without us."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._telemetry.shutdown_seconds
        if not self._is_over and now < self._until and _holds_locks(frame):
            self._tries += 1
            # Thread.start takes locks as well; this takes none.
            if self._tries < _MOST_TRIES:
                _thread.start_new_thread(_send_again, (number,))
            elif self._tries == _MOST_TRIES:
                _thread.start_new_thread(self._shut_down_and_send_again, (number,))
            return
        if not self._is_over:
            self._telemetry.shutdown(max(0.0, self._until - now))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _shut_down_and_send_again(self, number: int) -> None:
        """Where every look finds a lock held: whoever holds it goes on, and lets go of it."""
        self._telemetry.shutdown(self._telemetry.shutdown_seconds)
        self._is_over = True
        os.kill(os.getpid(), number)


def _holds_locks(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if any(name == each or name.startswith(f"{each}.") for each in _HOLDS_LOCKS):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(_PAUSE)
    os.kill(os.getpid(), number)
