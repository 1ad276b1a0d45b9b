"""What a check finds: how grave it is, what is wrong, how to mend it. Values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hopspan.doctor.environment import Environment


class Level(IntEnum):
    """How grave a finding is. Only errors fail a run, and warnings where it is strict."""

    OK = 0
    """Looked at, and as it should be."""
    HINT = 1
    """Nothing is wrong; something could be better, or could not be looked at."""
    WARNING = 2
    """Works, and will hurt some day: in an incident, at a deployment, on a bill."""
    ERROR = 3
    """Telemetry is lost or never leaves."""


class Finding(NamedTuple):
    """One thing that a check found."""

    level: Level
    what: str
    """What is wrong, or right."""
    mend: str = ""
    """What to change: the line or the variable."""
    check: str = ""
    """The name of the check; entered by who runs it."""


class Check(NamedTuple):
    """One question about an environment."""

    name: str
    look: Callable[[Environment], Iterable[Finding]]


def ok(what: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what)


def hint(what: str, mend: str) -> Finding:
    """Could be better."""
    return Finding(Level.HINT, what, mend)


def warning(what: str, mend: str) -> Finding:
    """Will hurt some day."""
    return Finding(Level.WARNING, what, mend)


def error(what: str, mend: str) -> Finding:
    """Telemetry is lost."""
    return Finding(Level.ERROR, what, mend)
