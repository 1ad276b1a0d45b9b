"""Whose settings hold: what `instrument` set for a client, and what a face says over it."""

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
_changes: list[int] = [0]
"""How often anything of what holds has changed: what was found out before does not count."""


def install(adapter: str, instrumenter: Instrumenter | None) -> None:
    """Set what the faces of one client use where they say nothing else; None for the defaults."""
    if instrumenter is None:
        _installed.pop(adapter, None)
    else:
        _installed[adapter] = instrumenter
    _changes[0] += 1


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


def in_force() -> tuple[Instrumenter, ...]:
    """What `instrument` set for each client; else the defaults of the environment.

    Raises:
        ConfigurationError: a `HOPSPAN_*` variable is unknown or invalid.
    """
    return tuple(_installed.values()) or (instrumenter_for(""),)


def forget_defaults() -> None:
    """Read the environment again at the next use. For tests."""
    _defaults.clear()
    _changes[0] += 1


CONSUMER, PROCESS = 1, 2


class Face:
    """The settings that one face gives explicitly, over whatever lies beneath it.

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

    def over(self, base: Instrumenter) -> Instrumenter:
        """The base with this face's settings; made once for each base."""
        if not self.settings:
            return base
        made = self._made
        if made is None or made[0] is not base:
            made = self._made = (base, base.with_settings(self.settings))
        return made[1]


NO_SETTINGS = Face({})


@lru_cache(maxsize=256)
def _cached_face(settings: tuple[tuple[str, Any], ...]) -> Face:
    return Face(dict(settings), PROCESS)


def face_for(settings: Mapping[str, Any]) -> Face:
    """A face made once for equal settings: `process` is called for every message."""
    if not settings:
        return NO_SETTINGS
    try:
        return _cached_face(tuple((name, _hashable(each)) for name, each in settings.items()))
    except TypeError:  # a setting that cannot be hashed, such as a policy of the user's own
        return Face(settings, PROCESS)


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

    __slots__ = ("__weakref__", "_face", "_found", "_instrumenter", "_maker", "adapter")

    def __init__(
        self,
        adapter: Any,
        instrumenter: Instrumenter | None = None,
        face: Face = NO_SETTINGS,
        maker: Binding | None = None,
    ) -> None:
        self.adapter: Any = adapter
        self._instrumenter = instrumenter
        # Of the wrapped object that has made this one: its settings lie beneath.
        self._maker = maker
        self._face = face
        # As one value: other threads look for it as well.
        self._found: tuple[int, Instrumenter] | None = None

    @property
    def face(self) -> Face:
        """What a wrapped object was given; more is added when it is wrapped again."""
        return self._face

    @face.setter
    def face(self, face: Face) -> None:
        self._face = face
        _changes[0] += 1

    @property
    def instrumenter(self) -> Instrumenter:
        """A class's own; a wrapped object's lies over what holds for the client just now."""
        if self._instrumenter is not None:
            return self._instrumenter
        found = self._found
        if found is None or found[0] != _changes[0]:
            found = self._found = (_changes[0], self._look())
        return found[1]

    def _look(self) -> Instrumenter:
        if self._maker is not None:
            return self._face.over(self._maker.instrumenter)
        return self._face.over(instrumenter_for(self.adapter.NAME))

    @property
    def active(self) -> bool:
        """False after `uninstrument`."""
        return self.instrumenter.switch.on
