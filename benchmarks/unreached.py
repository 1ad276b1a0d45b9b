"""Gates that are known to be missed, each with the reason. The gates themselves stay as they are.

A build fails for a gate that is missed and not in this list; for one that is in it and reached, the run
says so, and its line is taken out. Whoever adds a line has a profile that shows why, in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import gates

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
    return Unreached(group, gates.named(way, what), why)


# One line a gate.
UNREACHED: tuple[Unreached, ...] = (
    _missed("pika publish, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("pika publish, unsampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("pika publish, no SDK", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("pika consume, sampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, unsampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, no SDK", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, sampled", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("pika consume, unsampled", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("pika consume, no SDK", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("aio-pika publish, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("aio-pika publish, unsampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("aio-pika consume, sampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, unsampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, no SDK", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python send, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("kafka-python send, unsampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("kafka-python next, sampled", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, unsampled", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, no SDK", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("Celery apply_async, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("Celery apply_async, unsampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("Celery run, sampled", gates.EARLY, gates.OF_CONTRIB, _HANDLE),
    _missed("Celery run, unsampled", gates.EARLY, gates.OF_CONTRIB, _HANDLE),
    _missed("Celery run, no SDK", gates.EARLY, gates.OF_CONTRIB, _HANDLE),
    _missed("aio-pika consume, sampled", gates.REQUEUES, gates.ADDED, _POLICY),
    _missed("aio-pika consume, unsampled", gates.REQUEUES, gates.ADDED, _POLICY),
    _missed("aio-pika consume, no SDK", gates.REQUEUES, gates.ADDED, _POLICY),
    _missed("kafka-python next, sampled", gates.DEAD_LETTERS, gates.ADDED, _POLICY),
    _missed("kafka-python next, unsampled", gates.DEAD_LETTERS, gates.ADDED, _POLICY),
    _missed("kafka-python next, no SDK", gates.DEAD_LETTERS, gates.ADDED, _POLICY),
    _missed("Celery run, sampled", gates.LATE, gates.ADDED, _POLICY),
    _missed("Celery run, unsampled", gates.LATE, gates.ADDED, _POLICY),
    _missed("Celery run, no SDK", gates.LATE, gates.ADDED, _POLICY),
    _missed("pika publish, sampled", "", gates.OF_SDK_METRICS, _PUBLISH),
    _missed("pika publish, unsampled", "", gates.OF_SDK_METRICS, _PUBLISH),
    _missed("pika consume, sampled", gates.ACKS, gates.OF_SDK_METRICS, _HANDLE),
    _missed("pika consume, unsampled", gates.ACKS, gates.OF_SDK_METRICS, _HANDLE),
    _missed("pika consume, sampled", gates.REQUEUES, gates.OF_SDK_METRICS, _POLICY),
    _missed("pika consume, unsampled", gates.REQUEUES, gates.OF_SDK_METRICS, _POLICY),
    _missed("batch of 100, sampled", gates.ALONE, gates.OF_API_LINKS, _LINKS),
    _missed("pika consume, unsampled", "", gates.CALLS, _HANDLE),
    _missed("aio-pika publish, unsampled", "", gates.CALLS, _PUBLISH),
    _missed("aio-pika consume, unsampled", "", gates.CALLS, _HANDLE),
    _missed("kafka-python send, unsampled", "", gates.CALLS, _PUBLISH),
    _missed("kafka-python next, unsampled", "", gates.CALLS, _HANDLE),
    _missed("Celery apply_async, unsampled", "", gates.CALLS, _PUBLISH),
    _missed("Celery run, unsampled", "", gates.CALLS, _HANDLE),
)
