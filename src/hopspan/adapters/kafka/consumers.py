"""What hopspan keeps of a consumer: its partitions' frontiers, and what is left to be done.

Rules: a `KafkaConsumer` is used on one thread (kafka-python, *Thread safety*), but records may be
concluded on any; so conclusions only change what is kept here, under a lock, and what they ask of
the client (seek, pause, commit) is done by its own thread: at once where that is the one, else when
it next asks for records. Rebalance listeners run on the client's I/O thread in kafka-python 3.
"""

from __future__ import annotations

import threading
import weakref
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters.kafka.committing import Committer
from hopspan.adapters.kafka.partitions import Partitions, partition_of
from hopspan.adapters.kafka.rewinding import Rewinding
from hopspan.adapters.kafka.threads import is_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kafka.structs import TopicPartition

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.adapters.kafka.partitions import Runs
    from hopspan.model import Endpoint
    from hopspan.processing import Loop, Processing

STATE = "_hopspan_state"
"""The attribute in which a consumer keeps what is kept of it."""

_SLICE = 1.0
"""Seconds after which a blocking poll looks for what other threads have concluded. Not much less:
polls of less than 0.3 s can keep a consumer of kafka-python 3 from ever joining its group."""


_MOST_TOPICS = 256


class Received(NamedTuple):
    """A record in our hands."""

    consumer: Any
    record: Any
    frontier: Frontier | None
    """Its partition's, as it was when the record was seen first; None without a consumer."""
    state: State | None = None
    """The consumer's."""
    shared: Shared | None = None
    """Of the batch that it is in."""


class Shared:
    """Who handles all records of a batch just now, if anybody does.

    Apart from the batch, which keeps its records: they must not keep it.
    """

    __slots__ = ("processing",)

    def __init__(self) -> None:
        self.processing: Any = None


class State(Partitions):
    """What is kept of one consumer."""

    def __init__(self, consumer: Any, kind: type) -> None:
        super().__init__()
        config = consumer.config
        self.kind: Any = kind
        """The consumer's own class: how to call the client without passing here again."""
        self.group: str | None = config.get("group_id")
        self.commits_by_itself: bool = bool(self.group and config.get("enable_auto_commit"))
        self.server: _kafka.Server = _kafka.server(config.get("bootstrap_servers"))
        self.thread: int | None = None
        self.settles: bool = False
        """Whether a policy has ever settled here."""
        self.is_iterating: bool = False
        """Whether the client polls for its own iterator: nothing is handed out by that."""
        self.is_looping: bool = False
        """Whether it is a loop of ours that asks for the next record."""
        self.missed: bool = False
        """Whether this was made in the middle of the call that hands out."""
        self.loop: weakref.ref[Loop[Any]] | None = None
        self.own: Callable[[Sequence[Any]], object] = len
        """Told of what is handed out, so that it is known whose it is; see the registry."""
        self.committer: Committer = Committer(self)
        self.rewinding: Rewinding = Rewinding()
        self._consumer = weakref.ref(consumer)
        self._about: dict[str, Any] = {names.CLIENT_ID: config.get("client_id")}
        self._cluster: Any = None
        self.endpoint: Callable[[str], Endpoint] = lru_cache(_MOST_TOPICS)(
            partial(_kafka.endpoint, where=self.server, group=self.group)
        )
        """A topic as this consumer sees it."""

    # -- values ----------------------------------------------------------------------------------

    def consumer(self) -> Any:
        """The consumer, or None when it is gone."""
        return self._consumer()

    def about(self) -> dict[str, Any]:
        """What every span of this consumer says of it."""
        if _kafka.CLUSTER_ID not in self._about:
            if self._cluster is None:  # private to the client
                client = getattr(self.consumer(), "_client", None)
                self._cluster = getattr(client, "cluster", None)
            cluster_id = getattr(self._cluster, "cluster_id", None)
            if cluster_id is not None:
                self._about[_kafka.CLUSTER_ID] = cluster_id
        return self._about

    def is_here(self) -> bool:
        """Whether this is the consumer's thread."""
        return self.thread == threading.get_ident()

    # -- handing out -----------------------------------------------------------------------------

    def hand(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """The application gets records. Never raises."""
        for records in batches.values():
            if records:
                self.hand_run(records)

    def hand_run(self, records: Sequence[Any]) -> None:
        """The application gets records of one partition. Never raises."""
        try:
            partition = partition_of(records[0])
            self.own(records)
            with self.lock:
                self.frontier(partition).hand(records, settles=self.settles)
        except Exception:  # noqa: BLE001 - what is not seen must not be committed
            self.committer.is_off = True
            faults.report("seeing what a consumer hands out; nothing more is committed for it")

    def received(self, record: Any) -> Received:
        """A record that is handled now."""
        self._guess_thread()
        frontier = self.seen(partition_of(record), (record,))
        return Received(self.consumer(), record, frontier, self)

    def received_all(self, runs: Runs) -> dict[TopicPartition, Frontier]:
        """The frontiers of records that are handled now, as one."""
        self._guess_thread()
        return {partition: self.seen(partition, records) for partition, records in runs.items()}

    def _guess_thread(self) -> None:
        if self.thread is None and is_alone():
            self.thread = threading.get_ident()

    # -- settling --------------------------------------------------------------------------------

    def requeue(self, native: Received, attempt: int, pause: float) -> None:
        """Hand a record out again; `pause` seconds later, if the client is to wait.

        Nothing is done for one that is done already, or that the application has left by a seek.
        """
        frontier, record = native.frontier, native.record
        with self.lock:
            if frontier is None or not frontier.is_open(record.offset):
                return
            frontier.requeue(record.offset, attempt)
            self.rewinding.add(partition_of(record), record.offset, pause)
        if self.is_here():
            self.rewinding.carry_out(self)

    def sought(self, partition: TopicPartition, offset: int | None) -> None:
        """The application went to another place."""
        with self.lock:
            self.rewinding.forget(partition)
            frontier = self.find(partition)
            if frontier is not None:
                frontier.sought(offset)

    # -- on the consumer's thread ----------------------------------------------------------------

    def attend(self) -> None:
        """Do what was left for the consumer's thread. Never raises."""
        self.thread = threading.get_ident()
        try:
            if self.rewinding.rewinds or self.rewinding.pauses:
                self.rewinding.carry_out(self)
            if self.committer.since:
                self.committer.commit_if_due()
        except Exception:  # noqa: BLE001 - the record is not done, so it comes back one day
            faults.report("seeking, resuming or committing")

    def patience(self) -> float | None:
        """Seconds for which a poll may block; None for as long as it likes."""
        waits = self.rewinding.waits()
        with self.lock:
            if any(each.is_handled() or each.is_dirty for each in self.frontiers.values()):
                waits.append(_SLICE)
        return min(waits, default=None)

    # -- losing partitions -----------------------------------------------------------------------

    def suspend(self, partitions: Iterable[TopicPartition], kept: Mapping[Any, object]) -> None:
        """They are revoked: nothing is committed for them, unless they turn out to be kept.

        In an eager rebalance every partition is revoked first, and most come back to the same
        consumer. kafka-python 3 then goes on where it was, so that nothing is handed out again, and
        what is being handled is still ours. 2.x starts from what is committed.

        Args:
            partitions: Those that are revoked.
            kept: What the client knows of each partition that it has; a new object where it starts
                afresh.
        """
        gone = []
        with self.lock:
            for partition in partitions:
                if partition not in kept:
                    gone.append(partition)
                elif partition in self.frontiers:
                    # First there, then gone from here: others look without the lock.
                    self._suspended[partition] = (self.frontiers[partition], kept[partition])
                    del self.frontiers[partition]
        self.lose(gone)

    def reinstate(self, kept: Mapping[Any, object]) -> None:
        """The new assignment is known."""
        with self.lock:
            suspended = self._suspended
            self.frontiers.update({each: known[0] for each, known in suspended.items()})
            self._suspended = {}
            gone = [each for each, known in suspended.items() if kept.get(each) is not known[1]]
        self.lose(gone)

    def lose_all(self, reason: str) -> None:
        """Nothing is ours any more, nor will it be."""
        self.lose(self.partitions(), reason)

    def lose(self, partitions: Iterable[TopicPartition], reason: str = "revoked") -> None:
        """They are somebody else's: open spans end, and nothing is committed for them any more."""
        lost: list[Processing] = []
        with self.lock:
            for partition in partitions:
                self.rewinding.forget(partition)
                self.rewinding.let_go([partition])
                frontier = self.frontiers.pop(partition, None)
                if frontier is None and partition in self._suspended:
                    frontier = self._suspended.pop(partition)[0]
                if frontier is not None:
                    frontier.alive = False
                    lost.extend(frontier.handlers())
        for processing in lost:
            _lose(processing, reason)


def _lose(processing: Processing, reason: str) -> None:
    try:
        processing.lose(reason)
    except Exception:  # noqa: BLE001 - we are in the middle of the client's rebalance
        faults.report("ending the span of a record that is not ours any more")


def state_of(consumer: Any) -> State | None:
    """What is kept of a consumer, if anything is."""
    return getattr(consumer, "__dict__", {}).get(STATE)
