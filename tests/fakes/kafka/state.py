"""What the broker holds: topics, groups, producers, the faults to come, and the log of requests."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import NamedTuple

from .groups import Group
from .logs import Partition, RefusedError
from .protocol import Error


class Request(NamedTuple):
    """A request as it came in. `body` has the fields of its schema, see `protocol`."""

    api: str
    version: int
    client_id: str
    body: SimpleNamespace


class Commit(NamedTuple):
    """One partition of one offset commit, accepted (error 0) or not.

    `leader_epoch` is -1 where the client sent none.
    """

    group: str
    topic: str
    partition: int
    offset: int
    leader_epoch: int
    error: int


class Fault(NamedTuple):
    """What becomes of a request instead: an error code, or with None no answer at all.

    One that `happens` has its effect nevertheless: its answer is what gets lost.
    """

    error: int | None
    name: str | None
    happens: bool


class Producer:
    """Who writes under an id; one with a transactional name is fenced off by its successor."""

    def __init__(self, identity: int) -> None:
        self.id, self.epoch = identity, 0
        self.partitions: set[tuple[str, int]] = set()
        self.commits: list[tuple[str, str, SimpleNamespace]] = []


class State:
    """All of it, under one lock. Whoever changes something calls `turn` before letting go."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, default_partitions: int, join_delay: float
    ) -> None:
        self.changed = threading.Condition()
        self.default_partitions, self._join_delay = default_partitions, join_delay
        self.topics: dict[str, list[Partition]] = {}
        self.groups: dict[str, Group] = {}
        self.transactions: dict[str, Producer] = {}
        self.producer_ids = itertools.count(1000)
        self.log: list[Request] = []
        self.commits: list[Commit] = []
        self.faults: dict[str, list[Fault]] = {}
        self.held: set[str] = set()
        self.stopped = False
        self.turned = asyncio.Event()
        self._loop = loop

    def turn(self) -> None:
        """Let time and what has changed have their effect, and wake whoever waits for one."""
        if not self.stopped:
            for group in self.groups.values():
                group.advance()
        self.changed.notify_all()
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.turned.set()
        self.turned = asyncio.Event()

    def schedule(self, delay: float) -> None:
        """Take a turn in so many seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, self._turn_alone)

    def _turn_alone(self) -> None:
        with self.changed:
            self.turn()

    # Topics and groups

    def create(self, topic: str, partitions: int) -> None:
        self.topics[topic] = [Partition(index) for index in range(partitions)]

    def topic(self, name: str) -> list[Partition]:
        """Of a hook: what is named comes into being."""
        if name not in self.topics:
            self.create(name, self.default_partitions)
        return self.topics[name]

    def partition(self, topic: str, index: int) -> Partition:
        partitions = self.topics.get(topic, [])
        if not 0 <= index < len(partitions):
            raise RefusedError(Error.UNKNOWN_TOPIC_OR_PARTITION)
        return partitions[index]

    def group(self, name: str) -> Group:
        if name not in self.groups:
            self.groups[name] = Group(name, self.schedule, self._join_delay)
        return self.groups[name]

    # Faults

    def fault(self, api: str, names: Iterable[str]) -> Fault | None:
        """The first fault planned for this API that names one of these, or none of them."""
        planned, here = self.faults.get(api, []), set(names)
        for fault in planned:
            if fault.name is None or fault.name in here:
                planned.remove(fault)
                return fault
        return None


def outcome(act: Callable[[], object]) -> Error:
    """The error code that comes of it."""
    try:
        act()
    except RefusedError as refusal:
        return refusal.error
    return Error.NONE
