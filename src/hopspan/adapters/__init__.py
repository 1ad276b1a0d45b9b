"""Which adapter an object belongs to: by the top-level module of its class, cached per class."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from hopspan.processing import use_locator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hopspan.processing import Adapter

ADAPTERS = {
    "aio_pika": "hopspan.adapters.aio_pika",
    "celery": "hopspan.adapters.celery",
    "kafka": "hopspan.adapters.kafka",
    "pika": "hopspan.adapters.pika",
}
"""From a client's top-level module to its adapter's. `hopspan.testing` brings its own messages."""

_BY_MODULE = {**ADAPTERS, "hopspan.testing": "hopspan.testing.memory"}


@lru_cache(maxsize=512)
def locate(kind: type) -> Adapter | None:
    """The adapter for instances of a class, also of a user's subclass of a client's; or None."""
    for each in kind.__mro__:
        module = each.__module__
        top = module.partition(".")[0]
        name = _BY_MODULE.get("hopspan.testing" if module.startswith("hopspan.testing") else top)
        if name is not None:
            return cast("Adapter", importlib.import_module(name))
    return None


def adapter_named(name: str) -> Adapter:
    """The adapter of a client, imported now; imports the client."""
    return cast("Adapter", importlib.import_module(ADAPTERS[name.replace("-", "_")]))


def serving(handler: Any) -> tuple[Adapter, Sequence[Any] | None] | None:
    """Celery's adapter where a handler is a task's body: that is called with its arguments only."""
    state = sys.modules.get("celery._state")
    if state is None or state.get_current_task() is None:
        return None
    adapter: Any = adapter_named("celery")
    return adapter, adapter.served(handler)


use_locator(locate, serving)
