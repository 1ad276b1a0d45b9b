"""The runner's own connection to RabbitMQ: finds names that nobody uses, and leaves nothing behind.

Names of destinations become names of spans, so they must read well and be few: random ones would
be bad practice in the very demo of it. So there are nine fixed sets of names: `demo.orders` and so
on, and then `demo2.` to `demo9.`. A run takes the first set that no other run holds and of which
nothing exists: it never touches a queue that it did not make. The lock is a queue that only this
connection may use; the broker itself deletes it when the connection ends, however that happens.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from hopspan.model import HopspanError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIXES = ("demo.", *(f"demo{number}." for number in range(2, 10)))
QUEUES = ("fulfilment", "dead-letters")
EXCHANGE = "orders"

_SECONDS = 3
_LOCKED = 405
_NOT_FOUND = 404


class DemoError(HopspanError):
    """The demo cannot go on. The text is for the person at the terminal: what, and what to do."""


class Broker:
    """A connected broker, and the names this run may use on it. Made by `connected`."""

    def __init__(self, connection: pika.BlockingConnection, shown: str) -> None:
        self._connection = connection
        self.shown = shown
        """Where it is, for people."""
        self.prefix: str = self._claim()
        """What this run's names begin with."""

    def clear(self) -> None:
        """Delete this run's queues and exchange. Consumers of a deleted queue are told, and end.

        Raises:
            DemoError: the broker is gone.
        """
        try:
            channel = self._connection.channel()
            for queue in QUEUES:
                channel.queue_delete(self.prefix + queue)
            channel.exchange_delete(self.prefix + EXCHANGE)
            channel.close()
        except AMQPError as error:
            raise DemoError(
                f"lost the connection to RabbitMQ at {self.shown}: {_why(error)}"
            ) from error

    def _claim(self) -> str:
        for prefix in PREFIXES:
            if self._locks(prefix) and not any(self._is_there(prefix + queue) for queue in QUEUES):
                return prefix
        raise DemoError(
            f"RabbitMQ at {self.shown} has the queues of nine other demos, demo.fulfilment to "
            "demo9.fulfilment. Those of a demo that was killed go by themselves in a minute."
        )

    def _locks(self, prefix: str) -> bool:
        try:
            self._connection.channel().queue_declare(f"{prefix}lock", exclusive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code == _LOCKED:
                return False
            raise DemoError(
                f"RabbitMQ at {self.shown} refuses to declare a queue: {error.reply_text}"
            ) from error
        return True

    def _is_there(self, queue: str) -> bool:
        try:
            self._connection.channel().queue_declare(queue, passive=True)
        except ChannelClosedByBroker as error:
            return error.reply_code != _NOT_FOUND
        return True


@contextmanager
def connected(url: str) -> Iterator[Broker]:
    """The broker at `url`, with names for this run; what they name is deleted in the end.

    Raises:
        DemoError: it cannot be reached, or has no names left.
    """
    with _silenced("pika"):  # what it logs of failures, our errors say
        connection, shown = _connect(url)
        with connection:
            broker = Broker(connection, shown)
            try:
                yield broker
            finally:
                if connection.is_open:
                    broker.clear()


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _connect(url: str) -> tuple[pika.BlockingConnection, str]:
    """Connect within a few seconds; also return where to, without the password."""
    parameters = _parameters(url)
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = _SECONDS
    parameters.blocked_connection_timeout = _SECONDS
    shown = f"{parameters.host}:{parameters.port}"
    try:
        return pika.BlockingConnection(parameters), shown
    except Exception as error:  # pika has no common class for what can go wrong here
        raise DemoError(
            f"no RabbitMQ lets us in at {shown}: {_why(error)}\n"
            "  In a checkout of hopspan, this starts one, and the demo with it:  scripts/demo\n"
            "  With a broker of your own:  hopspan demo --broker amqp://user:password@host:5672/%2F\n"
            "  or set TEST_RABBITMQ_URL to its URL."
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
