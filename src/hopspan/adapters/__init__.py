"""Which adapter an object belongs to: by the top-level module of its class, cached per class."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from hopspan.delivery import Running, set_lookup

if TYPE_CHECKING:
    from hopspan.delivery import Adapter

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
            return cast("Adapter", importlib.import_module(name).ADAPTER)
    return None


def adapter_named(name: str) -> Adapter:
    """The adapter of a client, imported now; imports the client."""
    module = importlib.import_module(ADAPTERS[name.replace("-", "_")])
    return cast("Adapter", module.ADAPTER)


def running(handler: Any) -> Running | None:
    """The delivery of a Celery task's body, which is called with the task's arguments only."""
    state = sys.modules.get("celery._state")
    if state is None or state.get_current_task() is None:
        return None
    found: Running | None = importlib.import_module(ADAPTERS["celery"]).running(handler)
    return found


set_lookup(locate, running)
