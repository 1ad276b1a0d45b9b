"""Gates that are known to be missed, each with the reason. The gates themselves stay as they are.

A build fails for a gate that is missed and not in this list; for one that is in it and reached, the run
says so, and the line is taken out. Whoever adds a line has a profile that shows why, in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import NamedTuple

LISTED_IN = "benchmarks/unreached.py"


class Unreached(NamedTuple):
    """A gate that is missed."""

    group: str
    what: str
    reason: str
    profile: str
    """The heading in docs/benchmarks.md under which the profile is that shows why."""


class _Why(NamedTuple):
    reason: str
    profile: str


_PUBLISH = _Why(
    "properties are copied, and a message is described before it is sent and followed until its end",
    "Where the time goes",
)
_HANDLE = _Why(
    "a delivery is kept so that it can be settled once, joined, deferred and found by current()",
    "Where the time goes",
)
_LINKS = _Why(
    "the SDK's own links are nearly half of it, and each sender has to be read",
    "Where the time goes",
)


def _listed(why: _Why, what: str, *groups: str) -> tuple[Unreached, ...]:
    return tuple(Unreached(group, what, *why) for group in groups)


_RECORDED = ("sampled", "unsampled")
_ALL = (*_RECORDED, "no SDK")


def _groups(paths: tuple[str, ...], modes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{path}, {mode}" for path in paths for mode in modes)


_PUBLISHING = ("pika publish", "aio-pika publish", "kafka-python send")
_HANDLING = ("pika consume", "aio-pika consume", "kafka-python next", "Celery run")

UNREACHED: tuple[Unreached, ...] = (
    *_listed(_PUBLISH, "of API floor", *_groups(("pika publish",), _RECORDED)),
    *_listed(_PUBLISH, "of SDK floor", *_groups(("pika publish",), _RECORDED)),
    *_listed(_PUBLISH, "of contrib", *_groups(_PUBLISHING, _RECORDED)),
    *_listed(_PUBLISH, "of SDK floor, both with metrics", *_groups(("pika publish",), _RECORDED)),
    *_listed(_HANDLE, "of API floor", *_groups(("pika consume",), _ALL)),
    *_listed(_HANDLE, "of SDK floor", *_groups(("pika consume",), _ALL)),
    *_listed(_HANDLE, "of SDK floor", "pika consume, failing, sampled"),
    *_listed(_HANDLE, "of contrib", *_groups(_HANDLING, _ALL)),
    *_listed(_HANDLE, "of SDK floor, both with metrics", *_groups(("pika consume",), _RECORDED)),
    *_listed(
        _LINKS, "hopspan, of API extraction", "batch of 100, sampled", "batch of 500, sampled"
    ),
)
