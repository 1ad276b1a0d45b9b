"""What the broker keeps: exchanges and queues, and where a message goes next. No I/O, no threads.

Whoever reads or changes it holds `State.changed`.
"""

from __future__ import annotations

import bisect
import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pika import spec

from .messages import Entry, Message, RefusedError, time_to_live

_COMPARED = (
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-delivery-limit",
    "x-max-length",
    "x-message-ttl",
    "x-overflow",
    "x-queue-type",
)
_ACCEPTED = {*_COMPARED, "x-expires"}
_LOCKED = (
    "cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the "
    "original declaration."
)


class Consumer(Protocol):
    """What a queue needs of a consumer; the wire has it."""

    exclusive: bool

    def has_room(self) -> bool: ...
    def take(self, entry: Entry) -> None: ...
    def drop(self) -> None: ...


class Queue:
    __slots__ = (
        "arguments",
        "auto_delete",
        "consumers",
        "durable",
        "name",
        "owner",
        "quorum",
        "ready",
    )

    def __init__(self, declared: spec.Queue.Declare, owner: object) -> None:
        self.name = declared.queue or f"amq.gen-{secrets.token_urlsafe(16)}"
        self.durable, self.auto_delete = declared.durable, declared.auto_delete
        self.owner = owner if declared.exclusive else None
        self.arguments = declared.arguments or {}
        self.quorum = self.arguments.get("x-queue-type") == "quorum"
        self.ready: list[Entry] = []
        self.consumers: list[Consumer] = []
        self._check(declared)

    def _check(self, declared: spec.Queue.Declare) -> None:
        given = self.arguments
        drops_when_full = "x-max-length" in given and given.get("x-overflow") != "reject-publish"
        for name in given:
            known = name in _ACCEPTED and not (name == "x-max-length" and drops_when_full)
            if name.startswith("x-") and not known:
                raise RefusedError("NOT_IMPLEMENTED", f"the fake broker has no such '{name}'")
        only_key = "x-dead-letter-routing-key" in given and "x-dead-letter-exchange" not in given
        problems = {
            "arg 'x-queue-type'": given.get("x-queue-type") not in (None, "classic", "quorum"),
            "arg 'x-message-ttl'": not isinstance(given.get("x-message-ttl", 0), int),
            "arg 'x-delivery-limit'": "x-delivery-limit" in given and not self.quorum,
            "arg 'x-dead-letter-routing-key'": only_key,
            "property 'non-durable'": self.quorum and not self.durable,
            "property 'exclusive-owner'": self.quorum and self.owner,
            "property 'auto-delete'": self.quorum and self.auto_delete,
            "property 'server-named'": self.quorum and not declared.queue,
        }
        for problem in (name for name, is_there in problems.items() if is_there):
            reason = f"invalid {problem} for queue '{self.name}' in vhost '/'"
            raise RefusedError("PRECONDITION_FAILED", reason)

    @property
    def full(self) -> bool:
        limit = self.arguments.get("x-max-length")
        return limit is not None and len(self.ready) >= limit

    def matches(self, declared: spec.Queue.Declare) -> None:
        """Refuse a second declaration that is not the same as the first."""
        if bool(declared.exclusive) != (self.owner is not None):
            raise RefusedError("RESOURCE_LOCKED", _LOCKED.format(self.name))
        for name in ("durable", "auto_delete"):
            _compare(name, f"queue '{self.name}'", getattr(declared, name), getattr(self, name))
        for name in _COMPARED:
            default = "classic" if name == "x-queue-type" else None
            received = (declared.arguments or {}).get(name, default)
            _compare(name, f"queue '{self.name}'", received, self.arguments.get(name, default))

    def insert(self, entry: Entry) -> None:
        bisect.insort(self.ready, entry, key=lambda ready: ready.position)

    def expire(self, now: float) -> Iterator[Entry]:
        """Take out what is past its time, as RabbitMQ does only while it is at the head."""
        while self.ready and self.ready[0].deadline <= now:
            yield self.ready.pop(0)

    def deliver(self) -> None:
        """Hand out messages in order, to the consumers in turn, while any of them has room."""
        while self.ready and (
            consumer := next((one for one in self.consumers if one.has_room()), None)
        ):
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
            consumer.take(self.ready.pop(0))


class Exchange:
    __slots__ = ("auto_delete", "bindings", "durable", "type")

    def __init__(self, type_: str, durable: bool = True, auto_delete: bool = False) -> None:
        self.type, self.durable, self.auto_delete = type_, durable, auto_delete
        self.bindings: dict[tuple[str, str], dict[str, Any]] = {}

    def route(self, routing_key: str, headers: Mapping[str, Any]) -> list[str]:
        """The names of the queues a message goes to, each once."""
        matches = _MATCHES[self.type]
        given: Any = headers if self.type == "headers" else routing_key
        found = [
            queue
            for (queue, key), arguments in self.bindings.items()
            if matches(arguments if self.type == "headers" else key, given)
        ]
        return list(dict.fromkeys(found))


class State:
    """Everything in one broker; `schedule(delay)` must call `turn` again after so many seconds."""

    def __init__(self, schedule: Callable[[float], None]) -> None:
        self.changed = threading.Condition()
        self.queues: dict[str, Queue] = {}
        self.exchanges = {f"amq.{name}": Exchange(name) for name in _MATCHES}
        self.log: list[tuple[Any, ...]] = []
        self.nacking = False
        self._schedule = schedule
        self._order = itertools.count()

    def turn(self) -> None:
        """Let everything that can move, move: after every frame, and when a time is up."""
        with self.changed:
            now = time.monotonic()
            for queue in list(self.queues.values()):
                for entry in queue.expire(now):
                    self.dead_letter(entry, "expired")
            for queue in list(self.queues.values()):
                queue.deliver()
            self.changed.notify_all()

    # Queues and exchanges

    def queue(self, name: str, client: object) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            raise RefusedError("NOT_FOUND", f"no queue '{name}' in vhost '/'")
        if queue.owner not in (None, client):
            raise RefusedError("RESOURCE_LOCKED", _LOCKED.format(name))
        return queue

    def declare_queue(self, declared: spec.Queue.Declare, client: object) -> Queue:
        if declared.queue.startswith("amq."):
            reason = f"queue name '{declared.queue}' contains reserved prefix 'amq.*'"
            raise RefusedError("ACCESS_REFUSED", reason)
        if declared.queue in self.queues:
            self.queue(declared.queue, client).matches(declared)
            return self.queues[declared.queue]
        queue = Queue(declared, client)
        self.queues[queue.name] = queue
        return queue

    def delete_queue(self, queue: Queue) -> None:
        del self.queues[queue.name]
        for name, exchange in list(self.exchanges.items()):
            for binding in [binding for binding in exchange.bindings if binding[0] == queue.name]:
                self.unbind(name, *binding)
        for consumer in list(queue.consumers):
            consumer.drop()

    def leave(self, queue: Queue, consumer: Consumer) -> None:
        queue.consumers.remove(consumer)
        if queue.auto_delete and not queue.consumers and self.exists(queue):
            self.delete_queue(queue)

    def exists(self, queue: Queue) -> bool:
        return self.queues.get(queue.name) is queue

    def exchange(self, name: str) -> Exchange:
        if name not in self.exchanges:
            raise RefusedError("NOT_FOUND", f"no exchange '{name}' in vhost '/'")
        return self.exchanges[name]

    def declare_exchange(self, declared: spec.Exchange.Declare) -> None:
        if declared.type not in _MATCHES:
            raise RefusedError("COMMAND_INVALID", f"invalid exchange type '{declared.type}'")
        if declared.arguments or declared.internal:
            raise RefusedError("NOT_IMPLEMENTED", "the fake broker has only plain exchanges")
        new = Exchange(declared.type, declared.durable, declared.auto_delete)
        old = self.exchanges.setdefault(declared.exchange, new)
        for name in ("type", "durable", "auto_delete"):
            _compare(
                name, f"exchange '{declared.exchange}'", getattr(new, name), getattr(old, name)
            )

    def unbind(self, exchange_name: str, queue_name: str, key: str) -> None:
        exchange = self.exchanges.get(exchange_name)
        if exchange is None or (queue_name, key) not in exchange.bindings:
            return
        del exchange.bindings[queue_name, key]
        if exchange.auto_delete and not exchange.bindings:
            del self.exchanges[exchange_name]

    # Messages

    def publish(self, message: Message) -> tuple[bool, bool]:
        """Route it. Returns whether any queue matched, and whether all that did took it."""
        key = message.routing_key
        headers = message.properties.headers or {}
        names = self.exchange(message.exchange).route(key, headers) if message.exchange else [key]
        queues = [self.queues[name] for name in names if name in self.queues]
        refusing = [queue for queue in queues if queue.full]
        for queue in queues:
            if queue not in refusing:
                self._enqueue(message, queue)
        return bool(queues), not refusing

    def _enqueue(self, message: Message, queue: Queue) -> None:
        lifetimes = [time_to_live(message.properties), queue.arguments.get("x-message-ttl")]
        known = [lifetime / 1000 for lifetime in lifetimes if lifetime is not None]
        lifetime = min(known, default=math.inf)
        queue.insert(Entry(message, queue, (1, next(self._order)), time.monotonic() + lifetime))
        if known:
            self._schedule(lifetime)

    def requeue(self, entry: Entry, *, asked: bool) -> None:
        """Put a delivered message back, because the client asked for it or because it went away.

        A classic queue restores the order. A quorum queue keeps what came back ahead of the rest,
        in order of return, but sends what it was asked to requeue to the end unless it has a
        delivery limit.
        """
        queue = entry.queue
        entry.returns += 1
        limit = queue.arguments.get("x-delivery-limit")
        if queue.quorum and limit is not None and entry.returns > limit:
            self.dead_letter(entry, "delivery_limit")
            return
        if queue.quorum:
            entry.position = (1 if asked and limit is None else 0, next(self._order))
        queue.insert(entry)

    def dead_letter(self, entry: Entry, reason: str) -> None:
        """Send a message on to its queue's dead-letter exchange; without one, it is gone."""
        arguments, message = entry.queue.arguments, entry.message
        exchange = arguments.get("x-dead-letter-exchange")
        if not self.exists(entry.queue) or (exchange != "" and exchange not in self.exchanges):
            return
        routing_key = arguments.get("x-dead-letter-routing-key", message.routing_key)
        self.publish(entry.dead(reason)._replace(exchange=exchange, routing_key=routing_key))


def _compare(name: str, of: str, received: Any, current: Any) -> None:
    if received != current:
        said = [
            str(each).lower() if isinstance(each, bool) else each for each in (received, current)
        ]
        differ = "received '{}' but current is '{}'".format(*said)
        reason = f"inequivalent arg '{name}' for {of} in vhost '/': {differ}"
        raise RefusedError("PRECONDITION_FAILED", reason)


def _topic_matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    head, *rest = pattern
    if head == "#":
        return any(_topic_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _topic_matches(rest, words[1:])


def _headers_match(wanted: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """What does not begin with `x-` must be there: all of it, or any."""
    found = [
        name in headers and headers[name] == value
        for name, value in wanted.items()
        if not name.startswith("x-")
    ]
    return any(found) if wanted.get("x-match", "all") == "any" else all(found)


_MATCHES: dict[str, Callable[[Any, Any], bool]] = {
    "headers": _headers_match,
    "direct": lambda binding, key: binding == key,
    "fanout": lambda binding, key: True,
    "topic": lambda binding, key: _topic_matches(binding.split("."), key.split(".")),
}
