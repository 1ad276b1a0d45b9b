"""The demo's own connection to a Kafka: finds names that nobody uses, and leaves nothing behind.

Kafka makes a topic once, whoever else asks for it at the same time: a run's names are its own when
it has made the topic of its orders.
"""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from .stage import PREFIXES, SECONDS_TO_ANSWER, DemoError, silenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DEFAULT_PORT = 9092
TOPICS = ("orders", "dead-letters")
GROUPS = ("fulfilment", "dead-letters")
PARTITIONS = 2
SECONDS_TO_DELETE = 10
"""For a topic to be made or deleted, which all brokers of a cluster hear of."""

_INTRODUCTION = """
Each order is one trace, in whichever process the work was done: trace and tenant (as baggage)
travelled in the record's headers. No service commits by itself: a record was done for hopspan when
its handler returned, and then its offset was committed. When the handler raised, hopspan set the
consumer back to the record once; the next time it sent a copy to the dead-letter topic.
"""
_LEGEND = """
acked: done, the offset may be committed. requeued: the consumer was set back to the record, for one
more attempt. rejected: given up by the policy, and dead-lettered: done as soon as Kafka has its
copy in the dead-letter topic.
"""


class Kafka:
    """A Kafka that answers, and the names this run may use on it. Made by `connected`."""

    package: str = "orders.on_kafka"
    introduction: str = _INTRODUCTION
    legend: str = _LEGEND

    def __init__(self, admin: KafkaAdminClient, bootstrap: str, shown: str) -> None:
        self._admin = admin
        self.shown: str = shown
        self.prefix: str = self._claim()
        """What this run's names begin with."""
        self.environ: Mapping[str, str] = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "ORDERS_PREFIX": self.prefix,
        }

    def dismiss(self, stop: Callable[[], None]) -> None:
        """Kafka tells consumers nothing; whoever runs them stops them."""
        stop()

    def clear(self) -> None:
        """Delete this run's topics and groups.

        Raises:
            DemoError: the broker is gone.
        """
        try:
            self._delete([self.prefix + topic for topic in TOPICS])
            _delete_groups(self._admin, [self.prefix + group for group in GROUPS])
        except KafkaError as error:
            raise DemoError(f"lost the connection to {self.shown}: {_why(error)}") from error

    def _claim(self) -> str:
        for prefix in PREFIXES:
            if self._makes([prefix + topic for topic in TOPICS]):
                return prefix
        raise DemoError(
            f"{self.shown} has the topics of nine other demos, demo.orders to demo9.orders. "
            "Delete those of a demo that was killed."
        )

    def _makes(self, names: Sequence[str]) -> bool:
        """Make the topics; where one is there already, none."""
        made = []
        try:
            for name in names:
                self._admin.create_topics([NewTopic(name, PARTITIONS, 1)])
                made.append(name)
        except TopicAlreadyExistsError:
            self._delete(made)
            return False
        except KafkaError as error:
            raise DemoError(f"{self.shown} refuses to make a topic: {_why(error)}") from error
        return True

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(UnknownTopicOrPartitionError):  # somebody was faster
                self._admin.delete_topics([name])


@contextmanager
def connected(bootstrap: str) -> Iterator[Kafka]:
    """The Kafka at `host:port[,host:port]`, with names for this run; they are deleted in the end.

    Raises:
        DemoError: it cannot be reached, or has no names left.
    """
    with opened(bootstrap, f"Kafka at {bootstrap}") as stage:
        try:
            yield stage
        except BaseException:
            with suppress(DemoError):  # one error is enough, and the first one is the reason
                stage.clear()
            raise
        stage.clear()


@contextmanager
def opened(bootstrap: str, shown: str) -> Iterator[Kafka]:
    """As `connected`, on a Kafka that ends with the demo: there is nothing to delete.

    Raises:
        DemoError: it cannot be reached, or has no names left.
    """
    with silenced("kafka"), closing(_admin(bootstrap)) as admin:
        yield Kafka(admin, bootstrap, shown)


def servers_in(url: str) -> str:
    """The servers in `kafka://host[:port][,host[:port]]`, each with its port.

    Raises:
        DemoError: it is no such URL.
    """
    scheme, _, hosts = url.rstrip("/").partition("://")
    try:
        servers = [_server(host) for host in hosts.split(",")]
        if scheme == "kafka" and all(servers):
            return ",".join(servers)
    except ValueError:  # the port is no number
        pass
    raise DemoError(f"the broker's URL must be like kafka://host:{DEFAULT_PORT}, not {url}")


def _server(host: str) -> str:
    """`host:port`; empty where it is no host."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        return ""
    return host if parts.port else f"{host}:{DEFAULT_PORT}"


def cluster_id(bootstrap: str) -> str | None:
    """What the Kafka there calls itself in its metadata; None where none answers."""
    with silenced("kafka"):
        try:
            with closing(_admin(bootstrap)) as admin:
                found: str | None = admin.describe_cluster().get("cluster_id")
                return found
        except (DemoError, KafkaError):
            return None


def _admin(bootstrap: str) -> KafkaAdminClient:
    """Connect within a few seconds."""
    settings: dict[str, Any] = {
        "bootstrap_timeout_ms": SECONDS_TO_ANSWER * 1000,  # kafka-python 3
        "request_timeout_ms": SECONDS_TO_DELETE * 1000,
    }
    known = KafkaAdminClient.DEFAULT_CONFIG
    servers = bootstrap.split(",")
    try:
        for server in servers:  # at once, and with a reason, where nobody listens
            host, _, port = server.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
        return KafkaAdminClient(
            bootstrap_servers=servers,
            **{name: value for name, value in settings.items() if name in known},
        )
    except (OSError, KafkaError) as error:
        raise DemoError(
            f"no Kafka answers at {bootstrap}: {_why(error)}\n"
            "  With a broker of your own:  hopspan demo --broker kafka://host:9092\n"
            "  Without any, on an embedded one:  hopspan demo"
        ) from error


def _delete_groups(admin: Any, groups: Sequence[str]) -> None:
    """As each release of the client calls it. A group that is not there any more is no error."""
    delete = getattr(admin, "delete_groups", None) or admin.delete_consumer_groups
    delete(groups)


def _why(error: BaseException) -> str:
    """The reason, as a person says it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return getattr(error, "description", None) or getattr(error, "message", "") or str(error)
