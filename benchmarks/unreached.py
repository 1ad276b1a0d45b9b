"""Gates that are known to be missed, each with the reason. The gates themselves stay as they are.

A build fails for a gate that is missed and not in this list; for one that is in it and reached, the run
says so, and its line is taken out. Whoever adds a line has a profile that shows why, in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.gates import (
    ACKS,
    ADDED,
    ALONE,
    BY_LOOP,
    CALLS,
    DEAD_LETTERS,
    EARLY,
    LATE,
    OF_API_LINKS,
    OF_CONTRIB,
    OF_SDK_METRICS,
    REQUEUES,
    named,
)

LISTED_IN = "benchmarks/unreached.py"


class Why(NamedTuple):
    """The reason why gates are missed."""

    reason: str
    profile: str
    """The heading in docs/benchmarks.md under which the profile is that shows it."""


class Unreached(NamedTuple):
    """A gate that is missed."""

    group: str
    what: str
    why: Why


_PUBLISH = Why(
    "properties are copied, and a message is described before it is sent and followed until its end",
    "Where the time goes",
)
_HANDLE = Why(
    "one delivery is nine objects, and what is known at subscribing is asked for every message",
    "Where the time goes",
)
_POLICY = Why(
    "a policy is looked up, asked and carried out by a chain of objects for every message",
    "Where the time goes",
)
_LINKS = Why(
    "the SDK's own links are nearly half of it, and each sender has to be read",
    "Where the time goes",
)


def _missed(group: str, way: str, what: str, why: Why) -> Unreached:
    return Unreached(group, named(way, what), why)


# One line a gate.
UNREACHED: tuple[Unreached, ...] = (
    _missed("pika publish, sampled", "", OF_CONTRIB, _PUBLISH),
    _missed("pika publish, unsampled", "", OF_CONTRIB, _PUBLISH),
    _missed("pika publish, no SDK", "", OF_CONTRIB, _PUBLISH),
    _missed("pika consume, sampled", ACKS, OF_CONTRIB, _HANDLE),
    _missed("pika consume, unsampled", ACKS, OF_CONTRIB, _HANDLE),
    _missed("pika consume, no SDK", ACKS, OF_CONTRIB, _HANDLE),
    _missed("pika consume, sampled", REQUEUES, OF_CONTRIB, _POLICY),
    _missed("pika consume, unsampled", REQUEUES, OF_CONTRIB, _POLICY),
    _missed("pika consume, no SDK", REQUEUES, OF_CONTRIB, _POLICY),
    _missed("aio-pika publish, sampled", "", OF_CONTRIB, _PUBLISH),
    _missed("aio-pika publish, unsampled", "", OF_CONTRIB, _PUBLISH),
    _missed("aio-pika consume, sampled", ACKS, OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, unsampled", ACKS, OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, no SDK", ACKS, OF_CONTRIB, _HANDLE),
    _missed("kafka-python send, sampled", "", OF_CONTRIB, _PUBLISH),
    _missed("kafka-python send, unsampled", "", OF_CONTRIB, _PUBLISH),
    _missed("kafka-python next, sampled", BY_LOOP, OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, unsampled", BY_LOOP, OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, no SDK", BY_LOOP, OF_CONTRIB, _HANDLE),
    _missed("Celery apply_async, sampled", "", OF_CONTRIB, _PUBLISH),
    _missed("Celery apply_async, unsampled", "", OF_CONTRIB, _PUBLISH),
    _missed("Celery run, sampled", EARLY, OF_CONTRIB, _HANDLE),
    _missed("Celery run, unsampled", EARLY, OF_CONTRIB, _HANDLE),
    _missed("Celery run, no SDK", EARLY, OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, sampled", REQUEUES, ADDED, _POLICY),
    _missed("aio-pika consume, unsampled", REQUEUES, ADDED, _POLICY),
    _missed("aio-pika consume, no SDK", REQUEUES, ADDED, _POLICY),
    _missed("kafka-python next, sampled", DEAD_LETTERS, ADDED, _POLICY),
    _missed("kafka-python next, unsampled", DEAD_LETTERS, ADDED, _POLICY),
    _missed("kafka-python next, no SDK", DEAD_LETTERS, ADDED, _POLICY),
    _missed("Celery run, sampled", LATE, ADDED, _POLICY),
    _missed("Celery run, unsampled", LATE, ADDED, _POLICY),
    _missed("Celery run, no SDK", LATE, ADDED, _POLICY),
    _missed("pika publish, sampled", "", OF_SDK_METRICS, _PUBLISH),
    _missed("pika publish, unsampled", "", OF_SDK_METRICS, _PUBLISH),
    _missed("pika consume, sampled", ACKS, OF_SDK_METRICS, _HANDLE),
    _missed("pika consume, unsampled", ACKS, OF_SDK_METRICS, _HANDLE),
    _missed("pika consume, sampled", REQUEUES, OF_SDK_METRICS, _POLICY),
    _missed("pika consume, unsampled", REQUEUES, OF_SDK_METRICS, _POLICY),
    _missed("batch of 100, sampled", ALONE, OF_API_LINKS, _LINKS),
    _missed("pika consume, unsampled", "", CALLS, _HANDLE),
    _missed("aio-pika publish, unsampled", "", CALLS, _PUBLISH),
    _missed("aio-pika consume, unsampled", "", CALLS, _HANDLE),
    _missed("kafka-python send, unsampled", "", CALLS, _PUBLISH),
    _missed("kafka-python next, unsampled", "", CALLS, _HANDLE),
    _missed("Celery apply_async, unsampled", "", CALLS, _PUBLISH),
    _missed("Celery run, unsampled", "", CALLS, _HANDLE),
)
