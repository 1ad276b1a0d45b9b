"""One turn of a row: a number of messages published and consumed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from time import perf_counter, process_time

from benchmarks.checks import WrongRowError
from benchmarks.modes import Telemetry

TURN = 400
"""Messages of a turn."""
BODY = b"x" * 256

ROWS = ("bare", "contrib", "hopspan", "hopspan + metrics")

READY = "ready"
"""What a process says that does a row's turns."""

Turn = Callable[[], tuple[float, float]]
"""Seconds for a message: on the clock, and of CPU in the client's process."""

MakeTurns = Callable[[str, Telemetry], Iterator[tuple[str, Turn]]]
"""The rows of a broker at an address."""


def timed(name: str, telemetry: Telemetry, *steps: Callable[[], None]) -> Turn:
    """What a turn of these steps takes, with the export of its spans. The first turn is looked at."""

    def turn() -> tuple[float, float]:
        began, clock = process_time(), perf_counter()
        for step in steps:
            step()
        telemetry.flush()
        return (perf_counter() - clock) / TURN, (process_time() - began) / TURN

    telemetry.watch()
    turn()
    spans = len(telemetry.seen())
    # Published and consumed, and the last one may still be open.
    if spans < 2 * TURN - 1 if name != "bare" else spans:
        raise WrongRowError(f"{name}: {spans} spans of {TURN} messages")
    return turn


def fresh_name() -> str:
    """A name for a queue or a topic that nobody else has."""
    return f"bench-{uuid.uuid4().hex[:8]}"
