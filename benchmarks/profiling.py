"""Where a row spends its time: stacks sampled by CPU time, so that short functions are not slowed down."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from time import process_time
from types import FrameType
from typing import NamedTuple

from benchmarks.groups import Group
from benchmarks.sampling import Row, take

_EVERY = 0.001
"""Seconds of CPU time between two looks."""


class Profile(NamedTuple):
    """How often something was seen: itself, and with all that it calls."""

    looks: int
    alone: Counter[str]
    inclusive: Counter[str]
    parts: Counter[str]
    microseconds: float
    """A message took, while it was looked at."""


def _part(frame: FrameType) -> str:
    """The package that a frame belongs to, or the part of hopspan or OpenTelemetry."""
    words = frame.f_globals.get("__name__", "?").split(".")
    return ".".join(words[: 3 if words[0] in {"opentelemetry", "hopspan"} else 1])


def _function(frame: FrameType) -> str:
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)  # Python 3.11
    return f"{frame.f_globals.get('__name__', '?')}:{name}"


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None and frame.f_globals.get("__name__") != __name__:
        yield frame
        frame = frame.f_back


def profile(row: Row, seconds: float = 5.0) -> Profile:
    """Look at a row while it runs."""
    take(row, row.warm)
    alone: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    parts: Counter[str] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        stack = list(_stack(frame))
        if stack:
            alone[_function(stack[0])] += 1
            parts[_part(stack[0])] += 1
            inclusive.update({_function(each) for each in stack})

    before = signal.signal(signal.SIGPROF, look)
    messages, spent, until = 0, 0.0, process_time() + seconds
    try:
        while process_time() < until:
            row.enter()
            given = row.prepare(200)
            signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
            began = process_time()
            row.run(given)
            row.flush()
            spent += process_time() - began
            signal.setitimer(signal.ITIMER_PROF, 0)
            row.leave()
            messages += 200
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return Profile(alone.total(), alone, inclusive, parts, spent / messages * 1e6)


def report(group: Group, name: str, seconds: float = 5.0) -> str:
    """A table for one row of a group; shares are of the whole message, the client's own included."""
    row = next(each for each in group.rows if each.name == name)
    found = profile(row, seconds)
    lines = [f"{group.name}, {name}: {found.microseconds:.0f} µs a message, {found.looks} looks"]
    for title, counts, most, wanted in (
        ("by part, itself", found.parts, 14, lambda _: True),
        ("functions of hopspan, with what they call", found.inclusive, 40, _is_ours),
        ("functions, themselves", found.alone, 40, lambda _: True),
    ):
        lines += ["", title, *_shares(counts, found.looks, most, wanted)]
    return "\n".join(lines)


def _is_ours(name: str) -> bool:
    return name.startswith("hopspan.")


def _shares(
    counts: Counter[str], looks: int, most: int, wanted: Callable[[str], bool]
) -> list[str]:
    found = [(name, count) for name, count in counts.most_common() if wanted(name)]
    return [f"  {count / looks:6.1%}  {name}" for name, count in found[:most]]
