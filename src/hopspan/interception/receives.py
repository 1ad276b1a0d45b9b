"""Intercepting the ways in which a client hands messages over: pushed, fetched, iterated over."""

from __future__ import annotations

import functools
import inspect
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.delivery import (
    AsyncLoop,
    Loop,
    Subscription,
    failure,
    is_async,
    overrides_of,
    unwrapped,
    wrap_handler,
)
from hopspan.interception.points import active_call, read_call
from hopspan.model import SUCCESS, HopspanError, PolicyError
from hopspan.telemetry import (
    GENERATION,
    NO_OVERRIDES,
    common_endpoint,
    start_receive,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

    from hopspan.delivery import Delivery
    from hopspan.interception.points import Fetch, Registration
    from hopspan.telemetry import Binding


# -- pushed ----------------------------------------------------------------------------------------


def consumes(reader: Callable[..., Registration | None]) -> Any:
    """Intercept a call that registers a handler, to which the client then pushes messages.

    The reader returns None for a registration that is not an application's.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        def changed(self: Any, args: Any, kwargs: Any) -> Any:
            if binding.active:
                registration = read_call(reader, self, args, kwargs)
                if registration is not None and _is_fresh(registration.handler):
                    return _subscribe(registration, binding)
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


def _subscribe(registration: Registration, binding: Binding) -> tuple[Any, Any]:
    """The arguments that register the handler inside a scope.

    Raises:
        PolicyError: the policy that would be in force for this handler cannot work here, or the
            client cannot run the handler.
    """
    handler = registration.handler
    overrides = overrides_of(handler) or NO_OVERRIDES
    client, kind = binding.adapter.client, binding.adapter.delivery
    refuse_handler(handler, client)

    def subscribe() -> Subscription:
        return Subscription(
            kind,
            overrides.applied_to(binding.instrumenter),
            overrides,
            is_pushed=True,
            settles=registration.settles,
            whom=registration.whom,
        )

    # As one value: other threads may find it changed as well. Uninstrumented, there is none.
    known: tuple[int, Subscription | None] = GENERATION[0], subscribe()
    make = registration.make

    def enter(args: tuple[Any, ...]) -> Any:
        nonlocal known
        generation, subscription = known
        try:
            if generation != GENERATION[0]:
                generation = GENERATION[0]
                subscription = subscribe() if binding.instrumenter.switch.on else None
                known = generation, subscription
            return None if subscription is None else make(*args).enter(subscription)
        except HopspanError:
            raise
        except Exception:  # noqa: BLE001 - the message stays unsettled, so nothing is lost
            faults.report("beginning to handle a delivery")
            return None

    registered = wrap_handler(
        unwrapped(handler), enter, otherwise=handler, is_awaited=client.is_awaited
    )
    setattr(registered, _OURS, True)
    return registration.call(registered)


def refuse_handler(handler: Any, client: Any) -> None:
    """Refuse a handler whose body a client that calls plain functions would never run.

    Raises:
        PolicyError: it says what to give instead.
    """
    if client.is_awaited:
        return
    plain = unwrapped(handler)
    called = plain if inspect.isroutine(plain) else getattr(plain, "func", plain)
    if is_async(plain) or inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
        name = getattr(plain, "__qualname__", repr(plain))
        raise PolicyError(
            f"{client.name} calls plain functions, and the body of {name} would never run: it is a "
            "coroutine function or a generator function. Give it a plain function, for example one "
            "that calls asyncio.run(...) or hands the message to an event loop"
        )


# -- fetched ---------------------------------------------------------------------------------------


def receives(reader: Callable[..., Fetch], ends: tuple[type[BaseException], ...] = ()) -> Any:
    """Intercept a call that returns messages: one receive span, none for an empty result.

    Args:
        reader: From the call's arguments to what it asks for.
        ends: The exceptions by which the call says that there is nothing.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        call = f"{binding.adapter.name} receive"

        @functools.wraps(original)
        def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = (
                read_call(reader, self, args, kwargs)
                if binding.active and active_call.get() != call
                else None
            )
            if fetch is None:
                return original(self, *args, **kwargs)
            began, clock, token = time_ns(), perf_counter(), active_call.set(call)
            try:
                result = original(self, *args, **kwargs)
            except ends:
                raise
            except BaseException as error:
                record_receive(binding, fetch, error, (began, perf_counter() - clock))
                raise
            finally:
                active_call.reset(token)
            record_receive(binding, fetch, result, (began, perf_counter() - clock))
            return result

        return receive

    return intercept


def receives_async(reader: Callable[..., Fetch], ends: tuple[type[BaseException], ...] = ()) -> Any:
    """`receives` for a call that is awaited."""

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        async def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = read_call(reader, self, args, kwargs) if binding.active else None
            if fetch is None:
                return await original(self, *args, **kwargs)
            began, clock = time_ns(), perf_counter()
            try:
                result = await original(self, *args, **kwargs)
            except ends:
                raise
            except BaseException as error:
                record_receive(binding, fetch, error, (began, perf_counter() - clock))
                raise
            record_receive(binding, fetch, result, (began, perf_counter() - clock))
            return result

        return receive

    return intercept


def record_receive(binding: Binding, fetch: Fetch, result: Any, timing: tuple[int, float]) -> None:
    """Record a call that returned messages, or raised `result`."""
    failed = isinstance(result, BaseException)
    client, instrumenter = binding.adapter.client, binding.instrumenter
    try:
        deliveries = [] if failed else instrumenter.not_ignored(fetch.read(result))
        if deliveries or failed:
            began, seconds = timing
            endpoint = fetch.endpoint
            if fetch.mixed_endpoints and deliveries:
                endpoint = common_endpoint(deliveries)
            operation = start_receive(
                instrumenter, fetch.action, endpoint, deliveries, client.codec, began
            )
            operation.call_on_start(None if failed else result)
            outcome = failure(client, result) if failed else SUCCESS
            operation.end(outcome, seconds=seconds, messages=len(deliveries))
    except Exception:  # noqa: BLE001
        faults.report("recording a receive")


# -- iterated over ---------------------------------------------------------------------------------


class _Unintercepted:
    """The client's iterator, asked in such a way that the client's nested calls are not traced."""

    def __init__(self, source: Any, client: str) -> None:
        self._source = source
        self._call = f"{client} receive"

    def __iter__(self) -> _Unintercepted:
        return self

    def __next__(self) -> Any:
        token = active_call.set(self._call)
        try:
            return next(self._source)
        finally:
            active_call.reset(token)

    def __getattr__(self, name: str) -> Any:
        if "_source" not in self.__dict__:  # not made yet: somebody copies or unpickles it
            raise AttributeError(name)
        return getattr(self.__dict__["_source"], name)


Known = list[tuple[int, "Subscription | None"]]
"""The subscription of all loops over an object, with the generation of the settings it was made of;
None after `uninstrument`. Its only entry is one value: other threads may find it changed."""


def loop_starter(
    binding: Binding, make: Callable[[Any], Delivery | None], known: Known
) -> Callable[[Any, Context, tuple[int, object]], Delivery | None]:
    """Begin the turns of a loop with the settings of what it iterates over.

    Args:
        binding: Of the object that is iterated over.
        make: From an item to a new delivery, or to None for what is no message.
        known: The subscription of the loops over this object.
    """

    def start(item: Any, base: Context, home: tuple[int, object]) -> Delivery | None:
        generation, subscription = known[0]
        if generation != GENERATION[0]:
            generation, instrumenter = GENERATION[0], binding.instrumenter
            subscription = None
            if instrumenter.switch.on:
                kind = binding.adapter.delivery
                subscription = Subscription(kind, instrumenter, NO_OVERRIDES, is_pushed=False)
            known[0] = generation, subscription
        if subscription is None or not subscription.instrumenter.switch.on:
            return None
        delivery = make(item)
        if delivery is None:
            return None
        return delivery.begin_turn(subscription, base, home)

    return start


def iterates(
    reader: Callable[..., Callable[[Any], Any] | None],
    keep: Callable[[Any, Any], None],
    source_of: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """Intercept a call that returns an iterator over messages: its loop's body is put in scope.

    Args:
        reader: From the call's arguments to a function that turns an item into a delivery, or into
            None for what is no message.
        keep: Told `(client, loop)`, so that the client's way of ending the loop can end its scope.
        source_of: From `(client, what the call returned)` to an iterator that asks the client in
            such a way that nothing of it is intercepted; None where there is none.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        known: Known = [(-1, None)]

        @functools.wraps(original)
        def iterate(self: Any, *args: Any, **kwargs: Any) -> Any:
            make = read_call(reader, self, args, kwargs) if binding.active else None
            source = original(self, *args, **kwargs)
            if make is None:
                return source

            bare = None if source_of is None else source_of(self, source)
            if bare is None:
                bare = _Unintercepted(source, binding.adapter.name)
            loop = Loop(bare, loop_starter(binding, make, known))
            try:
                keep(self, loop)
            except Exception:  # noqa: BLE001
                faults.report("keeping a loop")
            return loop

        return iterate

    return intercept


def iterates_async(reader: Callable[..., Callable[[Any], Any] | None]) -> Any:
    """Intercept `__aiter__`: the body of an `async for` is put in scope.

    Args:
        reader: From the object that is iterated over to a function that turns an item into a
            delivery.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        known: Known = [(-1, None)]

        @functools.wraps(original)
        def iterate(self: Any) -> Any:
            make = read_call(reader, self, (), {}) if binding.active else None
            source = original(self)
            if make is None or isinstance(source, AsyncLoop):
                return source
            return AsyncLoop(source, loop_starter(binding, make, known))

        return iterate

    return intercept


def notifies(before: Callable[..., None]) -> Any:
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
