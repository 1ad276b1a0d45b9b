"""What fails a build: a gate that is missed twice, and is not listed as out of reach."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from benchmarks import gating
from benchmarks.gates import CALLS, EARLY, OF_CONTRIB, call_gates, gates, judge, named
from benchmarks.groups import CONTRIB, DECORATED, HOPSPAN, SDK
from benchmarks.running import Measured, all_groups
from benchmarks.sampling import Effort
from benchmarks.unreached import UNREACHED, Unreached, Why

ROOT = Path(__file__).parents[2]
GROUP, WHAT = "Celery run, sampled", named(EARLY, OF_CONTRIB)
LISTED = Unreached(GROUP, WHAT, Why("it is out of reach", "Where the time goes"))
GOOD, BAD = 16.0, 19.0
"""Cost of hopspan's row; bare costs 10, contrib 20, and the gate is at 0.80."""


class Machine:
    """Measures what it is told, and remembers what it was asked for."""

    def __init__(self, *costs: float) -> None:
        self.costs = list(costs)
        self.asked: list[tuple[list[str], int]] = []

    def __call__(self, groups: Collection[str], effort: Effort) -> Measured:
        self.asked.append((list(groups), effort.rounds))
        noise = random.Random(1)  # noqa: S311 - no secret
        costs = {"bare": 10.0, CONTRIB: 20.0, HOPSPAN: self.costs.pop(0)}
        return {
            group: {
                name: [cost + noise.random() / 10 for _ in range(9)] for name, cost in costs.items()
            }
            for group in groups
        }


def find(machine: Machine, listed: Iterable[Unreached] = ()) -> gating.Findings:
    return gating.find(machine, [GROUP], listed, Effort(rounds=9))


def test_a_gate_that_holds_is_measured_once() -> None:
    machine = Machine(GOOD)
    findings = find(machine)
    assert not findings.missed
    assert machine.asked == [([GROUP], 9)]


def test_a_gate_that_is_missed_is_measured_again_for_longer() -> None:
    machine = Machine(BAD, GOOD)
    assert not find(machine).missed
    assert machine.asked == [([GROUP], 9), ([GROUP], gating.AGAIN.rounds)]
    assert gating.AGAIN.rounds > gating.ONCE.rounds


def test_a_gate_that_is_missed_twice_fails_the_build() -> None:
    findings = find(Machine(BAD, BAD))
    assert [each.gate.group for each in findings.missed] == [GROUP]
    text = gating.report(findings)
    assert "MISSED, each time" in text
    assert re.search(r"0\.\d\d \(0\.\d\d to 0\.\d\d; gate 0\.8, target 0\.66\)", text)


def test_a_gate_that_is_listed_is_neither_measured_again_nor_fails_the_build() -> None:
    machine = Machine(BAD)
    findings = find(machine, [LISTED])
    assert not findings.missed
    assert [listed for _, listed in findings.known] == [LISTED]
    assert len(machine.asked) == 1
    assert LISTED.why.reason in gating.report(findings)


def test_the_list_says_nothing_of_another_gate_of_the_group() -> None:
    assert find(Machine(BAD, BAD), [LISTED._replace(what="of SDK floor")]).missed


def test_a_gate_that_is_listed_and_reached_is_told_and_fails_nothing() -> None:
    findings = find(Machine(GOOD), [LISTED])
    assert (findings.missed, findings.known) == ([], [])
    assert [listed for _, listed in findings.reached] == [LISTED]
    assert "reached by now" in gating.report(findings)


def test_only_what_is_judged_is_measured() -> None:
    rows = gating.judged_rows()
    assert rows[GROUP] == {"bare", "contrib", "hopspan", DECORATED}
    assert rows["pika publish, no SDK"] == {"bare", "contrib", "hopspan"}
    assert "batch of 1, sampled" not in rows
    assert rows.keys() <= all_groups().keys()


# -- calls -----------------------------------------------------------------------------------------

CALLED = "pika consume, unsampled"
LISTED_CALLS = Unreached(CALLED, CALLS, Why("it calls too much", "Where the time goes"))


def called(ours: int, listed: Iterable[Unreached] = ()) -> gating.Findings:
    counted = {CALLED: {SDK: (42,), HOPSPAN: (ours,)}}
    return gating.compare(judge(counted, call_gates()), listed)


def test_a_call_too_many_fails_the_build_at_once() -> None:
    assert not called(42 + 18).missed
    findings = called(42 + 19)
    assert [(each.gate.group, each.found.median) for each in findings.missed] == [(CALLED, 19)]
    assert f"{CALLED}: {CALLS}: 19 (gate 18)" in gating.report(findings)


def test_calls_that_are_listed_fail_nothing_until_they_are_reached() -> None:
    known, reached = called(42 + 19, [LISTED_CALLS]), called(42 + 18, [LISTED_CALLS])
    assert not known.missed
    assert [listed for _, listed in known.known] == [LISTED_CALLS]
    assert [listed for _, listed in reached.reached] == [LISTED_CALLS]


def test_time_and_calls_fail_a_build_together() -> None:
    both = gating.together(called(42 + 19), find(Machine(BAD, BAD)))
    assert [each.gate.group for each in both.missed] == [CALLED, GROUP]


def test_what_is_listed_is_a_gate_with_a_reason_and_a_profile() -> None:
    every = [*gates(), *call_gates()]
    judged = {(gate.group, gate.what) for gate in every if gate.limit is not None}
    listed = [(each.group, each.what) for each in UNREACHED]
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(listed) <= judged
    assert all(each.why.reason for each in UNREACHED)
    assert {each.why.profile for each in UNREACHED} <= set(headings)


@pytest.mark.parametrize(("failing", "code"), [("none", 0), ("bench", 1), ("test", 1)])
def test_ci_runs_the_gate_after_the_tests(failing: str, code: int, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    for name in ("test", "bench"):
        script = f'echo "{name} $*" >>ran\n[[ {name} != {failing} ]]\n'
        (tmp_path / "scripts" / name).write_text(script)
    done = subprocess.run([tmp_path / ".ci/run"], check=False)
    assert done.returncode == code
    ran = (tmp_path / "ran").read_text().splitlines()
    every = ["test ", "bench --gate", "bench --gate --memory --quick"]
    assert ran == {"none": every, "bench": every[:2], "test": every[:1]}[failing]
