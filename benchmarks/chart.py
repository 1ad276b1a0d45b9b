"""The standard groups as a picture: overheads as parts of contrib's, and where the gates are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.gates import EVERY, LINES, OF_CONTRIB, named
from benchmarks.groups import API, CONTRIB, DECORATED, HOPSPAN, SDK
from benchmarks.modes import MODES
from benchmarks.results import Results

_LEFT, _PANEL, _GAP, _TOP, _ROW = 142, 236, 34, 92, 61
_MOST = 2.0
"""What a panel shows at most, as a part of contrib's overhead; longer bars are cut, and say how long."""
_INK, _PALE, _GATE = "#1f2933", "#d9dee5", "#c62828"


class _Bar(NamedTuple):
    name: str
    colour: str
    top: int
    height: int


_BARS = (
    _Bar(HOPSPAN, "#2f6fb3", 0, 12),
    _Bar(DECORATED, "#6f9fd0", 13, 12),
    _Bar(CONTRIB, "#e0a458", 26, 12),
    _Bar(API, "#8a95a5", 39, 5),
    _Bar(SDK, "#bcc4cf", 45, 5),
)
_NUMBERED = (HOPSPAN, DECORATED)
"""The groups whose gates are shown, and those whose figures are."""


def draw(results: Results) -> str:
    """An SVG; what was not measured is left out."""
    parts: Mapping[str, Mapping[str, float]] = results["parts_of_contrib"]
    gates = _gates(results)
    shown = [path for path in EVERY if any(f"{path}, {mode}" in parts for mode in MODES)]
    drawn = {bar.name for bar in _BARS}
    longest = max(
        [rows[name] for rows in parts.values() for name in rows.keys() & drawn], default=1.0
    )
    scale = _PANEL / min(_MOST, max(1.1, longest))
    bottom = _TOP + len(shown) * _ROW
    lines = [*_head(_LEFT + len(MODES) * (_PANEL + _GAP), bottom + 34, is_cut=longest > _MOST)]
    for column, mode in enumerate(MODES):
        left = _LEFT + column * (_PANEL + _GAP)
        lines += _axis(left, bottom, scale, mode)
        for number, path in enumerate(shown):
            if (group := f"{path}, {mode}") in parts:
                top = _TOP + number * _ROW
                lines += _bars(left, top, scale, parts[group], gates.get(group, {}))
    lines += [
        _text(_LEFT - 12, _TOP + number * _ROW + 17, path, "text-anchor='end' font-size='12'")
        for number, path in enumerate(shown)
    ]
    return "\n".join([*lines, "</svg>\n"])


def _gates(results: Results) -> dict[str, dict[str, float]]:
    """The gates of bars, by group and row."""
    found = {(each["group"], each["what"]): each["gate"] for each in results["ratios"]}
    gates: dict[str, dict[str, float]] = {}
    for line in LINES:
        for mode in MODES:
            group = f"{line.path}, {mode}"
            gate = found.get((group, named(line.way, OF_CONTRIB)))
            if gate is not None:
                gates.setdefault(group, {})[line.row] = gate
    return gates


def _head(width: int, height: int, *, is_cut: bool) -> Iterator[str]:
    yield (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"font-family='sans-serif' font-size='11' fill='{_INK}'>\n"
        f"<rect width='{width}' height='{height}' fill='white'/>"
    )
    yield _text(
        12, 22, "What tracing adds to a message: CPU time, contrib's = 1, less is better",
        "font-size='15' font-weight='bold'",
    )  # fmt: skip
    x = 12
    for bar in _BARS:
        yield _rect(x, 36, 14, 10, bar.colour)
        yield _text(x + 19, 45, bar.name)
        x += 40 + 7 * len(bar.name)
    yield _line(x, 34, 48, _GATE, 2)
    yield _text(x + 6, 45, "gate for hopspan")
    note = "Floors: the same spans by hand, with (API) and without (SDK) propagation."
    if is_cut:
        note += " A bar that reaches the edge is longer than is shown."
    yield _text(12, height - 8, note, "fill='#616e7c'")


def _axis(left: float, bottom: int, scale: float, mode: str) -> Iterator[str]:
    yield _text(left, _TOP - 24, mode, "font-size='13' font-weight='bold'")
    for step in range(int(_PANEL / scale * 2 + 0.01) + 1):
        x = left + step / 2 * scale
        yield _line(x, _TOP - 6, bottom - 8, "#e0a458" if step == 2 else _PALE, 1)
        yield _text(
            x, _TOP - 10, f"{step / 2:g}", "text-anchor='middle' fill='#616e7c' font-size='10'"
        )


def _bars(
    left: float,
    top: float,
    scale: float,
    parts: Mapping[str, float],
    gates: Mapping[str, float],
) -> Iterator[str]:
    for bar in _BARS:
        if bar.name in parts:  # there is no policy where nothing is handled
            long = min(max(0.0, parts[bar.name]) * scale, _PANEL)
            yield _rect(left, top + bar.top, long, bar.height, bar.colour)
    for bar in _BARS:
        if bar.name in _NUMBERED and bar.name in parts:
            gate, y = gates.get(bar.name), top + bar.top
            if gate is not None:
                yield _line(left + gate * scale, y - 1, y + bar.height + 1, _GATE, 2)
            yield _number(left, y + 10, scale, parts[bar.name], gate)


def _number(left: float, y: float, scale: float, part: float, gate: float | None) -> str:
    """Hopspan's part, beside its bar, in it where the panel ends, and never on the gate's mark."""
    long = min(max(0.0, part) * scale, _PANEL)
    if long > _PANEL * 0.85:
        about = "font-weight='bold' fill='white' text-anchor='end'"
        return _text(left + long - 4, y, f"{part:.2f}", about)
    if gate is not None and long <= gate * scale < long + 34:
        long = gate * scale
    return _text(left + long + 5, y, f"{part:.2f}", "font-weight='bold'")


def _text(x: float, y: float, text: str, about: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {about}>{escape(text)}</text>"


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height}' fill='{colour}'/>"


def _line(x: float, top: float, bottom: float, colour: str, width: int) -> str:
    return (
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{top}' y2='{bottom}' stroke='{colour}' "
        f"stroke-width='{width}'/>"
    )
