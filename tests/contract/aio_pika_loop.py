"""An event loop that plain code inside of a task can wait in, as `await` would.

A scenario is a plain function, and so are its handlers. It runs as one task of this loop; whatever
must be awaited, it awaits with `step` (in its own task and context, as `await` does) or with `done`
(in a task of its own), while everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any

from tests.contract.client import DEADLINE

NAP = 0.002
"""Seconds after which a condition is looked at again."""


class Loop(asyncio.SelectorEventLoop):
    """Made for one scenario."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.transports: list[asyncio.BaseTransport] = []
        """Those of all connections that were made, in order."""

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Keep what was made, so that a scenario can cut it."""
        transport, protocol = await super().create_connection(*args, **kwargs)
        self.transports.append(transport)
        return transport, protocol

    def play(self, scenario: Callable[[], None]) -> None:
        """Run a scenario as a task, and clear up after it."""

        async def playing() -> None:
            scenario()

        try:
            self.run_until_complete(playing())
        finally:
            for transport in self.transports:  # aiormq 6 leaves them open
                transport.close()
            self.run_until_complete(asyncio.sleep(0))
            self.run_until_complete(self.shutdown_asyncgens())
            self.run_until_complete(self.shutdown_default_executor())
            self.close()

    def until(self, condition: Callable[[], Any], seconds: float = DEADLINE) -> bool:
        """Let everything else go on until something is so, or the time is up."""
        deadline = time.monotonic() + seconds
        task = asyncio.current_task(self)
        waiting = len(self._ready)  # type: ignore[attr-defined]
        if task is not None:
            asyncio.tasks._leave_task(self, task)
        try:
            while not condition() and time.monotonic() < deadline:
                look = self.call_later(NAP, _nothing)
                self._run_once()  # type: ignore[attr-defined]
                look.cancel()
        finally:
            if task is not None:
                asyncio.tasks._enter_task(self, task)
            # The turn that we are in goes on to run as many as there were.
            while len(self._ready) < waiting:  # type: ignore[attr-defined]
                self.call_soon(_nothing)
        return bool(condition())

    def step(self, awaitable: Any) -> Any:
        """`await` it here: in the task and in the context that we are in."""
        steps: Generator[Any, Any, Any] = awaitable.__await__()
        try:
            waits_for = steps.send(None)
            while True:
                waits_for = self._wait_for(steps, waits_for)
        except StopIteration as done:
            return done.value

    def _wait_for(self, steps: Generator[Any, Any, Any], future: Any) -> Any:
        if future is None:  # as in `asyncio.sleep(0)`
            turns = iter((False, True))
            self.until(lambda: next(turns, True))
            return steps.send(None)
        future._asyncio_future_blocking = False
        if not self.until(future.done):
            return steps.throw(TimeoutError(f"still waiting for {future}"))
        return steps.send(None)

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in a task of its own, and wait for that."""
        task = self.create_task(work)
        if not self.until(task.done):
            task.cancel()
            self.until(task.done, 1)
            raise TimeoutError(f"still waiting for {work}")
        return task.result()

    def elsewhere(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do something in a task that starts with an empty context."""
        told = _Told(self)

        async def working() -> None:
            try:
                told.set_result(work(*args))
            except BaseException as error:  # noqa: BLE001 - told to who asks
                told.set_exception(error)

        contextvars.Context().run(self.create_task, working())
        return told


class _Told(Future[Any]):
    """What became of work elsewhere. Waiting for it lets the loop go on."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def _wait(self) -> None:
        if threading.get_ident() == self._loop.thread:
            self._loop.until(self.done)

    def result(self, timeout: float | None = DEADLINE) -> Any:
        self._wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = DEADLINE) -> BaseException | None:
        self._wait()
        return super().exception(timeout)


def _nothing() -> None: ...
