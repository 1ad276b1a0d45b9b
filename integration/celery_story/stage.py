"""Starts the processes of a story, waits for them, ends them, and reads what they wrote down."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import Self

from integration.celery_story.brokers import Broker, Redis
from integration.celery_story.settings import Settings
from integration.celery_story.trees import Span
from integration.faults.journal import Tail
from integration.faults.waiting import OverdueError, wait

ROOT = Path(__file__).resolve().parents[2]
STEP_SECONDS = 60.0
"""How long anything may take that a story waits for."""
_CELERY = ("-m", "celery", "-A", "integration.celery_story.shop")


class Pool(NamedTuple):
    """A pool and its options."""

    name: str
    options: tuple[str, ...]


POOLS = {
    pool.name: pool
    for pool in (
        Pool("prefork", ("-c", "2")),
        Pool("solo", ()),
        Pool("threads", ("-c", "4")),
        Pool("gevent", ("-c", "10")),
    )
}


class Worker(NamedTuple):
    """A worker that consumes."""

    process: subprocess.Popen[bytes]
    node: str

    def stop(self) -> None:
        """Shut it down warmly: what it has begun it finishes."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STEP_SECONDS)


class Web:
    """The publisher."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """Have it do something, and return what it answers."""
        line = json.dumps([command, arguments]).encode()
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        target.write(line + b"\n")
        target.flush()
        ready, _, _ = select.select([source], [], [], STEP_SECONDS)
        answer = source.readline() if ready else b""
        assert answer, f"no answer to {line!r}"
        return json.loads(answer)

    def stop(self) -> None:
        """Let it end as a process does that has nothing more to do."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(STEP_SECONDS) == 0


class Stage:
    """One story: its processes, and their journal. Nothing it started outlives it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._folder = folder
        self._tail = Tail(Path(settings.journal))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    # -- processes --------------------------------------------------------------------------------

    def worker(self, pool: Pool, *options: str, **told: Any) -> Worker:
        """Start a worker, and wait until it consumes."""
        known = len(self.entries("ready"))
        name = f"{self.settings.queue}-{len(self._processes)}@story"
        process = self._start(
            "worker",
            [
                *_CELERY, "worker", "-P", pool.name, *pool.options, "-n", name, "-l", "WARNING",
                "-Q", self.settings.queue, "--without-gossip", "--without-mingle",
                "--heartbeat-interval", "1", *options,
            ],
            told,
        )  # fmt: skip
        self.wait(lambda: process.poll() is not None or len(self.entries("ready")) > known, "ready")
        assert process.poll() is None, self.complaints()[-3000:]
        return Worker(process, name)

    def web(self, **told: Any) -> Web:
        """Start a publisher."""
        return Web(self._start("web", ["-m", "integration.celery_story.web"], told))

    def beat(self, tick: float) -> Worker:
        """Start the scheduler."""
        schedule = str(self._folder / "schedule")
        command = [*_CELERY, "beat", "-s", schedule, "--pidfile=", "-l", "WARNING"]
        return Worker(self._start("beat", command, {"tick": tick}), "beat")

    def _start(
        self, role: str, command: list[str], told: dict[str, Any]
    ) -> subprocess.Popen[bytes]:
        settings = self.settings._replace(role=role, **told)
        has_pipes = subprocess.PIPE if role == "web" else None
        with (self._folder / "stderr").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **settings.to_environment(), "PYTHONPATH": _path()},
                cwd=self._folder,
                stdin=has_pipes or subprocess.DEVNULL,
                stdout=has_pipes or errors,
                stderr=errors,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    # -- what they wrote down ---------------------------------------------------------------------

    def entries(self, what: str) -> list[dict[str, Any]]:
        """What all processes have written down so far."""
        self._tail.follow()
        return [entry for entry in self._tail.entries if entry["what"] == what]

    def spans(self) -> list[Span]:
        """The spans that were exported so far."""
        return [Span.of(entry) for entry in self.entries("span")]

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
        """Wait for something to come about; say what the processes complain of when it does not."""
        try:
            return wait(condition, what, seconds, pause=0.02)
        except OverdueError as overdue:
            raise OverdueError(f"{overdue}\n{self.complaints()[-3000:]}") from None

    def complaints(self) -> str:
        """What the processes printed."""
        return (self._folder / "stderr").read_text()

    def go(self) -> None:
        """Tell the tasks that wait for it to go on."""
        Path(self.settings.go).touch()


@contextlib.contextmanager
def set_up(
    broker: Broker, backend: Redis, folder: Path, cases: tuple[str, ...] = (), **told: Any
) -> Iterator[Stage]:
    """A stage with queues of its own; nothing is left of it in the brokers."""
    queue = f"celery-{secrets.token_hex(4)}"
    settings = Settings(broker.url, backend.url, queue, str(folder / "journal"), "", cases, **told)
    broker.declare(queue, cases)
    try:
        with Stage(settings, folder) as stage:
            yield stage
    finally:
        broker.clear(queue, cases)
        backend.clear(queue, ())


def _path() -> str:
    """What to import from: the working directory of the processes is not the repository's."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
