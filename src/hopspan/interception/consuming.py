"""Intercepting the ways in which a client hands messages over: pushed, fetched, iterated over."""

from __future__ import annotations

import functools
import inspect
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.interception.points import inside, read_call
from hopspan.model import SUCCESS
from hopspan.processing import NOTHING, Loop, begin, face_of, failure, settled_already, traced
from hopspan.telemetry import NO_SETTINGS, common_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.interception.points import Fetch, Subscription
    from hopspan.processing import Processing
    from hopspan.telemetry import Binding


def consumes(reader: Callable[..., Subscription | None]) -> Any:
    """Intercept a call that registers a handler, to which the client then pushes messages.

    The reader returns None for a registration that is not an application's.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        def changed(self: Any, args: Any, kwargs: Any) -> Any:
            if binding.active:
                subscription = read_call(reader, self, args, kwargs)
                if subscription is not None and _is_fresh(subscription.handler):
                    return _subscribed(subscription, binding)
            return args, kwargs

        @functools.wraps(original)
        def consume(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = changed(self, args, kwargs)
            return original(self, *args, **kwargs)

        @functools.wraps(original)
        async def consume_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = changed(self, args, kwargs)
            return await original(self, *args, **kwargs)

        return consume_async if inspect.iscoroutinefunction(original) else consume

    return intercept


_OURS = "__hopspan_subscribed__"


def _is_fresh(handler: Any) -> bool:
    """Whether a handler is one, and not one of ours that the client registers again."""
    return callable(handler) and not hasattr(handler, _OURS)


def _subscribed(subscription: Subscription, binding: Binding) -> tuple[Any, Any]:
    """The arguments that register the handler with processing around it.

    Raises:
        PolicyError: the policy that would be in force for this handler cannot work here.
    """
    face = face_of(subscription.handler) or NO_SETTINGS
    instrumenter = face.over(binding.instrumenter)
    if instrumenter.config.policy.settles and not subscription.settles:
        raise settled_already(instrumenter.config.policy, binding.adapter, subscription.whom)

    def start(args: tuple[Any, ...]) -> Processing:
        instrumenter = binding.instrumenter
        if not instrumenter.switch.on:
            return NOTHING
        natives = [subscription.native(*args)]
        return begin(binding.adapter, natives, pushed=True, face=face, base=instrumenter)

    registered = traced(subscription.handler, start)
    setattr(registered, _OURS, True)
    return subscription.call(registered)


def receives(reader: Callable[..., Fetch], ends: tuple[type[BaseException], ...] = ()) -> Any:
    """Intercept a call that returns messages: one receive span, none for an empty result.

    Args:
        reader: From the call's arguments to what it asks for.
        ends: What the call raises to say that there is nothing.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        about = f"{binding.adapter.NAME} receive"

        @functools.wraps(original)
        def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = (
                read_call(reader, self, args, kwargs)
                if binding.active and inside.get() != about
                else None
            )
            if fetch is None:
                return original(self, *args, **kwargs)
            began, clock, token = time_ns(), perf_counter(), inside.set(about)
            try:
                result = original(self, *args, **kwargs)
            except ends:
                raise
            except BaseException as error:
                received(binding, fetch, error, (began, perf_counter() - clock))
                raise
            finally:
                inside.reset(token)
            received(binding, fetch, result, (began, perf_counter() - clock))
            return result

        return receive

    return intercept


def received(binding: Binding, fetch: Fetch, result: Any, timing: tuple[int, float]) -> None:
    """Record a call that returned messages, or raised `result`."""
    failed = isinstance(result, BaseException)
    try:
        deliveries = [] if failed else binding.instrumenter.traced(fetch.read(result))
        if deliveries or failed:
            codec, (began, seconds) = binding.adapter.CODEC, timing
            endpoint = fetch.endpoint
            if fetch.several and deliveries:
                endpoint = common_endpoint(deliveries)
            operation = binding.instrumenter.start_receive(
                fetch.action, endpoint, deliveries, codec, began
            )
            operation.announce(None if failed else result)
            outcome = failure(binding.adapter, result) if failed else SUCCESS
            operation.end(outcome, seconds=seconds, messages=len(deliveries))
    except Exception:  # noqa: BLE001
        faults.report("recording a receive")


class _Quietly:
    """The client's iterator, asked in such a way that what it calls of itself is no operation."""

    def __init__(self, source: Any, client: str) -> None:
        self._source = source
        self._about = f"{client} receive"

    def __iter__(self) -> _Quietly:
        return self

    def __next__(self) -> Any:
        token = inside.set(self._about)
        try:
            return next(self._source)
        finally:
            inside.reset(token)

    def __getattr__(self, name: str) -> Any:
        if "_source" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self.__dict__["_source"], name)


def turns_of(binding: Binding, native_of: Callable[[Any], Any]) -> Callable[[Any], Processing]:
    """How a loop begins the turn of what came."""

    def start(item: Any) -> Processing:
        instrumenter = binding.instrumenter
        native = native_of(item) if instrumenter.switch.on else None
        if native is None:
            return NOTHING
        return begin(binding.adapter, [native], pushed=False, base=instrumenter)

    return start


def iterates(
    reader: Callable[..., Callable[[Any], Any] | None],
    keep: Callable[[Any, Any], None],
    source_of: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """Intercept a call that returns an iterator over messages: its loop's body is put in scope.

    Args:
        reader: From the call's arguments to a function that turns what is iterated over into a
            native delivery, or into None for what is no message.
        keep: Told `(client, loop)`, so that the client's way of ending the loop can end its scope.
        source_of: From `(client, what the call returned)` to an iterator that asks the client in
            such a way that nothing of it is intercepted; None where there is none.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def iterate(self: Any, *args: Any, **kwargs: Any) -> Any:
            native_of = read_call(reader, self, args, kwargs) if binding.active else None
            source = original(self, *args, **kwargs)
            if native_of is None:
                return source

            quiet = None if source_of is None else source_of(self, source)
            if quiet is None:
                quiet = _Quietly(source, binding.adapter.NAME)
            loop = Loop(quiet, turns_of(binding, native_of))
            try:
                keep(self, loop)
            except Exception:  # noqa: BLE001
                faults.report("keeping a loop")
            return loop

        return iterate

    return intercept


def runs_first(before: Callable[..., None]) -> Any:
    """Intercept a call only to be told of it first, with its arguments."""

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if binding.active:
                try:
                    before(self, *args, **kwargs)
                except Exception:  # noqa: BLE001
                    faults.report(f"before {original.__name__}")
            return original(self, *args, **kwargs)

        return run

    return intercept
