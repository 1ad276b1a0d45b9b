"""Replacing methods of one instance, also where Python or the class does not let it.

An ordinary method is replaced in the instance's `__dict__`. Python looks special methods up on the
class, and some objects have no `__dict__`; for those the instance is given a subclass of its class,
made once for each class and set of methods, that looks the replacement up beside the instance.
"""

from __future__ import annotations

import inspect
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import MethodType

_beside: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def replace_on(instance: Any, replaced: Mapping[str, MethodType]) -> None:
    """Have these in place of the instance's methods of the same names."""
    attributes = getattr(instance, "__dict__", None)
    by_class = {
        name: method
        for name, method in replaced.items()
        if attributes is None or (name.startswith("__") and name.endswith("__"))
    }
    if attributes is not None:
        attributes.update((name, each) for name, each in replaced.items() if name not in by_class)
    if by_class:
        # Unbound: what is kept here must not keep the instance.
        _beside[instance] = {name: method.__func__ for name, method in by_class.items()}
        kind: Any = type(instance)
        instance.__class__ = dispatching(kind, frozenset(by_class))


@lru_cache(maxsize=256)
def dispatching(kind: Any, names: frozenset[str]) -> type:
    """A subclass with the same layout whose methods are those that are kept beside an instance."""
    methods = {name: _dispatch(kind, name) for name in names}
    return subclass(kind, methods)


def subclass(kind: Any, methods: Mapping[str, Any]) -> type:
    """A subclass that looks like its class, and that its instances can be given."""
    about = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    parts = {**about, "__doc__": kind.__doc__, "__slots__": (), **methods}
    made: type = type(kind)(kind.__name__, (kind,), parts)
    return made


def _dispatch(kind: Any, name: str) -> Any:
    original = getattr(kind, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _beside[self][name](self, *args, **kwargs)

    async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await _beside[self][name](self, *args, **kwargs)

    method: Any = call_async if inspect.iscoroutinefunction(original) else call
    method.__name__, method.__doc__ = name, original.__doc__
    return method
