"""Loop scope: the body of a `for` loop over messages, inside the process span of each.

The iterator is an object, not a generator: its `__next__` ends the span of the message before, and
makes the span of the next one current in the loop's own context. When the loop is left, by
exhaustion, `break`, `return` or an exception, the last reference to the iterator goes and its
finaliser undoes what is current.

Each turn starts from the context that was current when the loop began: whatever a body has left
attached is undone. A loop gives parentage, baggage and duration. It cannot see the body's
exception, so it never settles; that a message failed is known from a nack, a reject or the span's
status. Driven from another thread or task than the one that iterates, it makes nothing current
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isawaitable
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from hopspan import faults
from hopspan.delivery.adapter import adapter_among, unknown
from hopspan.delivery.batch import given
from hopspan.delivery.block import subscriptions_for
from hopspan.model import HopspanError, PolicyError
from hopspan.settlement import as_policy
from hopspan.telemetry import (
    attach,
    cached_overrides,
    get_current,
    restore,
    revert,
    whereabouts,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Iterable,
        Iterator,
    )

    from opentelemetry.context import Context
    from typing_extensions import Self, Unpack

    from hopspan.config import Settings
    from hopspan.delivery.adapter import Adapter
    from hopspan.delivery.delivery import Delivery

    Start = Callable[[Any, Context, tuple[int, object]], Delivery | None]
    """Begins the turn of an item: None for what is no message.

    Takes the item, the context in which the loop began, and the thread and task of the loop.
    """

Item = TypeVar("Item")


class _Turns:
    """The turns of one loop: the message at hand, and what was made current for it."""

    __slots__ = ("__weakref__", "_base", "_context", "_delivery", "_home", "_token")

    def __init__(self) -> None:
        self._delivery: Delivery | None = None
        self._context: Context | None = None
        self._token: Any = None
        self.begin()

    def begin(self) -> None:
        """Begin here: this thread or task is the one that iterates."""
        self._home = whereabouts()
        if self._token is None:  # else the loop goes on, and its own turn is current
            self._base: Context = get_current()

    def turn(self, start: Start, item: Any) -> None:
        """Begin the turn of an item that was handed over."""
        try:
            delivery = self._delivery = start(item, self._base, self._home)
        except HopspanError:
            raise
        except Exception:  # noqa: BLE001 - the message stays unsettled, so nothing is lost
            faults.report("beginning to handle a delivery")
            return
        if delivery is not None and whereabouts() == self._home:
            self._context = delivery.context
            self._token = attach(self._context)

    def over(self) -> None:
        """End the turn of the message at hand. Idempotent; never raises."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            try:
                delivery.conclude_turn()
            except Exception:  # noqa: BLE001
                faults.report("ending a turn of a loop")
        if self._token is not None:
            try:
                restore(self._token)
            except (ValueError, RuntimeError):  # ended elsewhere; put back when it comes home
                if self._context is not None:
                    revert(self._context, self._base)
                    if delivery is not None and delivery.context is self._context:
                        delivery.replace_context()  # for deferred work to come
            else:
                self._token = None
                # Two loops in turn may have been on top of each other.
                if get_current() is not self._base:
                    attach(self._base)


class _LoopBase:
    """All loops have this in common. Whatever the client's own iterator can do is passed on."""

    _turns: _Turns

    def leave(self) -> None:
        """End the turn of the message at hand."""
        self._turns.over()

    def __getattr__(self, name: str) -> Any:
        if "_source" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self.__dict__["_source"], name)

    def __del__(self) -> None:
        turns = self.__dict__.get("_turns")
        if turns is not None:
            turns.over()


class Loop(_LoopBase, Generic[Item]):
    """An iterator over messages whose loop body is inside each one's process span."""

    def __init__(self, source: Iterator[Item], start: Start) -> None:
        self._source = source
        self._start = start
        self._turns = _Turns()

    def __iter__(self) -> Self:
        self._turns.begin()
        return self

    def __next__(self) -> Item:
        self._turns.over()
        item = next(self._source)
        turns, start = self._turns, self._start
        del (
            self
        )  # a traceback that somebody keeps must not keep the loop, whose deletion ends the turn
        turns.turn(start, item)
        return item

    def close(self) -> None:
        """Leave the loop, and close the client's iterator if it can be closed."""
        self._turns.over()
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class AsyncLoop(_LoopBase, Generic[Item]):
    """`Loop` for `async for`."""

    def __init__(self, source: AsyncIterator[Item], start: Start) -> None:
        self._source = source
        self._start = start
        self._turns = _Turns()

    def __aiter__(self) -> Self:
        self._turns.begin()
        return self

    async def __anext__(self) -> Item:
        self._turns.over()
        item = await self._source.__anext__()
        turns, start = self._turns, self._start
        del self  # as above
        turns.turn(start, item)
        return item

    async def __aenter__(self) -> Self:
        source: Any = self._source
        await source.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> Any:
        self._turns.over()
        source: Any = self._source
        return await source.__aexit__(*raised)

    async def aclose(self) -> None:
        """Leave the loop, and close the client's iterator if it can be closed."""
        self._turns.over()
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
    overrides = cached_overrides(settings)
    if "policy" in settings and as_policy(settings["policy"]).settles:
        raise PolicyError(
            f"each(policy={settings['policy']!r}): a loop cannot see whether its body failed, "
            "so it never settles. Put `with hopspan.process(message, via=..., policy=...)` into "
            "its body"
        )
    subscriptions = subscriptions_for(overrides)

    def start(message: Any, base: Context, home: tuple[int, object]) -> Delivery | None:
        found = adapter or adapter_among((via, message))
        delivery = given(found.delivery, message, via) if found is not None else None
        if delivery is None:
            raise unknown(
                "each",
                (message, via),
                "give it what the client handed out, and the channel as via=",
            )
        if not delivery:
            return None
        return delivery.begin_turn(subscriptions.for_delivery(delivery), base, home)

    if hasattr(messages, "__aiter__"):
        return AsyncLoop(_unwrapped(messages.__aiter__()), start)
    source: Iterable[Any] = messages
    if isinstance(messages, Mapping):  # what `KafkaConsumer.poll` returns
        source = chain.from_iterable(messages.values())
    return Loop(_unwrapped(iter(source)), start)


def _unwrapped(source: Any) -> Any:
    """The client's own iterator: one loop for each message is enough."""
    return source._source if isinstance(source, Loop | AsyncLoop) else source  # noqa: SLF001
