"""The figures in docs/benchmarks.md, made of results.json: nobody writes them by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.gates import EVERY
from benchmarks.modes import MODES
from benchmarks.results import Results

BEGIN, END = "<!-- figures: written by scripts/bench --write -->", "<!-- end of the figures -->"

_COMPARED = {
    "of API floor": "as a part of the API floor's",
    "of SDK floor": "as a part of the SDK floor's",
    "of contrib": "as a part of contrib's",
    "of SDK floor, both with metrics": "as a part of the SDK floor's, both with metrics",
}
"""What has a table of its own, with a column for each mode."""


def filled(page: str, results: Results) -> str:
    """The page with these figures in place of those that were in it."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{figures(results)}\n\n{END}{after}"


def figures(results: Results) -> str:
    """All tables."""
    about = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [
        f"{results['rounds']} rounds. {about}.",
        "hopspan's overhead as a part of another's: median, quartiles; gate, target and verdict.",
        *_compared(results["ratios"]),
        _table(("", "median, quartiles; gate and verdict"), _others(results["ratios"])),
    ]
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
    found = {(each["what"], each["group"]): _cell(each) for each in ratios}
    for what, title in _COMPARED.items():
        rows = [
            [path, *(found.get((what, f"{path}, {mode}"), "") for mode in MODES)] for path in EVERY
        ]
        yield _table((title, *MODES), (row for row in rows if any(row[1:])))


def _others(ratios: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    standard = {f"{path}, {mode}" for path in EVERY for mode in MODES}
    for each in ratios:
        if each["what"] not in _COMPARED or each["group"] not in standard:
            yield f"{each['group']}: {each['what']}", _cell(each)


def _memory(memory: Mapping[str, Any]) -> str:
    head = f"kept of {memory['messages']:,} settled messages, each with a destination of its own"
    return _table(
        (head, ""),
        [
            (
                f"after {memory['full']:,}, when every cache is full",
                f"{memory['bytes_when_full'] / 1024:,.0f} kB",
            ),
            ("at the end", f"{memory['bytes_at_the_end'] / 1024:,.0f} kB"),
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
