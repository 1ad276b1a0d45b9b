"""The figures in docs/benchmarks.md, made of results.json: nobody writes them by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.gates import (
    ADDED,
    ADDING,
    BESIDE_FLOORS,
    LINES,
    OF_CONTRIB,
    OF_FLOOR,
    OF_SDK_METRICS,
    WITH_METRICS,
    Line,
    named,
)
from benchmarks.groups import API, CONTRIB, DECORATED, HOPSPAN, SDK
from benchmarks.modes import MODES, SAMPLED
from benchmarks.results import Results

LEAD, LEAD_END = "<!-- in one sentence: written by scripts/bench -->", "<!-- end of it -->"
BEGIN, END = "<!-- figures: written by scripts/bench --write -->", "<!-- end of the figures -->"

_COMPARED: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (OF_CONTRIB, LINES),
    (ADDED, ADDING),
    (OF_SDK_METRICS, WITH_METRICS),
    (OF_FLOOR[API], BESIDE_FLOORS),
    (OF_FLOOR[SDK], BESIDE_FLOORS),
)
"""The figures that have a table of their own, with a column for each mode, and its lines."""


def filled(page: str, results: Results) -> str:
    """The page with these figures in place of those that were in it."""
    page = _between(page, LEAD, LEAD_END, lead(results))
    return _between(page, BEGIN, END, figures(results))


def _between(page: str, begin: str, end: str, text: str) -> str:
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


# -- in one sentence -------------------------------------------------------------------------------


def lead(results: Results) -> str:
    """The cost, for a reader who decides whether to use hopspan."""
    found = {(each["group"], each["what"]): each for each in results["ratios"]}
    handling = [line for line in LINES if line.way and line.row in {HOPSPAN, DECORATED}]
    publishing = [line for line in LINES if not line.way]
    told = [
        f"{doing} costs {_times(lines, found)}"
        for doing, lines in (("handling a message", handling), ("publishing one", publishing))
        if _medians(lines, found)
    ]
    if not told:
        return "Nothing was measured."
    told[0] += " what the OpenTelemetry contrib instrumentation of the same client costs"
    sentence = ", ".join(told) + _throughput(results)
    return f"**{sentence[0].upper()}{sentence[1:]}.**"


def _medians(lines: Iterable[Line], found: Mapping[Any, Any]) -> list[float]:
    keys = [(f"{line.path}, {SAMPLED}", named(line.way, OF_CONTRIB)) for line in lines]
    return [found[key]["quartiles"][1] for key in keys if key in found]


def _times(lines: Iterable[Line], found: Mapping[Any, Any]) -> str:
    """From the client where it is least to the one where it is most."""
    medians = _medians(lines, found)
    least, most = f"{min(medians):.1f}", f"{max(medians):.1f}"
    return f"{least} times" if least == most else f"{least} to {most} times"


def _throughput(results: Results) -> str:
    wall = {
        each["row"]: each["wall_of_bare"]
        for each in results.get("brokers", {}).get("rows", ())
        if each["broker"] == "RabbitMQ, pika"
    }
    if not wall.keys() >= {HOPSPAN, CONTRIB}:
        return ""
    ours, theirs = (round(100 / wall[row]) for row in (HOPSPAN, CONTRIB))
    return (
        f"; through a real RabbitMQ, pika has {ours} % of the throughput that it has untraced "
        f"({theirs} % with contrib)"
    )


# -- tables ----------------------------------------------------------------------------------------


def figures(results: Results) -> str:
    """All tables."""
    about = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [
        f"{results['rounds']} rounds. {about}.",
        "hopspan's overhead as a part of another's: median, quartiles; gate, target and verdict.",
        *_compared(results["ratios"]),
        _table(("", "median, quartiles; gate and verdict"), _others(results["ratios"])),
    ]
    if "calls" in results:
        parts.append(_calls(results["calls"]))
    if "memory" in results:
        parts.append(_memory(results["memory"]))
    if "brokers" in results:
        parts.append(_brokers(results["brokers"]))
    return "\n\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(ratio: Mapping[str, Any]) -> str:
    lower, median, upper = ratio["quartiles"]
    text = f"{median:.2f} ({lower:.2f} to {upper:.2f})"
    if ratio["gate"] is None:
        return text
    target = f", target {ratio['target']:.2f}" if ratio["target"] is not None else ""
    return f"{text}; gate {ratio['gate']:.2f}{target}: {ratio['verdict']}"


def _compared(ratios: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    found = {(each["group"], each["what"]): _cell(each) for each in ratios}
    for what, lines in _COMPARED:
        cells = [[line.label, *(found.get(key, "") for key in _keys(line, what))] for line in lines]
        if any(any(cell[1:]) for cell in cells):
            yield _table((what, *MODES), (cell for cell in cells if any(cell[1:])))


def _keys(line: Line, what: str) -> list[tuple[str, str]]:
    return [(f"{line.path}, {mode}", named(line.way, what)) for mode in MODES]


def _others(ratios: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    shown = {key for what, lines in _COMPARED for line in lines for key in _keys(line, what)}
    for each in ratios:
        if (each["group"], each["what"]) not in shown:
            yield f"{each['group']}: {each['what']}", _cell(each)


def _calls(calls: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("Python functions that one message enters", "calls", "gate"),
        (
            (
                f"{each['group']}: {each['what']}",
                str(each["calls"]),
                "" if each["gate"] is None else f"{each['gate']}: {each['verdict']}",
            )
            for each in calls
        ),
    )


def _memory(memory: Mapping[str, Any]) -> str:
    head = f"kept of {memory['messages']:,} settled messages, each with a destination of its own"
    return _table(
        (head, ""),
        [
            (
                f"at most until {memory['full']:,}, when every cache is full",
                f"{memory['bytes_when_full'] / 1024:,.0f} kB",
            ),
            ("at most since", f"{memory['bytes_at_the_end'] / 1024:,.0f} kB"),
        ],
    )


def _brokers(brokers: Mapping[str, Any]) -> str:
    head = f"published and consumed, sampled, {brokers['turns']} turns of {brokers['messages_of_a_turn']}"
    return _table(
        (head, "messages/s", "client CPU, µs", "wall, of bare", "CPU, of bare"),
        (
            (
                f"{each['broker']}, {each['row']}",
                f"{each['messages_per_second']:,}",
                f"{each['cpu_microseconds']:,}",
                f"{each['wall_of_bare']:.2f}",
                f"{each['cpu_of_bare']:.2f}",
            )
            for each in brokers["rows"]
        ),
    )
