"""What interceptors work on: the values that readers make, and what an interceptor acts for."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import faults
from hopspan.conventions import RECEIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.conventions import Action
    from hopspan.delivery import Delivery
    from hopspan.model import Endpoint

active_call: ContextVar[str] = ContextVar("hopspan-active-call", default="")
"""The intercepted call in progress, as `"{client} send"`. Nested calls by the client are not traced
again. Calls by the application in between, from a serialiser or a rebalance listener, are."""


class Registration(NamedTuple):
    """A handler that is being registered with the client."""

    handler: Any
    call: Callable[[Any], tuple[Sequence[Any], dict[str, Any]]]
    """Given a handler, the arguments that register it instead."""
    make: Callable[..., Delivery]
    """From the arguments that the client calls the handler with to a new delivery."""
    settles: bool
    """Whether messages are left to be settled."""
    whom: str
    """The consumer, for error messages."""


class Fetch(NamedTuple):
    """A call that asks the client for messages."""

    endpoint: Endpoint
    """Where from, as far as the call tells."""
    read: Callable[[Any], Sequence[Delivery]]
    """Given what the client returned, the deliveries in it; empty for an empty poll."""
    action: Action = RECEIVE
    """What the system calls it."""
    mixed_endpoints: bool = False
    """Whether the call is for whatever there is, so that only the messages tell where from."""


class Point(NamedTuple):
    """A method to intercept: its class as text, so that naming it imports nothing."""

    owner: str
    method: str
    interceptor: Any
    reader: Callable[..., Any]
    carries_policy: bool = False
    """Without this point a settlement policy would be lost without a word."""


def call_is_invalid(error: Exception, reader: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether the arguments do not even fit the method: the client is about to say so itself."""
    if isinstance(error, TypeError):
        try:
            inspect.signature(reader).bind(*args, **kwargs)
        except TypeError:
            return True
    return False


def read_call(reader: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
    """What a reader makes of a call; None where the call is to go ahead without us."""
    try:
        return reader(client, *args, **kwargs)
    except Exception as error:  # noqa: BLE001
        if call_is_invalid(error, reader, (client, *args), kwargs):
            return None
        faults.report(f"reading the arguments of {getattr(reader, '__name__', reader)}")
        return None
