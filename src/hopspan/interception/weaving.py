"""Class scope: methods replaced for the whole process, and restored exactly."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import faults
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.interception.points import Point
    from hopspan.telemetry import Binding

INTERCEPTED = "__hopspan_original__"
"""The attribute in which a replacement keeps the method that it replaces."""


class _Woven(NamedTuple):
    owner: type
    method: str
    before: Any
    """What the class's own `__dict__` held; the sentinel where the method was inherited."""


_INHERITED = object()


def owner_of(path: str) -> type:
    """Import the class that `module:Class` names."""
    module, _, name = path.partition(":")
    owner: type = getattr(importlib.import_module(module), name)
    return owner


def weave(points: Sequence[Point], binding: Binding) -> list[_Woven]:
    """Intercept methods of classes, for the whole process.

    Raises:
        ConfigurationError: a method that a settlement policy needs cannot be intercepted.
    """
    woven: list[_Woven] = []
    rival = next(filter(_is_wrapped, binding.adapter.rivals), None)
    try:
        for point in points:
            owner = owner_of(point.owner)
            original = getattr(owner, point.method, None)
            reason = _rivalry(rival) if rival else why_not_intercept(original, point.reader)
            if reason is not None:
                decline(point, reason, binding)
                continue
            before = owner.__dict__.get(point.method, _INHERITED)
            woven.append(_Woven(owner, point.method, before))
            setattr(owner, point.method, intercepted(point, original, binding))
    except ConfigurationError:
        unweave(woven)
        raise
    return woven


def unweave(woven: Sequence[_Woven]) -> None:
    """Restore the classes exactly."""
    for owner, method, before in woven:
        if before is _INHERITED:
            delattr(owner, method)
        else:
            setattr(owner, method, before)


def intercepted(point: Point, original: Any, binding: Binding) -> Callable[..., Any]:
    """What a method is replaced by."""
    replacement: Callable[..., Any] = point.interceptor(original, binding)
    setattr(replacement, INTERCEPTED, original)
    return replacement


def decline(point: Point, reason: str, binding: Binding) -> None:
    """Leave a method alone, and say why.

    Raises:
        ConfigurationError: the policy in force needs it.
    """
    method = f"{point.owner.partition(':')[2]}.{point.method}"
    if point.carries_policy and binding.instrumenter.config.policy.settles:
        raise ConfigurationError(
            f"{method} cannot be instrumented, so policy "
            f"{binding.instrumenter.config.policy.name} would be lost: {reason}"
        )
    faults.once("hopspan leaves %s alone: %s", method, reason)


def why_not_intercept(original: Any, reader: Callable[..., Any]) -> str | None:
    """Why a method is not to be intercepted, or None."""
    if original is None:
        return "this version of the client has no such method; look for a newer hopspan"
    if hasattr(original, "__wrapped__") and not hasattr(original, INTERCEPTED):
        return _rivalry(original.__qualname__)
    named = _named(reader)
    theirs = _named(original)
    if theirs[: len(named)] != named and not _takes_anything(original):
        return (
            f"this version of the client has ({', '.join(theirs)}) where hopspan knows "
            f"({', '.join(named)}); look for a newer hopspan"
        )
    return None


def _rivalry(wrapped: str) -> str:
    return (
        f"another instrumentation wraps {wrapped} already; use one of the two, or spans are doubled"
    )


def _is_wrapped(path: str) -> bool:
    owner, _, method = path.rpartition(".")
    function = getattr(owner_of(owner), method, None)
    return hasattr(function, "__wrapped__") and not hasattr(function, INTERCEPTED)


def _takes_anything(function: Callable[..., Any]) -> bool:
    """Whether a method passes on what it is given, as that of a user's subclass does."""
    kinds = {each.kind for each in inspect.signature(function).parameters.values()}
    return {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds


def _named(function: Callable[..., Any]) -> list[str]:
    """The parameters that can be given by position, without the first, which is the client."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in positional][1:]
