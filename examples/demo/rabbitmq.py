"""The demo's own connection to RabbitMQ: finds names that nobody uses, and leaves nothing behind.

A run's names are its own while it holds their lock: a queue that only this connection may use. The
broker itself deletes it when the connection ends, however that happens.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from .stage import PREFIXES, SECONDS_TO_ANSWER, DemoError, silenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

QUEUES = ("fulfilment", "dead-letters")
EXCHANGE = "orders"

_LOCKED = 405
_NOT_FOUND = 404

_INTRODUCTION = """
Each order is one trace, in whichever process the work was done: trace and tenant (as baggage)
travelled in the message's headers, which RabbitMQ keeps when it requeues or dead-letters a message.
No service acks by itself: hopspan acked a message when its handler returned; when it raised,
hopspan requeued the message once, and then rejected it.
"""
_LEGEND = """
acked: done. requeued: back in the queue, for one more attempt. rejected: given up by the policy,
and dead-lettered: moved by RabbitMQ to the dead-letter queue.
"""


class RabbitMQ:
    """A connected RabbitMQ, and the names this run may use on it. Made by `connected`."""

    package: str = "orders.on_rabbitmq"
    introduction: str = _INTRODUCTION
    legend: str = _LEGEND

    def __init__(self, connection: pika.BlockingConnection, url: str, where: str) -> None:
        self._connection = connection
        self.shown: str = f"RabbitMQ at {where}"
        self.prefix: str = self._claim()
        """What this run's names begin with."""
        self.environ: Mapping[str, str] = {"AMQP_URL": url, "ORDERS_PREFIX": self.prefix}

    def dismiss(self, stop: Callable[[], None]) -> None:  # noqa: ARG002 - RabbitMQ tells them
        """Delete this run's queues and exchange. Consumers of a deleted queue are told, and end.

        Raises:
            DemoError: the broker is gone.
        """
        self.clear()

    def clear(self) -> None:
        """Delete what this run's names name. Nothing to do is no error."""
        try:
            channel = self._connection.channel()
            for queue in QUEUES:
                channel.queue_delete(self.prefix + queue)
            channel.exchange_delete(self.prefix + EXCHANGE)
            channel.close()
        except AMQPError as error:
            raise DemoError(f"lost the connection to {self.shown}: {_why(error)}") from error

    def _claim(self) -> str:
        for prefix in PREFIXES:
            if self._locks(prefix) and not any(self._is_there(prefix + queue) for queue in QUEUES):
                return prefix
        raise DemoError(
            f"{self.shown} has the queues of nine other demos, demo.fulfilment to "
            "demo9.fulfilment. Those of a demo that was killed go by themselves in a minute."
        )

    def _locks(self, prefix: str) -> bool:
        try:
            self._connection.channel().queue_declare(f"{prefix}lock", exclusive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code == _LOCKED:
                return False
            raise DemoError(
                f"{self.shown} refuses to declare a queue: {error.reply_text}"
            ) from error
        return True

    def _is_there(self, queue: str) -> bool:
        try:
            self._connection.channel().queue_declare(queue, passive=True)
        except ChannelClosedByBroker as error:
            return error.reply_code != _NOT_FOUND
        return True


@contextmanager
def connected(url: str) -> Iterator[RabbitMQ]:
    """The RabbitMQ at `url`, with names for this run; what they name is deleted in the end.

    Raises:
        DemoError: it cannot be reached, or has no names left.
    """
    with silenced("pika"):
        connection, where = _connect(url)
        with connection:
            stage = RabbitMQ(connection, url, where)
            try:
                yield stage
            finally:
                if connection.is_open:
                    stage.clear()


def _connect(url: str) -> tuple[pika.BlockingConnection, str]:
    """Connect within a few seconds; also return where to, without the password."""
    parameters = _parameters(url)
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = SECONDS_TO_ANSWER
    parameters.blocked_connection_timeout = SECONDS_TO_ANSWER
    where = f"{parameters.host}:{parameters.port}"
    try:
        return pika.BlockingConnection(parameters), where
    except Exception as error:  # pika has no common class for what can go wrong here
        raise DemoError(
            f"no RabbitMQ lets us in at {where}: {_why(error)}\n"
            "  In a checkout of hopspan, this starts one:  scripts/demo --broker rabbitmq\n"
            "  With a broker of your own:  hopspan demo --broker amqp://user:password@host:5672/%2F\n"
            "  or set TEST_RABBITMQ_URL to its URL. Without any, on an embedded one:  hopspan demo"
        ) from error


def _parameters(url: str) -> pika.URLParameters:
    try:
        if urlsplit(url).scheme in {"amqp", "amqps"}:
            return pika.URLParameters(url)
        problem = "it does not begin with amqp:// or amqps://"
    except (ValueError, IndexError) as error:
        problem = str(error)
    raise DemoError(f"the broker's URL must be like amqp://user:password@host:5672/%2F: {problem}")


def _why(error: BaseException) -> str:
    """The innermost reason, as a person says it: pika puts an attempt's error into others."""
    inner = getattr(error, "exception", None) or next(iter(error.args), None)
    if isinstance(inner, BaseException):
        return _why(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(inner or type(error).__name__)
