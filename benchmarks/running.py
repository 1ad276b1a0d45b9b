"""Groups by name, and measuring them one after the other."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from benchmarks.counting import count
from benchmarks.encoding import encoded_groups
from benchmarks.gates import Gate, Verdict, call_gates, judge
from benchmarks.groups import Group, standard_groups
from benchmarks.sampling import Effort, measure
from benchmarks.special import special_groups
from benchmarks.statistics import Rounds

Measured = Mapping[str, Mapping[str, Rounds]]
"""Seconds of a message, by group and row."""


def all_groups() -> dict[str, Callable[[], Iterator[Group]]]:
    """By name, each made when its turn has come."""
    return {**standard_groups(), **encoded_groups(), **special_groups()}


def wanted(pattern: str | None) -> list[str]:
    """The groups whose names fit a pattern, or begin with it."""
    return [
        name
        for name in all_groups()
        if pattern is None or fnmatch.fnmatch(name, pattern) or name.startswith(pattern)
    ]


def measure_groups(
    names: Iterable[str], effort: Effort, rows: Mapping[str, Collection[str]] | None = None
) -> dict[str, dict[str, Rounds]]:
    """Measure groups: all of their rows, or those that are named."""
    makers = all_groups()
    found = {}
    for name in names:
        for group in makers[name]():
            print(f"measuring {name}", file=sys.stderr, flush=True)
            asked = [row for row in group.rows if rows is None or row.name in rows[name]]
            seconds = max(effort.seconds, group.seconds)
            found[name] = measure(asked, effort._replace(seconds=seconds))
    return found


def judge_calls(names: Collection[str]) -> list[Verdict]:
    """A verdict on the calls of one message, for each of these groups that has a gate on them."""
    asked = [gate for gate in call_gates() if gate.group in names]
    makers = all_groups()
    counted = {
        name: {row.name: (count(row).calls,) for row in group.rows if row.name in _rows(asked)}
        for name in dict.fromkeys(gate.group for gate in asked)
        for group in makers[name]()
    }
    return judge(counted, asked)


def _rows(several: Iterable[Gate]) -> set[str]:
    return {row for gate in several for row in gate.rows}
