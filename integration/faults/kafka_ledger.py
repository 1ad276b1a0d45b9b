"""What is written down of a Kafka chaos: each consumer's ledger, samples, dead letters, commits.

Rules: values and pure functions only, no Kafka client. All clocks of one go are the same machine's;
`at` is monotonic, `wall` is the system's, in seconds, which is what a broker writes.

One ledger per life of a consumer, see `integration.faults.journal` for what a kill does to it. On
top of that, the end of a run is on the disk (`fsync`) before the handler returns. Kinds of lines:

- `life`: how this consumer works, and how it commits.
- `assigned`, `revoked`: the client told the consumer's listener so.
- `start`, `end`: a handler run of one record or, where a batch is handled as one, of several.
- `span`: a process span was exported.
- `lost`: the client raised, and the consumer began anew.
- `trouble`: something that must never happen.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from integration.faults.journal import Journal

Place = tuple[int, int]
"""Partition and offset: what a record is, within its topic."""
ERROR_TYPES = {
    "returned": None,
    "raised": "FailureError",
    "failed": "declared",
    "status": "_OTHER",
}
"""What `error.type` says of each way to end."""


class Ledger(Journal):
    """The writing end. Safe from any thread: each line is one append."""

    def seal(self, what: str, **details: Any) -> None:
        """Append one line; when this returns it is on the disk."""
        self.write(what, **details)
        os.fdatasync(self._file)


class Run(NamedTuple):
    """One run of the handler."""

    places: tuple[Place, ...]
    life: int
    id: str
    """The span id of its process span; something as unique where there is none."""
    trace: str
    baggage: str | None
    attempts: tuple[int | None, ...]
    """Of each record, as each is counted by itself."""
    started_at: float
    how: str | None
    """`returned`, or a way to fail: `raised`, `failed`, `status`. None: killed before it ended."""
    ended_at: float


class Sample(NamedTuple):
    """What the group had committed, as an admin client was told."""

    at: float
    """When the answer was there: what was committed by then may be more, never less."""
    wall: float
    committed: dict[int, int]


class Commit(NamedTuple):
    """One committed offset, as the broker wrote it down."""

    partition: int
    offset: int
    wall: float


class DeadLetter(NamedTuple):
    """A copy in the dead-letter topic."""

    origin: tuple[str, int, int]
    """Topic, partition and offset, as its headers say."""
    key: bytes | None
    value: bytes | None
    trace: str
    error: str
    attempt: int
    kept: str | None
    """The header that the record had been given."""
    wall: float


def trace_of(number: int) -> str:
    """The trace id that a record is published in."""
    return f"{number + 1:032x}"


def runs_of(life: int, entries: list[dict[str, Any]]) -> list[Run]:
    """The handler runs of one life, in the order in which they began."""
    ends = {entry["run"]: entry for entry in entries if entry["what"] == "end"}
    nothing = {"how": None, "at": 0.0}
    runs = []
    for entry in entries:
        if entry["what"] == "start":
            end = ends.get(entry["run"], nothing)
            runs.append(
                Run(
                    tuple((partition, offset) for partition, offset in entry["places"]),
                    life,
                    entry["run"],
                    entry["trace"],
                    entry["baggage"],
                    tuple(entry["attempts"]),
                    entry["at"],
                    end["how"],
                    end["at"],
                )
            )
    return runs


class Plan(NamedTuple):
    """What is to be done."""

    records: int
    seed: int
    ways: tuple[str, ...]
    """What the consumers are, one after the other: a style and a commit strategy, such as
    `iterator default`; see `integration.faults.kafka_worker`."""
    faults: tuple[str, ...]
    """See `integration.faults.kafka_chaos`."""
    partitions: int = 6
    members: int = 3
    requeues: int = 2
    poison: int = 101
    """Each record whose number is a multiple of this one fails whenever it is run."""
    session: float = 6.0
    """Seconds after which the group goes on without a consumer that is silent."""


class Records(NamedTuple):
    """What came of it."""

    plan: Plan
    topic: str
    published: dict[Place, int]
    """The number of each record."""
    ways: dict[int, str]
    """How each life worked."""
    runs: list[Run]
    spans: list[dict[str, Any]]
    """Process spans, each with the `life` that wrote it down."""
    samples: list[Sample]
    commits: list[Commit]
    """In the order in which the broker wrote them down."""
    dead: list[DeadLetter]
    killed: frozenset[int]
    """The lives that ended by SIGKILL."""
    struck: tuple[str, ...]
    """The faults that took place."""
    assignments: int
    """How often a consumer was told its partitions."""
    lost: int
    """How often a client raised, and its consumer began anew."""
    troubles: list[str]
    seconds: float
