"""The reason for a build to fail: a gate that is missed and is not known to be; on time, one missed twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.gates import Gate, Verdict, gates, judge
from benchmarks.running import Measured
from benchmarks.sampling import Effort
from benchmarks.unreached import LISTED_IN, UNREACHED, Unreached

ONCE, AGAIN = Effort(), Effort(rounds=150)
"""How long everything is measured, and how long what seems to miss its gate, before it is believed."""

Measure = Callable[[Collection[str], Effort], Measured]


class Findings(NamedTuple):
    """What has come of the gates."""

    verdicts: Sequence[Verdict]
    missed: Sequence[Verdict]
    """Over the gate, each time that it was looked at: a build fails."""
    known: Sequence[tuple[Verdict, Unreached]]
    """Over the gate, as listed."""
    reached: Sequence[tuple[Verdict, Unreached]]
    """Listed, and not over the gate any more."""


def together(one: Findings, other: Findings) -> Findings:
    """The findings of several gates and of some more."""
    return Findings(
        [*one.verdicts, *other.verdicts],
        [*one.missed, *other.missed],
        [*one.known, *other.known],
        [*one.reached, *other.reached],
    )


def judged_rows() -> dict[str, set[str]]:
    """The rows that gates are about, by group: nothing else needs to be measured for them."""
    rows: dict[str, set[str]] = defaultdict(set)
    for gate in gates():
        if gate.limit is not None:
            rows[gate.group] |= gate.rows
    return rows


def find(
    measure: Measure,
    groups: Collection[str],
    listed: Iterable[Unreached] = UNREACHED,
    once: Effort = ONCE,
) -> Findings:
    """Measure time, measure again what would fail the build, and compare with the list."""
    known = _by_gate(listed)
    measured = {**measure(groups, once)}
    if doubtful := {each.gate.group for each in _surprising(judge(measured), known)}:
        measured |= measure([name for name in groups if name in doubtful], AGAIN)
    return _compared(judge(measured), known)


def compare(verdicts: Iterable[Verdict], listed: Iterable[Unreached] = UNREACHED) -> Findings:
    """Compare with the list what is the same in every run, so that it need not be found twice."""
    return _compared(verdicts, _by_gate(listed))


Known = Mapping[tuple[str, str], Unreached]


def _by_gate(listed: Iterable[Unreached]) -> Known:
    return {(each.group, each.what): each for each in listed}


def _compared(every: Iterable[Verdict], known: Known) -> Findings:
    verdicts = [each for each in every if each.gate.limit is not None]
    found = [(each, known[key]) for each in verdicts if (key := _key(each.gate)) in known]
    return Findings(
        verdicts,
        _surprising(verdicts, known),
        [pair for pair in found if pair[0].is_over],
        [pair for pair in found if pair[0].word in {"ok", "target"}],
    )


def _key(gate: Gate) -> tuple[str, str]:
    return gate.group, gate.what


def _surprising(verdicts: Iterable[Verdict], known: Known) -> list[Verdict]:
    return [each for each in verdicts if each.is_over and _key(each.gate) not in known]


def report(findings: Findings) -> str:
    """What is to be done, the worst last."""
    lines = [f"gates judged: {len(findings.verdicts)}"]
    for why in dict.fromkeys(listed.why for _, listed in findings.known):
        lines += [f"missed as listed in {LISTED_IN}: {why.reason} (profile: {why.profile}):"]
        lines += [f"  {_line(each)}" for each, listed in findings.known if listed.why == why]
    if findings.reached:
        lines += [f"reached by now: take these off {LISTED_IN}:"]
        lines += [f"  {_line(each)}" for each, _ in findings.reached]
    if findings.missed:
        lines += [f"MISSED, each time, and not in {LISTED_IN}:"]
        lines += [f"  {_line(each)}" for each in findings.missed]
    return "\n".join(lines)


def _line(verdict: Verdict) -> str:
    gate, found = verdict.gate, verdict.found
    target = f", target {gate.target:g}" if gate.target is not None else ""
    spread = "" if found.lower == found.upper else f"{found.lower:.2f} to {found.upper:.2f}; "
    median = f"{found.median:g}" if found.lower == found.upper else f"{found.median:.2f}"
    return f"{gate.group}: {gate.what}: {median} ({spread}gate {gate.limit:g}{target})"
