"""Making a context current, and undoing it only where it was done.

OpenTelemetry's `detach` logs an error when it is called in another `contextvars.Context` than
`attach` was, and nothing in it can tell beforehand. A context variable of our own can: resetting it
succeeds exactly in the context that set it.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from opentelemetry.context import Context, attach, detach

_mark: ContextVar[bool] = ContextVar("hopspan-mark", default=False)


class Attachment:
    """A context that was made current, once, in the `contextvars.Context` of whoever made this."""

    __slots__ = ("_marked", "_token", "context")

    def __init__(self, context: Context) -> None:
        self.context = context
        self._marked = _mark.set(True)
        self._token = attach(context)

    def detach(self) -> bool:
        """Undo it. False, and nothing done, in another context or the second time. Never raises."""
        try:
            _mark.reset(self._marked)
        except (ValueError, RuntimeError):
            return False
        detach(self._token)
        return True


def whereabouts() -> tuple[int, object]:
    """The thread and task that we run in."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.get_ident(), task
