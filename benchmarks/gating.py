"""What a build fails for: a gate that is missed twice, and is not known to be out of reach."""

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
    """Over the gate both times: a build fails."""
    known: Sequence[tuple[Verdict, Unreached]]
    """Over the gate, as listed."""
    reached: Sequence[tuple[Verdict, Unreached]]
    """Listed, and not over the gate any more."""


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
    """Measure, measure again what would fail the build, and compare with the list."""
    known = {(each.group, each.what): each for each in listed}
    measured = {**measure(groups, once)}
    if doubtful := {each.gate.group for each in _surprising(judge(measured), known)}:
        measured |= measure([name for name in groups if name in doubtful], AGAIN)
    verdicts = [each for each in judge(measured) if each.gate.limit is not None]
    found = [(each, known[key]) for each in verdicts if (key := _key(each.gate)) in known]
    return Findings(
        verdicts,
        _surprising(verdicts, known),
        [pair for pair in found if pair[0].is_over],
        [pair for pair in found if pair[0].word in {"ok", "target"}],
    )


def _key(gate: Gate) -> tuple[str, str]:
    return gate.group, gate.what


def _surprising(
    verdicts: Iterable[Verdict], known: Mapping[tuple[str, str], Unreached]
) -> list[Verdict]:
    return [each for each in verdicts if each.is_over and _key(each.gate) not in known]


def report(findings: Findings) -> str:
    """What is to be done, the worst last."""
    lines = [f"gates judged: {len(findings.verdicts)}"]
    for why in dict.fromkeys((each.reason, each.profile) for _, each in findings.known):
        lines += [f"missed as listed in {LISTED_IN}, for {why[0]} (profile: {why[1]}):"]
        lines += [f"  {_line(each)}" for each, listed in findings.known if listed[2:] == why]
    if findings.reached:
        lines += [f"reached by now: take these off {LISTED_IN}:"]
        lines += [f"  {_line(each)}" for each, _ in findings.reached]
    if findings.missed:
        lines += [f"MISSED, twice, and not in {LISTED_IN}:"]
        lines += [f"  {_line(each)}" for each in findings.missed]
    return "\n".join(lines)


def _line(verdict: Verdict) -> str:
    gate, found = verdict.gate, verdict.found
    target = f", target {gate.target}" if gate.target is not None else ""
    return (
        f"{gate.group}: {gate.what}: {found.median:.2f} "
        f"({found.lower:.2f} to {found.upper:.2f}; gate {gate.limit}{target})"
    )
