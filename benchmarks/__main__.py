"""`python -m benchmarks`: measures, prints a table, and judges by the gates. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

for _variable in [name for name in os.environ if name.startswith(("OTEL_", "HOPSPAN_"))]:
    del os.environ[_variable]  # defaults are measured, before anything reads them

from benchmarks import brokers, memory, profiling  # noqa: E402
from benchmarks.chart import draw  # noqa: E402
from benchmarks.gates import judge  # noqa: E402
from benchmarks.groups import Group, standard_groups  # noqa: E402
from benchmarks.report import as_json, gates_table, rows_table, versions  # noqa: E402
from benchmarks.sampling import Effort, measure  # noqa: E402
from benchmarks.special import special_groups  # noqa: E402
from benchmarks.statistics import Rounds  # noqa: E402

_ROOT = Path(__file__).parents[1]
_JSON, _SVG = _ROOT / "benchmarks" / "results.json", _ROOT / "docs" / "img" / "benchmarks.svg"
"""Where a run of everything leaves its figures."""


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", metavar="PATTERN", help="groups such as 'pika*sampled'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to draw them")
    parser.add_argument("--brokers", action="store_true", help="through RabbitMQ and Kafka")
    parser.add_argument("--memory", action="store_true", help="what is kept of settled messages")
    parser.add_argument("--profile", metavar="GROUP", help="where hopspan's row of a group is")
    parser.add_argument("--row", default="hopspan", help="the row of --profile")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a gate is missed")
    return parser.parse_args(given)


def _is_wanted(name: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatch(name, pattern) or name.startswith(pattern)


def _groups() -> dict[str, Callable[[], Iterator[Group]]]:
    return {**standard_groups(), **special_groups()}


def _profile(name: str, row: str) -> None:
    for group in _groups()[name]():
        print(profiling.report(group, row))


def _measured(effort: Effort, only: str | None) -> dict[str, dict[str, Rounds]]:
    found: dict[str, dict[str, Rounds]] = {}
    for name, make in _groups().items():
        if _is_wanted(name, only):
            for group in make():
                print(f"measuring {group.name}", file=sys.stderr, flush=True)
                found[group.name] = measure(group.rows, effort)
    return found


def main(given: Sequence[str]) -> int:
    """Run what was asked for."""
    asked = _arguments(given)
    if asked.profile:
        _profile(asked.profile, asked.row)
        return 0
    if asked.memory:
        kept = memory.measure_memory()
        print(memory.report(kept))
        return int(asked.gate and not kept.is_bounded)
    if asked.brokers:
        print(brokers.report(brokers.measure_brokers(5 if asked.quick else brokers.TURNS)))
        return 0
    effort = Effort(rounds=15) if asked.quick else Effort()
    measured = _measured(effort, asked.only)
    verdicts = judge(measured)
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    print(rows_table(measured), gates_table(verdicts), sep="\n\n")
    if not (asked.quick or asked.only):
        asked.json, asked.svg = asked.json or _JSON, asked.svg or _SVG
    if asked.json:
        asked.json.write_text(json.dumps(as_json(measured, verdicts, effort), indent=1) + "\n")
    if asked.svg:
        asked.svg.write_text(draw(measured, verdicts))
    return int(asked.gate and any(each.is_over for each in verdicts))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the clients were never connected, and cannot be closed in any other way
