"""The standard groups as a picture: overheads as parts of contrib's, and where the gates are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

from benchmarks.gates import EVERY, Verdict
from benchmarks.groups import API, CONTRIB, HOPSPAN, SDK
from benchmarks.modes import MODES
from benchmarks.statistics import Rounds, quartiles, relative

_BARS = {SDK: "#c9ced6", API: "#9aa4b2", CONTRIB: "#e0a458", HOPSPAN: "#2f6fb3"}
_LEFT, _PANEL, _GAP, _BAR, _TOP = 150, 250, 26, 9, 64
_ROW = 4 * _BAR + 16
_WIDEST = 2.0
"""What a panel shows, as a part of contrib's overhead; longer bars are cut, and say how long."""

Measured = Mapping[str, Mapping[str, Rounds]]


def draw(measured: Measured, verdicts: Iterable[Verdict]) -> str:
    """An SVG; what was not measured is left out."""
    gates = {
        each.gate.group: each.gate.limit for each in verdicts if each.gate.what == "of contrib"
    }
    shown = [path for path in EVERY if any(f"{path}, {mode}" in measured for mode in MODES)]
    width, height = _LEFT + len(MODES) * (_PANEL + _GAP), _TOP + len(shown) * _ROW + 30
    parts = [_head(width, height), *_legend()]
    for column, mode in enumerate(MODES):
        left = _LEFT + column * (_PANEL + _GAP)
        parts.append(_text(left, _TOP - 12, mode, "font-weight='bold'"))
        one = left + _PANEL / _WIDEST
        parts.append(_line(one, _TOP - 6, _TOP + len(shown) * _ROW - 10, "#e0a458", "2 3"))
        for number, path in enumerate(shown):
            rounds = measured.get(f"{path}, {mode}")
            if rounds is not None:
                top = _TOP + number * _ROW
                parts += _panel(left, top, rounds, gates.get(f"{path}, {mode}"))
    parts += [
        _text(_LEFT - 10, _TOP + number * _ROW + 2 * _BAR + 4, path, "text-anchor='end'")
        for number, path in enumerate(shown)
    ]
    return "\n".join([*parts, "</svg>\n"])


def _panel(left: float, top: float, rounds: Mapping[str, Rounds], gate: float | None) -> list[str]:
    parts = []
    for number, (name, colour) in enumerate(_BARS.items()):
        part = quartiles(relative(name, CONTRIB).of(rounds)).median
        long = max(0.0, min(part, _WIDEST)) / _WIDEST * _PANEL
        y = top + number * _BAR
        parts.append(
            f"<rect x='{left:.1f}' y='{y}' width='{long:.1f}' height='{_BAR - 1}' fill='{colour}'/>"
        )
        if name == HOPSPAN:
            inside = part > _WIDEST * 0.85
            about = "fill='white' text-anchor='end' font-size='8'" if inside else "font-size='8'"
            parts.append(_text(left + long + (-3 if inside else 3), y + 7, f"{part:.2f}", about))
    if gate is not None:
        parts.append(_line(left + gate / _WIDEST * _PANEL, top - 2, top + 4 * _BAR, "#b3261e", ""))
    return parts


def _legend() -> list[str]:
    parts, x = [_text(10, 18, "Overhead of a message as a part of contrib's: less is better")], 10
    for name, colour in _BARS.items():
        parts.append(f"<rect x='{x}' y='27' width='10' height='9' fill='{colour}'/>")
        parts.append(_text(x + 14, 35, name))
        x += 34 + 7 * len(name)
    return [*parts, _line(x, 26, 37, "#b3261e", ""), _text(x + 6, 35, "gate")]


def _head(width: int, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"font-family='sans-serif' font-size='11'>\n"
        f"<rect width='{width}' height='{height}' fill='white'/>"
    )


def _text(x: float, y: float, text: str, about: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {about}>{escape(text)}</text>"


def _line(x: float, top: float, bottom: float, colour: str, dashes: str) -> str:
    return (
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{top}' y2='{bottom}' stroke='{colour}' "
        f"stroke-width='1.5' stroke-dasharray='{dashes}'/>"
    )
