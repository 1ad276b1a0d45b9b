"""Intercepting calls that publish: a span, context in the headers, an outcome."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.delivery import failure
from hopspan.interception.points import active_call, call_is_invalid
from hopspan.model import SUCCESS
from hopspan.telemetry import GENERATION, start_send

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.conventions import Action
    from hopspan.delivery import Adapter
    from hopspan.model import Outcome, OutgoingFields
    from hopspan.telemetry import Binding, Instrumenter, Operation


def sends(
    action: Action,
    reader: Callable[..., OutgoingFields | None],
    completes: Callable[..., bool] | None = None,
) -> Any:
    """Intercept a call that publishes one message.

    Args:
        action: What the system calls it.
        reader: From the call's arguments to an `Outgoing`, or to None for a call that is not an
            application's.
        completes: Told `(client, operation, result)` after the call; True when it will end the
            operation later, because the outcome is not known yet.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        call = f"{binding.adapter.name} send"
        start = send_starter(action, reader, binding.adapter)
        # As one value: other threads may find it changed as well.
        known = GENERATION[0], binding.instrumenter

        @functools.wraps(original)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal known
            generation, instrumenter = known
            if generation != GENERATION[0]:
                known = GENERATION[0], binding.instrumenter
                instrumenter = known[1]
            if (
                not instrumenter.switch.on
                or active_call.get() == call
                or (instrumenter.may_be_unobserved and instrumenter.enabled.publish_is_noop())
            ):
                return original(self, *args, **kwargs)
            operation, args, kwargs = start(instrumenter, self, args, kwargs)
            if operation is None:
                return original(self, *args, **kwargs)
            token = active_call.set(call)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                end_send(operation, failure(binding.adapter.client, error))
                raise
            finally:
                active_call.reset(token)
            if completes is None or not _completes(completes, self, operation, result):
                try:
                    operation.end()
                except Exception:  # noqa: BLE001 - the message has left
                    faults.report("ending a publish")
            return result

        return send

    return intercept


def send_starter(
    action: Action, reader: Callable[..., OutgoingFields | None], adapter: Adapter
) -> Callable[[Instrumenter, Any, Any, Any], tuple[Operation | None, Any, Any]]:
    """Make the function that starts the publishes of an intercepted call.

    Given the client and the arguments that it is called with, it returns the operation, if there is
    to be one, and the arguments to go on with: those that carry its context.
    """
    codec = adapter.client.codec

    def start(
        instrumenter: Instrumenter, client: Any, args: Any, kwargs: Any
    ) -> tuple[Operation | None, Any, Any]:
        operation = None
        try:
            outgoing = reader(client, *args, **kwargs)
            if outgoing is None:
                return None, args, kwargs
            operation, headers = start_send(instrumenter, action, outgoing, codec)
            if operation is None:  # suppressed
                return None, args, kwargs
            if instrumenter.is_watched:
                operation.call_on_start(client)
            if headers is outgoing[2]:
                return operation, args, kwargs
            changed = outgoing[3](headers)
        except Exception as error:  # noqa: BLE001
            if operation is not None or not call_is_invalid(error, reader, (client, *args), kwargs):
                faults.report(f"starting to {action.name}")
            if operation is not None:
                end_send(operation, SUCCESS)
            return None, args, kwargs
        return operation, changed[0], changed[1]

    return start


def end_send(operation: Operation, outcome: Outcome = SUCCESS) -> None:
    """End a publish; a fault of ours is only logged."""
    try:
        operation.end(outcome)
    except Exception:  # noqa: BLE001 - what became of the message is the client's to tell
        faults.report("ending a publish")


def _completes(
    completes: Callable[..., bool], client: Any, operation: Operation, result: Any
) -> bool:
    try:
        return operation.is_observed and completes(client, operation, result)
    except Exception:  # noqa: BLE001
        faults.report("waiting for the outcome of a publish")
        return False


def sends_async(
    action: Action,
    reader: Callable[..., OutgoingFields | None],
    fails: type,
    outcome_of: Callable[[Any], Outcome],
) -> Any:
    """Intercept a call that publishes one message, and whose awaited result tells its outcome.

    The client's nested calls are not told apart here, for whatever task the client starts in it
    would inherit that: readers see to it that no two intercepted calls are nested.

    Args:
        action: The system's word for it.
        reader: From the call's arguments to an `Outgoing`.
        fails: The class of results that tell that the message was not taken.
        outcome_of: From such a result to the outcome.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        start = send_starter(action, reader, binding.adapter)
        known = GENERATION[0], binding.instrumenter

        @functools.wraps(original)
        async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal known
            generation, instrumenter = known
            if generation != GENERATION[0]:
                known = GENERATION[0], binding.instrumenter
                instrumenter = known[1]
            if not instrumenter.switch.on or (
                instrumenter.may_be_unobserved and instrumenter.enabled.publish_is_noop()
            ):
                return await original(self, *args, **kwargs)
            operation, args, kwargs = start(instrumenter, self, args, kwargs)
            if operation is None:
                return await original(self, *args, **kwargs)
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                end_send(operation, failure(binding.adapter.client, error))
                raise
            try:
                operation.end(outcome_of(result) if isinstance(result, fails) else SUCCESS)
            except Exception:  # noqa: BLE001 - the message has left
                faults.report("ending a publish")
            return result

        return send

    return intercept
