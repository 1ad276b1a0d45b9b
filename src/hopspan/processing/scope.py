"""Making a context current, and undoing it only where it was done.

OpenTelemetry's `detach` logs an error when it is called in another `contextvars.Context` than
`attach` was, and nothing in it can tell beforehand. A context variable of our own can: resetting it
succeeds exactly in the context that set it.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from opentelemetry.context import Context, attach, detach, get_current

_innermost: ContextVar[Attachment | None] = ContextVar("hopspan-attachment", default=None)


class Attachment:
    """A context that was made current, once, in the `contextvars.Context` of whoever made this."""

    __slots__ = ("__weakref__", "_marked", "_token", "context", "is_done", "is_over")

    def __init__(self, context: Context) -> None:
        self.context: Context = context
        self.is_done: bool = False
        """Whether it has been undone."""
        self.is_over: bool = False
        """Set by an owner who cannot undo it yet: whoever uncovers it is to undo it as well."""
        self._marked = _innermost.set(self)
        self._token = attach(context)

    def detach(self) -> bool:
        """Undo it. False, and nothing done, in another context or the second time. Never raises."""
        try:
            _innermost.reset(self._marked)
        except (ValueError, RuntimeError):
            return False
        detach(self._token)
        self.is_done = True
        undo_leftovers()
        return True


def undo_leftovers() -> None:
    """Undo what is current though its owner is gone, as a loop that died in another thread."""
    left = _innermost.get()
    if left is not None and left.is_over and left.context is get_current():
        left.detach()


def innermost() -> Attachment | None:
    """What was made current last, here, of what is not undone yet."""
    return _innermost.get()


def whereabouts() -> tuple[int, object]:
    """The thread and task that we run in."""
    loop = asyncio._get_running_loop()  # noqa: SLF001 - None where there is none; the other raises
    return threading.get_ident(), None if loop is None else asyncio.current_task(loop)
