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
    "the application's own headers and properties are left alone: the context is written into copies",
    "Where the time goes",
)
_HANDLE = Why(
    "the client's settlement is followed, so that nothing is settled twice, and said on the span",
    "Where the time goes",
)
_POLICY = Why(
    "a policy settles, and the verdict is said on the span; contrib's handler acks and says nothing",
    "Where the time goes",
)
_FURTHER = Why(
    "a handler called in a loop is a scope of its own: it is found, joined and left, and its policy "
    "then takes over the record's offset and commits it",
    "Where the time goes",
)
_BAGGAGE = Why(
    "a message with nothing but a span to tell takes a shorter way, which one with baggage does not",
    "Where the time goes",
)
_THREE_ENTRIES = "hopspan, 3 entries more, as a part of the SDK floor's overhead"
_LINKS = Why(
    "the SDK's own links are nearly half of it, and each sender has to be read",
    "Where the time goes",
)


def _missed(group: str, way: str, what: str, why: Why) -> Unreached:
    return Unreached(group, gates.named(way, what), why)


# One line a gate.
UNREACHED: tuple[Unreached, ...] = (
    _missed("pika publish, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("pika consume, sampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, unsampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, no SDK", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("pika consume, sampled", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("pika consume, unsampled", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("pika consume, no SDK", gates.REQUEUES, gates.OF_CONTRIB, _POLICY),
    _missed("aio-pika consume, sampled", gates.ACKS, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python send, sampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("kafka-python send, unsampled", "", gates.OF_CONTRIB, _PUBLISH),
    _missed("kafka-python next, sampled", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, unsampled", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, no SDK", gates.BY_LOOP, gates.OF_CONTRIB, _HANDLE),
    _missed("kafka-python next, sampled", gates.DEAD_LETTERS, gates.ADDED, _FURTHER),
    _missed("kafka-python next, unsampled", gates.DEAD_LETTERS, gates.ADDED, _FURTHER),
    _missed("kafka-python next, no SDK", gates.DEAD_LETTERS, gates.ADDED, _FURTHER),
    _missed("Celery run, sampled", gates.LATE, gates.ADDED, _POLICY),
    _missed("Celery run, unsampled", gates.LATE, gates.ADDED, _POLICY),
    _missed("Celery run, no SDK", gates.LATE, gates.ADDED, _POLICY),
    _missed("pika consume, sampled", gates.ACKS, gates.OF_SDK_METRICS, _HANDLE),
    _missed("pika consume, sampled", gates.REQUEUES, gates.OF_SDK_METRICS, _POLICY),
    _missed("pika publish, baggage, sampled", "", _THREE_ENTRIES, _BAGGAGE),
    _missed("pika consume, baggage, sampled", "", _THREE_ENTRIES, _BAGGAGE),
    _missed("batch of 100, sampled", gates.ALONE, gates.OF_API_LINKS, _LINKS),
    _missed("batch of 500, sampled", gates.ALONE, gates.OF_API_LINKS, _LINKS),
)
