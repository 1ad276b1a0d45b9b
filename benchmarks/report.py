"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gates import Verdict
from benchmarks.running import Measured
from benchmarks.statistics import overhead, quartiles


def rows_table(measured: Measured) -> str:
    """The rows: microseconds of this run, and the overhead in these."""
    lines = [f"{'':44}{'µs (fastest)':>13}{'µs (median)':>13}{'overhead':>10}"]
    for group, rounds in measured.items():
        lines.append(group)
        for name, values in rounds.items():
            over = quartiles(overhead(name).of(rounds)).median if "bare" in rounds else 0.0
            lines.append(
                f"  {name:42}{min(values) * 1e6:13.1f}{quartiles(values).median * 1e6:13.1f}"
                + (f"{over * 1e6:10.1f}" if name != "bare" and "bare" in rounds else "")
            )
    return "\n".join(lines)


def gates_table(verdicts: Sequence[Verdict]) -> str:
    """The ratios: median and quartiles, gate and target."""
    wide = _width(verdicts)
    lines = [
        f"{'hopspan':{wide}}{'lower':>8}{'median':>8}{'upper':>8}{'gate':>7}{'target':>8}",
    ]
    for verdict in verdicts:
        gate, found = verdict.gate, verdict.found
        lines.append(
            f"{_name(verdict):{wide}}"
            + "".join(f"{value:8.2f}" for value in found)
            + (f"{gate.limit:7.2f}" if gate.limit is not None else f"{'-':>7}")
            + (f"{gate.target:8.2f}" if gate.target is not None else f"{'-':>8}")
            + f"  {verdict.word}"
        )
    return "\n".join(lines)


def calls_table(verdicts: Sequence[Verdict]) -> str:
    """The Python functions that one message enters, and how many they may be."""
    wide = _width(verdicts)
    lines = [f"{'hopspan':{wide}}{'calls':>8}{'gate':>7}"]
    for verdict in verdicts:
        most = "-" if verdict.gate.limit is None else f"{verdict.gate.limit:g}"
        calls = verdict.found.median
        lines.append(f"{_name(verdict):{wide}}{calls:8g}{most:>7}  {verdict.word}")
    return "\n".join(lines)


def _name(verdict: Verdict) -> str:
    return f"{verdict.gate.group}: {verdict.gate.what}"


def _width(verdicts: Sequence[Verdict]) -> int:
    return max((len(_name(each)) for each in verdicts), default=0) + 2
