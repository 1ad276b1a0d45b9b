"""The binding of each application: signals are the process's, and say of which application."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from hopspan.telemetry import GENERATION, binding_of

if TYPE_CHECKING:
    from hopspan.telemetry import Binding

_of_process: list[Binding] = []
_wrapped: weakref.WeakSet[Binding] = weakref.WeakSet()


def set_process_binding(binding: Binding | None) -> None:
    """Set what holds for applications that are not wrapped; None for nothing."""
    _of_process[:] = [] if binding is None else [binding]
    GENERATION[0] += 1


def process_binding() -> Binding | None:
    """The binding that `instrument` made, or None."""
    return _of_process[0] if _of_process else None


def binding_for(app: Any) -> Binding | None:
    """The binding that an application's tasks are traced by, or None where they are not."""
    bound = binding_of(app) or process_binding()
    return bound if bound is not None and bound.active else None


def keep(binding: Binding) -> None:
    """Remember the binding of a wrapped application for as long as that lives."""
    _wrapped.add(binding)
    GENERATION[0] += 1


def known_bindings() -> list[Binding]:
    """All bindings: the process's, and those of wrapped applications."""
    return [*_of_process, *_wrapped]
