"""`hopspan demo` on a real RabbitMQ, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from hopspan.demo.broker import PREFIXES
from tests.demo_story import STEPS, SUMMARY, TREES, steps_in, trees_in

SECONDS = 60
QUEUES = ("fulfilment", "dead-letters", "lock")


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hopspan.cli", "demo", "--broker", url, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "0"},  # as wide as it likes, whoever runs the tests
    )


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


def test_orders_cross_processes_and_the_broker_as_one_trace_each(
    rabbitmq_url: str, connection: BlockingConnection
) -> None:
    began = time.monotonic()
    demo = started(rabbitmq_url, "--plain")
    output, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", 0)
    assert time.monotonic() - began < SECONDS
    assert steps_in(output) == STEPS
    assert trees_in(output) == TREES
    assert SUMMARY in output
    queues = [prefix_in(output) + queue for queue in QUEUES]
    assert [queue for queue in queues if is_there(connection, queue)] == []


def test_three_demos_at_once_see_only_their_own_orders(rabbitmq_url: str) -> None:
    demos = [started(rabbitmq_url, "--plain") for _ in range(3)]
    outputs = [demo.communicate(timeout=SECONDS)[0] for demo in demos]
    assert [trees_in(output) for output in outputs] == [TREES] * 3


def test_a_demo_that_is_asked_to_end_leaves_nothing(
    rabbitmq_url: str, connection: BlockingConnection
) -> None:
    names = [
        prefix + queue for prefix in PREFIXES for queue in ("fulfilment", "dead-letters", "lock")
    ]
    before = {name for name in names if is_there(connection, name)}
    demo = started(rabbitmq_url)
    assert demo.stdout is not None
    while "waiting" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.terminate()
    _, errors = demo.communicate(timeout=SECONDS)
    assert (errors, demo.returncode) == ("", 130)
    assert {name for name in names if is_there(connection, name)} <= before
