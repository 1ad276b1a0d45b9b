"""RabbitMQ with Celery: tasks sent and run in one process, by a worker with the pool `solo`.

Celery's signals and its worker's shortcuts are the whole process's, so that each row has one of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.brokers.turns import READY, ROWS, Turn
from benchmarks.checks import WrongRowError
from benchmarks.modes import Telemetry

_ROOT = Path(__file__).parents[2]
_ROW = "benchmarks.brokers.celery_row"


class Elsewhere:
    """A row's turns, in a process of its own."""

    def __init__(self, url: str, row: str) -> None:
        self._row = row
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", _ROW, url, row],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if (first := self._answered()) != READY:
            raise WrongRowError(f"Celery: {first}")

    def __call__(self) -> tuple[float, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, cpu = json.loads(self._answered())
        return wall, cpu

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answered(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"Celery, {self._row}: the process has ended")
        return line


def turns(url: str, _telemetry: Telemetry) -> Iterator[tuple[str, Turn]]:
    """The rows."""
    for row in ROWS:
        yield row, Elsewhere(url, row)
