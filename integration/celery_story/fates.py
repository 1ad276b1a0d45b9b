"""Every way in which a task can end badly, gone through with one worker; and what became of each.

Each case has a queue of its own. When its task has begun the worker consumes from that queue no
more, so that what goes back to it stays there, to be looked at.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple

from integration.celery_story.brokers import Broker, Fate
from integration.celery_story.settings import queue_of
from integration.celery_story.stage import Pool, Stage, Web, Worker
from integration.celery_story.trees import Span
from integration.faults.waiting import OverdueError

TIME_LIMIT = 3
"""Seconds: enough to stop consuming in, from when a task has come."""
PATIENCE = 15.0
"""Seconds for the spans of all cases. What is missing then is missing."""


class Case(NamedTuple):
    """What happens to a task."""

    task: str
    """Its name says how it is acked."""
    ending: str = "never"
    """How its body ends by itself."""
    fault: str | None = None
    """`kill` (of its process), a signal to terminate it with, `revoke` or `expire`."""

    @property
    def is_timed(self) -> bool:
        """Whether something happens to it by itself, after a while."""
        return self.fault in {"time_limit", "expire"}

    @property
    def is_running(self) -> bool:
        """Whether its body runs for as long as we like."""
        return not self.is_timed and self.fault != "revoke"

    @property
    def options(self) -> dict[str, Any]:
        """What to publish it with."""
        if self.fault == "expire":
            return {"countdown": TIME_LIMIT, "expires": TIME_LIMIT - 1}
        return {"time_limit": TIME_LIMIT} if self.fault == "time_limit" else {}


class Ended(NamedTuple):
    """What became of a task."""

    fate: Fate
    spans: list[Span]
    held: bool | None
    """Whether its message was unsettled while its body ran; None where the broker does not tell."""


class _Run:
    """All cases with one worker."""

    def __init__(self, stage: Stage, cases: Mapping[str, Case]) -> None:
        self._stage, self._cases = stage, cases
        self._queue = stage.settings.queue
        self._web: Web = stage.web()
        self._worker: Worker = stage.worker(Pool("prefork", ("-c", str(len(cases)))))
        self._ids: dict[str, str] = {}
        self._held: frozenset[str] | None = None

    def begin(self) -> None:
        """Publish each, and have it begun; those with a time limit last, for theirs runs."""
        for name in sorted(self._cases, key=lambda name: self._cases[name].is_timed):
            self._begin(name, self._cases[name])

    def _begin(self, name: str, case: Case) -> None:
        queue = queue_of(self._queue, name)
        self._ids[name] = self._web.ask(
            "send", task=case.task, args=[case.ending], options={"queue": queue, **case.options}
        )
        if case.fault == "revoke":
            self._control("revoke", task_id=self._ids[name])
        self._control("add_consumer", queue=queue)
        self._stage.wait(lambda: self._is_here(name, case), f"{name} to arrive")
        self._control("cancel_consumer", queue=queue)

    def _is_here(self, name: str, case: Case) -> bool:
        """What is revoked is not even received; what expires does so after that."""
        if case.fault == "revoke":
            return bool(self._told(name))
        if case.fault == "expire":
            return any(self._ids[name] == each["task"] for each in self._stage.entries("received"))
        return self._ids[name] in self._begun()

    def _control(self, command: str, **arguments: Any) -> None:
        (answer,) = self._web.ask(
            "control", command=command, destination=[self._worker.node], **arguments
        )
        assert "ok" in answer[self._worker.node], answer

    def _begun(self) -> dict[str, int]:
        return {entry["task"]: entry["process"] for entry in self._stage.entries("started")}

    def _told(self, name: str) -> list[Span]:
        trace = next(
            (
                span.trace
                for span in self._stage.spans()
                if span.role == "web" and span.told("messaging.message.id") == self._ids[name]
            ),
            None,
        )
        return [s for s in self._stage.spans() if s.role == "worker" and s.trace == trace]

    def look(self, broker: Broker) -> None:
        """See which messages are unsettled, with all bodies waiting for the word to go on."""
        self._held = broker.unsettled(self._queue)

    def hurt(self) -> None:
        """Let happen to each what is to happen."""
        self._stage.go()
        for name, case in self._cases.items():
            if case.fault == "kill":
                os.kill(self._begun()[self._ids[name]], signal.SIGKILL)
            elif case.fault is not None and case.fault.startswith("SIG"):
                self._control("revoke", task_id=self._ids[name], terminate=True, signal=case.fault)

    def settle(self, expected: Mapping[str, int]) -> None:
        """Wait for as many spans as are expected, and let the worker end."""

        def is_told() -> bool:
            return all(len(self._told(name)) >= count for name, count in expected.items())

        with contextlib.suppress(OverdueError):
            self._stage.wait(is_told, "all spans", PATIENCE)
        self._web.stop()
        self._worker.stop()

    def ended(self, broker: Broker) -> dict[str, Ended]:
        """What became of each."""
        return {
            name: Ended(
                broker.fate(self._queue, name),
                self._trace(name),
                None if self._held is None else name in self._held,
            )
            for name in self._cases
        }

    def _trace(self, name: str) -> list[Span]:
        spans = self._stage.spans()
        (publish,) = (
            span
            for span in spans
            if span.role == "web" and span.told("messaging.message.id") == self._ids[name]
        )
        return [span for span in spans if span.trace == publish.trace]


def run(
    stage: Stage, broker: Broker, cases: Mapping[str, Case], expected: Mapping[str, int]
) -> dict[str, Ended]:
    """Go through all cases.

    Args:
        stage: Nothing runs on it yet.
        broker: Where to look what became of the messages.
        cases: By name.
        expected: How many spans of the worker there will be for each.
    """
    cast = _Run(stage, cases)
    cast.begin()
    cast.look(broker)
    cast.hurt()
    cast.settle(expected)
    return cast.ended(broker)
