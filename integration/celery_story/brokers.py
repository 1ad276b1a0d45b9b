"""What is in a queue, as the broker has it; and nothing of a story left there in the end."""

from __future__ import annotations

import contextlib
import json
from typing import Any, NamedTuple, Protocol

import pika
import redis
from pika.exceptions import ChannelClosedByBroker

from integration.celery_story.settings import dead_queue_of, queue_of


class Fate(NamedTuple):
    """Where a message is in the end. In none of the three: it is done with."""

    ready: int = 0
    """In its queue, to be handed out again: marked as redelivered."""
    untouched: int = 0
    """In its queue, and never handed out."""
    dead: int = 0
    """In its dead-letter queue."""
    unsettled: int = 0
    """Still somebody's."""


DONE = Fate()
BACK = Fate(ready=1)
DEAD = Fate(dead=1)


class Broker(Protocol):
    """A broker that is looked at from outside."""

    url: str

    def declare(self, queue: str, cases: tuple[str, ...]) -> None:
        """Make the dead-letter queues of cases."""

    def fate(self, queue: str, case: str) -> Fate:
        """Where the messages of a case are; takes them out. No worker may be left."""

    def unsettled(self, queue: str) -> frozenset[str] | None:
        """The cases whose message a worker has now; None where the broker does not tell."""

    def clear(self, queue: str, cases: tuple[str, ...]) -> None:
        """Leave nothing behind."""


class RabbitMQ:
    """RabbitMQ, by AMQP alone. What nobody has settled comes back when its consumer is gone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

    def declare(self, queue: str, cases: tuple[str, ...]) -> None:
        for case in cases:
            self._channel.queue_declare(dead_queue_of(queue, case))

    def fate(self, queue: str, case: str) -> Fate:
        again = self._taken(queue_of(queue, case))
        dead = len(self._taken(dead_queue_of(queue, case)))
        return Fate(sum(again), len(again) - sum(again), dead)

    def unsettled(self, queue: str) -> None:
        """Only its management plugin could say so."""

    def _taken(self, queue: str) -> list[bool]:
        """Take out all messages; return which of them were redelivered."""
        count = self._channel.queue_declare(queue, passive=True).method.message_count
        found = [self._channel.basic_get(queue, auto_ack=True)[0] for _ in range(count)]
        return [bool(method.redelivered) for method in found if method]

    def clear(self, queue: str, cases: tuple[str, ...]) -> None:
        for case in cases:
            self._channel.queue_delete(queue_of(queue, case))
            self._channel.queue_delete(dead_queue_of(queue, case))
        self._channel.queue_delete(queue)
        with contextlib.suppress(ChannelClosedByBroker):
            self._channel.exchange_delete(queue)
        self._channel.connection.close()


class Redis:
    """Redis, by the keys that kombu keeps there. It has no dead letters."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url)

    def declare(self, queue: str, cases: tuple[str, ...]) -> None:
        pass

    def fate(self, queue: str, case: str) -> Fate:
        messages = [self._taken(each) for each in self._waiting(queue, case)]
        mine = self._held(queue).count(queue_of(queue, case))
        return Fate(sum(messages), len(messages) - sum(messages), 0, mine)

    def unsettled(self, queue: str) -> frozenset[str]:
        return frozenset(each.rpartition(".")[2] for each in self._held(queue))

    def _waiting(self, queue: str, case: str) -> list[bytes]:
        found: Any = self._client.lrange(f"{queue}:{queue_of(queue, case)}", 0, -1)
        return list(found)

    def _held(self, queue: str) -> list[str]:
        """The queues of all messages that somebody has."""
        found: Any = self._client.hvals(f"{queue}:unacked")
        return [json.loads(each)[2] for each in found]

    @staticmethod
    def _taken(message: bytes) -> bool:
        told = json.loads(message)
        return bool(told["headers"].get("redelivered"))

    def clear(self, queue: str, cases: tuple[str, ...]) -> None:
        for key in self._client.scan_iter(f"{queue}:*"):
            self._client.delete(key)
        self._client.close()


def broker_at(url: str) -> Broker:
    """The broker that answers there."""
    return Redis(url) if url.startswith("redis") else RabbitMQ(url)
