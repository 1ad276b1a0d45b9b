"""The brokers we know: what they are called, and how to ask whether one is there."""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

PROBE_SECONDS = 5.0


class BrokerError(Exception):
    """A service cannot be used; the message says what happened and what to do about it."""


class DiedError(BrokerError):
    """A service ended while it was starting."""


class NotHereError(Exception):
    """This machine lacks what a service needs: what that is, and what to do to have it."""

    def __init__(self, lack: str, advice: str) -> None:
        super().__init__(lack)
        self.advice = advice


class Service(NamedTuple):
    """What a broker is called, in the environment, in the compose file and on the wire."""

    name: str
    variable: str
    endpoint: str
    port_variable: str
    answers: Callable[[str], bool]
    is_composed: bool = True  # in docker-compose.test.yml


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of a URL or of the first of a `host:port,host:port` list."""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint.partition(',')[0]}")
    default = {"amqp": 5672, "amqps": 5671, "redis": 6379}.get(parts.scheme, 9092)
    return parts.hostname or "127.0.0.1", parts.port or default


def shown(endpoint: str) -> str:
    """Return the endpoint for people, without its password."""
    host, port = address(endpoint)
    scheme = urlsplit(endpoint).scheme if "://" in endpoint else ""
    return f"{scheme}://{host}:{port}" if scheme else f"{host}:{port}"


def _ask(endpoint: str, question: bytes, size: int) -> bytes:
    """Send `question`; return the first `size` bytes of the reply, fewer when the peer hangs up."""
    host, port = address(endpoint)
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(socket.create_connection((host, port), timeout=PROBE_SECONDS))
        if endpoint.startswith(("amqps:", "rediss:")):
            tls = ssl.create_default_context()
            peer = stack.enter_context(tls.wrap_socket(peer, server_hostname=host))
        peer.sendall(question)
        reply = b""
        while len(reply) < size and (more := peer.recv(size - len(reply))):
            reply += more
        return reply


def answers_amqp(endpoint: str) -> bool:
    """Whether a broker opens the AMQP 0-9-1 handshake: header out, `Connection.Start` in."""
    with contextlib.suppress(OSError):
        reply = _ask(endpoint, b"AMQP\x00\x00\x09\x01", 11)
        # A method frame (1) on channel 0, its size, then class and method.
        return reply[:3] == b"\x01\x00\x00" and reply[7:] == struct.pack(">HH", 10, 10)
    return False


def answers_kafka(endpoint: str) -> bool:
    """Whether a broker answers `Metadata` (key 3, version 1) for no topics, with itself in it.

    A node that has only opened its port and is not in its cluster yet does not count.
    """
    with contextlib.suppress(OSError):
        correlation, no_client_id, no_topics = 7, -1, 0
        request = struct.pack(">hhihi", 3, 1, correlation, no_client_id, no_topics)
        reply = _ask(endpoint, struct.pack(">i", len(request)) + request, 12)
        # The size, our correlation id, then how many brokers there are.
        return reply[4:8] == request[4:8] and int.from_bytes(reply[8:], "big", signed=True) > 0
    return False


def answers_redis(endpoint: str) -> bool:
    """Whether a server answers PING; one that asks for a password first is there as well."""
    with contextlib.suppress(OSError):
        return _ask(endpoint, b"PING\r\n", 5) in {b"+PONG", b"-NOAU"}
    return False


SERVICES = {
    "rabbitmq": Service(
        name="rabbitmq",
        variable="TEST_RABBITMQ_URL",
        endpoint="amqp://guest:guest@127.0.0.1:{port}/%2f",
        port_variable="TEST_RABBITMQ_PORT",
        answers=answers_amqp,
    ),
    "kafka": Service(
        name="kafka",
        variable="TEST_KAFKA_BOOTSTRAP",
        endpoint="127.0.0.1:{port}",
        port_variable="TEST_KAFKA_PORT",
        answers=answers_kafka,
    ),
    "redis": Service(
        name="redis",
        variable="TEST_REDIS_URL",
        endpoint="redis://127.0.0.1:{port}/0",
        port_variable="TEST_REDIS_PORT",
        answers=answers_redis,
    ),
    # The embedded broker that speaks Kafka: the demo's, and a second one for the Kafka suite.
    "tansu": Service(
        name="tansu",
        variable="TEST_TANSU_BOOTSTRAP",
        endpoint="127.0.0.1:{port}",
        port_variable="TEST_TANSU_PORT",
        answers=answers_kafka,
        is_composed=False,
    ),
}
DEFAULT_SERVICES = ("rabbitmq", "kafka", "redis", "tansu")
"""What the suite needs."""
# Says that what TEST_KAFKA_BOOTSTRAP names is the embedded broker and not Apache Kafka.
EMBEDDED_VARIABLE = "TEST_KAFKA_EMBEDDED"


def named(name: str) -> Service:
    """Return the service that an argument names."""
    if name not in SERVICES:
        raise argparse.ArgumentTypeError(f"unknown service {name}; known: {', '.join(SERVICES)}")
    return SERVICES[name]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask until `condition` holds or the time is over; return which of the two it was."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True
