"""The user's hooks: they enrich, and decide about nothing."""

from __future__ import annotations

from typing import Any

import pytest

from hopspan.telemetry.operation import Operation, call_hook
from tests.unit.support import in_thread

OPERATION: Any = object()


def test_a_hook_is_told_of_the_operation_and_the_native() -> None:
    told: list[Any] = []
    call_hook("on_start", lambda *args: told.append(args), OPERATION, "native")
    assert told == [(OPERATION, "native")]


def test_a_hook_that_raises_is_logged_once(logged: pytest.LogCaptureFixture) -> None:
    def fail(operation: Operation, native: Any) -> None:
        raise RuntimeError("a hook that cannot")

    for _ in range(2):
        call_hook("on_end", fail, OPERATION, None)
    assert [record.message.partition(";")[0] for record in logged.records] == [
        "hopspan failed at calling the on_end hook (RuntimeError)"
    ]


def test_a_hook_inside_a_hook_is_not_called() -> None:
    """One that publishes would call itself for ever."""
    calls: list[str] = []

    def hook(operation: Operation, native: Any) -> None:
        calls.append("outer")
        call_hook("on_start", lambda *args: calls.append("inner"), OPERATION, None)

    call_hook("on_start", hook, OPERATION, None)
    assert calls == ["outer"]


@pytest.mark.parametrize("error", [None, RuntimeError("bad")])
def test_afterwards_hooks_are_called_again(error: Exception | None) -> None:
    calls: list[int] = []

    def hook(operation: Operation, native: Any) -> None:
        calls.append(1)
        if error is not None:
            raise error

    for _ in range(2):
        call_hook("on_start", hook, OPERATION, None)
    assert calls == [1, 1]


def test_a_hook_in_another_thread_is_called() -> None:
    calls: list[str] = []

    def hook(operation: Operation, native: Any) -> None:
        in_thread(
            lambda: call_hook("on_start", lambda *args: calls.append("there"), OPERATION, None)
        )

    call_hook("on_start", hook, OPERATION, None)
    assert calls == ["there"]


def test_an_interrupt_in_a_hook_is_raised() -> None:
    def hook(operation: Operation, native: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_hook("on_start", hook, OPERATION, None)
    call_hook("on_start", lambda *args: None, OPERATION, None)
