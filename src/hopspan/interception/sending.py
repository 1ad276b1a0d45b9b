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
    from hopspan.model import Leaving, Outcome
    from hopspan.processing import Adapter
    from hopspan.telemetry import Binding, Instrumenter, Operation


def sends(
    action: Action,
    reader: Callable[..., Leaving | None],
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
        start = starting(action, reader, binding.adapter)

        @functools.wraps(original)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            instrumenter = binding.instrumenter
            if (
                not instrumenter.switch.on
                or inside.get() == about
                or instrumenter.audience.has_nothing_to_carry()
            ):
                return original(self, *args, **kwargs)
            operation, (args, kwargs) = start(instrumenter, self, args, kwargs)
            if operation is None:
                return original(self, *args, **kwargs)
            token = inside.set(about)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                end_send(operation, failure(binding.adapter, error))
                raise
            finally:
                inside.reset(token)
            if completes is None or not _completes(completes, self, operation, result):
                end_send(operation)
            return result

        return send

    return intercept


def starting(
    action: Action, reader: Callable[..., Leaving | None], adapter: Adapter
) -> Callable[[Instrumenter, Any, Any, Any], tuple[Operation | None, tuple[Any, Any]]]:
    """What starts the publishes of an intercepted call.

    Given the client and the arguments that it is called with, it returns the operation, if there is
    to be one, and the arguments to go on with: those that carry its context.
    """
    codec = adapter.CODEC

    def start(
        instrumenter: Instrumenter, client: Any, args: Any, kwargs: Any
    ) -> tuple[Operation | None, tuple[Any, Any]]:
        operation = None
        try:
            undo_leftovers()
            outgoing = reader(client, *args, **kwargs)
            if outgoing is None:
                return None, (args, kwargs)
            operation, headers = instrumenter.start_send(action, outgoing, codec)
            if operation.plan is None:  # suppressed
                return None, (args, kwargs)
            _, _, before, call = outgoing
            changed = (args, kwargs) if headers is before else call(headers)
            operation.announce(client)
        except Exception as error:  # noqa: BLE001
            if operation is not None or not is_users_mistake(
                error, reader, (client, *args), kwargs
            ):
                faults.report(f"starting to {action.name}")
            if operation is not None:
                end_send(operation, SUCCESS)
            return None, (args, kwargs)
        return operation, changed

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
        return operation.is_heard and completes(client, operation, result)
    except Exception:  # noqa: BLE001
        faults.report("waiting for the outcome of a publish")
        return False
