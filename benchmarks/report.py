"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.gates import Verdict
from benchmarks.running import Measured
from benchmarks.statistics import overhead, quartiles


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
