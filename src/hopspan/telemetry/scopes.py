"""The settings that hold: process, then client, then wrapped object, then handler, then block."""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hopspan.config import Config
from hopspan.telemetry.instrumenter import Instrumenter

if TYPE_CHECKING:
    from collections.abc import Mapping

_installed: dict[str, Instrumenter] = {}
_defaults: list[Instrumenter] = []
GENERATION: list[int] = [0]
"""How often anything of what holds has changed: what was found out before does not count."""


def set_for_client(adapter: str, instrumenter: Instrumenter | None) -> None:
    """Set what holds for one client where nothing else is said; None for the defaults."""
    if instrumenter is None:
        _installed.pop(adapter, None)
    else:
        _installed[adapter] = instrumenter
    GENERATION[0] += 1


def instrumenter_for(adapter: str) -> Instrumenter:
    """What `instrument` set for a client, else the defaults of the environment.

    Raises:
        ConfigurationError: a `HOPSPAN_*` variable is unknown or invalid.
    """
    found = _installed.get(adapter)
    if found is not None:
        return found
    if not _defaults:
        _defaults.append(Instrumenter(Config.from_environment()))
    return _defaults[0]


def active_instrumenters() -> tuple[Instrumenter, ...]:
    """What `instrument` set for each client; else the defaults of the environment.

    Raises:
        ConfigurationError: a `HOPSPAN_*` variable is unknown or invalid.
    """
    return tuple(_installed.values()) or (instrumenter_for(""),)


def forget_defaults() -> None:
    """Read the environment again at the next use. For tests."""
    _defaults.clear()
    GENERATION[0] += 1


CONSUMER, PROCESS = 1, 2


class Overrides:
    """The settings that a handler, a block or a wrapped object gives, over what lies beneath.

    Thread-safe: a race at worst builds the same instrumenter twice.
    """

    __slots__ = ("_made", "rank", "settings")

    def __init__(self, settings: Mapping[str, Any], rank: int = 0) -> None:
        self.rank: int = rank
        """Whose policy goes first: `PROCESS`, then `CONSUMER`, then what lies beneath."""
        if settings:  # a mistake is known here, not at the first message
            Config.from_environment().override(settings)
        self.settings: dict[str, Any] = dict(settings)
        # As one value: a handler may be called on several wrapped channels at the same time.
        self._made: tuple[Instrumenter, Instrumenter] | None = None

    def applied_to(self, base: Instrumenter) -> Instrumenter:
        """The base with these settings; made once for each base."""
        if not self.settings:
            return base
        made = self._made
        if made is None or made[0] is not base:
            made = self._made = (base, base.with_settings(self.settings))
        return made[1]


NO_OVERRIDES = Overrides({})


@lru_cache(maxsize=256)
def _cached(settings: tuple[tuple[str, Any], ...]) -> Overrides:
    return Overrides(dict(settings), PROCESS)


def cached_overrides(settings: Mapping[str, Any]) -> Overrides:
    """Overrides made once for equal settings: `process` is called for every message."""
    if not settings:
        return NO_OVERRIDES
    try:
        return _cached(tuple((name, _hashable(each)) for name, each in settings.items()))
    except TypeError:  # a setting that cannot be hashed, such as a policy of the user's own
        return Overrides(settings, PROCESS)


def _hashable(value: Any) -> Any:
    """Lists and sets are names, whose order means nothing."""
    return frozenset(value) if isinstance(value, list | set) else value


_bindings: weakref.WeakKeyDictionary[Any, Binding] = weakref.WeakKeyDictionary()
"""Each wrapped object's. Beside it and not in it: some clients' objects take no attributes."""


def binding_of(instance: Any) -> Binding | None:
    """What a wrapped object is bound to; None for one that is not wrapped."""
    try:
        return _bindings.get(instance)
    except TypeError:  # it can be neither referred to weakly nor hashed, so nobody has wrapped it
        return None


def keep_binding(instance: Any, binding: Binding) -> None:
    """Remember what an object is bound to, for as long as it lives."""
    _bindings[instance] = binding


class Binding:
    """What the interceptors of a class or instance act for. Inactive: they call through."""

    __slots__ = ("__weakref__", "_found", "_instrumenter", "_overrides", "_parent", "adapter")

    def __init__(
        self,
        adapter: Any,
        instrumenter: Instrumenter | None = None,
        overrides: Overrides = NO_OVERRIDES,
        parent: Binding | None = None,
    ) -> None:
        self.adapter: Any = adapter
        self._instrumenter = instrumenter
        # Of the wrapped object that has made this one: its settings lie beneath.
        self._parent = parent
        self._overrides = overrides
        # As one value: other threads look for it as well.
        self._found: tuple[int, Instrumenter] | None = None

    @property
    def overrides(self) -> Overrides:
        """What a wrapped object was given; more is added when it is wrapped again."""
        return self._overrides

    @overrides.setter
    def overrides(self, overrides: Overrides) -> None:
        self._overrides = overrides
        GENERATION[0] += 1

    @property
    def instrumenter(self) -> Instrumenter:
        """A class's own; a wrapped object's lies over what holds for the client just now."""
        if self._instrumenter is not None:
            return self._instrumenter
        found = self._found
        if found is None or found[0] != GENERATION[0]:
            found = self._found = (GENERATION[0], self._look())
        return found[1]

    def _look(self) -> Instrumenter:
        if self._parent is not None:
            return self._overrides.applied_to(self._parent.instrumenter)
        return self._overrides.applied_to(instrumenter_for(self.adapter.name))

    @property
    def active(self) -> bool:
        """False after `uninstrument`."""
        return self.instrumenter.switch.on
