"""`python -m benchmarks`: measures, prints a table, and judges by the gates. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

for _variable in [name for name in os.environ if name.startswith(("OTEL_", "HOPSPAN_"))]:
    del os.environ[_variable]  # defaults are measured, before anything reads them

from benchmarks import brokers, counting, gating, memory, profiling, results  # noqa: E402
from benchmarks.brokers.turns import TURN  # noqa: E402
from benchmarks.chart import draw  # noqa: E402
from benchmarks.gates import judge  # noqa: E402
from benchmarks.publishing import publish, write_json  # noqa: E402
from benchmarks.report import calls_table, gates_table, rows_table  # noqa: E402
from benchmarks.running import all_groups, judge_calls, measure_groups, wanted  # noqa: E402
from benchmarks.sampling import Effort  # noqa: E402

_QUICK = Effort(rounds=15)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", metavar="PATTERN", help="groups such as 'pika*sampled'")
    parser.add_argument(
        "--write",
        action="store_true",
        help="everything, with memory and brokers, written to results.json and docs/",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to draw them")
    parser.add_argument("--brokers", action="store_true", help="through RabbitMQ and Kafka")
    parser.add_argument("--memory", action="store_true", help="what is kept of settled messages")
    parser.add_argument("--profile", metavar="GROUP", help="where hopspan's row of a group is")
    parser.add_argument("--row", default="hopspan", help="the row of --profile")
    parser.add_argument(
        "--count",
        action="store_true",
        help="functions and bytecodes of a message instead of time; exit 1 as --gate does",
    )
    parser.add_argument(
        "--gate",
        action="store_true",
        help="exit 1 when a gate is missed that is not listed as such",
    )
    asked = parser.parse_args(given)
    if asked.write and asked.only:
        parser.error("--write is about everything, and --only is not")
    return asked


def _profile(name: str, row: str) -> None:
    for group in all_groups()[name]():
        print(profiling.report(group, row))


def _gate(names: Sequence[str], effort: Effort) -> int:
    """Only what is judged is measured, so that a build need not wait for the rest."""
    rows = gating.judged_rows()
    findings = gating.find(
        lambda groups, effort: measure_groups(groups, effort, rows),
        [name for name in names if name in rows],
        once=effort,
    )
    print(gates_table(findings.verdicts), end="\n\n")
    return _judged(gating.together(_calls(names), findings))


def _count(names: Sequence[str]) -> int:
    makers = all_groups()
    for name in names:
        print(counting.report(makers[name]()))
    return _judged(_calls(names))


def _calls(names: Sequence[str]) -> gating.Findings:
    verdicts = judge_calls(names)
    print(calls_table(verdicts), end="\n\n")
    return gating.compare(verdicts)


def _judged(findings: gating.Findings) -> int:
    """The code to exit with."""
    print(gating.report(findings))
    return int(bool(findings.missed))


def _memory(*, quick: bool) -> memory.Kept:
    kept = memory.measure_memory(*(memory.FEWER if quick else ()))
    print(memory.report(kept))
    return kept


def _brokers(*, quick: bool) -> results.Results:
    turns = 5 if quick else brokers.TURNS
    found = brokers.measure_brokers(turns)
    print(brokers.report(found))
    return results.of_brokers(found, turns, TURN)


def _measure(asked: argparse.Namespace) -> None:
    effort = _QUICK if asked.quick else Effort()
    measured = measure_groups(wanted(asked.only), effort)
    verdicts, calls = judge(measured), judge_calls(wanted(asked.only))
    print(", ".join(f"{name} {number}" for name, number in results.versions().items()))
    print(rows_table(measured), gates_table(verdicts), calls_table(calls), sep="\n\n")
    found = results.of_groups(measured, verdicts, effort.rounds)
    found["calls"] = results.of_calls(calls)
    if asked.write:
        found["memory"] = results.of_memory(_memory(quick=asked.quick))
        found["brokers"] = _brokers(quick=asked.quick)
    if asked.write or not (asked.quick or asked.only or asked.json or asked.svg):
        publish(found)
    if asked.json:
        write_json(found, asked.json)
    if asked.svg:
        asked.svg.write_text(draw(found), encoding="utf-8")


def main(given: Sequence[str]) -> int:
    """Run what was asked for."""
    asked = _arguments(given)
    if asked.profile:
        _profile(asked.profile, asked.row)
    elif asked.count:
        return _count(wanted(asked.only))
    elif asked.memory:
        kept = _memory(quick=asked.quick)
        return int(asked.gate and not kept.is_bounded)
    elif asked.brokers:
        _brokers(quick=asked.quick)
    elif asked.gate:
        return _gate(wanted(asked.only), _QUICK if asked.quick else gating.ONCE)
    else:
        _measure(asked)
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - told like any other, without what follows
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)  # the clients were never connected, and cannot be closed in any other way
