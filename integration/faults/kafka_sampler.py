"""Asks what a group has committed, again and again, while the chaos goes on around it.

An admin client in a process of its own, started as `python -m integration.faults.kafka_sampler
BOOTSTRAP GROUP FILE`. It writes each answer to the file as a line of a journal, `sample`, and ends
when its standard input does. The broker is down every now and then; a new client finds it soonest.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from integration.faults.journal import Journal, Tail
from integration.faults.kafka_ledger import Sample
from integration.faults.waiting import STEP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 0.1
"""From an answer to the next question."""


class Sampler:
    """The process, and what it has written down so far."""

    def __init__(self, bootstrap: str, group: str, folder: Path) -> None:
        file = folder / "samples.jsonl"
        command = [sys.executable, "-m", "integration.faults.kafka_sampler"]
        self.samples: list[Sample] = []
        self._tail = Tail(file)
        self._errors = folder / "sampler.stderr"
        with self._errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [*command, bootstrap, group, str(file)],
                stdin=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
            )

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._process.communicate(timeout=STEP_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
        self.follow()

    def follow(self) -> Sample:
        """Return the latest sample."""
        for entry in self._tail.follow():
            committed = {int(partition): at for partition, at in entry["committed"].items()}
            self.samples.append(Sample(entry["at"], entry["wall"], committed))
        assert self._process.returncode in {None, 0}, self._errors.read_text()[-3000:]
        return self.samples[-1] if self.samples else Sample(0.0, 0.0, {})

    def has_all(self, ends: dict[int, int]) -> bool:
        """Whether all that lies below these offsets is committed."""
        latest = self.follow().committed
        return all(latest.get(partition, -1) >= end for partition, end in ends.items())

    def total(self) -> int:
        """All committed offsets added up: it grows while there is progress."""
        return sum(self.follow().committed.values())


def committed(admin: Any, group: str) -> dict[int, int]:
    """Return what a group has committed; the call has another name since kafka-python 3."""
    if hasattr(admin, "list_group_offsets"):
        found = admin.list_group_offsets({group: None})[group]
    else:
        found = admin.list_consumer_group_offsets(group)
    return {each.partition: at.offset for each, at in found.items() if at.offset >= 0}


def sample(bootstrap: str, group: str, journal: Journal, stopping: threading.Event) -> None:
    """Ask until told to stop, or until the client fails."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KafkaError, OSError))
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
        stack.callback(admin.close)
        while not stopping.wait(SECONDS):
            answer = committed(admin, group)
            journal.write("sample", wall=time.time(), committed=answer)


def main(arguments: list[str]) -> None:
    """Sample until the standard input ends."""
    bootstrap, group, file = arguments
    stopping, journal = threading.Event(), Journal(Path(file))

    def listen() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=listen, name="listen", daemon=True).start()
    while not stopping.wait(SECONDS):
        sample(bootstrap, group, journal, stopping)


if __name__ == "__main__":
    main(sys.argv[1:])
