"""The example's services as processes: listened to with a deadline, and never left running."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from queue import Empty, Queue
from typing import TYPE_CHECKING, NamedTuple

from . import otlp
from .spans import Exported, FinishedSpan, from_line
from .stage import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

_INHERITED = ("OTEL_EXPORTER_OTLP_", "OTEL_RESOURCE_ATTRIBUTES")
"""Of telemetry's settings. A sampler or policy of the user's shell would tell another story."""
_LAST_LINES = 8
_SECONDS_TO_END = 3.0


class Ended(NamedTuple):
    """A service closed its output: its process is over, or about to be."""


class Heard(NamedTuple):
    """Something that a service said: a line for people, a span, what it exported, or its end."""

    service: str
    what: str | FinishedSpan | Exported | Ended


class Services:
    """The running services of one demo. Leaving the `with` block ends what still runs.

    All waiting is for the next thing that any service says, and not beyond the deadline.
    """

    def __init__(
        self, folder: Path, package: str, environ: Mapping[str, str], seconds: float
    ) -> None:
        self._folder = folder
        self._package = package
        self._environ = {**_without_settings(os.environ), **environ}
        self._deadline = time.monotonic() + seconds
        self._heard: Queue[Heard] = Queue()
        self._running: dict[str, _Service] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        for service in self._running.values():
            service.kill()

    def start(self, name: str) -> None:
        """Start a service: the module of that name."""
        module = f"{self._package}.{name.replace('-', '_')}"
        command = [sys.executable, "-m", f"{__package__}.launch", str(self._folder), module]
        self._running[name] = _Service(name, command, self._environ, self._heard)

    def stop(self, names: Iterable[str]) -> None:
        """Ask services to end, as whoever runs them would. They are heard until they have."""
        for name in names:
            self._running[name].process.terminate()

    def hear(self, until: str) -> Heard:
        """Wait for the next thing that any service says.

        Args:
            until: What we are waiting for in the end, for the error.

        Raises:
            DemoError: the deadline passed, or a service failed.
        """
        try:
            heard = self._heard.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except Empty:
            raise DemoError(f"gave up waiting until {until}.{self._complaints()}") from None
        if isinstance(heard.what, Ended) and self._running[heard.service].code() != 0:
            raise DemoError(f"{heard.service} failed.{self._complaints(heard.service)}")
        return heard

    def _complaints(self, name: str | None = None) -> str:
        """The last lines that services wrote to their error output."""
        chosen = self._running if name is None else {name: self._running[name]}
        return "".join(
            f"\n  {name}: {line}"
            for name, service in chosen.items()
            for line in service.complaints()
        )


class _Service:
    """One service's process, and the thread that listens to it."""

    def __init__(
        self, name: str, command: list[str], environ: Mapping[str, str], heard: Queue[Heard]
    ) -> None:
        # A file, not a pipe: nobody has to drain it, and it is read only when something went wrong.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in kill()
        self.process = subprocess.Popen(  # noqa: S603 - our own Python, and a module of ours
            command,
            env={**environ, "OTEL_SERVICE_NAME": name, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,  # never written to: it ends when we do, and the service with it
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            errors="replace",
        )
        self._listener = threading.Thread(target=self._listen, args=(name, heard), daemon=True)
        self._listener.start()

    def _listen(self, name: str, heard: Queue[Heard]) -> None:
        assert self.process.stdout is not None  # noqa: S101 - for type checkers
        for line in self.process.stdout:
            text = line.rstrip()
            heard.put(Heard(name, from_line(text) or text))
        heard.put(Heard(name, Ended()))

    def code(self) -> int | None:
        """The exit code; None where the process does not end although its output has."""
        try:
            return self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return None

    def complaints(self) -> list[str]:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]

    def kill(self) -> None:
        """End the process, by force: what it had to say, it has said. Close everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {
        key: value
        for key, value in environ.items()
        if key.startswith(_INHERITED) or not key.startswith(("OTEL_", "HOPSPAN_"))
    }
    return {"OTEL_EXPORTER_OTLP_TIMEOUT": otlp.SECONDS, **kept}
