"""The part that the Kafka clients share: Kafka's names, servers and endpoints, dead letters.

Imports no client. Naming follows the conventions' Kafka page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import offsets
from hopspan.conventions import Route
from hopspan.model import Endpoint, OperationType, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SYSTEM = "kafka"
SEND = names.Action("send", OperationType.SEND)
POLL = names.Action("poll", OperationType.RECEIVE)
COMMIT = offsets.COMMIT

OFFSET = "messaging.kafka.offset"
KEY = "messaging.kafka.message.key"
TOMBSTONE = "messaging.kafka.message.tombstone"
CLUSTER_ID = "messaging.kafka.cluster.id"

SETTLE_NAMES = {Verdict.REQUEUE: "seek", Verdict.REJECT: "dead_letter"}
"""An ACK goes nowhere by itself: the commit does, for many of them."""

SETTLED_ALREADY = (
    "it has enable_auto_commit=True, so the client commits by itself whatever becomes of a record. "
    "Make the consumer with enable_auto_commit=False"
)

Headers = list[tuple[str, Any]]

_DEFAULT_PORT = 9092


def dead_letter_headers(
    headers: Sequence[Any] | None, place: tuple[str, int, int], error_type: str | None, attempt: int
) -> Headers:
    """A record's headers, with its origin in place of an earlier one, and why it is dead.

    Values that a client reads but refuses to write (None) become empty.

    Args:
        headers: The record's.
        place: Its topic, partition and offset.
        error_type: Of its last failure.
        attempt: The one that has failed.
    """
    told = dict(zip(_ORIGIN, (*place, error_type, attempt), strict=True))
    kept = [(key, b"" if value is None else value) for key, value in headers or ()]
    return [
        *(pair for pair in kept if pair[0] not in told),
        *((key, str(value).encode()) for key, value in told.items() if value is not None),
    ]


_ORIGIN = (
    "hopspan.origin.topic", "hopspan.origin.partition", "hopspan.origin.offset",
    "hopspan.error.type", "hopspan.attempt",
)  # fmt: skip


class Server(NamedTuple):
    """A broker's address as the application knows it."""

    address: str | None = None
    port: int | None = None


def server(bootstrap: Any) -> Server:
    """The first bootstrap server of a client's configuration; a default port says nothing."""
    first = bootstrap if isinstance(bootstrap, str) else next(iter(bootstrap or ()), None)
    if not isinstance(first, str):
        return Server()
    first = first.split(",", 1)[0].strip().rpartition("://")[2]
    host, colon, port = first.rpartition(":")
    if not colon or not port.isdecimal():
        return Server(first.strip("[]") or None)
    return Server(host.strip("[]") or None, int(port) if int(port) != _DEFAULT_PORT else None)


def endpoint(topic: str, where: Server, group: str | None = None) -> Endpoint:
    """A topic, for producers without a group."""
    return Endpoint(
        SYSTEM, topic, group=group, server_address=where.address, server_port=where.port
    )


class Routes(dict[Any, Route]):
    """The routes of one client's messages, by what they go to or come from. Bounded."""

    MOST = 1024

    def __init__(self, make: Callable[[Any], Route]) -> None:
        """Begin empty; `make` the route of a key that is asked for first."""
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> Route:
        if len(self) >= self.MOST:
            self.clear()
        route = self[key] = self._make(key)
        return route


def records_of(endpoint: Callable[[str], Endpoint], about: Mapping[str, Any]) -> Routes:
    """The routes of a consumer's records, by topic and partition.

    Args:
        endpoint: From a topic to where its records come from.
        about: The attributes of every record.
    """

    def make(key: tuple[str, int]) -> Route:
        topic, partition = key
        particular = {**about, names.PARTITION_ID: str(partition)}
        return Route(names.plan(names.PROCESS, endpoint(topic)), particular)

    return Routes(make)


NOBODYS = records_of(lambda topic: Endpoint(SYSTEM, topic), {})
"""The routes of records whose consumer is not known."""


def key(value: Any) -> tuple[str, str] | None:
    """A record's key as an attribute, where it is text (Kafka page: *messaging.kafka.message.key*).

    One that is not has no unambiguous form, and is left out.
    """
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    return (KEY, value) if isinstance(value, str) else None
