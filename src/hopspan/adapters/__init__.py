"""Which adapter an object belongs to: by the module of its class, cached per class.

hopspan brings the adapters of `ADAPTERS`. An installed package registers one for a further client
by an entry point of the group `hopspan.adapters`: its name is the client's module, its value a
module with an `ADAPTER`. In the `pyproject.toml` of such a package::

    [project.entry-points."hopspan.adapters"]
    tinyq = "hopspan_tinyq"

Rules of this module: hopspan's own adapters come first, and entry points are read once, when
something is asked for that these do not know. A registered adapter that cannot be used costs a log
line, and never a message.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from hopspan import faults
from hopspan.delivery import Adapter, Running, set_lookup
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

ADAPTERS = {
    "aio_pika": "hopspan.adapters.aio_pika",
    "celery": "hopspan.adapters.celery",
    "kafka": "hopspan.adapters.kafka",
    "pika": "hopspan.adapters.pika",
}
"""From a client's top-level module to its adapter's. `hopspan.testing` brings its own messages."""

GROUP = "hopspan.adapters"
"""The group of entry points by which other packages register adapters."""

_BY_MODULE = {**ADAPTERS, "hopspan.testing": "hopspan.testing.memory"}


@lru_cache(maxsize=512)
def locate(kind: type) -> Adapter | None:
    """The adapter for instances of a class, also of a user's subclass of a client's; or None."""
    client = _client_of(kind, _BY_MODULE)
    if client is not None:
        return cast("Adapter", importlib.import_module(_BY_MODULE[client]).ADAPTER)
    client = _client_of(kind, registered())
    return None if client is None else usable(client)


def _client_of(kind: type, known: Container[str]) -> str | None:
    """The client whose class, or whose subclass, a class is."""
    for each in kind.__mro__:
        package = each.__module__
        while package and package not in known:
            package = package.rpartition(".")[0]
        if package:
            return package
    return None


@lru_cache(maxsize=64)
def registered() -> Mapping[str, EntryPoint]:
    """The adapters that installed packages register, by the client's module. Imports none of them.

    Of two for one client the first by its distribution's name is taken, so that it is the same one
    everywhere. Entry points are read once in a process. Thread-safe.
    """
    found: dict[str, EntryPoint] = {}
    owners = dict.fromkeys(_BY_MODULE, "hopspan")
    try:
        for entry in sorted(entry_points(group=GROUP), key=registrant):
            if entry.name not in owners:
                owners[entry.name], found[entry.name] = registrant(entry), entry
            else:
                faults.once(
                    "the adapter for %s that %s registers is not used: %s has one already",
                    *(entry.name, registrant(entry), owners[entry.name]),
                )
    except Exception:  # noqa: BLE001 - an installed package may be broken in any way
        faults.report(f"reading the entry points {GROUP}")
    return found


def registrant(entry: EntryPoint) -> str:
    """The distribution that an entry point belongs to, or else its module."""
    return entry.dist.name if entry.dist else entry.module


@lru_cache(maxsize=64)
def usable(client: str) -> Adapter | None:
    """A registered adapter, imported now; None for one that cannot be used, which is said once."""
    try:
        return adapter_named(client)
    except ConfigurationError as error:
        faults.once("hopspan leaves %s alone: %s", client, str(error), exc_info=True)
        return None


def clients() -> tuple[str, ...]:
    """The modules of all clients that there is an adapter for, installed or not."""
    return (*ADAPTERS, *registered())


def adapter_named(name: str) -> Adapter:
    """The adapter of a client, imported now; imports the client.

    Raises:
        ConfigurationError: a package registers it, and it is no adapter, or cannot be imported.
    """
    client = name.replace("-", "_")
    if client in ADAPTERS:
        return cast("Adapter", importlib.import_module(ADAPTERS[client]).ADAPTER)
    return _loaded(registered()[client])


def _loaded(entry: EntryPoint) -> Adapter:
    who = f"the adapter for {entry.name} that {registrant(entry)} registers cannot be used"
    try:
        loaded = entry.load()
    except Exception as error:
        raise ConfigurationError(f"{who}: {type(error).__name__}: {error}") from error
    adapter = getattr(loaded, "ADAPTER", loaded)
    if not isinstance(adapter, Adapter):
        raise ConfigurationError(f"{who}: {entry.value} is no hopspan Adapter and has no ADAPTER")
    return adapter


def running(handler: Any) -> Running | None:
    """The delivery of a Celery task's body, which is called with the task's arguments only."""
    state = sys.modules.get("celery._state")
    if state is None or state.get_current_task() is None:
        return None
    found: Running | None = _running_task()(handler)
    return found


@lru_cache(maxsize=64)
def _running_task() -> Callable[[Any], Running | None]:
    """Look the function up once: a task's body asks each time that it runs."""
    found: Callable[[Any], Running | None] = importlib.import_module(ADAPTERS["celery"]).running
    return found


set_lookup(locate, running)
