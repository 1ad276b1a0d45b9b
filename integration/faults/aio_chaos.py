"""Cuts of a robust connection: many messages, concurrent handlers, some of them cancelled.

Before each cut some handlers are cancelled while their channel is open, and the cut waits until
each of their messages has begun another run. So a message that came back only because the
connection was lost, and not because it was requeued, is overdue.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pika

from integration.brokers.services import address
from integration.faults.aio_worker import Settings
from integration.faults.chaos import ROOT, STEP_SECONDS, Broker, Plan, wait
from integration.faults.journal import Run, Tail, runs_of
from integration.faults.proxy import Link, Proxy

CUTS = (0, 5, 1, 0, 10, 0, 1, 0, 5, 0)
"""For each cut, how many settlements are lost on their way before it."""
CANCELLED = 5
"""How many handlers are cancelled before each cut."""
BACK_SECONDS = 10.0
"""How soon the message of a cancelled handler is to come back."""


class Records(NamedTuple):
    """What came of it."""

    plan: Plan
    """Its style is the face."""
    runs: list[Run]
    spans: list[dict[str, Any]]
    cancelled: frozenset[str]
    """The runs that were cancelled while their channel was open."""
    layers: list[int]
    """Through how many layers of hopspan a handler was called, for each connection."""
    links: list[Link]
    """Those through which something was settled, in the order of the worker's connections."""
    dead: list[pika.BasicProperties]
    left: int
    troubles: list[str]
    seconds: float


class Cutting:
    """One worker, and the cuts of its connection."""

    def __init__(self, plan: Plan, proxy: Proxy, broker: Broker, url: str, folder: Path) -> None:
        self._plan, self._proxy, self._broker = plan, proxy, broker
        parts = urlsplit(url)
        login = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        through = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))
        journal, self._errors = folder / "journal.jsonl", folder / "stderr"
        self._tail = Tail(journal)
        settings = Settings(
            through, broker.queue, str(journal), str(plan.seed), plan.style, plan.prefetch
        )
        with self._errors.open("w") as errors:
            self._worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "integration.faults.aio_worker",
                    json.dumps(settings._asdict()),
                ],
                stdin=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                text=True,
            )

    def _tell(self, command: str) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.write(f"{command}\n")
        self._worker.stdin.flush()

    def end(self) -> None:
        """Leave no worker behind."""
        if self._worker.poll() is None:
            self._worker.kill()
            self._worker.wait()
        if self._worker.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._worker.stdin.close()

    def _entries(self, what: str) -> list[dict[str, Any]]:
        self._tail.follow()
        code = self._worker.poll()
        assert code in {None, 0}, f"the worker left with {code}: {self._complaint()}"
        return [entry for entry in self._tail.entries if entry["what"] == what]

    def _complaint(self) -> str:
        return self._errors.read_text()[-2000:]

    # What is done to it

    def rage(self) -> None:
        """Cancel and cut, again and again, while the messages go down."""
        for index, losing in enumerate(CUTS):
            threshold = int((index + 1) / len(CUTS) * 0.9 * self._plan.messages)
            wait(lambda: len(self._entries("end")) >= threshold, f"{threshold} runs")  # noqa: B023
            self._cancel(CANCELLED * (index + 1))
            self._cut(index + 1, losing)

    def _cancel(self, so_far: int) -> None:
        self._tell(f"cancel {CANCELLED}")
        wait(lambda: len(self._entries("cancel")) == so_far, "handlers to cancel")
        wait(self._are_back, "the messages of cancelled handlers", BACK_SECONDS)

    def _are_back(self) -> bool:
        cancelled = {entry["run"]: entry["at"] for entry in self._entries("cancel")}
        starts = self._entries("start")
        since = {
            entry["message"]: cancelled[entry["run"]]
            for entry in starts
            if entry["run"] in cancelled
        }
        last = {entry["message"]: entry["at"] for entry in starts}
        return all(last[message] > at for message, at in since.items())

    def _cut(self, number: int, losing: int) -> None:
        link = self._proxy.links[-1]
        assert self._proxy.cut(link, losing, STEP_SECONDS), f"{losing} settlements to be lost"
        wait(lambda: len(self._entries("connected")) > number, "a new connection")

    def calm(self) -> None:
        """Let the worker go on undisturbed until the queue is empty, and then leave."""
        wait(self._is_quiet, "the last messages")
        self._tell("stop")
        assert self._worker.wait(STEP_SECONDS) == 0, self._complaint()

    def _is_quiet(self) -> bool:
        is_idle = len(self._entries("span")) >= len(self._entries("start"))
        return is_idle and self._broker.waiting() == 0

    def records(self, seconds: float) -> Records:
        """Everything that is known."""
        troubles = [entry["text"] for entry in self._entries("trouble")]
        complaint = self._errors.read_text()
        if "detach" in complaint or "Traceback" in complaint:
            troubles.append(complaint)
        return Records(
            self._plan,
            runs_of(1, self._tail.entries),
            self._entries("span"),
            frozenset(entry["run"] for entry in self._entries("cancel")),
            [entry["layers"] for entry in self._entries("connected")],
            [link for link in self._proxy.links if link.settled],
            self._broker.dead_letters(),
            self._broker.waiting(),
            troubles,
            seconds,
        )


@contextlib.contextmanager
def _closing(cutting: Cutting) -> Iterator[None]:
    try:
        yield
    finally:
        cutting.end()


def run(plan: Plan, url: str, folder: Path) -> Records:
    """Carry out a plan on the RabbitMQ at `url`; leave nothing behind there."""
    began = time.monotonic()
    broker = Broker(url, plan)
    try:
        broker.publish(plan.messages)
        with Proxy(*address(url)) as proxy:
            cutting = Cutting(plan, proxy, broker, url, folder)
            with _closing(cutting):
                cutting.rage()
                cutting.calm()
            return cutting.records(time.monotonic() - began)
    finally:
        broker.close()
