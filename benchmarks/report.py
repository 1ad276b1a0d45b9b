"""What was measured, as a table for people and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.gates import Verdict
from benchmarks.statistics import Rounds, overhead, quartiles

PACKAGES = (
    "hopspan", "opentelemetry-api", "opentelemetry-sdk", "pika", "aio-pika", "aiormq",
    "kafka-python", "celery", "opentelemetry-instrumentation-pika",
    "opentelemetry-instrumentation-aio-pika", "opentelemetry-instrumentation-kafka-python",
    "opentelemetry-instrumentation-celery",
)  # fmt: skip

Measured = Mapping[str, Mapping[str, Rounds]]


def versions() -> dict[str, str]:
    """Of everything that the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def rows_table(measured: Measured) -> str:
    """The rows: microseconds of this run, and overhead as a part of contrib's."""
    lines = [f"{'':32}{'µs (fastest)':>13}{'µs (median)':>13}{'overhead':>10}"]
    for group, rounds in measured.items():
        lines.append(group)
        for name, values in rounds.items():
            over = quartiles(overhead(name).of(rounds)).median if "bare" in rounds else 0.0
            lines.append(
                f"  {name:30}{min(values) * 1e6:13.1f}{quartiles(values).median * 1e6:13.1f}"
                + (f"{over * 1e6:10.1f}" if name != "bare" and "bare" in rounds else "")
            )
    return "\n".join(lines)


def gates_table(verdicts: Iterable[Verdict]) -> str:
    """The ratios: median and quartiles, gate and target."""
    lines = [
        f"{'the overhead of hopspan, as a part':76}{'lower':>8}{'median':>8}{'upper':>8}"
        f"{'gate':>7}{'target':>8}"
    ]
    for verdict in verdicts:
        gate, found = verdict.gate, verdict.found
        lines.append(
            f"{gate.group + ': ' + gate.what:76}"
            + "".join(f"{value:8.2f}" for value in found)
            + (f"{gate.limit:7.2f}" if gate.limit is not None else f"{'-':>7}")
            + (f"{gate.target:8.2f}" if gate.target is not None else f"{'-':>8}")
            + f"  {verdict.word}"
        )
    return "\n".join(lines)


def as_json(measured: Measured, verdicts: Sequence[Verdict], effort: Any) -> dict[str, Any]:
    """Everything, for a later look: medians, not single rounds."""
    return {
        "versions": versions(),
        "rounds": effort.rounds,
        "microseconds": {
            group: {name: _rounded(values, 1e6) for name, values in rounds.items()}
            for group, rounds in measured.items()
        },
        "ratios": [
            {
                "group": each.gate.group,
                "what": each.gate.what,
                "quartiles": [round(value, 3) for value in each.found],
                "gate": each.gate.limit,
                "target": each.gate.target,
                "verdict": each.word,
            }
            for each in verdicts
        ],
    }


def _rounded(values: Rounds, unit: float) -> dict[str, float]:
    lower, median, upper = quartiles(values)
    found = {"fastest": min(values), "lower": lower, "median": median, "upper": upper}
    return {name: round(value * unit, 2) for name, value in found.items()}
