"""`python -m benchmarks`: measures, prints a table, and judges by the gates. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

for _variable in [name for name in os.environ if name.startswith(("OTEL_", "HOPSPAN_"))]:
    del os.environ[_variable]  # defaults are measured, before anything reads them

from benchmarks.gates import judge  # noqa: E402
from benchmarks.groups import standard_groups  # noqa: E402
from benchmarks.report import as_json, gates_table, rows_table, versions  # noqa: E402
from benchmarks.sampling import Effort, measure  # noqa: E402
from benchmarks.special import special_groups  # noqa: E402
from benchmarks.statistics import Rounds  # noqa: E402


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", metavar="PATTERN", help="groups such as 'pika*sampled'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a gate is missed")
    return parser.parse_args(given)


def _is_wanted(name: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatch(name, pattern) or pattern in name


def _measured(effort: Effort, only: str | None) -> dict[str, dict[str, Rounds]]:
    found: dict[str, dict[str, Rounds]] = {}
    for name, make in {**standard_groups(), **special_groups()}.items():
        if _is_wanted(name, only):
            for group in make():
                print(f"measuring {group.name}", file=sys.stderr, flush=True)
                found[group.name] = measure(group.rows, effort)
    return found


def main(given: Sequence[str]) -> int:
    """Run what was asked for."""
    asked = _arguments(given)
    effort = Effort(rounds=15) if asked.quick else Effort()
    measured = _measured(effort, asked.only)
    verdicts = judge(measured)
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    print(rows_table(measured), gates_table(verdicts), sep="\n\n")
    if asked.json:
        asked.json.write_text(json.dumps(as_json(measured, verdicts, effort), indent=1) + "\n")
    return int(asked.gate and any(each.is_over for each in verdicts))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the clients were never connected, and cannot be closed in any other way
