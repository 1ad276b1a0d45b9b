"""The user's hooks: they enrich, and decide about nothing."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hopspan import faults

if TYPE_CHECKING:
    from hopspan.config import Hook
    from hopspan.telemetry.spans import Operation

_in_hook: ContextVar[bool] = ContextVar("hopspan-in-hook", default=False)


def call_hook(name: str, hook: Hook | None, operation: Operation, native: Any) -> None:
    """Call a hook; its errors are logged once, and never raised. None where there is no hook.

    What a hook publishes is traced, but calls no hook: it would call this one again, for ever.
    """
    if hook is None or _in_hook.get():
        return
    token = _in_hook.set(True)
    try:
        hook(operation, native)
    except Exception:  # noqa: BLE001
        faults.report(f"calling the {name} hook")
    finally:
        _in_hook.reset(token)
