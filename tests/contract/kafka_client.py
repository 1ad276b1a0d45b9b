"""kafka-python, as scenarios speak to it: on the fake broker or on a real one.

Kafka has no queue and no nack. What is *waiting* lies between the offset that the group committed
and the end of the topic; what is *dead* is in a dead-letter topic. So `settlements` are read off
what reaches the broker: a commit acks each record below it that was not dead-lettered, a seek back
to a record that was handed out requeues it, an acknowledged copy in the dead-letter topic rejects.

The client pushes nothing: `drive` is the application's own poll loop. Commits are made at once
(`hopspan.Commits(every=1, wait=True)`) unless a scenario says otherwise.
"""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol
from unittest import mock

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import BrokerResponseError
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import OffsetAndMetadata

import hopspan
from hopspan import Commits, Verdict
from hopspan.interception import INTERCEPTED
from tests.contract.client import DEADLINE, Client, Handler, Message, Ran, Sent
from tests.contract.features import Features
from tests.contract.telemetry import silence
from tests.fakes.kafka import FakeKafka

FEATURES = Features(
    polls=True,
    settles=True,
    redelivers=True,
    dead_letters=True,
    keeps_headers_on_requeue=True,
    batches=True,
    reports_completion=True,
    tells_place=True,
    ends_on_close=True,
    settles_on_its_own_thread=True,
    styles=(
        "decorated handler",
        "iterator",
        "each over iterator",
        "each over poll",
        "process of poll",
        "process in iterator",
    ),
    loops=("iterator", "each over iterator", "each over poll"),
    outcomes=("acked", "aborted", "refused"),
    senders=("blocking", "future"),
    confirmers=("future",),
    awaited=("acked", "refused"),
    transactions=True,
)
EMBEDDED = FEATURES._replace(outcomes=("acked", "aborted"), awaited=("acked",), transactions=False)
"""What the embedded broker can do: it takes whatever it is given."""

JOINING = 500
"""How long to poll for, in ms: with less, kafka-python 3 may never get into its group."""
PATIENCE = 30.0
"""Seconds for what has to happen: a broker on a busy machine takes its time, to form a group above all."""
NAP = 20
"""Milliseconds for which the consumer waits for records before a condition is looked at again."""
AT_ONCE = Commits(every=1, wait=True)
_QUICK: dict[str, Any] = {"retry_backoff_ms": 10, "reconnect_backoff_ms": 10}
_TOO_LARGE = 10
"""Kafka's code for a message that is."""
_LARGE = 400
"""Bytes that a message has that is too large."""
Headers = Sequence[tuple[str, "bytes | None"]]


class Backstage(Protocol):
    """The broker as scenarios see it behind the client's back."""

    bootstrap: str
    config: dict[str, Any]
    """What every client of it is given."""

    def topic(self, partitions: int = 1) -> str:
        """A topic of a scenario's own."""
        ...

    def strict_topic(self) -> str:
        """A topic that refuses large records."""
        ...

    def write(
        self,
        topic: str,
        value: bytes | None,
        headers: Headers = (),
        *,
        key: bytes | None = None,
        partition: int = 0,
    ) -> int:
        """Put a record into a topic, as it is; return its offset."""
        ...

    def records(self, topic: str, partition: int = 0, start: int = 0) -> list[Any]:
        """All that lies in a partition from an offset on."""
        ...

    def end(self, topic: str, partition: int = 0) -> int:
        """The offset of the next record of a partition."""
        ...

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        """What a group has committed; None where it has not."""
        ...


class RealBackstage:
    """A broker that is shared: topics are made in advance, and deleted in the end."""

    STOCK = 20

    def __init__(self, bootstrap: str, **config: Any) -> None:
        self.bootstrap = bootstrap
        self.config = {"bootstrap_servers": bootstrap, **_QUICK, **config}
        with silence():
            self.admin = KafkaAdminClient(**self.config)
            self.producer = KafkaProducer(**self.config)
            self.reader = KafkaConsumer(**self.config, auto_offset_reset="earliest")
        self._stock: list[str] = []
        self._made: list[str] = []

    def topic(self, partitions: int = 1) -> str:
        if partitions != 1:
            return self._make(1, partitions)[0]
        if not self._stock:
            self._stock = self._make(self.STOCK)
        return self._stock.pop()

    def strict_topic(self) -> str:
        return self._make(1, 1, {"max.message.bytes": str(_LARGE // 2)})[0]

    def _make(
        self, count: int, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> list[str]:
        names = [f"orders-{uuid.uuid4().hex[:8]}" for _ in range(count)]
        given = dict(configs or {})
        with silence():
            self.admin.create_topics(
                [NewTopic(name, partitions, 1, topic_configs=given) for name in names]
            )
        self._made += names
        return names

    def write(
        self,
        topic: str,
        value: bytes | None,
        headers: Headers = (),
        *,
        key: bytes | None = None,
        partition: int = 0,
    ) -> int:
        given = [(name, _NULL if each is None else each) for name, each in headers]
        with silence(), _writing_nulls():
            sent = self.producer.send(topic, value, key, given, partition)
            return int(sent.get(DEADLINE).offset)

    def records(self, topic: str, partition: int = 0, start: int = 0) -> list[Any]:
        place, found = TopicPartition(topic, partition), list[Any]()
        with silence():
            self.reader.assign([place])
            self.reader.seek(place, start)
            end = self.end(topic, partition)
            deadline = time.monotonic() + PATIENCE
            while self.reader.position(place) < end:
                assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
                found += self.reader.poll(NAP).get(place, [])
        return found

    def end(self, topic: str, partition: int = 0) -> int:
        place = TopicPartition(topic, partition)
        with silence():
            return int(self.reader.end_offsets([place])[place])

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        with silence():
            asking = KafkaConsumer(**self.config, group_id=group, enable_auto_commit=False)
            try:
                offset = asking.committed(TopicPartition(topic, partition))
            finally:
                asking.close()
        return None if offset is None else int(offset)

    def close(self) -> None:
        with silence():
            self.admin.delete_topics(self._made)
            self.producer.close(DEADLINE)
            self.reader.close()
            self.admin.close()


class FakeBackstage:
    """A fake broker of the scenario's own."""

    def __init__(self, broker: FakeKafka) -> None:
        self.broker = broker
        self.bootstrap = broker.bootstrap
        self.config = {"bootstrap_servers": broker.bootstrap, **_QUICK}

    def topic(self, partitions: int = 1) -> str:
        name = f"orders-{len(self.broker.topics)}"
        self.broker.create_topic(name, partitions)
        return name

    def strict_topic(self) -> str:
        topic = self.topic()
        self.broker.fail_produces(_TOO_LARGE, 100, topic)
        return topic

    def write(
        self,
        topic: str,
        value: bytes | None,
        headers: Headers = (),
        *,
        key: bytes | None = None,
        partition: int = 0,
    ) -> int:
        return self.broker.append(
            topic,
            value,
            key,
            [(name.encode(), each) for name, each in headers],
            partition=partition,
        )

    def records(self, topic: str, partition: int = 0, start: int = 0) -> list[Any]:
        found = self.broker.records(topic, partition)
        return [_with_text_keys(each) for each in found if each.offset >= start]

    def end(self, topic: str, partition: int = 0) -> int:
        return self.broker.end(topic, partition)

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        return self.broker.committed(group).get((topic, partition))


def _with_text_keys(record: Any) -> Any:
    """A record as a client has it."""
    return record._replace(headers=[(key.decode(), value) for key, value in record.headers])


class _Null(bytes):
    """Stands for None in the headers of what we write: others write None, kafka-python does not."""


_NULL = _Null()


@contextmanager
def _writing_nulls() -> Iterator[None]:
    append = MemoryRecordsBuilder.append

    def appended(self: Any, timestamp: Any, key: Any, value: Any, headers: Any) -> Any:
        given = [(name, None if each is _NULL else each) for name, each in headers]
        return append(self, timestamp, key, value, given)

    with mock.patch.object(MemoryRecordsBuilder, "append", appended):
        yield


class SeenConsumer(KafkaConsumer):  # type: ignore[misc]
    """The client's consumer, of which is known what it tells the broker."""

    def __init__(self, *topics: str, log: Log, **config: Any) -> None:
        super().__init__(*topics, **config)
        self.seen = log
        if self.config["group_id"] is not None:
            log.watch(self._coordinator)

    def seek(self, partition: Any, offset: Any) -> Any:
        self.seen.sought(partition, getattr(offset, "offset", offset))
        return super().seek(partition, offset)


class SeenProducer(KafkaProducer):  # type: ignore[misc]
    """The producer of dead letters, of which is known what the broker has acknowledged."""

    def __init__(self, log: Log, **config: Any) -> None:
        super().__init__(**config)
        self.seen = log

    def send(self, *args: Any, **kwargs: Any) -> Any:
        future = super().send(*args, **kwargs)
        headers = dict(kwargs.get("headers") or args[3])
        topic, partition, offset = (
            headers[f"hopspan.origin.{each}"].decode() for each in ("topic", "partition", "offset")
        )
        place = TopicPartition(topic, int(partition))
        future.add_callback(lambda _: self.seen.rejected(place, int(offset)))
        return future


class Log:
    """What reached the broker about the records of a scenario, in words, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.on_commit: Callable[[dict[Any, int]], None] = lambda _: None
        """Called with each commit before it goes out."""
        self.commits: list[dict[Any, int]] = []
        """Every commit that the broker has taken."""
        self.threads: list[int] | None = None
        self._frontier: dict[Any, int] = {}
        self._dead: set[tuple[Any, int]] = set()
        self._handed: dict[Any, int] = {}

    def watch(self, coordinator: Any) -> None:
        """See the commits of a consumer."""
        wait, go = coordinator.commit_offsets_sync, coordinator.commit_offsets_async

        def commit_offsets_sync(offsets: Any, *args: Any, **kwargs: Any) -> Any:
            self._on_thread(offsets)
            answer = wait(offsets, *args, **kwargs)
            self._committed(offsets)
            return answer

        def commit_offsets_async(offsets: Any, *args: Any, **kwargs: Any) -> Any:
            self._on_thread(offsets)
            future = go(offsets, *args, **kwargs)
            future.add_callback(lambda _: self._committed(offsets))
            return future

        coordinator.commit_offsets_sync = commit_offsets_sync
        coordinator.commit_offsets_async = commit_offsets_async

    def _on_thread(self, offsets: Any) -> None:
        self.on_commit({place: each.offset for place, each in offsets.items()})
        if offsets and self.threads is not None:
            self.threads.append(threading.get_ident())

    def handed(self, place: Any, offset: int) -> None:
        """A record was handed out."""
        self._handed[place] = max(offset, self._handed.get(place, -1))

    def _committed(self, offsets: Mapping[Any, Any]) -> None:
        self.commits.append({place: each.offset for place, each in offsets.items()})
        for place, each in offsets.items():
            for offset in range(self._frontier.get(place, 0), each.offset):
                if (place, offset) not in self._dead:
                    self.words.append("ack")
            self._frontier[place] = max(each.offset, self._frontier.get(place, 0))

    def sought(self, place: Any, offset: int) -> None:
        if offset <= self._handed.get(place, -1):
            self.words.append("requeue")

    def rejected(self, place: Any, offset: int) -> None:
        self._dead.add((place, offset))
        self.words.append("reject")


class KafkaClient(Client):
    """A topic of one partition, a dead-letter topic, a group, a producer and a consumer."""

    NAME = "kafka"
    operations_besides = ("poll", "commit")
    doing_besides = (
        "recording a receive",
        "starting a receive span",
        "recording a commit",
        "starting a send span",
        "starting to send",
        "ending a send",
    )
    not_called = ("adapter.same",)
    consumer: Any

    def __init__(
        self,
        backstage: Backstage,
        features: Features,
        *,
        broker: FakeKafka | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(features, **shape)
        self.broker = broker
        self.backstage = backstage
        self.group = f"group-{uuid.uuid4().hex[:8]}"
        self.log = Log()
        self.commits = AT_ONCE
        """By which strategy hopspan commits."""
        self._strict = ""
        self._is_wrapped = False
        self._receive: Callable[[Any], Any] | None = None
        self._polled: list[Any] = []
        self._taken = 0
        self._dead_taken = 0
        self._open: list[Any] = []
        self.telemetry.is_aside = self._is_aside

    def _is_aside(self, name: str, attributes: Mapping[str, Any]) -> bool:
        """Commits, polls and copies to the dead-letter topic."""
        if attributes.get("messaging.destination.name") == self.dead:
            return True
        return name == self.receives or attributes.get("messaging.operation.name") == "commit"

    # -- from the first to the last word -----------------------------------------------------------

    def open(self) -> None:
        self.queue, self.dead = self.backstage.topic(), self.backstage.topic()
        with silence():
            self.consumer = self.new_consumer()
            self.consumer.assign([self.place])

    @functools.cached_property
    def producer(self) -> Any:
        """Who sends, traced."""
        return self._traced(self.new_producer())

    @functools.cached_property
    def dead_producer(self) -> Any:
        """Who sends dead letters."""
        return self._kept(SeenProducer(self.log, **self.backstage.config))

    @property
    def place(self) -> Any:
        """The topic's partition."""
        return TopicPartition(self.queue, 0)

    def use_topic(self, partitions: int) -> None:
        """Go on with a topic of so many partitions, all of them assigned."""
        self.queue = self.backstage.topic(partitions)
        self.consumer.assign([TopicPartition(self.queue, each) for each in range(partitions)])

    def use_consumer(self, **config: Any) -> Any:
        """Go on with a consumer that is made like this."""
        self.consumer = self.new_consumer(**config)
        self.consumer.assign([self.place])
        return self.consumer

    def committed(self, partition: int = 0) -> int | None:
        """What the group has committed."""
        return self.backstage.committed(self.group, self.queue, partition)

    def headers(self, topic: str | None = None, partition: int = 0) -> list[list[tuple[str, Any]]]:
        """The headers of each record of a partition, in the broker's bytes."""
        found = self.backstage.records(topic or self.queue, partition)
        return [list(record.headers) for record in found]

    def written(self, *values: bytes | None, partition: int = 0) -> None:
        """Records that know nothing of hopspan."""
        for value in values:
            self.backstage.write(self.queue, value, partition=partition)

    def polled(self, count: int = 1) -> list[Any]:
        """So many records, asked for at once if there are that many."""
        deadline, records = time.monotonic() + PATIENCE, list[Any]()
        while len(records) < count:
            assert time.monotonic() < deadline, f"only {records}"
            records += self.poll(most=count - len(records))
        return records

    def process(self, native: Any, **settings: Any) -> AbstractContextManager[Any]:
        """`hopspan.process` of a record, or of several."""
        return hopspan.process(native, via=self.consumer, **self.settings(**settings))

    def drive_for(self, seconds: float, until: Callable[[], Any]) -> None:
        """`drive` that may take longer than usual."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, "still waiting"
            self._turn(JOINING)

    def new_producer(self, **config: Any) -> Any:
        """Another producer."""
        return self._kept(KafkaProducer(**{**self.backstage.config, **config}))

    def new_consumer(self, *topics: str, **config: Any) -> Any:
        """Another consumer of the scenario's group, which commits nothing by itself."""
        given = {"group_id": self.group, "enable_auto_commit": False, **config}
        return self._kept(
            SeenConsumer(
                *topics,
                log=self.log,
                **{**self.backstage.config, "auto_offset_reset": "earliest", **given},
            )
        )

    def _kept(self, native: Any) -> Any:
        self._open.append(native)
        cluster = native._metadata if hasattr(native, "_metadata") else native._client.cluster
        cluster.config.update(_QUICK)  # kafka-python 3 does not pass that on
        return native

    def _traced(self, producer: Any) -> Any:
        return (
            producer if self.face == "instrumented" else hopspan.wrap(producer, **self.settings())
        )

    def settings(self, **settings: Any) -> dict[str, Any]:
        return super().settings(**{"commits": self.commits, **settings})

    def check(self) -> None:
        """A consumer that is closed was closed by the scenario: brokers do not."""

    def close(self) -> None:
        with silence():
            for native in self._open:
                with suppress(Exception):
                    native.close()

    # -- sending -----------------------------------------------------------------------------------

    @property
    def publishes(self) -> str:
        return f"send {self.queue}"

    @property
    def processes(self) -> str:
        return f"process {self.queue}"

    @property
    def receives(self) -> str:
        return f"poll {self.queue}"

    def settle_name(self, settlement: str) -> str:
        return {"ack": "ack", "requeue": "seek", "reject": "dead_letter"}[settlement]

    @property
    def rejects(self) -> str:
        return f"dead_letter {self.queue}"

    @property
    def via(self) -> Any:
        return self.consumer

    @property
    def reject_on_error(self) -> hopspan.Policy:
        return hopspan.dead_letter(self.dead, producer=self.dead_producer)

    @property
    def requeue_once(self) -> hopspan.Policy:
        return hopspan.requeue_times(1, then=self.reject_on_error)

    @property
    def refused_policy(self) -> hopspan.Policy:
        return hopspan.reject_on_error  # to where?

    def policy(
        self, name: str, decide: Callable[..., Any], verdicts: Iterable[Verdict] = tuple(Verdict)
    ) -> hopspan.Policy:
        return hopspan.Policy(name, decide, verdicts, target=(self.dead, self.dead_producer))

    def carrier(self, headers: dict[str, Any] | None) -> Any:
        return None if headers is None else [(key, _raw(headers[key])) for key in headers]

    def contents(self, carrier: Any) -> Any:
        return None if carrier is None else list(carrier)

    def fields(self, headers: Any) -> dict[str, Any]:
        return {key: _text(value) for key, value in headers or ()}

    def body(self, native: Any) -> bytes:
        return bytes(native.record.value if hasattr(native, "record") else native.value)

    def send(self, body: bytes = b"order", carrier: Any = None) -> None:
        self.producer.send(self.queue, body, headers=carrier).get(DEADLINE)

    def configure_sender(self, **settings: Any) -> None:
        hopspan.wrap(self.producer, **self.settings(**settings))

    def sender(self) -> Callable[..., None]:
        producer = self._traced(self.new_producer())

        def send(body: bytes, carrier: Any) -> None:
            producer.send(self.queue, body, headers=carrier).get(DEADLINE)

        return send

    def send_untraced(self, body: bytes = b"order", headers: dict[str, Any] | None = None) -> None:
        pairs = [(key, _raw(value)) for key, value in (headers or {}).items()]
        self.backstage.write(self.queue, body, pairs)

    def take_untraced(self, *, dead: bool = False) -> dict[str, Any]:
        return self.fields(self.take_record(dead=dead).headers)

    def take_record(self, *, dead: bool = False) -> Any:
        """The next record that nobody had, as it lies on the broker."""
        if dead:
            self._dead_taken += 1
            return self.backstage.records(self.dead)[self._dead_taken - 1]
        record = self.backstage.records(self.queue, start=self._taken)[0]
        self._taken = record.offset + 1
        if not self.consumer._closed:  # it is gone from the queue
            KafkaConsumer.seek(self.consumer, self.place, self._taken)
        return record

    # -- handling ----------------------------------------------------------------------------------

    def receiver(self, handler: Handler, *, decorated: bool = False, **settings: Any) -> Any:
        def receive(record: Any) -> Any:
            return handler(self.message(record))

        if not decorated:
            return receive
        via = lambda: self.consumer  # noqa: E731
        return hopspan.consumer(via=via, **self.settings(**settings))(receive)

    def subscribe(
        self, handler: Handler, *, auto_ack: bool = False, prefetch: int = 1, **settings: Any
    ) -> Ran:
        ran = Ran()
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(handler), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(**settings)
        # Without settings of its own, it goes by those of the consumer.
        via = lambda: self.consumer  # noqa: E731
        self._receive = receive if decorated else hopspan.consumer(via=via)(receive)
        return ran

    def enter_face(self, **settings: Any) -> None:
        if self.face == "instrumented":
            self.instrument(**settings)
        elif self.face == "wrapped":
            hopspan.wrap(self.consumer, **self.settings(**settings))
        elif self.face == "together":  # polls are measured as the consumer's own face says
            own = {key: settings[key] for key in ("metrics",) if key in settings}
            hopspan.wrap(self.consumer, **self.settings(**own))

    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        ran = Ran()
        self.enter_face(**outer)
        self._receive = self.receiver(ran.watched(handler), decorated=True, **inner)
        return ran

    def poll(self, timeout: int = NAP, most: int = 1) -> list[Any]:
        """What the consumer hands out within some milliseconds."""
        if self._polled:
            taken, self._polled = self._polled[:most], self._polled[most:]
            return taken
        return self._ask(timeout, most)

    def _ask(self, timeout: int = NAP, most: int = 1) -> list[Any]:
        answer = self.consumer.poll(timeout, max_records=most)
        records = [record for several in answer.values() for record in several]
        for record in records:
            self._saw(record)
        return records

    def _saw(self, record: Any) -> None:
        self.log.handed(TopicPartition(record.topic, record.partition), record.offset)
        if record.topic == self.queue:
            self._taken = max(self._taken, record.offset + 1)

    def drive(self, until: Callable[[], Any], ran: Ran | None = None) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline, f"still waiting; {ran}"
            try:
                self._turn()
            except BaseException as error:
                if ran is None:
                    raise
                ran.escaped.append(error)

    def _turn(self, timeout: int = NAP) -> None:
        """Ask once, and have handled what comes."""
        if self.consumer._closed:
            threading.Event().wait(NAP / 1000)
            return
        if self._receive is None:
            self._polled += self._ask(timeout)
            return
        for record in self.poll(timeout):
            self._receive(record)

    def sync(self) -> None:
        """Let hopspan do what it does when asked, without anything being handed out."""
        if self.consumer._closed:
            return
        others = self.consumer.assignment() - self.consumer.paused()
        self.consumer.pause(*others)
        assert {} == self.consumer.poll(0)
        self.consumer.resume(*others)

    def sync_all(self) -> None:
        """`sync`, also where records would be handed out in the meantime."""
        self.consumer.poll(0)
        self.consumer.poll(0)

    def settlements(self) -> list[str]:
        return list(self.log.words)

    def expect_queues(self, *, waiting: int = 0, dead: int = 0) -> None:
        self.close_channel()
        assert (waiting, dead) == (self.waiting(), self.backstage.end(self.dead))

    def waiting(self) -> int:
        """How many records the group would be handed if it came back."""
        done = self.backstage.committed(self.group, self.queue) or 0
        return self.backstage.end(self.queue) - done

    def close_channel(self) -> None:
        self.ends_closed = True
        self.consumer.close()

    def lose(self) -> None:
        self.ends_closed = True
        self.in_thread(self.consumer.close).result()

    def move_on(self) -> None:
        self.send_untraced(b"the next")
        self.fetch()

    def open_consumer(self) -> None:
        self.use_consumer()

    def watch_threads(self) -> None:
        self.log.threads = self.settling_threads

    def fetch(self) -> Message:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for record in self.poll():
                return self.message(record)
        raise AssertionError(f"nothing came to {self.queue}")

    def block(
        self, message: Message | list[Message], **settings: Any
    ) -> AbstractContextManager[Any]:
        native: Any = (
            [each.native for each in message] if isinstance(message, list) else message.native
        )
        return hopspan.process(native, via=self.consumer, **self.settings(**settings))

    def message(self, item: Any) -> Message:
        self._saw(item)
        place = TopicPartition(item.topic, item.partition)
        above = OffsetAndMetadata(item.offset + 1, "", -1)
        return Message(
            item.value,
            self.fields(item.headers),
            item,
            self.consumer,
            lambda: self.consumer.commit({place: above}),
            lambda: self.consumer.seek(place, item.offset),
            _cannot_reject,
        )

    def loop(self, style: str, *, prefetch: int = 1, **settings: Any) -> Any:
        if style == "each over poll":
            return hopspan.each(self._all_waiting(), via=self.consumer, **self.settings(**settings))
        if style == "each over iterator":
            return hopspan.each(self.consumer, via=self.consumer, **self.settings(**settings))
        self.enter_loop_face(**settings)
        return self.own_loop()

    def enter_loop_face(self, **settings: Any) -> None:
        """A loop has no handler to decorate: wrap the consumer, or instrument the process."""
        if self.face == "instrumented":
            self.instrument(**settings)
        else:
            hopspan.wrap(self.consumer, **self.settings(**settings))

    def own_loop(self) -> Any:
        self.consumer.config["consumer_timeout_ms"] = DEADLINE * 1000
        return iter(self.consumer)

    def _all_waiting(self) -> list[Any]:
        """All that waits in the topic, as one list that was polled before."""
        records, deadline = list[Any](), time.monotonic() + PATIENCE
        end = self.backstage.end(self.queue)
        while not records or records[-1].offset + 1 < end:
            assert time.monotonic() < deadline, f"only {records}"
            records += self.poll(most=500)
        return records

    def end_loop(self) -> None:
        self.consumer.config["consumer_timeout_ms"] = 1

    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        if style == "decorated handler":
            self.handle(body, **settings)
        elif style == "process of poll":
            self._in_block(self.fetch(), body, **settings)
        elif style == "process in iterator":
            loop = self.own_loop()
            self._in_block(self.message(next(loop)), body, **settings)
        else:
            for item in self.loop(style, **settings):
                body(self.message(item))
                break

    def _in_block(self, message: Message, body: Handler, **settings: Any) -> None:
        with self.block(message, **settings):
            body(message)

    # -- what metrics and instrumentation ask for --------------------------------------------------

    @property
    def metric_attributes(self) -> dict[str, Any]:
        host, _, port = self.backstage.bootstrap.partition(":")
        return {
            "messaging.system": "kafka",
            "messaging.destination.name": self.queue,
            "server.address": host,
            **({} if port == "9092" else {"server.port": int(port)}),
        }

    @property
    def consumer_metric_attributes(self) -> dict[str, Any]:
        return {**self.metric_attributes, "messaging.consumer.group.name": self.group}

    def use_generated_queue(self, name: str) -> None:
        raise NotImplementedError

    def ask_in_vain(self) -> None:
        assert {} == self.consumer.poll(0)

    def wrap_consumer(self, **settings: Any) -> Any:
        self._is_wrapped = True
        return hopspan.wrap(self.consumer, **self.settings(**settings))

    def register(self, receive: Callable[..., Any]) -> None:
        """Nothing is called back, so what stands for a callback that is seen is a block."""

        def run(record: Any) -> Any:
            with hopspan.process(record, via=self.consumer):
                return receive(record)

        is_seen = self._is_wrapped or hasattr(KafkaConsumer.poll, INTERCEPTED)
        is_plain = not hasattr(receive, "__wrapped__")
        self._receive = run if is_plain and is_seen else receive

    def registered(self) -> Callable[[Message], Any]:
        assert self._receive is not None
        receive = self._receive
        return lambda message: receive(message.native)

    @property
    def classes(self) -> tuple[type, ...]:
        return (KafkaProducer, KafkaConsumer)

    def use_wrapped_connection(self, **settings: Any) -> None:
        raise NotImplementedError

    def send_by_wrapped_connection(self, style: str, **settings: Any) -> None:
        raise NotImplementedError

    def send_wrongly(self, *, traced: bool) -> None:
        producer = self.producer if traced else self.new_producer()
        with nullcontext() if traced else silence():
            producer.send(value=b"to where?")

    def strict_topic(self) -> str:
        """A topic that refuses large messages."""
        if not self._strict:
            self._strict = self.backstage.strict_topic()
        return self._strict

    def send_so_that(self, outcome: str, style: str) -> Sent:
        (sent,) = self._send([outcome], style)
        return sent

    def send_at_once(
        self, outcomes: Sequence[str], style: str, *, unseen: bool = False
    ) -> list[Sent]:
        sent = self._send(outcomes, style)
        if not unseen:
            names = {each.name for each in sent}
            self._until(lambda: len(sent) == sum(len(self.telemetry.named(each)) for each in names))
        return sent

    def _until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < deadline, "still waiting"
            threading.Event().wait(0.002)

    def _send(self, outcomes: Sequence[str], style: str) -> list[Sent]:
        """Send in a row, and wait for what became of it."""
        delayed = {"linger_ms": 60_000} if "aborted" in outcomes else {}
        producer = self._traced(self.new_producer(**delayed))
        futures = [(each, self._send_one(producer, each)) for each in outcomes]
        if "aborted" in outcomes:
            producer._sender.force_close()  # as `close` does when its time is over
        sent = [(outcome, _became(future)) for outcome, future in futures]
        return [self._sent(outcome, error) for outcome, error in sent if outcome != "untraced"]

    def _send_one(self, producer: Any, outcome: str) -> Any:
        topic = self.strict_topic() if outcome == "refused" else self.queue
        body = b"x" * _LARGE if outcome == "refused" else b"order"
        with silence() if outcome == "untraced" else nullcontext():
            return producer.send(topic, body)

    def _sent(self, outcome: str, error: BaseException | None) -> Sent:
        name = f"send {self.strict_topic()}" if outcome == "refused" else self.publishes
        if error is None:
            return Sent(name)
        return Sent(name, error_type(error), str(error), error)


def _became(future: Any) -> BaseException | None:
    """The error of a send, None for none; when all who were told before have heard."""
    told: Future[BaseException | None] = Future()
    future.add_callback(lambda _: told.set_result(None))
    future.add_errback(told.set_result)
    return told.result(DEADLINE)


def error_type(error: BaseException) -> str:
    """`error.type` of the client's errors: the protocol's word, where the broker said one."""
    if isinstance(error, BrokerResponseError):
        return str(error.message)
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _raw(value: Any) -> bytes | None:
    """A header's value as Kafka has it."""
    return value.encode() if isinstance(value, str) else value  # type: ignore[no-any-return]


def _text(value: Any) -> Any:
    """What `_raw` was given, as far as bytes tell."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _cannot_reject() -> None:
    raise NotImplementedError("Kafka has no word for it")


@contextmanager
def on_fake(features: Features, **shape: Any) -> Iterator[KafkaClient]:
    """A client of a fake broker of its own."""
    with (
        FakeKafka(join_delay=0.2) as broker,
        KafkaClient(FakeBackstage(broker), features, broker=broker, **shape) as client,
    ):
        yield client


@contextmanager
def real(bootstrap: str) -> Iterator[Callable[..., KafkaClient]]:
    """Clients of a broker that others use as well."""
    backstage = RealBackstage(bootstrap)
    try:
        yield functools.partial(KafkaClient, backstage)
    finally:
        backstage.close()
