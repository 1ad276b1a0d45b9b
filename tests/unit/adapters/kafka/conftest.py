"""A consumer of kafka-python's that never connects, and takes note of what it is asked to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.future import Future

import hopspan
from hopspan import delivery as core
from hopspan.adapters.kafka import ADAPTER
from hopspan.adapters.kafka.consumer import ConsumerState, track
from hopspan.delivery import Delivery, given
from hopspan.telemetry import EMPTY, Overrides, instrumenter_for
from tests.unit.support import Telemetry

ORDERS = TopicPartition("orders", 0)
OTHERS = TopicPartition("orders", 1)


def record(offset: int, partition: int = 0, topic: str = "orders", **fields: Any) -> Any:
    """A record as the client makes it."""
    given = {
        "topic": topic,
        "partition": partition,
        "leader_epoch": None,
        "offset": offset,
        "timestamp": 0,
        "timestamp_type": 0,
        "key": b"k",
        "value": b"v",
        "headers": [],
        "checksum": None,
        "serialized_key_size": 1,
        "serialized_value_size": 1,
        "serialized_header_size": 0,
    }
    return ConsumerRecord(**{**given, **fields})


class Subscription:
    """What is private to the client, and hopspan looks at."""

    def __init__(self) -> None:
        self.rebalance_listener: Any = None
        self.assignment: dict[TopicPartition, object] = {}


class Consumer(KafkaConsumer):  # type: ignore[misc]
    """The client's interface, and nothing behind it."""

    def __init__(self, **config: Any) -> None:
        self.config = {
            "bootstrap_servers": ["broker:9093"],
            "client_id": "c1",
            "group_id": "billing",
            "enable_auto_commit": False,
            **config,
        }
        self.calls: list[Any] = []
        self.coming: list[list[Any]] = []
        """What the next polls return."""
        self.errors: dict[str, Exception] = {}
        """What calls raise, by the method's name."""
        self.unanswered: list[Callable[[Any], None]] = []
        """Asynchronous commits: what they call back."""
        self.stopped: set[TopicPartition] = set()
        self._subscription = Subscription()

    def _note(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.errors:
            raise self.errors[name]

    def poll(self, timeout_ms: Any = 0, max_records: Any = None, update_offsets: Any = True) -> Any:
        self._note("poll", timeout_ms, max_records, update_offsets)
        found: dict[TopicPartition, list[Any]] = {}
        for each in self.coming.pop(0) if self.coming else []:
            found.setdefault(TopicPartition(each.topic, each.partition), []).append(each)
        return found

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self._note("next")
        for records in self.poll(update_offsets=False).values():
            return records[0]
        raise StopIteration

    def commit(self, offsets: Any = None, timeout_ms: Any = None) -> None:
        self._note("commit", plain(offsets), timeout_ms)

    def commit_async(self, offsets: Any = None, callback: Any = None) -> Future:
        self._note("commit_async", plain(offsets))

        def answered(answer: Any) -> None:
            if callback is not None:
                callback(offsets, answer)

        self.unanswered.append(answered)
        return Future()

    def seek(self, partition: Any, offset: Any) -> None:
        self._note("seek", partition, offset)

    def seek_to_beginning(self, *partitions: Any) -> None:
        self._note("seek_to_beginning", *partitions)

    def seek_to_end(self, *partitions: Any) -> None:
        self._note("seek_to_end", *partitions)

    def pause(self, *partitions: Any) -> None:
        self._note("pause", *partitions)
        self.stopped |= set(partitions)

    def resume(self, *partitions: Any) -> None:
        self._note("resume", *partitions)
        self.stopped -= set(partitions)

    def paused(self) -> set[TopicPartition]:
        return set(self.stopped)

    def subscription(self) -> set[str]:
        return {"orders"}

    def assignment(self) -> set[TopicPartition]:
        return set(self._subscription.assignment)

    def subscribe(self, topics: Any = (), pattern: Any = None, listener: Any = None) -> None:
        self._note("subscribe", topics, pattern)
        self._subscription.rebalance_listener = listener

    def assign(self, partitions: Any) -> None:
        self._note("assign", partitions)
        self._subscription.assignment = dict.fromkeys(partitions, "new")

    def unsubscribe(self) -> None:
        self._note("unsubscribe")
        self._subscription.assignment = {}

    def close(self, autocommit: Any = True, timeout_ms: Any = None) -> None:
        self._note("close", autocommit, timeout_ms)

    # For tests

    def asked(self, *names: str) -> list[Any]:
        """The calls of these methods, in order."""
        return [call for call in self.calls if call[0] in names]

    def answer(self, error: Exception | None = None) -> None:
        """The broker answers the oldest asynchronous commit."""
        self.unanswered.pop(0)("a response" if error is None else error)

    def commits(self) -> list[Any]:
        """What was committed, in whatever way."""
        return [call[1] for call in self.asked("commit", "commit_async")]


def plain(offsets: Any) -> Any:
    """Offsets as they can be written down; without their metadata, which are always empty."""
    return offsets and {partition: at.offset for partition, at in offsets.items()}


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, as everything about consumers sees it."""
    found = Clock()
    for name, module in list(sys.modules.items()):
        if name.startswith(("hopspan.adapters.kafka.", "hopspan.offsets.")) and hasattr(
            module, "monotonic"
        ):
            monkeypatch.setattr(module, "monotonic", found)
    return found


@pytest.fixture
def consumer(clock: Clock) -> Consumer:
    """A consumer that has both partitions."""
    found = Consumer()
    found._subscription.assignment = {ORDERS: "a", OTHERS: "b"}
    return found


@pytest.fixture
def state(consumer: Consumer) -> ConsumerState:
    """What is kept of the consumer."""
    return track(consumer)


Handle = Callable[..., Delivery]


def found(message: Any, via: Any = None) -> Any:
    """The delivery or the batch that the adapter finds in what it is given."""
    return given(ADAPTER.delivery, message, via)


@pytest.fixture
def handling(consumer: Consumer, telemetry: Telemetry) -> Handle:
    """Begin to handle records of the consumer; ACKs unless something else is said."""

    def handle(*records: Any, via: Any = consumer, **settings: Any) -> Delivery:
        overrides = Overrides({"policy": hopspan.ack_always, **telemetry.settings, **settings})
        delivery: Delivery = found(list(records) if len(records) > 1 else records[0], via)
        settled = overrides.applied_to(instrumenter_for("kafka"))
        subscription = core.Subscription(ADAPTER.delivery, settled, overrides, is_pushed=True)
        delivery.begin(subscription, EMPTY, EMPTY)
        return delivery

    return handle


def polled(consumer: Consumer, *records: Any) -> list[Any]:
    """Have the consumer hand these out."""
    consumer.coming.append(list(records))
    consumer.poll()
    return list(records)
