"""The fake Kafka is faithful: scenarios for its clients, on it and on a real one, if there is one.

    TEST_KAFKA_BOOTSTRAP=127.0.0.1:9092 pytest tests/fakes

kafka-python speaks where its users would. Where a scenario is about one request and its answer, `Raw`
asks: a client of a few lines, on the fake's own schemas.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kafka
import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import (
    CommitFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from tests.fakes.kafka import LEADER_EPOCH, Commit, Error, FakeKafka, Record
from tests.fakes.kafka.codec import Buffer, pack
from tests.fakes.kafka.protocol import APIS
from tests.fakes.kafka.records import Batch, Headers, build

# kafka-python 3.0 forgets to close the socket of a connection that was refused: one with no address.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed <socket.*laddr=\('0\.0\.0\.0':ResourceWarning"
)

REAL = os.environ.get("TEST_KAFKA_BOOTSTRAP", "")
BROKERS = [
    "fake",
    pytest.param(
        "real", marks=pytest.mark.skipif(not REAL, reason="TEST_KAFKA_BOOTSTRAP is not set")
    ),
]
PATIENCE = 30 if REAL else 10
IS_3 = kafka.__version__ >= "3"
BY_NAME = {api.name: api for api in APIS.values()}
NOT_NOW = {
    Error.COORDINATOR_LOAD_IN_PROGRESS,
    Error.COORDINATOR_NOT_AVAILABLE,
    Error.NOT_COORDINATOR,
}


class Raw:
    """A connection on which requests are asked as they are, with the names of `protocol`."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._waiting: tuple[Any, int] = (None, 0)

    def ask(self, name: str, version: int | None = None, **body: Any) -> SimpleNamespace:
        self.send(name, version, **body)
        return self.receive()

    def send(self, name: str, version: int | None = None, **body: Any) -> None:
        api = BY_NAME[name]
        version = api.versions[-1] if version is None else version
        head = pack("i16", api.key) + pack("i16", version) + pack("i32", 7) + pack("i16", 1) + b"r"
        request = head + api.request.write(body, version)
        self._socket.sendall(pack("i32", len(request)) + request)
        self._waiting = (api, version)

    def receive(self) -> SimpleNamespace:
        api, version = self._waiting
        size = struct.unpack(">i", self._read(4))[0]
        buffer = Buffer(self._read(size))
        assert buffer.number("i32") == 7
        answer = api.response.read(buffer, version)
        assert buffer.at == size
        return answer

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            more = self._socket.recv(size - len(got))
            if not more:
                raise ConnectionError("closed by the broker")
            got += more
        return got

    def answered(self) -> bool:
        """Whether an answer has begun to come in."""
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        self._socket.close()


class Site:
    """A broker, clients of it, and names nobody else uses; `close` leaves nothing behind."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._suffix = uuid.uuid4().hex[:8]
        self._clients: list[Any] = []

    def name(self, stem: str) -> str:
        return f"{stem}-{self._suffix}"

    def topic(self, stem: str = "topic", partitions: int = 1) -> str:
        name = self.name(stem)
        self.admin().create_topics([NewTopic(name, partitions, 1)])
        raw = self.raw()
        eventually(lambda: not any(self._ends(raw, name, partitions)))
        return name

    def _ends(self, raw: Raw, topic: str, partitions: int) -> list[int]:
        """The error codes of questions that only a leader answers."""
        ask = [
            {"index": index, "current_epoch": -1, "timestamp": -1} for index in range(partitions)
        ]
        topics = [{"name": topic, "partitions": ask}]
        answer = raw.ask("ListOffsets", replica=-1, isolation=0, topics=topics)
        return [part.error for part in answer.topics[0].partitions]

    def group(self, stem: str = "group") -> str:
        """A name that the coordinator is ready for."""
        name, raw = self.name(stem), self.raw()
        eventually(lambda: raw.ask("FindCoordinator", key=name, key_type=0).error == 0)
        eventually(
            lambda: raw.ask("Heartbeat", group=name, generation=0, member="x").error not in NOT_NOW
        )
        return name

    def keep(self, client: Any) -> Any:
        self._clients.append(client)
        return client

    def raw(self) -> Raw:
        return self.keep(Raw(self.bootstrap))

    def admin(self) -> KafkaAdminClient:
        return self.keep(KafkaAdminClient(bootstrap_servers=self.bootstrap))

    def producer(self, **settings: Any) -> KafkaProducer:
        given = {"retry_backoff_ms": 10, "max_block_ms": PATIENCE * 1000, **settings}
        return self.keep(KafkaProducer(bootstrap_servers=self.bootstrap, **given))

    def consumer(self, *topics: str, group: str | None = None, **settings: Any) -> KafkaConsumer:
        given = {
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            "group_id": group,
            "heartbeat_interval_ms": 50,
            "retry_backoff_ms": 10,
            **settings,
        }
        return self.keep(KafkaConsumer(*topics, bootstrap_servers=self.bootstrap, **given))

    def reader(self, topic: str, partition: int = 0, **settings: Any) -> KafkaConsumer:
        """A consumer in no group, at the beginning of one partition."""
        consumer = self.consumer(**settings)
        consumer.assign([TopicPartition(topic, partition)])
        return consumer

    def produce(self, topic: str, *values: bytes, partition: int = 0, **settings: Any) -> list[int]:
        producer = self.producer(**settings)
        futures = [producer.send(topic, value, partition=partition) for value in values]
        return [future.get(PATIENCE).offset for future in futures]

    def store(
        self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> None:
        """Store a record that kafka-python would not send."""
        answer = produce(self.raw(), topic, build(key, value, headers, 1_000))
        assert answer.error == 0

    def close(self) -> None:
        while self._clients:
            client = self._clients.pop()
            client.close(**({"timeout": 0} if isinstance(client, KafkaProducer) else {}))


def eventually(condition: Callable[[], object]) -> None:
    """Ask again until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"


def take(consumer: KafkaConsumer, count: int) -> list[Any]:
    """Poll until so many records have come."""
    got: list[Any] = []

    def enough() -> bool:
        for records in consumer.poll(timeout_ms=500).values():
            got.extend(records)
        return len(got) >= count

    eventually(enough)
    return got


def produce(
    raw: Raw,
    topic: str,
    *batches: Batch,
    partition: int = 0,
    transactional_id: str | None = None,
) -> SimpleNamespace:
    """One Produce request, and the part of its answer about the partition."""
    records = b"".join(batch.raw for batch in batches)
    topics = [{"name": topic, "partitions": [{"index": partition, "records": records}]}]
    writer = {"transactional_id": transactional_id, "acks": -1, "timeout": 5_000}
    answer = raw.ask("Produce", **writer, topics=topics)
    return answer.topics[0].partitions[0]


def fetching(topic: str, offset: int, partition: int = 0, **settings: Any) -> dict[str, Any]:
    """The body of a Fetch request."""
    part = {"index": partition, "current_epoch": -1, "offset": offset, "log_start": -1}
    topics = [{"name": topic, "partitions": [{**part, "max_bytes": 1 << 20}]}]
    sizes = {"replica": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20, **settings}
    session = {"isolation": 0, "session": 0, "session_epoch": -1, "forgotten": []}
    return {**session, **sizes, "topics": topics}


class GroupMember:
    """A member of a group, one request at a time."""

    def __init__(self, raw: Raw, group: str, session_timeout: int = 10_000) -> None:
        self.raw, self.group = raw, group
        self._session_timeout = session_timeout
        self.id, self.generation, self.leader = "", -1, ""
        self.others: set[str] = set()

    def send_join(self, metadata: bytes = b"m", protocol: str = "range") -> None:
        self.raw.send(
            "JoinGroup",
            group=self.group,
            session_timeout=self._session_timeout,
            rebalance_timeout=10_000,
            member=self.id,
            protocol_type="consumer",
            protocols=[{"name": protocol, "metadata": metadata}],
        )

    def joined(self) -> SimpleNamespace:
        answer = self.raw.receive()
        self.id, self.generation, self.leader = answer.member, answer.generation, answer.leader
        self.others = {each.member for each in answer.members}
        return answer

    def join(self, **settings: Any) -> SimpleNamespace:
        """Join, under a new name at first; wait for the generation."""
        self.introduce()
        self.send_join(**settings)
        return self.joined()

    def introduce(self) -> None:
        if not self.id:
            self.send_join()
            assert self.joined().error == Error.MEMBER_ID_REQUIRED

    def send_sync(self, **assignments: bytes) -> None:
        plan = [{"member": name, "assignment": each} for name, each in assignments.items()]
        self.raw.send(
            "SyncGroup",
            group=self.group,
            generation=self.generation,
            member=self.id,
            assignments=plan,
        )

    def sync(self, **assignments: bytes) -> tuple[int, bytes]:
        self.send_sync(**assignments)
        answer = self.raw.receive()
        return answer.error, answer.assignment

    def heartbeat(self, **settings: Any) -> int:
        who = {"group": self.group, "generation": self.generation, "member": self.id}
        return self.raw.ask("Heartbeat", **{**who, **settings}).error

    def leave(self) -> int:
        return self.raw.ask("LeaveGroup", group=self.group, member=self.id).error

    def commit(self, topic: str, offset: int, **settings: Any) -> int:
        who = {"group": self.group, "generation": self.generation, "member": self.id}
        return commit(self.raw, topic, offset, **{**who, **settings})


def commit(raw: Raw, topic: str, offset: int, partition: int = 0, **who: Any) -> int:
    part = {"index": partition, "offset": offset, "leader_epoch": 0, "metadata": "said"}
    topics = [{"name": topic, "partitions": [part]}]
    answer = raw.ask("OffsetCommit", **{"generation": -1, "member": "", **who}, topics=topics)
    return answer.topics[0].partitions[0].error


def committed(raw: Raw, group: str, *topics: str) -> list[tuple[str, int, int, int, str]]:
    """What is committed for partition 0 of these topics; for what there is, where none is named."""
    asked = [{"name": topic, "partitions": [0]} for topic in topics] or None
    answer = raw.ask("OffsetFetch", group=group, topics=asked)
    return [
        (topic.name, part.index, part.offset, part.leader_epoch, part.metadata)
        for topic in answer.topics
        for part in topic.partitions
    ]


@pytest.fixture
def fake() -> Iterator[FakeKafka]:
    with FakeKafka() as broker:
        yield broker


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    bootstrap = REAL if request.param == "real" else request.getfixturevalue("fake").bootstrap
    site = Site(bootstrap)
    yield site
    site.close()


@pytest.fixture
def local(fake: FakeKafka) -> Iterator[Site]:
    """A site on the fake only, where a test also looks behind the scenes."""
    site = Site(fake.bootstrap)
    yield site
    site.close()


# Records


def test_a_record_comes_back_as_it_was_sent(site: Site) -> None:
    topic = site.topic()
    headers = [("a", b"1"), ("a", b"\xff\x00"), ("", b"")]
    sent = (
        site.producer().send(topic, b"value", b"key", headers, 0, timestamp_ms=1234).get(PATIENCE)
    )
    assert (topic, 0, 0, 1234) == (sent.topic, sent.partition, sent.offset, sent.timestamp)
    (got,) = take(site.reader(topic), 1)
    assert (b"key", b"value", headers, 1234, 0) == (
        got.key,
        got.value,
        got.headers,
        got.timestamp,
        got.offset,
    )


def test_keys_and_values_may_be_missing(site: Site) -> None:
    topic = site.topic()
    site.producer().send(topic, None, b"key").get(PATIENCE)
    site.producer().send(topic, b"", None).get(PATIENCE)
    got = take(site.reader(topic), 2)
    assert [(b"key", None), (None, b"")] == [(record.key, record.value) for record in got]


def test_headers_may_be_without_a_value(site: Site) -> None:
    topic = site.topic()
    site.store(topic, b"v", headers=[(b"none", None), (b"empty", b""), (b"none", None)])
    (got,) = take(site.reader(topic), 1)
    assert [("none", None), ("empty", b""), ("none", None)] == got.headers


def test_a_batch_keeps_its_records_in_order(site: Site) -> None:
    topic = site.topic()
    values = [b"%d" % number for number in range(300)]
    assert list(range(300)) == site.produce(topic, *values, linger_ms=20)
    assert values == [record.value for record in take(site.reader(topic), 300)]


def test_gzip_is_understood(site: Site) -> None:
    topic = site.topic()
    site.produce(topic, b"x" * 2_000, b"y" * 2_000, compression_type="gzip", linger_ms=20)
    got = take(site.reader(topic), 2)
    assert [b"x" * 2_000, b"y" * 2_000] == [record.value for record in got]


def test_producers_may_want_no_acknowledgement(site: Site) -> None:
    topic = site.topic()
    raw, ready = site.raw(), {"index": 0, "records": build(None, b"v", (), 0).raw}
    topics = [{"name": topic, "partitions": [ready]}]
    raw.send("Produce", transactional_id=None, acks=0, timeout=5_000, topics=topics)
    assert Error.NONE == raw.ask("ListGroups").error
    assert [b"v"] == [record.value for record in take(site.reader(topic), 1)]


def test_partitions_are_logs_of_their_own(site: Site) -> None:
    topic = site.topic(partitions=3)
    assert {0, 1, 2} == site.producer().partitions_for(topic)
    for partition in (0, 2, 2):
        site.produce(topic, b"%d" % partition, partition=partition)
    consumer = site.consumer()
    parts = [TopicPartition(topic, partition) for partition in range(3)]
    assert dict(zip(parts, [1, 0, 2], strict=True)) == consumer.end_offsets(parts)
    assert dict.fromkeys(parts, 0) == consumer.beginning_offsets(parts)


def test_a_partition_that_does_not_exist_is_refused(site: Site) -> None:
    topic, raw = site.topic(), site.raw()
    unknown = Error.UNKNOWN_TOPIC_OR_PARTITION
    assert unknown == produce(raw, topic, build(None, b"v", (), 0), partition=7).error
    answer = raw.ask("Fetch", **fetching(topic, 0, partition=7))
    assert unknown == answer.topics[0].partitions[0].error


def test_what_is_no_batch_is_refused(site: Site) -> None:
    topic, good = site.topic(), build(None, b"v", (), 0)
    spoiled = good._replace(raw=good.raw[:-1] + b"\x01")
    assert Error.CORRUPT_MESSAGE == produce(site.raw(), topic, spoiled).error
    assert 0 == produce(site.raw(), topic, good).base_offset


# Idempotent producers


def of_producer(identity: int, sequence: int, value: bytes = b"v", epoch: int = 0) -> Batch:
    batch = build(None, value, (), 0)
    named = batch._replace(producer_id=identity, producer_epoch=epoch, sequence=sequence)
    return named.without(set(), 0)  # encodes it anew


def new_producer(raw: Raw) -> int:
    """An id, asked for until the broker can give one."""
    answers: list[SimpleNamespace] = []

    def ask() -> bool:
        answers.append(raw.ask("InitProducerId", transactional_id=None, timeout=1000))
        return answers[-1].error == 0

    eventually(ask)
    return answers[-1].producer_id


def test_a_batch_that_is_sent_again_is_stored_once(site: Site) -> None:
    topic, raw = site.topic(), site.raw()
    identity = new_producer(raw)
    for sequence in range(3):
        assert sequence == produce(raw, topic, of_producer(identity, sequence)).base_offset
    again = produce(raw, topic, of_producer(identity, 1))
    assert (Error.NONE, 1) == (again.error, again.base_offset)
    assert 3 == len(take(site.reader(topic), 3))


def test_a_batch_out_of_order_is_refused(site: Site) -> None:
    topic, raw = site.topic(), site.raw()
    identity = new_producer(raw)
    produce(raw, topic, of_producer(identity, 0))
    refused = produce(raw, topic, of_producer(identity, 2))
    assert (Error.OUT_OF_ORDER_SEQUENCE_NUMBER, -1) == (refused.error, refused.base_offset)


def test_producers_have_different_ids(site: Site) -> None:
    assert new_producer(site.raw()) != new_producer(site.raw())


# Fetching


def test_a_fetch_waits_for_records(site: Site) -> None:
    topic, raw = site.topic(), site.raw()
    raw.send("Fetch", **fetching(topic, 0, max_wait=60_000))
    assert not raw.answered()
    site.store(topic, b"v")
    (part,) = raw.receive().topics[0].partitions
    assert (Error.NONE, 1, 1) == (part.error, part.high_watermark, part.last_stable)
    assert part.records


def test_a_fetch_waits_no_longer_than_asked(site: Site) -> None:
    began = time.monotonic()
    topic = site.topic()
    (part,) = site.raw().ask("Fetch", **fetching(topic, 0, max_wait=100)).topics[0].partitions
    assert 0.1 <= time.monotonic() - began < PATIENCE
    assert (Error.NONE, 0, b"") == (part.error, part.high_watermark, part.records)


def test_a_fetch_wants_enough_bytes(site: Site) -> None:
    topic, raw = site.topic(), site.raw()
    site.store(topic, b"short")
    raw.send("Fetch", **fetching(topic, 0, max_wait=60_000, min_bytes=1_000))
    assert not raw.answered()
    site.store(topic, b"long" * 250)
    assert 1_000 < len(raw.receive().topics[0].partitions[0].records)


def test_what_is_fetched_is_limited_in_whole_batches(site: Site) -> None:
    topic = site.topic()
    for value in (b"1" * 100, b"2" * 100):
        site.store(topic, value)
    reader = site.reader(topic, max_partition_fetch_bytes=10)
    assert [b"1" * 100, b"2" * 100] == [record.value for record in take(reader, 2)]
    one = len(build(None, b"1" * 100, (), 1_000).raw)
    answer = site.raw().ask("Fetch", **fetching(topic, 0, max_bytes=10))
    assert one == len(answer.topics[0].partitions[0].records)


@pytest.mark.parametrize("offset", [2, 100])
def test_an_offset_that_does_not_exist_is_refused(site: Site, offset: int) -> None:
    topic = site.topic()
    site.store(topic, b"v")
    answer = site.raw().ask("Fetch", **fetching(topic, offset, max_wait=60_000))
    assert Error.OFFSET_OUT_OF_RANGE == answer.topics[0].partitions[0].error


def test_offsets_are_found_by_time(site: Site) -> None:
    topic, part = site.topic(), TopicPartition(site.name("topic"), 0)
    producer = site.producer()
    for stamp in (1_000, 2_000, 3_000):
        producer.send(topic, b"v", timestamp_ms=stamp).get(PATIENCE)
    consumer = site.consumer()
    found = [consumer.offsets_for_times({part: stamp})[part] for stamp in (0, 1_500, 3_000, 3_001)]
    assert [(0, 1_000), (1, 2_000), (2, 3_000), None] == [
        each and (each.offset, each.timestamp) for each in found
    ]


# Groups, in kafka-python's hands


def test_a_group_goes_on_where_it_committed(site: Site) -> None:
    topic, group = site.topic(), site.group()
    site.produce(topic, b"0", b"1", b"2")
    first = site.consumer(topic, group=group)
    take(first, 3)
    first.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "seen", -1)})
    first.close(autocommit=False)
    second = site.consumer(topic, group=group)
    assert [1, 2] == [record.offset for record in take(second, 2)]
    assert 1 == second.committed(TopicPartition(topic, 0))


def test_members_share_the_partitions(site: Site) -> None:
    topic, group = site.topic(partitions=4), site.group()
    members = [site.consumer(topic, group=group) for _ in range(2)]

    def shares() -> list[int]:
        for member in members:
            member.poll(
                timeout_ms=500
            )  # kafka-python 3.0 may not get over a rebalance in shorter ones
        return [len(member.assignment()) for member in members]

    eventually(lambda: shares() == [2, 2])
    members.pop().close(autocommit=False)
    eventually(lambda: shares() == [4])


def test_the_admin_client_sees_groups_and_topics(site: Site) -> None:
    topic, group = site.topic(partitions=2), site.group()
    site.produce(topic, b"v")
    consumer = site.consumer(topic, group=group, client_id="me")
    take(consumer, 1)
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)})
    admin = site.admin()
    assert topic in admin.list_topics()
    if IS_3:
        offsets = admin.list_group_offsets(group)[group]
        described = admin.describe_groups([group])[group]
        state, members = described["group_state"], [m["client_id"] for m in described["members"]]
    else:
        offsets = admin.list_consumer_group_offsets(group)
        (old,) = admin.describe_consumer_groups([group])
        state, members = old.state, [member.client_id for member in old.members]
    assert {TopicPartition(topic, 0): 1} == {part: each.offset for part, each in offsets.items()}
    assert ("Stable", ["me"]) == (state, members)


# Groups, in their own words


def test_a_newcomer_is_given_a_name(site: Site) -> None:
    member = GroupMember(site.raw(), site.group())
    member.send_join()
    answer = member.joined()
    assert (Error.MEMBER_ID_REQUIRED, -1) == (answer.error, answer.generation)
    assert answer.member
    answer = member.join()
    assert (Error.NONE, 1, "range", member.id, [(member.id, b"m")]) == (
        answer.error,
        answer.generation,
        answer.protocol,
        answer.leader,
        [(each.member, each.metadata) for each in answer.members],
    )


def pair(site: Site) -> tuple[GroupMember, GroupMember]:
    """A leader and a follower in generation 2, stable."""
    group = site.group()
    leader, follower = GroupMember(site.raw(), group), GroupMember(site.raw(), group)
    leader.join()
    leader.sync(**{leader.id: b"all"})
    follower.introduce()
    follower.send_join()
    eventually(lambda: leader.heartbeat() == Error.REBALANCE_IN_PROGRESS)
    leader.join()
    follower.joined()
    return leader, follower


def settled_pair(site: Site) -> tuple[GroupMember, GroupMember]:
    leader, follower = pair(site)
    leader.sync(**{leader.id: b"one", follower.id: b"two"})
    assert (Error.NONE, b"two") == follower.sync()
    return leader, follower


def test_only_the_leader_hears_of_the_others(site: Site) -> None:
    leader, follower = pair(site)
    assert (2, 2) == (leader.generation, follower.generation)
    assert leader.id == follower.leader
    assert ({leader.id, follower.id}, set()) == (leader.others, follower.others)


def test_a_follower_waits_for_the_plan(site: Site) -> None:
    leader, follower = pair(site)
    follower.send_sync()
    assert not follower.raw.answered()
    assert (Error.NONE, b"one") == leader.sync(**{leader.id: b"one", follower.id: b"two"})
    assert b"two" == follower.raw.receive().assignment
    assert (Error.NONE, b"two") == follower.sync()


def test_a_follower_may_ask_again_without_a_rebalance(site: Site) -> None:
    _, follower = settled_pair(site)
    answer = follower.join()
    assert (Error.NONE, 2, []) == (answer.error, answer.generation, answer.members)


def test_a_leader_that_joins_again_is_a_rebalance(site: Site) -> None:
    leader, follower = settled_pair(site)
    leader.send_join()
    eventually(lambda: follower.heartbeat() == Error.REBALANCE_IN_PROGRESS)
    follower.join()
    assert 3 == leader.joined().generation


def test_another_subscription_is_a_rebalance(site: Site) -> None:
    leader, follower = settled_pair(site)
    follower.send_join(metadata=b"other")
    eventually(lambda: leader.heartbeat() == Error.REBALANCE_IN_PROGRESS)
    leader.join()
    assert 3 == follower.joined().generation


def test_while_a_rebalance_goes_on(site: Site) -> None:
    """Commits are taken, a plan is not, and heartbeats say so."""
    topic, (leader, follower) = site.topic(), settled_pair(site)
    follower.send_join(metadata=b"other")
    eventually(lambda: leader.heartbeat() == Error.REBALANCE_IN_PROGRESS)
    assert Error.NONE == leader.commit(topic, 3)
    assert (Error.REBALANCE_IN_PROGRESS, b"") == leader.sync()


def test_before_the_plan_is_made(site: Site) -> None:
    """Commits are not taken."""
    topic, (leader, follower) = site.topic(), pair(site)
    assert Error.REBALANCE_IN_PROGRESS == follower.commit(topic, 3)
    assert Error.NONE == leader.heartbeat()


def test_who_waits_for_a_plan_hears_of_the_next_rebalance(site: Site) -> None:
    leader, follower = pair(site)
    follower.send_sync()
    leader.send_join(metadata=b"other")
    answer = follower.raw.receive()
    assert (Error.REBALANCE_IN_PROGRESS, b"") == (answer.error, answer.assignment)
    follower.join()
    assert 3 == leader.joined().generation


def test_strangers_and_the_past_are_refused(site: Site) -> None:
    topic, (leader, _) = site.topic(), settled_pair(site)
    unknown, illegal = Error.UNKNOWN_MEMBER_ID, Error.ILLEGAL_GENERATION
    assert unknown == leader.heartbeat(member="stranger")
    assert unknown == leader.commit(topic, 1, member="stranger")
    assert unknown == leader.commit(topic, 1, member="", generation=-1)
    assert illegal == leader.heartbeat(generation=1)
    assert illegal == leader.commit(topic, 1, generation=1)
    stranger = GroupMember(site.raw(), leader.group)
    stranger.id = "stranger"
    assert unknown == stranger.join().error
    assert unknown == stranger.sync()[0]
    assert unknown == stranger.leave()
    assert [(topic, 0, -1, -1, "")] == committed(site.raw(), leader.group, topic)


def test_another_protocol_is_refused(site: Site) -> None:
    leader, _ = settled_pair(site)
    other = GroupMember(site.raw(), leader.group)
    other.send_join(protocol="other")
    assert Error.INCONSISTENT_GROUP_PROTOCOL == other.joined().error


def test_who_leaves_is_gone(site: Site) -> None:
    leader, follower = settled_pair(site)
    assert Error.NONE == leader.leave()
    assert Error.UNKNOWN_MEMBER_ID == leader.heartbeat()
    assert Error.REBALANCE_IN_PROGRESS == follower.heartbeat()
    answer = follower.join()
    assert (3, follower.id) == (answer.generation, answer.leader)


def test_offsets_are_kept_as_they_were_committed(site: Site) -> None:
    topic, other = site.topic(), site.topic("other")
    group, raw = site.group(), site.raw()
    assert Error.NONE == commit(raw, topic, 5, group=group)
    assert Error.NONE == commit(raw, topic, 3, group=group)
    assert [(topic, 0, 3, 0, "said")] == committed(raw, group)
    both = [(topic, 0, 3, 0, "said"), (other, 0, -1, -1, "")]
    assert both == sorted(committed(raw, group, topic, other), reverse=topic > other)


def test_offsets_outlive_the_members(site: Site) -> None:
    topic, group = site.topic(), site.group()
    member = GroupMember(site.raw(), group)
    member.join()
    member.sync(**{member.id: b"all"})
    member.commit(topic, 4)
    member.leave()
    assert [(topic, 0, 4, 0, "said")] == committed(site.raw(), group)
    assert Error.NONE == commit(site.raw(), topic, 5, group=group)
    assert Error.UNKNOWN_MEMBER_ID == member.commit(topic, 6)
    assert [(topic, 0, 5, 0, "said")] == committed(site.raw(), group)


def test_a_topic_that_is_deleted_takes_its_offsets_along(site: Site) -> None:
    topic, group, raw = site.topic(), site.group(), site.raw()
    commit(raw, topic, 5, group=group)
    admin = site.admin()
    admin.delete_topics([topic])
    eventually(lambda: committed(raw, group) == [] and topic not in admin.list_topics())


def test_a_commit_for_no_partition_is_refused(site: Site) -> None:
    topic, group = site.topic(), site.group()
    refused = commit(site.raw(), topic, 1, partition=7, group=group)
    assert Error.UNKNOWN_TOPIC_OR_PARTITION == refused


# Transactions


def of_transaction(batch: Batch) -> Batch:
    return batch._replace(attributes=0x10).without(set(), 0)


def test_a_record_of_no_transaction_is_refused(site: Site) -> None:
    """From a producer that has not said where it writes, and from one that was fenced off."""
    topic, raw, name = site.topic(), site.raw(), site.name("writer")
    eventually(lambda: raw.ask("FindCoordinator", key=name, key_type=1).error == 0)
    begun: list[SimpleNamespace] = []

    def begin() -> bool:
        begun.append(raw.ask("InitProducerId", transactional_id=name, timeout=60_000))
        return begun[-1].error == 0

    eventually(begin)
    identity = begun[-1].producer_id

    def store(sequence: int) -> int:
        batch = of_transaction(of_producer(identity, sequence))
        return produce(raw, topic, batch, transactional_id=name).error

    assert Error.INVALID_TXN_STATE == store(0)
    who = {"transactional_id": name, "producer_id": identity, "producer_epoch": 0}
    where = [{"name": topic, "partitions": [0]}]
    assert 0 == raw.ask("AddPartitionsToTxn", **who, topics=where).topics[0].partitions[0].error
    assert Error.NONE == store(0)
    eventually(begin)
    assert Error.INVALID_PRODUCER_EPOCH == store(1)


def transactional(site: Site) -> KafkaProducer:
    producer = site.producer(transactional_id=site.name("writer"))
    producer.init_transactions()
    return producer


def visible(site: Site, topic: str, isolation: str) -> tuple[list[int], int]:
    """The offsets that a reader gets, up to the end that it is told."""
    reader = site.reader(topic, isolation_level=isolation)
    part = TopicPartition(topic, 0)
    end = reader.end_offsets([part])[part]
    got: list[int] = []

    def at_the_end() -> bool:
        got.extend(record.offset for each in reader.poll(50).values() for record in each)
        return reader.position(part) >= end

    eventually(at_the_end)
    return got, end


def test_a_transaction_is_seen_when_it_is_committed(site: Site) -> None:
    topic, producer = site.topic(), transactional(site)
    for outcome in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.send(topic, b"v").get(PATIENCE)
        outcome()
    producer.begin_transaction()
    producer.send(topic, b"v").get(PATIENCE)
    # Each end of a transaction takes an offset.
    assert ([0, 2, 4], 5) == visible(site, topic, "read_uncommitted")
    assert ([0], 4) == visible(site, topic, "read_committed")
    producer.commit_transaction()
    assert ([0, 4], 6) == visible(site, topic, "read_committed")


def test_offsets_are_committed_with_the_transaction(site: Site) -> None:
    topic, group = site.topic(), site.group()
    producer, raw = transactional(site), site.raw()
    for outcome, offset in ((producer.commit_transaction, 7), (producer.abort_transaction, 8)):
        producer.begin_transaction()
        offsets = {TopicPartition(topic, 0): OffsetAndMetadata(offset, "", -1)}
        producer.send_offsets_to_transaction(offsets, group)
        outcome()
    eventually(lambda: [(topic, 0, 7, -1, "")] == committed(raw, group, topic))


def test_a_second_producer_of_the_name_fences_the_first(site: Site) -> None:
    topic, first = site.topic(), transactional(site)
    first.begin_transaction()
    first.send(topic, b"lost").get(PATIENCE)
    second = transactional(site)
    with pytest.raises(KafkaError):
        first.commit_transaction()
    second.begin_transaction()
    second.send(topic, b"kept").get(PATIENCE)
    second.commit_transaction()
    assert ([2], 4) == visible(site, topic, "read_committed")


# What a test can see


def test_topics_come_into_being_when_they_are_named() -> None:
    with FakeKafka(partitions=3) as broker, contextlib.closing(Site(broker.bootstrap)) as site:
        site.produce("named", b"v", partition=2)
        broker.append("appended", b"v")
        broker.create_topic("created", partitions=5)
        assert {"named": 3, "appended": 3, "created": 5} == broker.topics


def test_asking_about_a_topic_need_not_create_it(fake: FakeKafka, local: Site) -> None:
    (topic,) = local.raw().ask("Metadata", topics=["none"], create=False).topics
    assert Error.UNKNOWN_TOPIC_OR_PARTITION == topic.error
    (topic,) = local.raw().ask("Metadata", topics=["not good"], create=True).topics
    assert Error.INVALID_TOPIC_EXCEPTION == topic.error
    assert {} == fake.topics


def test_records_are_seen_with_their_bytes(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders", partitions=2)
    producer = local.producer()
    headers = [("traceparent", b"00"), ("traceparent", b"\xff")]
    producer.send("orders", b"v", b"k", headers, 1, timestamp_ms=5).get(PATIENCE)
    producer.send("orders", None, b"k", None, 0, timestamp_ms=6).get(PATIENCE)
    raw = [(b"traceparent", b"00"), (b"traceparent", b"\xff")]
    first, second = Record(0, 0, b"k", None, [], 6), Record(1, 0, b"k", b"v", raw, 5)
    assert [first, second] == fake.records("orders")
    assert [second] == fake.records("orders", 1)
    assert (1, 1) == (fake.end("orders"), fake.end("orders", 1))


def test_compressed_records_are_seen_too(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    local.produce("orders", b"x" * 2_000, compression_type="gzip")
    assert [b"x" * 2_000] == [record.value for record in fake.records("orders")]


def test_commits_are_seen_in_their_order(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders", partitions=2)
    raw = local.raw()
    commit(raw, "orders", 5, group="g")
    commit(raw, "orders", 7, partition=1, group="g")
    commit(raw, "orders", 3, group="g")
    commit(raw, "orders", 4, group="g", generation=2, member="stranger")
    assert [
        Commit("g", "orders", 0, 5, 0, Error.NONE),
        Commit("g", "orders", 1, 7, 0, Error.NONE),
        Commit("g", "orders", 0, 3, 0, Error.NONE),
        Commit("g", "orders", 0, 4, 0, Error.UNKNOWN_MEMBER_ID),
    ] == fake.commits
    assert {("orders", 0): 3, ("orders", 1): 7} == fake.committed("g")
    assert {} == fake.committed("other")


def test_leader_epochs_go_round(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"v")
    consumer = local.consumer("orders", group="g")
    (record,) = take(consumer, 1)
    assert LEADER_EPOCH == record.leader_epoch
    consumer.commit({TopicPartition("orders", 0): OffsetAndMetadata(1, "", record.leader_epoch)})
    assert [Commit("g", "orders", 0, 1, LEADER_EPOCH, Error.NONE)] == fake.commits


def test_a_groups_life_is_seen(fake: FakeKafka, local: Site) -> None:
    assert ([], 0, "Dead") == (fake.members("g"), fake.generation("g"), fake.group_state("g"))
    member = GroupMember(local.raw(), "g")
    member.join()
    assert (["r"], 1, "CompletingRebalance") == (
        fake.members("g"),
        fake.generation("g"),
        fake.group_state("g"),
    )
    member.sync()
    assert "Stable" == fake.group_state("g")
    member.leave()
    assert ([], 2, "Empty") == (fake.members("g"), fake.generation("g"), fake.group_state("g"))


def test_requests_are_logged_with_what_they_said(fake: FakeKafka, local: Site) -> None:
    commit(local.raw(), "orders", 5, group="g")
    (request,) = fake.requests("OffsetCommit")
    assert ("OffsetCommit", 6, "r", "g", 5) == (
        request.api,
        request.version,
        request.client_id,
        request.body.group,
        request.body.topics[0].partitions[0].offset,
    )
    assert [request] == fake.log
    with pytest.raises(ValueError, match="no API is called 'Commit'"):
        fake.requests("Commit")


def test_until_says_when_it_never_comes(fake: FakeKafka) -> None:
    assert not fake.until(lambda: bool(fake.log), timeout=0.01)


# What a test can put there


def test_records_of_any_bytes_can_be_put_there(fake: FakeKafka, local: Site) -> None:
    headers = [(b"\xff", b"\xfe"), (b"a", None), (b"a", b"")]
    assert 0 == fake.append("orders", b"v", b"k", headers, timestamp=5)
    assert 1 == fake.append("orders", None)
    assert Record(0, 0, b"k", b"v", headers, 5) == fake.records("orders")[0]
    (part,) = local.raw().ask("Fetch", **fetching("orders", 0)).topics[0].partitions
    assert b"".join(b"\x02" + each for each in (b"\xff", b"\xfe")) in part.records


def test_what_is_put_there_wakes_a_waiting_fetch(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    raw = local.raw()
    raw.send("Fetch", **fetching("orders", 0, max_wait=60_000))
    assert fake.until(lambda: len(fake.requests("Fetch")) == 1)
    fake.append("orders", b"v")
    assert raw.receive().topics[0].partitions[0].records


def test_offsets_can_have_gaps(fake: FakeKafka, local: Site) -> None:
    fake.skip("orders", 2)
    fake.append("orders", b"v")
    fake.skip("orders")
    fake.append("orders", b"v")
    fake.skip("orders", 3)
    reader = local.reader("orders")
    assert [2, 4] == [record.offset for record in take(reader, 2)]
    assert 8 == fake.end("orders")
    assert ([2, 4], 8) == visible(local, "orders", "read_committed")


def test_logs_can_be_compacted(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    local.produce("orders", b"0", b"1", b"2", linger_ms=50)
    fake.append("orders", b"3")
    fake.append("orders", b"4")
    fake.compact("orders", 0, 2, 3)
    assert [b"1", b"4"] == [record.value for record in fake.records("orders")]
    got = [(record.offset, record.value) for record in take(local.reader("orders"), 2)]
    assert [(1, b"1"), (4, b"4")] == got
    with pytest.raises(KeyError, match="no records at"):
        fake.compact("orders", 2)


# What a test can provoke

REFUSED, TOO_LARGE = 29, 10  # TOPIC_AUTHORIZATION_FAILED, MESSAGE_TOO_LARGE
NOT_LEADER = 6  # retriable


def test_a_produce_that_fails_for_a_while_is_sent_again(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.fail_produces(NOT_LEADER, times=2)
    assert [0] == local.produce("orders", b"v")
    assert 3 == len(fake.requests("Produce"))
    assert [b"v"] == [record.value for record in fake.records("orders")]


@pytest.mark.parametrize(
    ("code", "error"),
    [(REFUSED, TopicAuthorizationFailedError), (TOO_LARGE, MessageSizeTooLargeError)],
)
def test_a_produce_can_fail_for_good(
    fake: FakeKafka, local: Site, code: int, error: type[KafkaError]
) -> None:
    fake.create_topic("orders")
    fake.fail_produces(code)
    with pytest.raises(error):
        local.produce("orders", b"v")
    assert [] == fake.records("orders")
    assert [0] == local.produce("orders", b"v")


def test_only_produces_to_one_topic_may_fail(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.create_topic("letters")
    fake.fail_produces(REFUSED, topic="letters")
    assert [0] == local.produce("orders", b"v")
    with pytest.raises(TopicAuthorizationFailedError):
        local.produce("letters", b"v")


def test_one_request_may_fail_in_part(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.create_topic("letters")
    fake.fail_produces(REFUSED, topic="letters")
    ready = [{"index": 0, "records": build(None, b"v", (), 0).raw}]
    topics = [{"name": name, "partitions": ready} for name in ("orders", "letters")]
    answer = local.raw().ask("Produce", transactional_id=None, acks=1, timeout=5_000, topics=topics)
    assert [0, REFUSED] == [topic.partitions[0].error for topic in answer.topics]
    assert (1, 0) == (fake.end("orders"), fake.end("letters"))


def test_a_produce_may_fail_although_it_is_stored(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.fail_produces(NOT_LEADER, stored=True)
    plain = {"enable_idempotence": False} if IS_3 else {}
    assert [1] == local.produce("orders", b"v", **plain)
    assert 2 == len(fake.records("orders"))
    fake.fail_produces(NOT_LEADER, stored=True)
    assert [2] == local.produce("orders", b"v", enable_idempotence=True)
    assert 3 == len(fake.records("orders"))


@pytest.mark.parametrize("happens", [False, True])
def test_a_produce_may_never_be_answered(fake: FakeKafka, local: Site, happens: bool) -> None:
    """The client gives the connection up, and a producer that is idempotent sends it again."""
    fake.create_topic("orders")
    fake.silence("Produce", happens=happens)
    producer = local.producer(enable_idempotence=True, request_timeout_ms=300)
    sent = producer.send("orders", b"v")
    assert 0 == sent.get(PATIENCE).offset
    assert (2, 1) == (len(fake.requests("Produce")), len(fake.records("orders")))


def test_what_is_never_answered_may_happen(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.silence("Produce", happens=True)
    raw, ready = local.raw(), {"index": 0, "records": build(None, b"v", (), 0).raw}
    topics = [{"name": "orders", "partitions": [ready]}]
    raw.send("Produce", transactional_id=None, acks=1, timeout=5_000, topics=topics)
    assert fake.until(lambda: len(fake.records("orders")) == 1)
    assert not raw.answered()


def test_silence_may_be_about_one_topic(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.create_topic("letters")
    fake.silence("Produce", about="letters")
    assert [0] == local.produce("orders", b"v")
    local.produce("letters", b"v", request_timeout_ms=300)
    asked = [request.body.topics[0].name for request in fake.requests("Produce")]
    assert ["orders", "letters", "letters"] == asked


def test_requests_can_be_held(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.hold("Produce")
    sent = local.producer().send("orders", b"v")
    assert fake.until(lambda: len(fake.requests("Produce")) == 1)
    assert ([], False) == (fake.records("orders"), sent.is_done)
    fake.release("Produce")
    assert 0 == sent.get(PATIENCE).offset


def test_a_commit_can_fail(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"v")
    consumer = local.consumer("orders", group="g")
    take(consumer, 1)
    fake.fail_commits(Error.ILLEGAL_GENERATION, group="g")
    with pytest.raises(CommitFailedError):
        consumer.commit()
    assert {} == fake.committed("g")
    assert [Error.ILLEGAL_GENERATION] == [commit.error for commit in fake.commits]


def test_a_commit_that_fails_for_a_while_is_sent_again(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"v")
    consumer = local.consumer("orders", group="g")
    take(consumer, 1)
    fake.fail_commits(Error.COORDINATOR_LOAD_IN_PROGRESS, times=2)
    fake.fail_commits(Error.ILLEGAL_GENERATION, group="other")
    consumer.commit()
    assert {("orders", 0): 1} == fake.committed("g")
    assert [14, 14, 0] == [commit.error for commit in fake.commits]


def test_a_commit_may_fail_although_it_is_kept(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    fake.fail_commits(Error.NOT_COORDINATOR, stored=True)
    assert Error.NOT_COORDINATOR == commit(local.raw(), "orders", 5, group="g")
    assert {("orders", 0): 5} == fake.committed("g")


def test_a_commit_may_never_be_answered(fake: FakeKafka, local: Site) -> None:
    fake.create_topic("orders")
    raw = local.raw()
    fake.silence("OffsetCommit", about="g")
    part = {"index": 0, "offset": 5, "leader_epoch": -1, "metadata": ""}
    topics = [{"name": "orders", "partitions": [part]}]
    raw.send("OffsetCommit", group="g", generation=-1, member="", topics=topics)
    assert fake.until(lambda: len(fake.requests("OffsetCommit")) == 1)
    raw.send("ListGroups")
    assert Error.NONE == commit(local.raw(), "orders", 6, group="g")
    assert not raw.answered()
    assert [6] == [commit.offset for commit in fake.commits]


def test_clients_get_over_lost_connections(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"0")
    producer, consumer = local.producer(), local.consumer("orders", group="g")
    take(consumer, 1)
    producer.send("orders", b"1").get(PATIENCE)
    fake.cut_connections()
    producer.send("orders", b"2").get(PATIENCE)
    assert [b"1", b"2"] == [record.value for record in take(consumer, 2)]
    consumer.commit()
    assert {("orders", 0): 3} == fake.committed("g")


def test_a_broker_comes_back_with_all_it_had(fake: FakeKafka, local: Site) -> None:
    producer, consumer = local.producer(), local.consumer("orders", group="g")
    producer.send("orders", b"0").get(PATIENCE)
    take(consumer, 1)
    consumer.commit()
    generation = fake.generation("g")
    fake.stop()
    assert 0 == fake.connections()
    with pytest.raises(ConnectionRefusedError):
        local.raw()
    sent = producer.send("orders", b"1")
    fake.start()
    assert 1 == sent.get(PATIENCE).offset
    assert [b"1"] == [record.value for record in take(consumer, 1)]
    consumer.commit()
    assert ({("orders", 0): 2}, generation) == (fake.committed("g"), fake.generation("g"))


def test_sessions_do_not_run_out_while_the_broker_is_down(fake: FakeKafka, local: Site) -> None:
    member = GroupMember(local.raw(), "g", session_timeout=200)
    member.join()
    member.sync()
    fake.stop()
    assert not fake.until(lambda: fake.members("g") == [], timeout=0.4)
    fake.start()
    member.raw = local.raw()
    assert Error.NONE == member.heartbeat()
    assert fake.until(lambda: fake.members("g") == [])


def test_a_rebalance_can_be_provoked(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"0")
    consumer = local.consumer("orders", group="g")
    take(consumer, 1)
    before = fake.generation("g")
    fake.rebalance("g")
    assert "PreparingRebalance" == fake.group_state("g")

    def again() -> bool:
        consumer.poll(timeout_ms=500)
        return fake.group_state("g") == "Stable"

    eventually(again)
    assert before + 1 == fake.generation("g")


def test_members_can_be_evicted(fake: FakeKafka, local: Site) -> None:
    fake.append("orders", b"0")
    consumer = local.consumer("orders", group="g", client_id="me", heartbeat_interval_ms=9_000)
    take(consumer, 1)
    fake.evict("g", "somebody else")
    assert ["me"] == fake.members("g")
    fake.evict("g")
    assert ([], "Empty") == (fake.members("g"), fake.group_state("g"))
    with pytest.raises(CommitFailedError):
        consumer.commit()
    assert [Error.UNKNOWN_MEMBER_ID] == [commit.error for commit in fake.commits]


def test_who_gives_no_sign_of_life_is_expired(fake: FakeKafka, local: Site) -> None:
    quiet = GroupMember(local.raw(), "g", session_timeout=100)
    lively = GroupMember(local.raw(), "g", session_timeout=60_000)
    quiet.join()
    quiet.sync()
    lively.introduce()
    lively.send_join()
    assert (2, lively.id) == (lively.joined().generation, lively.leader)
    assert Error.UNKNOWN_MEMBER_ID == quiet.heartbeat()


def test_signs_of_life_keep_a_member(fake: FakeKafka, local: Site) -> None:
    member = GroupMember(local.raw(), "g", session_timeout=1_500)
    member.join()
    member.sync()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert Error.NONE == member.heartbeat()
    assert fake.until(lambda: fake.members("g") == [])


def test_who_does_not_join_again_in_time_is_left_behind(fake: FakeKafka, local: Site) -> None:
    raw = local.raw()
    slow = GroupMember(local.raw(), "g")
    slow.introduce()
    join = {"protocol_type": "consumer", "protocols": [{"name": "range", "metadata": b""}]}
    times = {"session_timeout": 60_000, "rebalance_timeout": 100}
    assert 0 == raw.ask("JoinGroup", group="g", member=slow.id, **times, **join).error
    first = raw.ask("JoinGroup", group="g", member="", **times, **join).member
    assert 2 == raw.ask("JoinGroup", group="g", member=first, **times, **join).generation
    assert Error.UNKNOWN_MEMBER_ID == slow.heartbeat()


def test_the_first_generation_can_be_delayed() -> None:
    with FakeKafka(join_delay=60) as broker, contextlib.closing(Site(broker.bootstrap)) as site:
        member = GroupMember(site.raw(), "g")
        member.introduce()
        member.send_join()
        assert broker.until(lambda: broker.members("g") == ["r"])
        assert ("PreparingRebalance", 0) == (broker.group_state("g"), broker.generation("g"))


# Versions


def test_old_producers_are_understood(fake: FakeKafka, local: Site) -> None:
    """In the formats that had no headers yet."""
    fake.create_topic("orders")
    plain = {"enable_idempotence": False} if IS_3 else {}
    producer = local.producer(api_version=(0, 10, 2), linger_ms=20, **plain)
    sent = [producer.send("orders", value, b"k", timestamp_ms=5) for value in (b"0", None)]
    assert [0, 1] == [each.get(PATIENCE).offset for each in sent]
    assert [2] * len(fake.requests("Produce")) == [r.version for r in fake.requests("Produce")]
    stored = [Record(0, 0, b"k", b"0", [], 5), Record(0, 1, b"k", None, [], 5)]
    assert stored == fake.records("orders")


def test_clients_find_out_what_is_spoken(fake: FakeKafka, local: Site) -> None:
    """Old ones in their encoding, new ones in theirs, those from the future in the oldest."""
    answer = local.raw().ask("ApiVersions", 2)
    apis = [{"key": each.key, "first": each.first, "last": each.last} for each in answer.apis]
    assert apis == [
        {"key": api.key, "first": api.versions[0], "last": api.versions[-1]}
        for api in APIS.values()
    ]
    local.producer()
    assert {2, 4} == {request.version for request in fake.requests("ApiVersions")}


def test_a_version_from_the_future_is_answered_in_the_oldest(fake: FakeKafka, local: Site) -> None:
    raw = local.raw()
    head = pack("i16", 18) + pack("i16", 9) + pack("i32", 7) + pack("i16", 1) + b"r"
    raw._socket.sendall(pack("i32", len(head)) + head)
    raw._waiting = (BY_NAME["ApiVersions"], 0)
    assert Error.UNSUPPORTED_VERSION == raw.receive().error


def test_what_it_does_not_speak_is_a_failure() -> None:
    broker = FakeKafka()
    raw = Raw(broker.bootstrap)
    head = pack("i16", 3) + pack("i16", 12) + pack("i32", 7) + pack("i16", 1) + b"r"
    raw._socket.sendall(pack("i32", len(head)) + head)
    with pytest.raises(ConnectionError):
        raw.receive()
    raw.close()
    with pytest.raises(RuntimeError, match="a request was not understood") as caught:
        broker.close()
    assert "the fake broker has no API 3 in version 12" == str(caught.value.__cause__)
    broker.close()


# The end


def test_nothing_is_left_after_close() -> None:
    threads, files = threading.active_count(), open_files()
    broker = FakeKafka()
    raw, waiting = Raw(broker.bootstrap), Raw(broker.bootstrap)
    raw.ask("ListGroups")
    waiting.send("Fetch", **fetching("none", 0, max_wait=60_000))
    broker.close()
    broker.close()
    raw.close()
    waiting.close()
    assert (threads, files) == (threading.active_count(), open_files())


def test_brokers_share_nothing(fake: FakeKafka) -> None:
    with FakeKafka() as other:
        fake.append("orders", b"v")
        assert {} == other.topics


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))
