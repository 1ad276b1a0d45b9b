"""Seeing what passes through a consumer: what it hands out, and what the application does with it.

A consumer is given a subclass of its own class, made once for each class, whose methods pass
everything on and keep `State` up to date. A class, because `for` and `next` look special methods up
there; the consumer keeps its identity, and is an instance of all that it was.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.adapters.kafka import own_commits
from hopspan.adapters.kafka.committing import PATIENCE_MS
from hopspan.adapters.kafka.consumers import STATE, State, state_of
from hopspan.adapters.kafka.rebalancing import follow
from hopspan.adapters.kafka.registry import remember
from hopspan.interception import INTERCEPTED, subclass

if TYPE_CHECKING:
    from collections.abc import Callable


def track(consumer: Any) -> State:
    """What is kept of a consumer, from now on if not before."""
    state = state_of(consumer)
    if state is None:
        kind: Any = type(consumer)
        state = consumer.__dict__[STATE] = State(consumer, kind)
        try:
            follow(consumer, state)
            consumer.__class__ = _tracked(kind)
        except Exception:  # noqa: BLE001 - a subclass that cannot be derived from, say
            state.committer.is_off = True
            faults.report("following a consumer; nothing is committed for it")
        remember(consumer, state)
    return state


@lru_cache(maxsize=64)
def _tracked(kind: Any) -> type:
    return subclass(kind, {name: _passing(kind, name, each) for name, each in _METHODS.items()})


def _passing(kind: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that goes by way of `method`, which is told how to call the client."""
    original = getattr(kind, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self.__dict__[STATE], self, getattr(kind, name), *args, **kwargs)

    about: dict[str, Any] = {
        each: getattr(original, each)
        for each in ("__name__", "__qualname__", "__module__", "__doc__")
    }
    # What looks at a method before it intercepts it is to see the client's.
    about["__signature__"] = inspect.signature(original)
    if hasattr(original, "__wrapped__") and not hasattr(original, INTERCEPTED):
        about["__wrapped__"] = original.__wrapped__
    for key, value in about.items():
        setattr(call, key, value)
    return call


# -- handing out -----------------------------------------------------------------------------------


def _poll(
    state: State,
    consumer: Any,
    original: Callable[..., Any],
    timeout_ms: Any = 0,
    *args: Any,
    **kwargs: Any,
) -> Any:
    state.attend()
    records = _patiently(state, consumer, original, timeout_ms, args, kwargs)
    if not state.is_iterating and isinstance(records, dict):
        state.hand(records)
    return records


def _patiently(  # noqa: PLR0917
    state: State,
    consumer: Any,
    original: Callable[..., Any],
    timeout_ms: Any,
    args: Any,
    named: Any,
) -> Any:
    """Poll, in slices while there is something to do for what was handed out before."""
    patience = state.patience()
    if patience is None or not isinstance(timeout_ms, int | float) or timeout_ms <= 0:
        return original(consumer, timeout_ms, *args, **named)
    deadline = monotonic() + timeout_ms / 1000
    while True:
        left = max(0.0, deadline - monotonic())
        nap = left if patience is None else min(left, patience)
        records = original(consumer, nap * 1000, *args, **named)
        if records or monotonic() >= deadline or getattr(consumer, "_closed", False):
            return records
        state.attend()
        patience = state.patience()


def _next(state: State, consumer: Any, original: Callable[..., Any]) -> Any:
    state.attend()
    state.is_iterating = True
    try:
        record = original(consumer)
    finally:
        state.is_iterating = False
    state.hand_run((record,))
    return record


class Records:
    """A consumer as its own iterator: what `next` does, without being looked up on the way."""

    def __init__(self, state: State, consumer: Any) -> None:
        original: Any = state.kind.__next__
        inner: Any = getattr(original, INTERCEPTED, None)
        # The mark is also on what wraps our replacement: that is the application's, and is called.
        if inner is not None and getattr(original, "__wrapped__", None) is inner:
            original = inner
        self._original: Callable[..., Any] = original
        self._state = state
        self._consumer = consumer

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Any:
        state = self._state
        state.is_looping = True
        try:
            return _next(state, self._consumer, self._original)
        finally:
            state.is_looping = False

    def __getattr__(self, name: str) -> Any:
        if "_consumer" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self._consumer, name)


# -- moving about ----------------------------------------------------------------------------------


def _seek(
    state: State, consumer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    result = original(consumer, *args, **kwargs)
    state.sought(*_place(*args, **kwargs))
    return result


def _place(partition: Any, offset: Any, *_rest: Any, **_added: Any) -> tuple[Any, Any]:
    """The arguments of `seek`."""
    return partition, offset


def _seek_to(state: State, consumer: Any, original: Callable[..., Any], *partitions: Any) -> Any:
    result = original(consumer, *partitions)
    for partition in partitions or list(state.frontiers):
        state.sought(partition, None)
    return result


def _pause(state: State, consumer: Any, original: Callable[..., Any], *partitions: Any) -> Any:
    result = original(consumer, *partitions)
    state.rewinding.let_go(partitions)
    return result


# -- changing what is consumed ---------------------------------------------------------------------


def _subscribe(
    state: State, consumer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    result = original(consumer, *args, **kwargs)
    follow(consumer, state)
    return result


def _assign(
    state: State, consumer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    state.attend()
    state.committer.commit(wait=True)
    result = original(consumer, *args, **kwargs)
    kept = consumer.assignment()
    state.lose([each for each in state.partitions() if each not in kept])
    return result


def _close(
    state: State,
    consumer: Any,
    original: Callable[..., Any],
    autocommit: Any = True,
    timeout_ms: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    loop = state.loop() if state.loop is not None else None
    if loop is not None:
        loop.leave()
    began = monotonic()
    state.attend()
    budget = timeout_ms if isinstance(timeout_ms, int | float) else PATIENCE_MS
    state.committer.commit(wait=True, patience_ms=min(budget, PATIENCE_MS))
    state.lose_all("closed")
    if timeout_ms is budget:
        timeout_ms = max(0, timeout_ms - (monotonic() - began) * 1000)
    return original(consumer, autocommit, timeout_ms, *args, **kwargs)


_METHODS: dict[str, Callable[..., Any]] = {
    "__next__": _next,
    "poll": _poll,
    "commit": own_commits.commit,
    "commit_async": own_commits.commit_async,
    "seek": _seek,
    "seek_to_beginning": _seek_to,
    "seek_to_end": _seek_to,
    "pause": _pause,
    "resume": _pause,
    "subscribe": _subscribe,
    "assign": _assign,
    "unsubscribe": _assign,
    "close": _close,
}
