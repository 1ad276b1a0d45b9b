"""The state table of a delivery is what its own module says: each cell of it, on a handled message."""

from __future__ import annotations

import contextvars
import inspect
from typing import Any

import pytest

import hopspan
from hopspan.delivery import delivery as module
from hopspan.delivery.delivery import CONCLUDES, State
from hopspan.model import Verdict
from hopspan.testing import Message
from tests.unit.support import Telemetry

ERROR = ValueError("bad")


def table() -> list[tuple[str, str, str]]:
    """State, event and result of each cell that says anything."""
    documentation = inspect.getdoc(module) or ""
    lines = [line for line in documentation.splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    events = rows[0][1:]
    return [
        (row[0], event, cell)
        for row in rows[2:]
        for event, cell in zip(events, row[1:], strict=True)
        if cell != "-"
    ]


class Handling:
    """A message in a block, brought into a state, that takes events. Deferred work has a task."""

    def __init__(self, state: str, telemetry: Telemetry) -> None:
        self.message = Message()
        self.block = hopspan.process(
            self.message, policy=hopspan.reject_on_error, **telemetry.settings
        )
        self.op = self.block.__enter__()
        self.is_inside = True
        self.deferred: Any = None if state == "OPEN" else self.op.defer()
        self.worker = contextvars.copy_context()
        if state == "TAKEN":
            self.worker.run(self.deferred.__enter__)
        elif state == "OVER":
            self.scope_left_by(ERROR)
        assert self.op.state.name == state

    def scope_left_by(self, error: BaseException | None) -> None:
        self.is_inside = False
        self.block.__exit__(type(error) if error else None, error, None)

    def take(self, event: str) -> Any:
        if event == "scope left":
            return self.scope_left_by(None)
        if event == "left by an error":
            return self.scope_left_by(ERROR)
        if event == "defer()":
            return self.op.defer()
        if event == "deferred entered":
            return self.worker.run(self.deferred.__enter__)
        if event == "deferred left":
            return self.leave_deferred()
        assert event == "revoked"
        return self.op.revoke("partition lost")

    def leave_deferred(self) -> None:
        self.worker.run(self.deferred.__exit__, None, None, None)

    def finish(self) -> None:
        """Put the context back, whatever is left of it."""
        if self.deferred is not None:
            self.leave_deferred()
        if self.is_inside:
            self.scope_left_by(None)


VERDICTS = {
    "scope left": Verdict.ACK,
    "left by an error": Verdict.REJECT,
    "deferred left": Verdict.ACK,
    "revoked": None,
}


@pytest.mark.parametrize(("state", "event", "result"), table())
def test_each_event_does_what_the_table_says(
    state: str, event: str, result: str, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    handling = Handling(state, telemetry)
    logged.clear()
    answer = handling.take(event)
    found = handling.op.state.name
    ended = len([span for span in telemetry.spans if span.name == "process test"])
    if result == "OVER":
        assert (found, handling.message.verdict, ended) == ("OVER", VERDICTS[event], 1)
    elif result == "too late: warn":
        assert (found, [record.levelname for record in logged.records]) == ("OVER", ["WARNING"])
    elif result == "the same":
        assert (found, answer is handling.deferred) == (state, True)
    elif result.startswith("new: "):
        assert (found, answer is handling.deferred) == (result.removeprefix("new: "), False)
    else:
        assert (found, ended) == (state if result == "stays" else result, 0)
    handling.finish()


def test_the_table_speaks_of_every_state_and_every_event() -> None:
    assert {state for state, _, _ in table()} == {state.name for state in State} == {
        "OPEN", "DEFERRED", "TAKEN", "OVER",
    }  # fmt: skip
    assert len({event for _, event, _ in table()}) == 6


def test_whether_leaving_a_scope_concludes_is_what_the_table_says() -> None:
    told = {
        (State[state], event == "left by an error"): cell == "OVER"
        for state, event, cell in table()
        if event in {"scope left", "left by an error"}
    }
    assert told == {
        (state, bool(raised)): CONCLUDES[state][raised]
        for state in State
        for raised in (0, 1)
        if state is not State.OVER
    }
    assert CONCLUDES[State.OVER] == (False, False)
