"""Loop scope: the body of a `for` loop over messages, inside the process span of each.

The iterator is an object, not a generator: its `__next__` ends the span of the message before, and
makes the span of the next one current in the loop's own context. When the loop is left, by
exhaustion, `break`, `return` or an exception, the last reference to the iterator goes and its
finaliser undoes what is current.

It gives parentage, baggage and duration. It cannot see the body's exception, so it never settles;
that a message failed is known from a nack, a reject or the span's status. Driven from another
thread or task than the one that iterates, it makes nothing current there.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isawaitable
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from opentelemetry.context import get_current

from hopspan import faults
from hopspan.model import PolicyError
from hopspan.processing.adapting import adapter_among, unknown
from hopspan.processing.opening import NOTHING, begin, started
from hopspan.processing.scope import Attachment, innermost, whereabouts
from hopspan.settlement import as_policy
from hopspan.telemetry import face_for

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Iterable,
        Iterator,
    )

    from typing_extensions import Self, Unpack

    from hopspan.config import Settings
    from hopspan.processing.adapting import Adapter
    from hopspan.processing.delivery import Processing

Item = TypeVar("Item")

_MOST_ATTACHED = 8


class _Scope:
    """The message whose turn it is, and what was made current for it."""

    __slots__ = ("__weakref__", "_attached", "_home", "_is_mine", "_processing")

    def __init__(self) -> None:
        self._home = whereabouts()
        self._processing = NOTHING
        self._is_mine = False
        # More than one only while the user keeps a span of their own open across turns.
        self._attached: list[Attachment] = []

    def settle_here(self) -> None:
        """The thread or task that asks is the one whose loop this is."""
        self._home = whereabouts()

    def turn(self, processing: Processing) -> None:
        """A message was handed over."""
        self._processing = processing
        # A handler or a block further out that handles this message concludes it as well.
        if processing is NOTHING:
            return
        self._is_mine = not processing.ownership.is_claimed
        if whereabouts() == self._home and not (self._attached and self._is_covered()):
            del self._attached[: -(_MOST_ATTACHED - 1)]
            self._attached.append(Attachment(processing.context))

    def _is_covered(self) -> bool:
        """Whether another loop is on top of what we could not undo, as when two run in turn."""
        self._attached = [each for each in self._attached if not each.is_done]
        return bool(self._attached) and innermost() not in self._attached

    def over(self) -> None:
        """The turn of the message is over. Idempotent; never raises."""
        processing, self._processing = self._processing, NOTHING
        try:
            mine = processing is not NOTHING and self._is_mine
            if mine and not processing.ownership.left_by(None):
                processing.finish_loop()
        except Exception:  # noqa: BLE001
            faults.report("ending a turn of a loop")
        if self._attached:
            self._detach()

    def _detach(self) -> None:
        current = get_current()
        for index, attached in enumerate(self._attached):
            attached.is_over = True
            if attached.context is current and attached.detach():
                del self._attached[index:]
                break


class _Turns:
    """What loops have in common. All that the client's own iterator can do is passed on to it."""

    _scope: _Scope

    def leave(self) -> None:
        """End the turn of the message at hand."""
        self._scope.over()

    def __getattr__(self, name: str) -> Any:
        if "_source" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self.__dict__["_source"], name)

    def __del__(self) -> None:
        scope = self.__dict__.get("_scope")
        if scope is not None:
            scope.over()


class Loop(_Turns, Generic[Item]):
    """An iterator over messages whose loop body is inside each one's process span."""

    def __init__(self, source: Iterator[Item], start: Callable[[Item], Processing]) -> None:
        self._source = source
        self._start = start
        self._scope = _Scope()

    def __iter__(self) -> Self:
        self._scope.settle_here()
        return self

    def __next__(self) -> Item:
        self._scope.over()
        item = next(self._source)
        scope, start = self._scope, self._start
        del self  # a traceback that somebody keeps must not keep the loop: that it goes is its end
        scope.turn(started(start, item))
        return item

    def close(self) -> None:
        """Leave the loop, and close the client's iterator if it can be closed."""
        self._scope.over()
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class AsyncLoop(_Turns, Generic[Item]):
    """`Loop` for `async for`."""

    def __init__(self, source: AsyncIterator[Item], start: Callable[[Item], Processing]) -> None:
        self._source = source
        self._start = start
        self._scope = _Scope()

    def __aiter__(self) -> Self:
        self._scope.settle_here()
        return self

    async def __anext__(self) -> Item:
        self._scope.over()
        item = await self._source.__anext__()
        scope, start = self._scope, self._start
        del self  # as above
        scope.turn(started(start, item))
        return item

    async def __aenter__(self) -> Self:
        source: Any = self._source
        await source.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> Any:
        self._scope.over()
        source: Any = self._source
        return await source.__aexit__(*raised)

    async def aclose(self) -> None:
        """Leave the loop, and close the client's iterator if it can be closed."""
        self._scope.over()
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        answer = close() if close is not None else None
        if isawaitable(answer):
            await answer


@overload
def each(
    messages: AsyncIterable[Item],
    *,
    via: Any = None,
    adapter: Adapter | None = None,
    **settings: Unpack[Settings],
) -> AsyncLoop[Item]: ...
@overload
def each(
    messages: Iterable[Item],
    *,
    via: Any = None,
    adapter: Adapter | None = None,
    **settings: Unpack[Settings],
) -> Loop[Item]: ...
def each(
    messages: Any, *, via: Any = None, adapter: Adapter | None = None, **settings: Unpack[Settings]
) -> Any:
    """Iterate over messages, one process span around each turn of the loop's body.

    For polled batches and for iterators of clients that are not instrumented::

        for record in hopspan.each(batch, via=kafka_consumer):
            store(record)

    Takes an iterable for `for`, or an asynchronous one for `async for`. A loop cannot see its
    body's exception, so it never settles; use `process` in the body where hopspan is to settle.

    Args:
        messages: What the client handed out.
        via: The channel or consumer that they came from.
        adapter: For doubles and mocks; found by type otherwise.
        settings: See `hopspan.Config`, without a settling policy.

    Raises:
        PolicyError: a settling policy was given.
        UnknownMessageError: while iterating, at something that is no message.
    """
    face = face_for(settings)
    if "policy" in settings and as_policy(settings["policy"]).settles:
        raise PolicyError(
            f"each(policy={settings['policy']!r}): a loop cannot see whether its body failed, "
            "so it never settles. Put `with hopspan.process(message, via=..., policy=...)` into "
            "its body"
        )

    def start(message: Any) -> Processing:
        found = adapter or adapter_among((via, message))
        natives = found.given(message, via) if found is not None else None
        if found is None or natives is None:
            raise unknown(
                "each",
                (message, via),
                "give it what the client handed out, and the channel as via=",
            )
        return begin(found, natives, pushed=False, face=face) if natives else NOTHING

    if hasattr(messages, "__aiter__"):
        return AsyncLoop(_bare(messages.__aiter__()), start)
    source: Iterable[Any] = messages
    if isinstance(messages, Mapping):  # what `KafkaConsumer.poll` returns
        source = chain.from_iterable(messages.values())
    return Loop(_bare(iter(source)), start)


def _bare(source: Any) -> Any:
    """The client's own iterator: one loop for each message is enough."""
    return source._source if isinstance(source, Loop | AsyncLoop) else source  # noqa: SLF001
