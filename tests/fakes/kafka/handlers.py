"""What a client may ask for: a request goes to the function named after its API.

The function returns the answer, or a function that has it as soon as there is one and None before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from .groups import Answer, Group, MemberIdRequiredError, Position, not_joined
from .logs import LEADER_EPOCH, Partition, RefusedError
from .protocol import Error, spoken
from .records import Batch, CompressedError, CorruptError, parse
from .state import Commit, Fault, Producer, Request, State, outcome

NODE = 1
CLUSTER = "hopspan-fake-cluster-1"
NO_ANSWER: Answer = {}
Later = Callable[[], "Answer | None"]

_EARLIEST, _LATEST = -2, -1
_NOT_ASKED_FOR = -(2**31)
_GROUP_OPERATIONS = 3400  # everything that can be done to a group, as a set of bits
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Handlers:
    """Answers to requests; called with the state locked."""

    def __init__(self, state: State, host: str, port: int) -> None:
        self._state, self._host, self._port = state, host, port

    def answer(self, request: Request) -> Answer | Later:
        """What its handler says; nothing, ever, where that is planned."""
        handler: Callable[..., Answer | Later] = getattr(self, f"on_{_snake(request.api)}")
        fault = self._state.fault(request.api, _names(request.body))
        if fault is None or fault.error is not None:
            return handler(request, fault)
        if fault.happens:
            handler(request, None)
        return _never

    def on_api_versions(self, request: Request, _: Fault | None) -> Answer:
        return {"error": Error.NONE, "apis": spoken(), "throttle": 0}

    # Topics

    def on_metadata(self, request: Request, _: Fault | None) -> Answer:
        asked = request.body.topics
        if asked is None or (request.version == 0 and not asked):
            asked = list(self._state.topics)
        create = getattr(request.body, "create", True)
        return {
            "throttle": 0,
            "brokers": [{"node": NODE, "host": self._host, "port": self._port, "rack": None}],
            "cluster": CLUSTER,
            "controller": NODE,
            "topics": [self._describe_topic(name, create=create) for name in asked],
        }

    def _describe_topic(self, name: str, *, create: bool) -> Answer:
        error = Error.NONE
        if not _TOPIC_NAME.fullmatch(name):
            error = Error.INVALID_TOPIC_EXCEPTION
        elif name not in self._state.topics:
            if create:
                self._state.create(name, self._state.default_partitions)
            else:
                error = Error.UNKNOWN_TOPIC_OR_PARTITION
        count = len(self._state.topics.get(name, []))
        partitions = [_describe_partition(index) for index in range(count)]
        return {"error": error, "name": name, "internal": False, "partitions": partitions}

    def on_create_topics(self, request: Request, _: Fault | None) -> Answer:
        only_check = getattr(request.body, "validate_only", False)
        results = []
        for topic in request.body.topics:
            error = self._check_new(topic.name, topic.partitions)
            if error is Error.NONE and not only_check:
                self._state.create(topic.name, self._count(topic.partitions))
            results.append({"name": topic.name, "error": error, "message": None})
        return {"throttle": 0, "topics": results}

    def _count(self, partitions: int) -> int:
        return self._state.default_partitions if partitions == -1 else partitions

    def _check_new(self, name: str, partitions: int) -> Error:
        if name in self._state.topics:
            return Error.TOPIC_ALREADY_EXISTS
        if not _TOPIC_NAME.fullmatch(name):
            return Error.INVALID_TOPIC_EXCEPTION
        return Error.NONE if self._count(partitions) > 0 else Error.INVALID_PARTITIONS

    def on_delete_topics(self, request: Request, _: Fault | None) -> Answer:
        results = []
        for name in request.body.topics:
            gone = self._state.topics.pop(name, None)
            for group in self._state.groups.values():
                group.forget(name)
            error = Error.UNKNOWN_TOPIC_OR_PARTITION if gone is None else Error.NONE
            results.append({"name": name, "error": error})
        return {"throttle": 0, "topics": results}

    # Writing

    def on_init_producer_id(self, request: Request, _: Fault | None) -> Answer:
        name = request.body.transactional_id
        producer = self._state.transactions.get(name) if name else None
        if producer is None:
            producer = Producer(next(self._state.producer_ids))
        else:
            self._end(producer, commit=False)
            producer.epoch += 1
        if name:
            self._state.transactions[name] = producer
        return {
            "throttle": 0,
            "error": Error.NONE,
            "producer_id": producer.id,
            "producer_epoch": producer.epoch,
        }

    def on_produce(self, request: Request, fault: Fault | None) -> Answer:
        def result(topic: str, part: SimpleNamespace) -> Answer:
            error, base = self._store(topic, part, fault)
            times = {"append_time": -1, "log_start": 0 if base >= 0 else -1}
            return {"index": part.index, "error": error, "base_offset": base, **times}

        topics = _each(request.body.topics, result)
        return {"topics": topics, "throttle": 0} if request.body.acks else NO_ANSWER

    def _store(self, topic: str, part: SimpleNamespace, fault: Fault | None) -> tuple[int, int]:
        planned = fault if fault and fault.name in {None, topic} else None
        if planned and not planned.happens:
            return planned.error or 0, -1
        error, base = self._append(topic, part)
        return (planned.error or 0, -1) if planned else (error, base)

    def _append(self, topic: str, part: SimpleNamespace) -> tuple[Error, int]:
        try:
            partition = self._state.partition(topic, part.index)
            batches = parse(part.records)
            for batch in batches:
                self._check_transaction(batch, (topic, part.index))
            bases = [partition.append(batch) for batch in batches]
        except RefusedError as refusal:
            return refusal.error, -1
        except CorruptError:
            return Error.CORRUPT_MESSAGE, -1
        except CompressedError:
            return Error.UNSUPPORTED_COMPRESSION_TYPE, -1
        return Error.NONE, bases[0]

    def _check_transaction(self, batch: Batch, where: tuple[str, int]) -> None:
        if not batch.transactional:
            return
        for producer in self._state.transactions.values():
            if producer.id == batch.producer_id:
                if producer.epoch != batch.producer_epoch:
                    raise RefusedError(Error.INVALID_PRODUCER_EPOCH)
                if where in producer.partitions:
                    return
        raise RefusedError(Error.INVALID_TXN_STATE)

    # Reading

    def on_fetch(self, request: Request, _: Fault | None) -> Later:
        """Wait for enough bytes, an error, or the end of the client's patience."""
        deadline = time.monotonic() + request.body.max_wait / 1000
        self._state.schedule(request.body.max_wait / 1000)

        def look() -> Answer | None:
            topics = self._fetch(request.body)
            parts = [part for topic in topics for part in topic["partitions"]]
            enough = sum(len(part["records"]) for part in parts) >= request.body.min_bytes
            failed = any(part["error"] for part in parts)
            if not (enough or failed or time.monotonic() >= deadline):
                return None
            return {"throttle": 0, "error": Error.NONE, "session": 0, "topics": topics}

        return look

    def _fetch(self, body: SimpleNamespace) -> list[Answer]:
        left = body.max_bytes
        committed = body.isolation == 1

        def result(topic: str, part: SimpleNamespace) -> Answer:
            nonlocal left
            fetched = self._fetch_partition(topic, part, committed=committed, left=left)
            left -= len(fetched["records"])
            return fetched

        return _each(body.topics, result)

    def _fetch_partition(
        self, topic: str, part: SimpleNamespace, *, committed: bool, left: int
    ) -> Answer:
        answer = {"index": part.index, "log_start": 0, "aborted": None, "records": b""}
        marks = {"high_watermark": -1, "last_stable": -1}
        try:
            partition = self._state.partition(topic, part.index)
            _check_epoch(part)
            size = min(part.max_bytes, left)
            records = partition.read(part.offset, size, committed=committed) if left > 0 else b""
        except RefusedError as refusal:
            return {**answer, **marks, "error": refusal.error}
        marks = {
            "high_watermark": partition.end,
            "last_stable": partition.readable(committed=True),
        }
        aborted = [
            {"producer_id": each.producer_id, "first_offset": each.first}
            for each in partition.aborted(part.offset)
        ]
        answer.update(records=records, aborted=aborted if committed else None)
        return {**answer, **marks, "error": Error.NONE}

    def on_list_offsets(self, request: Request, _: Fault | None) -> Answer:
        committed = getattr(request.body, "isolation", 0) == 1

        def result(topic: str, part: SimpleNamespace) -> Answer:
            found = (-1, -1)

            def look() -> None:
                nonlocal found
                _check_epoch(part)
                partition = self._state.partition(topic, part.index)
                found = _find(partition, part.timestamp, committed=committed)

            error = outcome(look)
            timestamp, offset = found
            epoch = LEADER_EPOCH if offset >= 0 else -1
            where = {"timestamp": timestamp, "offset": offset, "leader_epoch": epoch}
            return {"index": part.index, "error": error, **where}

        return {"throttle": 0, "topics": _each(request.body.topics, result)}

    def on_offset_for_leader_epoch(self, request: Request, _: Fault | None) -> Answer:
        def result(topic: str, part: SimpleNamespace) -> Answer:
            found = {"leader_epoch": -1, "end_offset": -1}

            def look() -> None:
                _check_epoch(part)
                partition = self._state.partition(topic, part.index)
                if part.leader_epoch == LEADER_EPOCH:
                    found.update(leader_epoch=LEADER_EPOCH, end_offset=partition.end)

            return {"error": outcome(look), "index": part.index, **found}

        return {"throttle": 0, "topics": _each(request.body.topics, result)}

    # Groups

    def on_find_coordinator(self, request: Request, _: Fault | None) -> Answer:
        where = {"node": NODE, "host": self._host, "port": self._port}
        return {"throttle": 0, "error": Error.NONE, "message": None, **where}

    def on_join_group(self, request: Request, _: Fault | None) -> Answer | Later:
        group = self._state.group(request.body.group)
        try:
            member = group.join(request.body, request.client_id, request.version)
        except MemberIdRequiredError as refusal:
            return not_joined(refusal.identity, refusal.error)
        except RefusedError as refusal:
            return not_joined(request.body.member, refusal.error)
        return lambda: member.joined

    def on_sync_group(self, request: Request, _: Fault | None) -> Answer | Later:
        try:
            member = self._state.group(request.body.group).sync(request.body)
        except RefusedError as refusal:
            return {"throttle": 0, "error": refusal.error, "assignment": b""}
        return lambda: member.synced

    def on_heartbeat(self, request: Request, _: Fault | None) -> Answer:
        group = self._state.group(request.body.group)
        return {"throttle": 0, "error": outcome(lambda: group.heartbeat(request.body))}

    def on_leave_group(self, request: Request, _: Fault | None) -> Answer:
        group = self._state.group(request.body.group)
        return {"throttle": 0, "error": outcome(lambda: group.leave(request.body.member))}

    def on_describe_groups(self, request: Request, _: Fault | None) -> Answer:
        asked = getattr(request.body, "operations", False)
        operations = _GROUP_OPERATIONS if asked else _NOT_ASKED_FOR
        groups = [self._describe_group(name) for name in request.body.groups]
        return {
            "throttle": 0,
            "groups": [{**group, "operations": operations} for group in groups],
        }

    def _describe_group(self, name: str) -> Answer:
        group = self._state.groups.get(name)
        members = group.members.values() if group else []
        return {
            "error": Error.NONE,
            "group": name,
            "state": group.state if group else "Dead",
            "protocol_type": group.protocol_type if group else "",
            "protocol": group.protocol if group else "",
            "members": [
                {
                    "member": member.id,
                    "client_id": member.client_id,
                    "host": f"/{self._host}",
                    "metadata": member.protocols.get(group.protocol, b"") if group else b"",
                    "assignment": member.assignment,
                }
                for member in members
            ],
        }

    def on_list_groups(self, request: Request, _: Fault | None) -> Answer:
        groups = [
            {"group": group.name, "protocol_type": group.protocol_type}
            for group in self._state.groups.values()
        ]
        return {"throttle": 0, "error": Error.NONE, "groups": groups}

    def on_delete_groups(self, request: Request, _: Fault | None) -> Answer:
        results = []
        for name in request.body.groups:
            group, error = self._state.groups.get(name), Error.NONE
            if group is None:
                error = Error.GROUP_ID_NOT_FOUND
            elif group.members:
                error = Error.NON_EMPTY_GROUP
            else:
                del self._state.groups[name]
            results.append({"group": name, "error": error})
        return {"throttle": 0, "groups": results}

    # Offsets of groups

    def on_offset_commit(self, request: Request, fault: Fault | None) -> Answer:
        body = request.body
        group = self._state.group(body.group)
        error = outcome(lambda: group.check_commit(body.member, body.generation))
        happens = error is Error.NONE and (fault is None or fault.happens)
        said = error if fault is None else fault.error

        def result(topic: str, part: SimpleNamespace) -> Answer:
            known = outcome(lambda: self._state.partition(topic, part.index))
            if happens and known is Error.NONE:
                self._commit(group, topic, part)
            each = said or known
            epoch = getattr(part, "leader_epoch", -1)
            where = (group.name, topic, part.index)
            self._state.commits.append(Commit(*where, part.offset, epoch, int(each or 0)))
            return {"index": part.index, "error": each}

        return {"throttle": 0, "topics": _each(body.topics, result)}

    def _commit(self, group: Group, topic: str, part: SimpleNamespace) -> None:
        epoch = getattr(part, "leader_epoch", -1)
        group.positions[topic, part.index] = Position(part.offset, epoch, part.metadata)

    def on_offset_fetch(self, request: Request, _: Fault | None) -> Answer:
        group = self._state.groups.get(request.body.group)
        positions = group.positions if group else {}
        asked = request.body.topics
        if asked is None:
            names = dict.fromkeys(topic for topic, _ in positions)
            wanted = {name: [at for topic, at in positions if topic == name] for name in names}
        else:
            wanted = {topic.name: topic.partitions for topic in asked}
        nothing = Position(-1, -1, "")
        topics = [
            {
                "name": name,
                "partitions": [
                    {
                        "index": index,
                        "error": Error.NONE,
                        **positions.get((name, index), nothing)._asdict(),
                    }
                    for index in indexes
                ],
            }
            for name, indexes in wanted.items()
        ]
        return {"throttle": 0, "topics": topics, "error": Error.NONE}

    # Transactions

    def _producer(self, body: SimpleNamespace) -> Producer:
        producer = self._state.transactions.get(body.transactional_id)
        if producer is None or producer.id != body.producer_id:
            raise RefusedError(Error.INVALID_PRODUCER_ID_MAPPING)
        if producer.epoch != body.producer_epoch:
            raise RefusedError(Error.INVALID_PRODUCER_EPOCH)
        return producer

    def on_add_partitions_to_txn(self, request: Request, _: Fault | None) -> Answer:
        def add(topic: str, index: int) -> None:
            self._state.partition(topic, index)
            self._producer(request.body).partitions.add((topic, index))

        topics = [
            {
                "name": topic.name,
                "partitions": [
                    {"index": index, "error": outcome(lambda: add(topic.name, index))}  # noqa: B023
                    for index in topic.partitions
                ],
            }
            for topic in request.body.topics
        ]
        return {"throttle": 0, "topics": topics}

    def on_add_offsets_to_txn(self, request: Request, _: Fault | None) -> Answer:
        return {"throttle": 0, "error": outcome(lambda: self._producer(request.body))}

    def on_txn_offset_commit(self, request: Request, _: Fault | None) -> Answer:
        """Remember them; they are the group's when the transaction is committed."""

        def add(topic: str, part: SimpleNamespace) -> None:
            self._state.partition(topic, part.index)
            self._producer(request.body).commits.append((request.body.group, topic, part))

        def result(topic: str, part: SimpleNamespace) -> Answer:
            return {"index": part.index, "error": outcome(lambda: add(topic, part))}

        return {"throttle": 0, "topics": _each(request.body.topics, result)}

    def on_end_txn(self, request: Request, _: Fault | None) -> Answer:
        def end() -> None:
            self._end(self._producer(request.body), commit=request.body.commit)

        return {"throttle": 0, "error": outcome(end)}

    def _end(self, producer: Producer, *, commit: bool) -> None:
        for topic, index in sorted(producer.partitions):
            if topic in self._state.topics:
                partition = self._state.partition(topic, index)
                partition.end_transaction(producer.id, producer.epoch, commit=commit)
        for name, topic, part in producer.commits if commit else []:
            self._commit(self._state.group(name), topic, part)
        producer.partitions.clear()
        producer.commits.clear()


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _names(body: SimpleNamespace) -> Iterable[str]:
    """What a request is about, as far as a fault may be about it."""
    topics = getattr(body, "topics", None) or []
    return [*(getattr(topic, "name", topic) for topic in topics), getattr(body, "group", "")]


def _each(topics: list[Any], result: Callable[[str, SimpleNamespace], Answer]) -> list[Answer]:
    return [
        {"name": topic.name, "partitions": [result(topic.name, part) for part in topic.partitions]}
        for topic in topics
    ]


def _describe_partition(index: int) -> Answer:
    replicas = {"replicas": [NODE], "isr": [NODE], "offline": []}
    leader = {"leader": NODE, "leader_epoch": LEADER_EPOCH}
    return {"error": Error.NONE, "index": index, **leader, **replicas}


def _find(partition: Partition, timestamp: int, *, committed: bool) -> tuple[int, int]:
    if timestamp == _LATEST:
        return -1, partition.readable(committed=committed)
    return (-1, 0) if timestamp == _EARLIEST else partition.offset_at(timestamp)


def _check_epoch(part: SimpleNamespace) -> None:
    epoch = getattr(part, "current_epoch", -1)
    if epoch not in {-1, LEADER_EPOCH}:
        older = epoch < LEADER_EPOCH
        raise RefusedError(Error.FENCED_LEADER_EPOCH if older else Error.UNKNOWN_LEADER_EPOCH)


def _never() -> None:
    return None
