"""What hopspan keeps of a consumer: its partitions' frontiers, and what is left to be done.

Rules: a `KafkaConsumer` is used on one thread (kafka-python, *Thread safety*), but records may be
concluded on any; so conclusions only change what is kept here, under a lock, and what they ask of
the client (seek, pause, commit) is done by its own thread: at once where that is the one, else when
it next asks for records. Rebalance listeners run on the client's I/O thread in kafka-python 3.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import TopicPartition

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters._kafka_frontier import Done, Frontier
from hopspan.adapters.kafka.commits import Committer
from hopspan.interception import INTERCEPTED
from hopspan.telemetry import BOUND, Binding, instrumenter_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hopspan.model import Endpoint
    from hopspan.processing import Loop, Processing
    from hopspan.telemetry import Instrumenter

STATE = "_hopspan_state"
"""The attribute in which a consumer keeps what is kept of it."""

_SLICE = 0.2
"""Seconds after which a blocking poll looks for what other threads have concluded."""


class Received(NamedTuple):
    """A record in our hands."""

    consumer: Any
    record: Any
    frontier: Frontier | None
    """Its partition's, as it was when the record was seen first; None without a consumer."""


class State:
    """One consumer's."""

    def __init__(self, consumer: Any, kind: type) -> None:
        config = consumer.config
        self.kind: Any = kind
        """The consumer's own class: how to call the client without passing here again."""
        self.group: str | None = config.get("group_id")
        self.commits_by_itself: bool = bool(self.group and config.get("enable_auto_commit"))
        self.server: _kafka.Server = _kafka.server(config.get("bootstrap_servers"))
        self.lock: Any = threading.RLock()
        self.thread: int | None = None
        self.settles: bool = False
        """Whether a policy has ever settled here. Until then, only the last records are kept."""
        self.is_iterating: bool = False
        """Whether the client polls for its own iterator: nothing is handed out by that."""
        self.missed: bool = False
        """Whether this was made in the middle of the call that hands out."""
        self.loop: weakref.ref[Loop[Any]] | None = None
        self.frontiers: dict[TopicPartition, Frontier] = {}
        self.committer: Committer = Committer(self)
        self._consumer = weakref.ref(consumer)
        self._rewinds: dict[TopicPartition, tuple[int, float]] = {}
        self._pauses: dict[TopicPartition, float] = {}
        self._about: dict[str, Any] = {names.CLIENT_ID: config.get("client_id")}
        self._endpoints: dict[str, Endpoint] = {}

    # -- values ----------------------------------------------------------------------------------

    def consumer(self) -> Any:
        """The consumer, or None when it is gone."""
        return self._consumer()

    def endpoint(self, topic: str) -> Endpoint:
        """A topic as this consumer sees it."""
        found = self._endpoints.get(topic)
        if found is None:
            found = _kafka.endpoint(topic, self.server, self.group)
            self._endpoints[topic] = found
        return found

    def about(self) -> dict[str, Any]:
        """What every span of this consumer says of it."""
        if _kafka.CLUSTER_ID not in self._about:
            client = getattr(self.consumer(), "_client", None)
            cluster_id = getattr(getattr(client, "cluster", None), "cluster_id", None)
            if cluster_id is not None:
                self._about[_kafka.CLUSTER_ID] = cluster_id
        return self._about

    def telemetry(self, consumer: Any) -> Instrumenter | None:
        """Whose settings hold for what the application does with the consumer by itself."""
        bound = getattr(consumer, BOUND, None)
        if isinstance(bound, Binding):
            return bound.instrumenter
        if self.committer.instrumenter is None and hasattr(self.kind.poll, INTERCEPTED):
            return instrumenter_for("kafka")
        return self.committer.instrumenter

    def is_here(self) -> bool:
        """Whether this is the consumer's thread."""
        return self.thread == threading.get_ident()

    # -- handing out -----------------------------------------------------------------------------

    def hand(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """The application gets records."""
        with self.lock:
            for partition, records in batches.items():
                if records:
                    frontier = self.frontiers.get(partition)
                    if frontier is None:
                        frontier = self.frontiers[partition] = Frontier()
                    frontier.counted = False
                    frontier.hand(records, keep=self.settles)

    def received(self, record: Any) -> Received:
        """A record that is handled now."""
        partition = TopicPartition(record.topic, record.partition)
        with self.lock:
            frontier = self.frontiers.get(partition)
            if frontier is None:
                frontier = self.frontiers[partition] = Frontier()
            frontier.saw(record)
        return Received(self.consumer(), record, frontier)

    def holds(self, record: Any) -> bool:
        """Whether this consumer has handed out this very record, and it is still open."""
        frontier = self.frontiers.get(TopicPartition(record.topic, record.partition))
        return frontier is not None and frontier.holds(record)

    # -- settling --------------------------------------------------------------------------------

    def requeue(self, partition: TopicPartition, offset: int, pause: float) -> None:
        """Hand a record out again; `pause` seconds later, if the client is to wait."""
        with self.lock:
            self.frontiers[partition].requeue(offset)
            lowest, longest = self._rewinds.get(partition, (offset, pause))
            self._rewinds[partition] = (min(lowest, offset), max(longest, pause))
        if self.is_here():
            self._rewind()

    def _rewind(self) -> None:
        """Go back to what is to be handed out again."""
        with self.lock:
            rewinds, self._rewinds = self._rewinds, {}
        consumer = self.consumer()
        for partition, (offset, pause) in rewinds.items():
            frontier = self.frontiers.get(partition)
            if frontier is None or frontier.position is None or offset >= frontier.position:
                continue  # it is revoked, or will be handed out again as it is
            self.kind.seek(consumer, partition, offset)
            frontier.position = offset
            if pause and partition not in consumer.paused():
                self.kind.pause(consumer, partition)
                self._pauses[partition] = monotonic() + pause
            elif partition in self._pauses:
                self._pauses[partition] = max(self._pauses[partition], monotonic() + pause)

    def _resume(self) -> None:
        now = monotonic()
        for partition in [each for each, until in self._pauses.items() if until <= now]:
            del self._pauses[partition]
            self.kind.resume(self.consumer(), partition)

    def sought(self, partition: TopicPartition, offset: int | None) -> None:
        """The application went to another place."""
        with self.lock:
            self._rewinds.pop(partition, None)
            frontier = self.frontiers.get(partition)
            if frontier is not None:
                frontier.sought(offset)

    def let_go(self, partitions: Iterable[TopicPartition]) -> None:
        """The application itself pauses or resumes: from now on it decides."""
        for partition in partitions:
            self._pauses.pop(partition, None)

    # -- on the consumer's thread ----------------------------------------------------------------

    def attend(self) -> None:
        """Do what was left for the consumer's thread. Never raises."""
        self.thread = threading.get_ident()
        try:
            if self._rewinds:
                self._rewind()
            if self._pauses:
                self._resume()
            self.committer.commit_if_due()
        except Exception:  # noqa: BLE001 - the record is not done, so it comes back one day
            faults.report("seeking, resuming or committing")

    def patience(self) -> float | None:
        """Seconds for which a poll may block; None for as long as it likes."""
        waits = [max(0.0, until - monotonic()) for until in self._pauses.values()]
        with self.lock:
            if any(each.handling or each.is_dirty for each in self.frontiers.values()):
                waits.append(_SLICE)
        return min(waits, default=None)

    # -- losing partitions -----------------------------------------------------------------------

    def lose(self, partitions: Iterable[TopicPartition], reason: str = "revoked") -> None:
        """They are somebody else's: open spans end, and nothing is committed for them any more."""
        lost: list[Processing] = []
        with self.lock:
            for partition in partitions:
                self._rewinds.pop(partition, None)
                self._pauses.pop(partition, None)
                frontier = self.frontiers.pop(partition, None)
                if frontier is not None:
                    frontier.alive = False
                    handlings = frontier.handling.values()
                    lost.extend(each for several in handlings for each, _ in several)
        for processing in lost:
            processing.lose(reason)


def done_of(processing: Processing, native: Received) -> Done:
    """What the span of a commit is to say of a record."""
    described = next(each for each in processing.deliveries if each.native is native)
    light = described._replace(headers=None, native=None)
    return Done(light, processing.span.get_span_context())


def state_of(consumer: Any) -> State | None:
    """What is kept of a consumer, if anything is."""
    return getattr(consumer, "__dict__", {}).get(STATE)
