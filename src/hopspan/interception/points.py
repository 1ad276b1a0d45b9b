"""What interceptors work on: the values that readers make, and what an interceptor acts for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.model import Delivery, Endpoint

inside: ContextVar[bool] = ContextVar("hopspan-inside", default=False)
"""Set while the client runs inside an intercepted call: what it calls of itself is no operation."""


class Subscription(NamedTuple):
    """A handler that is being registered with the client."""

    handler: Any
    call: Callable[[Any], tuple[Sequence[Any], dict[str, Any]]]
    """Given a handler, the arguments that register it instead."""
    native: Callable[..., Any]
    """Given what the client calls the handler with, the native delivery."""
    settles: bool
    whom: str
    """The consumer, for error messages."""


class Fetch(NamedTuple):
    """A call that asks the client for messages."""

    endpoint: Endpoint
    read: Callable[[Any], list[Delivery]]
    """Given what the client returned, the deliveries in it; empty for an empty poll."""


class Point(NamedTuple):
    """A method to intercept: its class as text, so that naming it imports nothing."""

    owner: str
    method: str
    interceptor: Any
    reader: Callable[..., Any]
    carries_policy: bool = False
    """Without this point a settlement policy would be lost without a word."""


def read_call(reader: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
    """What a reader makes of a call; None where the call is to go ahead without us."""
    try:
        return reader(client, *args, **kwargs)
    except TypeError:  # the user's arguments: the client is about to say so itself
        return None
    except Exception:  # noqa: BLE001
        faults.report(f"reading the arguments of {getattr(reader, '__name__', reader)}")
        return None
