"""Whether the user asked instrumentations to be silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.context import set_value

if TYPE_CHECKING:
    from opentelemetry.context import Context

try:
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY as _SUPPRESS
except ImportError:  # pragma: no cover - private, and may go
    _SUPPRESS = "suppress_instrumentation"
_SUPPRESS_PLAIN = "suppress_instrumentation"


def is_suppressed(context: Context) -> bool:
    """Whether the user asked instrumentations to be silent (`suppress_instrumentation`)."""
    return bool(context.get(_SUPPRESS) or context.get(_SUPPRESS_PLAIN))


def without_nested(context: Context) -> Context:
    """A context in which instrumentations of what a client uses inside are silent."""
    return set_value(_SUPPRESS, True, context)
