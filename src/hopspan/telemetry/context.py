"""The current OpenTelemetry context: read it, make another one current, and put it back.

`opentelemetry.context.detach` logs an error where it is called in another `contextvars.Context`
than `attach` was, and nothing tells beforehand. A context variable does: to reset it succeeds
exactly in the `contextvars.Context` that set it. So the variable of the API's own runtime is used
directly where it is laid out as known (asked once, on import), else one of our own beside the
public calls.

A context that cannot be put back from here, because a loop or a scope of baggage ends in another
thread or task, is emptied in place: whoever still has it current sees what was current before.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EMPTY",
    "Attachment",
    "attach",
    "before",
    "detach",
    "get_current",
    "restore",
    "revert",
    "whereabouts",
]

EMPTY = Context()
"""The context without anything. Contexts do not change."""


def find_variable(runtime: Any) -> ContextVar[Context] | None:
    """The context variable of the API's runtime; None where the API is laid out otherwise."""
    variable = getattr(runtime, "_current_context", None)
    if type(runtime).__name__ != "ContextVarsRuntimeContext" or type(variable) is not ContextVar:
        return None
    probe = Context({"hopspan-probe": True})
    token = otel.attach(probe)
    is_it = variable.get(None) is probe
    otel.detach(token)
    return variable if is_it else None


_variable = find_variable(getattr(otel, "_RUNTIME_CONTEXT", None))
_attached: ContextVar[object] = ContextVar("hopspan-attached", default=None)


def attach_publicly(context: Context) -> Any:
    """`attach` by the public calls only."""
    return _attached.set(context), otel.attach(context)


def detach_publicly(token: Any) -> bool:
    """`detach` by the public calls only."""
    ours, theirs = token
    try:
        _attached.reset(ours)
    except (ValueError, RuntimeError):
        return False
    otel.detach(theirs)
    return True


def _detach(token: Token[Context]) -> bool:
    try:
        restore(token)
    except (ValueError, RuntimeError):
        return False
    return True


def restore_publicly(token: Any) -> None:
    """`restore` by the public calls only."""
    if not detach_publicly(token):
        raise ValueError(token)


get_current: Callable[[], Context]
"""The current context."""
attach: Callable[[Context], Any]
"""Make a context current; returns a token for `detach`."""
restore: Callable[[Any], None]
"""`detach` that raises a ValueError or RuntimeError where it can do nothing."""
detach: Callable[[Any], bool]
"""Put back what was current before; False, and nothing done, elsewhere or the second time."""

if _variable is None:  # pragma: no cover - no such release is known
    get_current, attach, detach = otel.get_current, attach_publicly, detach_publicly
    restore = restore_publicly
else:
    get_current, attach, detach = _variable.get, _variable.set, _detach
    restore = _variable.reset


def before(token: Any) -> Context:
    """The context that was current before the one that a token of `attach` is for."""
    old = token.old_value if isinstance(token, Token) else None
    return old if isinstance(old, Context) else EMPTY


def revert(context: Context, earlier: Context) -> None:
    """Make a context that may be current elsewhere equal to the one before it.

    The API's contexts refuse changes by their own methods, so that nobody changes a shared one by
    mistake. This one was made by us, and what made it is over.
    """
    dict.clear(context)
    dict.update(context, earlier)


class Attachment:
    """A context made current once, in the `contextvars.Context` of whoever makes this."""

    __slots__ = ("__weakref__", "_before", "_token", "context", "is_done")

    def __init__(self, context: Context) -> None:
        self._before: Context = get_current()
        self.context: Context = context
        self.is_done: bool = False
        """Whether it has been undone."""
        self._token = attach(context)

    def detach(self) -> bool:
        """Undo it here. False, and nothing done, elsewhere or the second time. Never raises."""
        if self.is_done or not detach(self._token):
            return False
        self.is_done = True
        return True

    def leave(self) -> None:
        """Undo it, from wherever this is called. Never raises."""
        if not self.is_done and not self.detach():
            self.is_done = True
            revert(self.context, self._before)


def whereabouts() -> tuple[int, object]:
    """The thread and task that we run in."""
    loop = asyncio._get_running_loop()  # noqa: SLF001 - None where there is none; the other raises
    return threading.get_ident(), None if loop is None else asyncio.current_task(loop)
