"""Measuring: short samples of every row, in a new random order each round, in CPU time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from time import process_time
from typing import Any, NamedTuple

from benchmarks.statistics import Rounds


def _nothing() -> None: ...


class Row(NamedTuple):
    """One way to do the same thing: bare, by hand, with an instrumentation."""

    name: str
    run: Callable[[Any], Any]
    """Handles what `prepare` has made; this is timed."""
    prepare: Callable[[int], Any] = range
    """Makes the input of a number of messages; not timed."""
    flush: Callable[[], Any] = _nothing
    """Exports what is queued. Timed, or one row would pay for another's spans."""
    enter: Callable[[], Any] = _nothing
    """Switches on what is the whole process's, before anything is made; not timed."""
    leave: Callable[[], Any] = _nothing
    warm: int = 50
    """Messages before the first sample: until what is bounded is full."""


class Effort(NamedTuple):
    """How long to measure."""

    rounds: int = 60
    seconds: float = 0.005
    """Of a sample."""


def take(row: Row, count: int) -> float:
    """Seconds of CPU that a number of messages take, on all threads."""
    row.enter()
    try:
        given = row.prepare(count)
        began = process_time()
        row.run(given)
        row.flush()
        return process_time() - began
    finally:
        row.leave()


def calibrate(row: Row, seconds: float) -> int:
    """How many messages fill a sample. The best of several: the machine is shared."""
    take(row, row.warm)
    count = 1
    while (taken := min(take(row, count) for _ in range(3))) < seconds / 4:
        count = max(2 * count, min(50 * count, int(count * seconds / 2 / (taken + 1e-9))))
    return max(1, round(count * seconds / taken))


def measure(rows: Sequence[Row], effort: Effort, seed: int = 0) -> dict[str, Rounds]:
    """Seconds per message for each row and round. Every row has one sample in a round."""
    counts = {row.name: calibrate(row, effort.seconds) for row in rows}
    measured: dict[str, list[float]] = {row.name: [] for row in rows}
    for order in _orders(rows, effort.rounds, seed):
        for row in order:
            measured[row.name].append(take(row, counts[row.name]) / counts[row.name])
    return {name: tuple(values) for name, values in measured.items()}


def _orders(rows: Sequence[Row], rounds: int, seed: int) -> Iterable[list[Row]]:
    shuffled = random.Random(seed)  # noqa: S311 - an order, no secret
    return (shuffled.sample(rows, len(rows)) for _ in range(rounds))
