"""`hopspan demo` on real brokers, as a user runs it: on the one it brings along, and on others."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pika
import pytest
from kafka import KafkaAdminClient
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from hopspan.examples.demo.embedded import WHEELS
from hopspan.examples.demo.stage import PREFIXES
from integration.brokers.services import wait_until
from tests.demo_story import (
    STEPS,
    SUMMARY,
    TREES_ON_KAFKA,
    TREES_ON_RABBITMQ,
    steps_in,
    trees_in,
)

SECONDS = 60
QUEUES = ("fulfilment", "dead-letters", "lock")


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start the demo in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hopspan.cli", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "0"},  # as wide as it likes, whoever runs the tests
    )


def played(*arguments: str) -> str:
    """Run the demo in time and without a complaint; return what it showed."""
    began = time.monotonic()
    demo = started("--plain", *arguments)
    output, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", 0)
    assert time.monotonic() - began < SECONDS
    assert steps_in(output) == STEPS
    assert SUMMARY in output
    return output


def wait_for(demo: subprocess.Popen[str], text: str) -> str:
    """Read what the demo says until it says this; return that line."""
    assert demo.stdout is not None
    while text not in (line := demo.stdout.readline()):
        assert demo.poll() is None
    return line


# The embedded broker

needs_wheel = pytest.mark.skipif(
    (sys.platform, platform.machine()) not in WHEELS, reason="no embedded broker is built for here"
)


def address_in(output: str) -> tuple[str, int]:
    """Where the embedded broker was."""
    found = re.search(r"at (127\.0\.0\.1):(\d+):\n", output)
    assert found
    return found[1], int(found[2])


def is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@needs_wheel
def test_the_demo_brings_its_broker_along_and_takes_it_away_again() -> None:
    output = played()
    assert output.startswith("Three processes and an embedded broker that speaks Kafka")
    assert trees_in(output) == TREES_ON_KAFKA
    assert not is_open(address_in(output))


@needs_wheel
def test_two_demos_at_once_have_a_broker_each() -> None:
    demos = [started("--plain") for _ in range(2)]
    outputs = [demo.communicate(timeout=SECONDS)[0] for demo in demos]
    assert [trees_in(output) for output in outputs] == [TREES_ON_KAFKA] * 2
    assert len({address_in(output) for output in outputs}) == 2


@needs_wheel
@pytest.mark.parametrize(
    ("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_the_embedded_broker_ends_with_the_demo_however_that_ends(
    ending: signal.Signals, code: int
) -> None:
    demo = started()
    address = address_in(wait_for(demo, "embedded broker"))
    wait_for(demo, "waiting")
    assert is_open(address)
    demo.send_signal(ending)
    _, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", code)
    assert wait_until(lambda: not is_open(address), SECONDS)


# Kafka


@pytest.fixture
def admin(kafka_bootstrap: str) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        yield admin


def topics(admin: KafkaAdminClient) -> set[str]:
    """The topics of demos."""
    return {name for name in admin.list_topics() if name.startswith(PREFIXES)}


def test_on_a_kafka_of_one_s_own_nothing_is_left(
    kafka_bootstrap: str, admin: KafkaAdminClient
) -> None:
    before = topics(admin)
    assert trees_in(played("--broker", f"kafka://{kafka_bootstrap}")) == TREES_ON_KAFKA
    assert wait_until(lambda: topics(admin) <= before, SECONDS)


def test_a_demo_that_is_asked_to_end_leaves_no_topic(
    kafka_bootstrap: str, admin: KafkaAdminClient
) -> None:
    before = topics(admin)
    demo = started("--broker", f"kafka://{kafka_bootstrap}")
    wait_for(demo, "waiting")
    demo.terminate()
    _, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", 130)
    assert wait_until(lambda: topics(admin) <= before, SECONDS)


# RabbitMQ


@pytest.fixture
def connection(rabbitmq_url: str) -> Iterator[BlockingConnection]:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        yield connection


def is_there(connection: BlockingConnection, queue: str) -> bool:
    try:
        connection.channel().queue_declare(queue, passive=True)
    except ChannelClosedByBroker:
        return False
    return True


def prefix_in(output: str) -> str:
    """What the names of a run began with: `demo.`, or another one where that was taken."""
    before, _, _ = output.partition("orders:order.created")
    return before.rpartition("publish ")[2]


def test_orders_cross_processes_and_rabbitmq_as_one_trace_each(
    rabbitmq_url: str, connection: BlockingConnection
) -> None:
    output = played("--broker", rabbitmq_url)
    assert trees_in(output) == TREES_ON_RABBITMQ
    queues = [prefix_in(output) + queue for queue in QUEUES]
    assert [queue for queue in queues if is_there(connection, queue)] == []


def test_three_demos_at_once_see_only_their_own_orders(rabbitmq_url: str) -> None:
    demos = [started("--plain", "--broker", rabbitmq_url) for _ in range(3)]
    outputs = [demo.communicate(timeout=SECONDS)[0] for demo in demos]
    assert [trees_in(output) for output in outputs] == [TREES_ON_RABBITMQ] * 3


def test_a_demo_that_is_asked_to_end_leaves_no_queue(
    rabbitmq_url: str, connection: BlockingConnection
) -> None:
    names = [prefix + queue for prefix in PREFIXES for queue in QUEUES]
    before = {name for name in names if is_there(connection, name)}
    demo = started("--broker", rabbitmq_url)
    wait_for(demo, "waiting")
    demo.terminate()
    _, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", 130)
    assert {name for name in names if is_there(connection, name)} <= before
