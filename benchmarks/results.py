"""What was measured, as JSON: the page and the picture in docs/ are made of it, and of nothing else."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.brokers import Figures, summaries
from benchmarks.gates import EVERY, Verdict
from benchmarks.groups import API, CONTRIB, DECORATED, HOPSPAN, SDK, WRAPPED
from benchmarks.memory import Kept
from benchmarks.modes import MODES
from benchmarks.running import Measured
from benchmarks.statistics import Rounds, quartiles, relative

PACKAGES = (
    "hopspan", "opentelemetry-api", "opentelemetry-sdk", "pika", "aio-pika", "aiormq",
    "kafka-python", "celery", "opentelemetry-instrumentation-pika",
    "opentelemetry-instrumentation-aio-pika", "opentelemetry-instrumentation-kafka-python",
    "opentelemetry-instrumentation-celery",
)  # fmt: skip

Results = dict[str, Any]


def versions() -> dict[str, str]:
    """Of everything that the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def of_groups(measured: Measured, verdicts: Sequence[Verdict], rounds: int) -> Results:
    """Rows and ratios: medians and quartiles, not single rounds."""
    return {
        "versions": versions(),
        "rounds": rounds,
        "microseconds": {
            group: {name: _rounded(values, 1e6) for name, values in rows.items()}
            for group, rows in measured.items()
        },
        "parts_of_contrib": {
            group: _parts(measured[group])
            for path in EVERY
            for mode in MODES
            if (group := f"{path}, {mode}") in measured
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


def of_calls(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Python functions that one message enters beyond the SDK floor."""
    return [
        {
            "group": each.gate.group,
            "what": each.gate.what,
            "calls": round(each.found.median),
            "gate": each.gate.limit,
            "verdict": each.word,
        }
        for each in verdicts
    ]


def of_memory(kept: Kept) -> Results:
    """What is kept of settled messages."""
    return {
        "messages": kept.messages,
        "full": kept.full,
        "bytes_when_full": kept.when_full,
        "bytes_at_the_end": kept.at_the_end,
        "bounded": kept.is_bounded,
    }


def of_brokers(found: dict[str, dict[str, Figures]], turns: int, turn: int) -> Results:
    """The way through brokers."""
    return {
        "turns": turns,
        "messages_of_a_turn": turn,
        "rows": [
            {
                "broker": each.broker,
                "row": each.row,
                "messages_per_second": round(each.rate),
                "cpu_microseconds": round(each.cpu * 1e6),
                "wall_of_bare": round(each.wall_of_bare, 2),
                "cpu_of_bare": round(each.cpu_of_bare, 2),
            }
            for each in summaries(found)
        ],
    }


def _parts(rows: dict[str, Rounds] | Any) -> dict[str, float]:
    return {
        name: round(quartiles(relative(name, CONTRIB).of(rows)).median, 3)
        for name in (SDK, API, CONTRIB, HOPSPAN, DECORATED, WRAPPED)
        if name in rows
    }


def _rounded(values: Rounds, unit: float) -> dict[str, float]:
    lower, median, upper = quartiles(values)
    found = {"fastest": min(values), "lower": lower, "median": median, "upper": upper}
    return {name: round(value * unit, 2) for name, value in found.items()}
