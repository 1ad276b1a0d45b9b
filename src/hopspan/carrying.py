"""What an application puts into messages by itself: baggage for a block, and outboxes.

A scope of baggage belongs to the thread and task that enters it, and is undone there. It is
written for each use as if there were no other, so one scope can be kept and used everywhere.
"""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from opentelemetry import baggage as otel_baggage
from opentelemetry.context import get_current

from hopspan import propagation
from hopspan.model import ConfigurationError
from hopspan.propagation.baggage import ANY, leaving
from hopspan.telemetry import Attachment, active_instrumenters

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from opentelemetry.context import Context

__all__ = ["Baggage", "baggage", "inject"]

Function = TypeVar("Function", bound="Callable[..., Any]")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""W3C Baggage, *key*: a token of HTTP."""


class _Entered(NamedTuple):
    """One use of a scope that has not been left."""

    scope: Baggage
    attachment: Attachment


_entered: ContextVar[tuple[_Entered, ...]] = ContextVar("hopspan-baggage", default=())


class Baggage:
    """Entries of baggage for a block or a function. Made by `baggage`; use it as often as you like.

    Safe to share between threads and tasks, and to nest in itself.
    """

    __slots__ = ("_entries", "_open")

    def __init__(self, entries: Mapping[str, str | None]) -> None:
        self._entries = entries
        # Weak: what was entered in a context that is gone will not be left any more.
        self._open: weakref.WeakSet[Attachment] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<hopspan baggage {', '.join(self._entries)}>"  # the values are nobody's business

    def __enter__(self) -> None:
        attachment = Attachment(self._applied(get_current()))
        self._open.add(attachment)
        others = (each for each in _entered.get() if not each.attachment.is_done)
        _entered.set((*others, _Entered(self, attachment)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        entered = _entered.get()
        mine = [each for each in entered if each.scope is self]
        if mine:
            _entered.set(tuple(each for each in entered if each is not mine[-1]))
            self._leave(mine[-1].attachment)
        elif len(self._open) == 1:  # entered somewhere else, and this can only be the end of that
            self._leave(next(iter(self._open)))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, frames)

    def _leave(self, attachment: Attachment) -> None:
        """Undo it, from wherever this is called."""
        self._open.discard(attachment)
        attachment.leave()

    def _applied(self, context: Context) -> Context:
        for key, value in self._entries.items():
            if value is None:
                context = otel_baggage.remove_baggage(key, context)
            else:
                context = otel_baggage.set_baggage(key, value, context)
        return context

    def __call__(self, function: Function) -> Function:
        """Decorate a function: the entries are set while it runs.

        Raises:
            ConfigurationError: it is no function, or one whose body runs later, piece by piece.
        """
        called: Any = _decorable(function)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                result = function(*args, **kwargs)
            return self._awaited(result) if isinstance(result, CoroutineType) else result

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return run_async if inspect.iscoroutinefunction(called) else run  # type: ignore[return-value]

    async def _awaited(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        with self:
            return await waiting


def _decorable(function: Any) -> Any:
    """What runs when a function, a method or a callable object is called."""
    if isinstance(function, classmethod | staticmethod | type) or not callable(function):
        kind = type(function).__name__
        raise ConfigurationError(
            f"hopspan.baggage(...) decorates a function, not a {kind} object; it goes below "
            "@classmethod and @staticmethod"
        )
    called = function if inspect.isroutine(function) else type(function).__call__
    if isinstance(function, functools.partial):
        called = function.func
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(
            f"hopspan.baggage(...) cannot decorate the generator {name}: its body runs piece by "
            "piece, wherever it is iterated over. Use `with hopspan.baggage(...)` around the loop, "
            "or inside of the generator where it does not yield"
        )
    return called


def baggage(entries: Mapping[str, object] | None = None, /, **more: object) -> Baggage:
    """Set entries of baggage for a block or a function; what is published there carries them.

    ::

        with hopspan.baggage(tenant_id="t1"):
            channel.basic_publish("orders", "created", body)

        @hopspan.baggage({"customer.tier": "enterprise"})
        async def checkout(order): ...

    The other entries stay as they are, and everything is as before when the block is left. Whether
    an entry leaves in messages is for `baggage_allow` to say. Do not `yield` inside of the block:
    whoever iterates would have the entries as well.

    Args:
        entries: Names that are no Python identifiers, with their values.
        more: Names and values. Values become `str`; None removes the entry for the block.

    Returns:
        A context manager for `with` and `async with`, and a decorator of functions, sync and async.
        It can be used again, nested, and at the same time by several threads and tasks.

    Raises:
        ConfigurationError: a name is none for W3C Baggage.
    """
    if entries is not None and not isinstance(entries, Mapping):
        raise ConfigurationError(
            f"hopspan.baggage takes names and values, not a {type(entries).__name__}: "
            "hopspan.baggage(tenant_id=...) or hopspan.baggage({'customer.tier': ...})"
        )
    given = {**(entries or {}), **more}
    return Baggage({_checked(key): _text(value) for key, value in given.items()})


def _checked(key: Any) -> str:
    if not isinstance(key, str) or not _TOKEN.fullmatch(key):
        raise ConfigurationError(
            f"{key!r} cannot be the name of an entry of baggage: it takes letters, digits and "
            "!#$%&'*+-.^_`|~, and no space"
        )
    return key


def _text(value: object) -> str | None:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    # An undecodable file name has what no propagator can write.
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


@overload
def inject(headers: None = None, context: Context | None = None) -> dict[str, Any]: ...
@overload
def inject(headers: Mapping[str, Any], context: Context | None = None) -> dict[str, Any]: ...
@overload
def inject(
    headers: list[tuple[str, Any]], context: Context | None = None
) -> list[tuple[str, Any]]: ...
def inject(
    headers: Mapping[str, Any] | list[tuple[str, Any]] | None = None, context: Context | None = None
) -> dict[str, Any] | list[tuple[str, Any]]:
    """Copy message headers and put the current trace context and baggage into the copy.

    For clients that hopspan does not know and for outboxes: store the result with the message and
    hand it to the client later. Any context that the headers held before is replaced.

    Which client will send it is not known here. So an entry of baggage is put in only if every
    `instrument` that is in force allows it, or the environment where there is none.

    Args:
        headers: A mapping, or a list of `(key, value)` pairs whose values the client wants as bytes
            (Kafka). None means no headers yet. Never changed.
        context: The OpenTelemetry context to carry; the current one when omitted.

    Returns:
        A new `dict`, or a new list of pairs for a list.

    Raises:
        ConfigurationError: a `HOPSPAN_*` variable is unknown or invalid.

    Thread and task safety: no state; reads the caller's current context.
    """
    context = get_current() if context is None else context
    lists = [each.allowed for each in active_instrumenters() if each.allowed is not None]
    for allowed in lists:
        context = leaving(context, allowed)
    carried: dict[str, Any] | list[tuple[str, Any]] = propagation.injected(
        headers, context, ANY if lists else None
    )
    return carried
