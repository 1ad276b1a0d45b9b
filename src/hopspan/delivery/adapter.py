"""An adapter: a client's `Delivery` subclass, and the points to intercept.

Adapters are found by the type of the client's objects; the adapters package says how.
"""

from __future__ import annotations

import inspect
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hopspan.model import UnknownMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.delivery.client import Client
    from hopspan.delivery.delivery import Delivery
    from hopspan.telemetry import Binding


class Signals(Protocol):
    """A client's signals. Modules satisfy this protocol."""

    def connect(self, binding: Binding, instance: Any = None, /) -> None:
        """Listen for one wrapped object, or for the whole process; once more changes nothing.

        Raises:
            PolicyError: the policy in force cannot work.
        """

    def disconnect(self, binding: Binding, /) -> None:
        """Listen for the whole process no more."""


def _leave(instance: Any) -> None:
    """Prepare nothing."""


def _never(instance: Any) -> bool:  # noqa: ARG001
    return False


class Adapter:
    """One client library: its deliveries, and the methods to intercept. Immutable."""

    __slots__ = (
        "client", "delivery", "instance_points", "name", "points", "prepare", "rivals",
        "settles_by_itself", "signals",
    )  # fmt: skip

    def __init__(
        self,
        delivery: type[Delivery],
        *,
        points: Sequence[Any] = (),
        instance_points: Sequence[Any] = (),
        rivals: Sequence[str] = (),
        signals: Signals | None = None,
        prepare: Callable[[Any], None] = _leave,
        settles_by_itself: Callable[[Any], bool] = _never,
    ) -> None:
        """Put an adapter together.

        Args:
            delivery: The class of the client's deliveries, which reads and settles one.
            points: The methods to intercept, on a class or on an instance.
            instance_points: Further ones that make sense on a wrapped instance only.
            rivals: Methods, as `module:Class.method`, that other instrumentations of this client
                wrap.
            signals: For a client that reports its work by signals.
            prepare: Makes an object ready to be wrapped, or to be the `via` of a handler.
            settles_by_itself: Whether a prepared object leaves nothing to settle, whatever it hands
                out.
        """
        self.client: Client = delivery.client
        self.name: str = delivery.client.name
        self.delivery: type[Delivery] = delivery
        self.points: Sequence[Any] = points
        self.instance_points: Sequence[Any] = instance_points
        self.rivals: Sequence[str] = rivals
        self.signals: Signals | None = signals
        self.prepare: Callable[[Any], None] = prepare
        self.settles_by_itself: Callable[[Any], bool] = settles_by_itself

    def __repr__(self) -> str:
        return f"<adapter of {self.name}>"


class Running(NamedTuple):
    """A delivery whose handler a client calls without its message, as Celery calls a task."""

    adapter: Adapter
    delivery: Delivery | None
    """None where the handler is called like any function."""
    is_body: bool
    """Whether the client calls this handler itself, and not a function that calls it."""


_locators: list[Callable[[type], Adapter | None]] = []
_running: list[Callable[[Any], Running | None]] = []


def set_lookup(
    locate: Callable[[type], Adapter | None], running: Callable[[Any], Running | None]
) -> None:
    """Set how adapters are found. The adapters package does: the core does not know it.

    Args:
        locate: By the type of an object.
        running: By a handler, where a client runs it without handing it a message.
    """
    _locators[:] = [locate]
    _running[:] = [running]


def running_task(handler: Any) -> Running | None:
    """The client that runs a handler without handing it a message, or None."""
    return _running[0](handler) if _running else None


def adapter_of(kind: type) -> Adapter | None:
    """The adapter for instances of a class, or None."""
    return _locators[0](kind) if _locators else None


def adapter_among(candidates: tuple[Any, ...]) -> Adapter | None:
    """The adapter of the first object that has one; lists and tuples are looked into."""
    for candidate in candidates:
        if type(candidate) in {list, tuple}:
            found = adapter_among(tuple(candidate[:4]))
        elif type(candidate) is dict:  # what `KafkaConsumer.poll` returns
            found = adapter_among(tuple(islice(candidate.values(), 1)))
        else:
            found = adapter_of(type(candidate))
        if found is not None:
            return found
    return None


def resolved(via: Any, adapter: Adapter | None) -> Any:
    """The consumer or channel that a user gave, or that the function returns which they gave.

    A double may be callable as well: with an adapter, only a function is called.
    """
    if not callable(via) or inspect.isclass(via):
        return via
    is_function = inspect.isroutine(via) or isinstance(via, partial)
    return via() if is_function or (adapter is None and adapter_among((via,)) is None) else via


def unknown(verb: str, objects: tuple[Any, ...], remedy: str) -> UnknownMessageError:
    """An error that says what was given, why it does not do, and what to change."""
    kinds = ", ".join(type(each).__qualname__ for each in objects if each is not None) or "nothing"
    return UnknownMessageError(
        f"{verb}: no message of a client that hopspan knows in what it was given ({kinds}); "
        f"{remedy}"
    )
