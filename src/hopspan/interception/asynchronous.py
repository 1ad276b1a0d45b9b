"""The interceptors of calls that are awaited. Like the others, but for the waiting.

What the client calls of itself inside such a call is not told apart, for whatever task the client
starts in it would inherit that: readers see to it that no two intercepted calls are nested.
"""

from __future__ import annotations

import functools
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from hopspan.interception.consuming import received, turns_of
from hopspan.interception.points import read_call
from hopspan.interception.sending import end_send, starting
from hopspan.processing import AsyncLoop, failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.conventions import Action
    from hopspan.interception.points import Fetch
    from hopspan.model import Leaving, Outcome
    from hopspan.telemetry import Binding


def sends_async(
    action: Action,
    reader: Callable[..., Leaving | None],
    outcome_of: Callable[[Any], Outcome],
) -> Any:
    """Intercept a call that publishes one message, and whose result says what became of it.

    Args:
        action: What the system calls it.
        reader: From the call's arguments to an `Outgoing`.
        outcome_of: From the call's result to the outcome.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        start = starting(action, reader, binding.adapter)

        @functools.wraps(original)
        async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            instrumenter = binding.instrumenter
            if not instrumenter.switch.on or instrumenter.audience.has_nothing_to_carry():
                return await original(self, *args, **kwargs)
            operation, (args, kwargs) = start(instrumenter, self, args, kwargs)
            if operation is None:
                return await original(self, *args, **kwargs)
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                end_send(operation, failure(binding.adapter, error))
                raise
            end_send(operation, outcome_of(result))
            return result

        return send

    return intercept


def receives_async(reader: Callable[..., Fetch], ends: tuple[type[BaseException], ...] = ()) -> Any:
    """`receives` for a call that is awaited."""

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        async def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = read_call(reader, self, args, kwargs) if binding.active else None
            if fetch is None:
                return await original(self, *args, **kwargs)
            began, clock = time_ns(), perf_counter()
            try:
                result = await original(self, *args, **kwargs)
            except ends:
                raise
            except BaseException as error:
                received(binding, fetch, error, (began, perf_counter() - clock))
                raise
            received(binding, fetch, result, (began, perf_counter() - clock))
            return result

        return receive

    return intercept


def iterates_async(reader: Callable[..., Callable[[Any], Any] | None]) -> Any:
    """Intercept `__aiter__`: the body of an `async for` is put in scope.

    Args:
        reader: From the object that is iterated over to a function that turns what comes into a
            native delivery.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def iterate(self: Any) -> Any:
            native_of = read_call(reader, self, (), {}) if binding.active else None
            source = original(self)
            if native_of is None or isinstance(source, AsyncLoop):
                return source
            return AsyncLoop(source, turns_of(binding, native_of))

        return iterate

    return intercept
