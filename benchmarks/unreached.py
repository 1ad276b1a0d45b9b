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


_HOT_PATH = _Why("the hot path has not been made fast yet", "Where the time goes")


def _listed(why: _Why, what: str, *groups: str) -> tuple[Unreached, ...]:
    return tuple(Unreached(group, what, *why) for group in groups)


UNREACHED: tuple[Unreached, ...] = (
    *_listed(
        _HOT_PATH,
        "of API floor",
        "pika publish, sampled",
        "pika publish, unsampled",
        "pika publish, no SDK",
        "pika consume, sampled",
        "pika consume, unsampled",
        "pika consume, no SDK",
    ),
    *_listed(
        _HOT_PATH,
        "of SDK floor",
        "pika publish, sampled",
        "pika publish, unsampled",
        "pika publish, no SDK",
        "pika consume, sampled",
        "pika consume, unsampled",
        "pika consume, no SDK",
        "pika consume, failing, sampled",
    ),
    *_listed(
        _HOT_PATH,
        "of contrib",
        "pika publish, sampled",
        "pika publish, unsampled",
        "pika publish, no SDK",
        "pika consume, sampled",
        "pika consume, unsampled",
        "pika consume, no SDK",
        "aio-pika publish, sampled",
        "aio-pika publish, unsampled",
        "aio-pika publish, no SDK",
        "aio-pika consume, sampled",
        "aio-pika consume, unsampled",
        "aio-pika consume, no SDK",
        "kafka-python send, sampled",
        "kafka-python send, unsampled",
        "kafka-python send, no SDK",
        "kafka-python next, sampled",
        "kafka-python next, unsampled",
        "kafka-python next, no SDK",
        "Celery run, sampled",
        "Celery run, unsampled",
        "Celery run, no SDK",
    ),
    *_listed(
        _HOT_PATH,
        "of SDK floor, both with metrics",
        "pika publish, sampled",
        "pika publish, unsampled",
        "pika consume, sampled",
        "pika consume, unsampled",
    ),
    *_listed(
        _HOT_PATH,
        "hopspan, of API extraction",
        "batch of 100, sampled",
        "batch of 500, sampled",
    ),
)
