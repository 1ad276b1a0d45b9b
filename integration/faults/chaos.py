"""The chaos: many messages, one consumer at a time, and faults until all of them are dealt with.

Faults strike when the journal says that so many runs have ended, never at a point in time:

- `kill`: SIGKILL from outside, whatever the worker is doing;
- `kill at POINT`: SIGKILL at a point of a handler run, see `integration.faults.worker`;
- `cut`: the connection is dropped with whatever is on its way;
- `cut losing N`: the broker hears nothing more; dropped when it has missed N settlements.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel

from integration.brokers.services import address
from integration.faults.journal import Run, Tail, runs_of
from integration.faults.proxy import Link, Proxy
from integration.faults.waiting import STEP_SECONDS, wait
from integration.faults.worker import Settings

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (
    "kill", "cut", "kill at ended", "cut losing 5", "kill at exporting",
    "cut losing 1", "kill at started", "cut", "kill", "cut losing 10",
)  # fmt: skip


class Plan(NamedTuple):
    """What is to be done."""

    messages: int
    queue_type: str
    style: str
    seed: int
    requeues: int
    prefetch: int = 50
    faults: tuple[str, ...] = FAULTS


class Records(NamedTuple):
    """What came of it."""

    plan: Plan
    runs: list[Run]
    """In the order of the deliveries."""
    spans: list[dict[str, Any]]
    """Process spans, each with the `life` that wrote it down."""
    links: list[Link]
    killed: frozenset[int]
    """The lives that ended by SIGKILL."""
    dead: list[pika.BasicProperties]
    """What is in the dead-letter queue."""
    left: int
    """How many messages are still in the queue."""
    troubles: list[str]
    seconds: float


class Broker:
    """A queue with a dead-letter queue, which nobody else uses."""

    def __init__(self, url: str, plan: Plan) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel: BlockingChannel = self._connection.channel()
        name = f"chaos-{plan.queue_type}-{uuid.uuid4().hex[:8]}"
        self.queue, self._dead, self._exchange = name, f"{name}.dead", f"{name}.dlx"
        self._channel.exchange_declare(self._exchange, "fanout")
        self._channel.queue_declare(self._dead)
        self._channel.queue_bind(self._dead, self._exchange)
        arguments = {"x-dead-letter-exchange": self._exchange, "x-queue-type": plan.queue_type}
        self._channel.queue_declare(self.queue, durable=True, arguments=arguments)

    def publish(self, messages: int) -> None:
        """Put the messages into the queue, each in a trace of its own."""
        for number in range(messages):
            headers = {
                "traceparent": f"00-{trace_of(number)}-{1:016x}-01",
                "baggage": f"number={number}",
            }
            properties = pika.BasicProperties(message_id=str(number), headers=headers)
            self._channel.basic_publish("", self.queue, str(number).encode(), properties)
        wait(lambda: self.waiting() == messages, "publishing", 60)

    def waiting(self) -> int:
        """How many messages are ready in the queue."""
        self._connection.process_data_events()
        count: int = self._channel.queue_declare(self.queue, passive=True).method.message_count
        return count

    def dead_letters(self) -> list[pika.BasicProperties]:
        """Take everything out of the dead-letter queue, until nothing comes any more."""
        found: list[pika.BasicProperties] = []
        for method, properties, _ in self._channel.consume(
            self._dead, auto_ack=True, inactivity_timeout=1
        ):
            if method is None:
                break
            found.append(properties)
        self._channel.cancel()
        return found

    def close(self) -> None:
        """Remove what was declared."""
        for queue in (self.queue, self._dead):
            self._channel.queue_delete(queue)
        self._channel.exchange_delete(self._exchange)
        self._connection.close()


def trace_of(number: int) -> str:
    """The trace id of a message."""
    return f"{number + 1:032x}"


class Chaos:
    """One go at a plan."""

    def __init__(self, plan: Plan, proxy: Proxy, broker: Broker, url: str, folder: Path) -> None:
        self._plan, self._proxy, self._broker, self._folder = plan, proxy, broker, folder
        self._random = random.Random(plan.seed)  # noqa: S311
        parts = urlsplit(url)
        login = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        self._url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))
        self._tails: list[Tail] = []
        self._worker: subprocess.Popen[str] | None = None
        self._killed: set[int] = set()
        self._ended = 0
        self._unfinished: dict[int, int] = {}
        """Runs that have not ended, by message."""
        self._numbers: dict[str, int] = {}

    # The worker

    def start(self) -> None:
        """Begin the next life of the worker."""
        plan, life = self._plan, len(self._tails) + 1
        journal = self._folder / f"life-{life}.jsonl"
        settings = Settings(
            self._url,
            self._broker.queue,
            str(journal),
            life,
            str(plan.seed),
            plan.style,
            plan.requeues,
            plan.prefetch,
        )
        self._unfinished.clear()
        self._tails.append(Tail(journal))
        with (self._folder / f"life-{life}.stderr").open("w") as errors:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "integration.faults.worker", json.dumps(settings._asdict())],
                stdin=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                text=True,
            )

    def _tell(self, command: str) -> None:
        assert self._worker is not None
        assert self._worker.stdin is not None
        self._worker.stdin.write(f"{command}\n")
        self._worker.stdin.flush()

    def stop(self) -> None:
        """Let the worker leave in peace."""
        assert self._worker is not None
        self._tell("stop")
        assert self._worker.wait(STEP_SECONDS) == 0, self._complaint()
        self._close_input()

    def end(self) -> None:
        """Leave no worker behind."""
        if self._worker is not None and self._worker.poll() is None:
            self._worker.kill()
            self._worker.wait()
        self._close_input()

    def _close_input(self) -> None:
        if self._worker is not None and self._worker.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._worker.stdin.close()

    def _complaint(self) -> str:
        life = len(self._tails)
        return (self._folder / f"life-{life}.stderr").read_text()[-2000:]

    # What it has written

    def _follow(self) -> None:
        for entry in self._tails[-1].follow():
            if entry["what"] == "start":
                self._numbers[entry["run"]] = entry["message"]
                self._unfinished[entry["run"]] = entry["message"]
            elif entry["what"] == "end":
                self._unfinished.pop(entry["run"], None)
                self._ended += 1

    def _has_ended(self, runs: int) -> bool:
        self._follow()
        self._expect_alive()
        return self._ended >= runs

    def _expect_alive(self) -> None:
        assert self._worker is not None
        code = self._worker.poll()
        assert code is None, f"the worker left with {code}: {self._complaint()}"

    def _connections(self) -> list[str]:
        self._follow()
        entries = self._tails[-1].entries
        return [entry["connection"] for entry in entries if entry["what"] == "connected"]

    # Faults

    def rage(self) -> None:
        """Start the first worker, and strike again and again while the messages go down."""
        faults = list(self._plan.faults)
        self._random.shuffle(faults)
        self.start()
        for index, fault in enumerate(faults):
            share = (index + self._random.uniform(0.5, 1.0)) / len(faults) * 0.9
            threshold = max(self._ended + 1, int(share * self._plan.messages))
            wait(lambda: self._has_ended(threshold), f"{threshold} runs", 60)  # noqa: B023
            self._strike(fault)

    def _strike(self, fault: str) -> None:
        kind, _, detail = fault.partition(" ")
        if kind == "kill":
            self._kill(detail.removeprefix("at "))
        else:
            self._cut(int(detail.removeprefix("losing ") or 0))

    def _kill(self, point: str) -> None:
        assert self._worker is not None
        if point:
            self._tell(f"die {point}")
        else:
            self._worker.kill()
        assert self._worker.wait(STEP_SECONDS) == -signal.SIGKILL
        self._close_input()
        self._follow()
        self._killed.add(len(self._tails))
        self.start()

    def _cut(self, losing: int) -> None:
        name = wait(self._connections, "a connection")[-1]
        link = wait(lambda: self._proxy.link(name), f"connection {name} in the proxy")
        assert self._proxy.cut(link, losing, STEP_SECONDS), f"{losing} settlements to be lost"
        wait(lambda: self._connections()[-1] != name, "a new connection")

    # The rest

    def calm(self) -> None:
        """Let the worker go on undisturbed until the queue is empty."""
        while True:
            wait(self._is_quiet, "the last messages", 20)
            self.stop()
            self._follow()
            if self._broker.waiting() == 0:
                return
            self.start()

    def _is_quiet(self) -> bool:
        self._follow()
        self._expect_alive()
        return not self._unfinished and self._broker.waiting() == 0 and bool(self._connections())

    def records(self, seconds: float) -> Records:
        """Everything that is known."""
        entries = [
            (life, entry) for life, tail in enumerate(self._tails, 1) for entry in tail.entries
        ]
        return Records(
            self._plan,
            [
                run
                for life, tail in enumerate(self._tails, 1)
                for run in runs_of(life, tail.entries)
            ],
            [{**entry, "life": life} for life, entry in entries if entry["what"] == "span"],
            self._proxy.links,
            frozenset(self._killed),
            self._broker.dead_letters(),
            self._broker.waiting(),
            [entry["text"] for _, entry in entries if entry["what"] == "trouble"],
            seconds,
        )


@contextlib.contextmanager
def _closing(chaos: Chaos) -> Iterator[None]:
    try:
        yield
    finally:
        chaos.end()


def run(plan: Plan, url: str, folder: Path) -> Records:
    """Carry out a plan on the RabbitMQ at `url`; leave nothing behind there."""
    began = time.monotonic()
    broker = Broker(url, plan)
    try:
        broker.publish(plan.messages)
        with Proxy(*address(url)) as proxy:
            chaos = Chaos(plan, proxy, broker, url, folder)
            with _closing(chaos):
                chaos.rage()
                chaos.calm()
            return chaos.records(time.monotonic() - began)
    finally:
        broker.close()
