"""Intercepting calls that publish: a span, context in the headers, an outcome."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.interception.points import inside, is_users_mistake
from hopspan.model import SUCCESS
from hopspan.processing import failure, undo_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.conventions import Action
    from hopspan.model import Outcome, Outgoing
    from hopspan.telemetry import Binding, Operation


def sends(
    action: Action,
    reader: Callable[..., Outgoing | None],
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
        about = f"{binding.adapter.NAME} send"

        @functools.wraps(original)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            instrumenter = binding.instrumenter
            if (
                not instrumenter.switch.on
                or inside.get() == about
                or instrumenter.audience.has_nothing_to_carry()
            ):
                return original(self, *args, **kwargs)
            operation, changed = start_send(binding, action, reader, (self, *args), kwargs)
            if operation is None:
                return original(self, *args, **kwargs)
            token = inside.set(about)
            try:
                result = original(self, *changed[0], **changed[1])
            except BaseException as error:
                end_send(operation, failure(binding.adapter, error))
                raise
            finally:
                inside.reset(token)
            if not (
                completes is not None
                and operation.is_heard
                and _completes(completes, self, operation, result)
            ):
                end_send(operation)
            return result

        return send

    return intercept


def start_send(
    binding: Binding,
    action: Action,
    reader: Callable[..., Outgoing | None],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Operation | None, Any]:
    """The operation of a publish, and the arguments that carry its context; or nothing."""
    operation = None
    try:
        undo_leftovers()
        outgoing = reader(*args, **kwargs)
        if outgoing is None:
            return None, None
        operation, headers = binding.instrumenter.start_send(
            action, outgoing, binding.adapter.CODEC
        )
        if operation.plan is None:  # suppressed
            return None, None
        same = headers is outgoing.headers
        changed = (args[1:], kwargs) if same else outgoing.call(headers)
        operation.announce(args[0])
    except Exception as error:  # noqa: BLE001
        if operation is not None or not is_users_mistake(error, reader, args, kwargs):
            faults.report(f"starting to {action.name}")
        if operation is not None:
            end_send(operation, SUCCESS)
        return None, None
    return operation, changed


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
        return completes(client, operation, result)
    except Exception:  # noqa: BLE001
        faults.report("waiting for the outcome of a publish")
        return False
