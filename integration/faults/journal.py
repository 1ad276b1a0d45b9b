"""What a worker writes down, and how it is read after the worker was killed.

One file per life of the worker, one `write` per line: what was handed to the kernel survives the
death of the process (only a crash of the machine would need `fsync`), and only the last line of a
file can be torn, by a kill in the middle of the write. A torn line counts as not written.

Lines are JSON objects; `what` says which kind:

- `connected`: a connection has begun to consume.
- `start`, `end`: a handler run. Its `run` is the span id of its process span.
- `span`: a process span was exported.
- `lost`: a connection was lost, as the client says it.
- `trouble`: something that must never happen.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple


class Journal:
    """The writing end. Safe from any thread: each line is one append."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, **details: Any) -> None:
        """Append one line; it survives the process from here on."""
        line = json.dumps({"what": what, "at": time.monotonic(), **details})
        os.write(self._file, line.encode() + b"\n")


class Tail:
    """The reading end of one life's journal, which may still grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._read = 0

    def follow(self) -> list[dict[str, Any]]:
        """Read on; return what is new."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        new = [json.loads(line) for line in whole.splitlines()]
        self.entries += new
        return new


class Run(NamedTuple):
    """One run of the handler."""

    message: int
    life: int
    connection: str
    tag: int
    id: str
    """The span id of its process span."""
    trace: str
    baggage: str
    attempt: int | None
    redelivered: bool
    ended: str | None
    """`returned`, or a way to fail: `raised`, `failed`, `status`, `disconnected`.

    None: killed before it ended.
    """
    ended_at: float


def runs_of(life: int, entries: list[dict[str, Any]]) -> list[Run]:
    """The handler runs of one life, in the order in which their messages were handed over."""
    ends = {entry["run"]: entry for entry in entries if entry["what"] == "end"}
    nothing = {"how": None, "at": 0.0}
    runs = []
    for entry in entries:
        if entry["what"] == "start":
            end = ends.get(entry["run"], nothing)
            runs.append(
                Run(
                    entry["message"],
                    life,
                    entry["connection"],
                    entry["tag"],
                    entry["run"],
                    entry["trace"],
                    entry["baggage"],
                    entry["attempt"],
                    entry["redelivered"],
                    end["how"],
                    end["at"],
                )
            )
    return runs
