"""What was found, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from hopspan.doctor.findings import Level
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hopspan.doctor.findings import Finding
    from hopspan.terminal import Terminal

_COLOURS = {Level.OK: "green", Level.HINT: "cyan", Level.WARNING: "yellow", Level.ERROR: "red"}
_GAP = "  "
_LEVEL_WIDTH = max(len(level.name) for level in Level)
_READABLE = 100
_LEAST = 24
"""Columns of text below which a table is no help any more."""


def table(findings: Sequence[Finding], terminal: Terminal) -> list[str]:
    """Lines: level, check, what was found, and below it how to mend it."""
    width = max((len(each.check) for each in findings), default=0)
    lines = [line for each in findings for line in _rows(each, width, terminal)]
    return [*lines, "", _summary(findings, terminal)]


def _rows(finding: Finding, width: int, terminal: Terminal) -> Iterator[str]:
    level = finding.level.name.lower()
    painted = terminal.paint(level, _COLOURS[finding.level]) + " " * (_LEVEL_WIDTH - len(level))
    head = f"{painted}{_GAP}{finding.check:{width}}{_GAP}"
    indent = " " * (_LEVEL_WIDTH + width + 2 * len(_GAP))
    room = max(min(terminal.columns or _READABLE, _READABLE) - len(indent), _LEAST)
    arrow = terminal.signs.arrow + " "
    for line in _wrapped(finding.what, room):
        yield (head + line).rstrip()
        head = indent
    for number, line in enumerate(_wrapped(finding.mend, room - len(arrow))):
        lead = " " * len(arrow) if number else arrow
        yield indent + terminal.paint(lead + line, "bold")


def _wrapped(text: str, room: int) -> list[str]:
    """Lines that fit; a variable or a path is left whole, so that it can be copied."""
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _summary(findings: Sequence[Finding], terminal: Terminal) -> str:
    counts = Counter(each.level for each in findings)
    said = [_counted(counts[level], level) for level in reversed(Level) if counts[level]]
    return terminal.signs.separator.join(said)


def _counted(count: int, level: Level) -> str:
    name = level.name.lower()
    return f"{count} {name}" if count == 1 or level is Level.OK else f"{count} {name}s"


def as_json(findings: Sequence[Finding], *, healthy: bool) -> str:
    """One object: `hopspan` (the version), `healthy`, `counts`, and `findings` in their order."""
    counts = Counter(each.level.name.lower() for each in findings)
    return json.dumps(
        {
            "hopspan": VERSION,
            "healthy": healthy,
            "counts": {level.name.lower(): counts[level.name.lower()] for level in Level},
            "findings": [
                {
                    "check": each.check,
                    "level": each.level.name.lower(),
                    "what": each.what,
                    "mend": each.mend,
                }
                for each in findings
            ],
        },
        indent=2,
    )
