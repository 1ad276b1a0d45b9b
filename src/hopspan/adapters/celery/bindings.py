"""For whom signals are heard: they are the whole process's, and say of which application."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from hopspan.telemetry import binding_of

if TYPE_CHECKING:
    from hopspan.telemetry import Binding

_everybodys: list[Binding] = []


def set_everybodys(binding: Binding | None) -> None:
    """What holds for applications that are not wrapped; None for nothing."""
    _everybodys[:] = [] if binding is None else [binding]


def everybodys() -> Binding | None:
    """What `instrument` bound, or None."""
    return _everybodys[0] if _everybodys else None


def bound_to(app: Any) -> Binding | None:
    """What an application's tasks are traced by for as long as that is active; or None."""
    bound = binding_of(app)
    return _everybodys[0] if bound is None and _everybodys else bound


def binding_for(app: Any) -> Binding | None:
    """What an application's tasks are traced by, or None where they are not."""
    bound = bound_to(app)
    return bound if bound is not None and bound.active else None


_wrapped: weakref.WeakSet[Binding] = weakref.WeakSet()


def keep(binding: Binding) -> None:
    """Remember the binding of a wrapped application for as long as that lives."""
    _wrapped.add(binding)


def known_bindings() -> list[Binding]:
    """All there are: everybody's, and those of wrapped applications."""
    return [*_everybodys, *_wrapped]
