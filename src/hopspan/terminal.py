"""What the terminal can show: colours, box characters, columns. Imports nothing of ours."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

_CODES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33",
    "blue": "34", "magenta": "35", "cyan": "36",
}  # fmt: skip
_READABLE = 100
"""Columns of text that an eye follows with ease."""


class Signs(NamedTuple):
    """The characters that a tree is drawn with."""

    branch: str
    last: str
    pipe: str
    error: str
    ok: str
    again: str
    arrow: str
    separator: str
    dash: str


BOX = Signs("├─ ", "└─ ", "│  ", "✗", "✔", "↻", "→", " · ", "─")
ASCII = Signs("|- ", "`- ", "|  ", "x", "+", "~", "->", ", ", "-")


class Terminal(NamedTuple):
    """How to show something. `plain` for a file, a pipe, an old terminal, or on request."""

    signs: Signs = ASCII
    coloured: bool = False
    columns: int = 0
    """0: as wide as it needs to be, because nothing wraps it."""

    def paint(self, text: str, *styles: str) -> str:
        """Text in a style, where there are colours."""
        codes = ";".join(_CODES[style] for style in styles if style)
        return f"\033[{codes}m{text}\033[0m" if codes and text and self.coloured else text

    def wrap(self, text: str) -> list[str]:
        """A paragraph as lines that fit."""
        return textwrap.wrap(text.strip(), min(self.columns or _READABLE, _READABLE))


def terminal_of(stream: TextIO, environ: Mapping[str, str], *, plain: bool = False) -> Terminal:
    """What a stream can show.

    Colours by NO_COLOR, then FORCE_COLOR, then whether it is a terminal that knows them. Box
    characters wherever the stream's encoding has them.
    """
    interactive = stream.isatty()
    dumb = environ.get("TERM") == "dumb"
    columns = (
        shutil.get_terminal_size((0, 0)).columns if interactive or environ.get("COLUMNS") else 0
    )
    return Terminal(
        BOX if _encodes(stream, "".join(BOX)) and not plain and not dumb else ASCII,
        not plain and _coloured(environ, interactive=interactive and not dumb),
        columns,
    )


def _coloured(environ: Mapping[str, str], *, interactive: bool) -> bool:
    if environ.get("NO_COLOR"):
        return False
    forced = environ.get("FORCE_COLOR")
    return forced != "0" if forced else interactive


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
