"""The decorator on consumer handlers, and the wrapper that interception puts around callbacks.

Sync or async is decided once, when a handler is wrapped. Both shells do the same three things:
enter a delivery, run the handler, leave.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from hopspan import faults
from hopspan.delivery.adapter import (
    adapter_among,
    adapter_of,
    resolved,
    running_task,
    unknown,
)
from hopspan.delivery.batch import handed
from hopspan.delivery.entering import safely
from hopspan.delivery.outcomes import auto_ack_error, refuse, refuse_outside_task
from hopspan.delivery.subscription import Subscriptions
from hopspan.model import UnknownMessageError
from hopspan.settlement import as_policy
from hopspan.telemetry import CONSUMER, Overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.delivery.adapter import Adapter
    from hopspan.delivery.delivery import Scope
    from hopspan.settlement import Policy

    Enter = Callable[[tuple[Any, ...]], Scope | None]
    """Enters the delivery among a handler's arguments; None where it runs without a scope."""

Handler = TypeVar("Handler", bound="Callable[..., Any]")

_NEVER_RUN = (
    "the handler returned a coroutine or a generator, so its body has not run; "
    "a client that calls plain functions needs a plain function"
)

_NOT_RUN = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})

_DECORATED = "__hopspan_decorated__"
"""The attribute by which a subscription recognises a decorated handler."""


class _Decorated(NamedTuple):
    """A decorated handler, as its wrapper remembers it."""

    overrides: Overrides
    handler: Any
    wrapper: Any


def wrap_handler(
    handler: Callable[..., Any],
    enter: Enter,
    otherwise: Callable[..., Any] | None = None,
    *,
    is_awaited: bool | None = None,
) -> Any:
    """Put a handler into the scope that `enter` enters for its positional arguments.

    Args:
        handler: The plain handler.
        enter: Enters the scope.
        otherwise: What is called where there is no scope: the handler as if it were not wrapped.
        is_awaited: Whether the client awaits what the handler returns; None where each message
            tells.
    """
    bare = otherwise or handler
    if is_async(handler):
        return _wrap_async(handler, enter, bare)
    if is_awaited is not False:
        return _wrap_either(handler, enter, bare)

    @functools.wraps(handler)
    def handle(*args: Any, **kwargs: Any) -> Any:
        scope = enter(args)
        if scope is None:
            return bare(*args, **kwargs)
        try:
            try:
                result = handler(*args, **kwargs)
            except BaseException as error:
                if scope.leave(error):
                    return None
                raise
            if result is not None and type(result) in _NOT_RUN:
                _never_ran(scope)
            if scope.leave(None):
                # As if the handler had acked: pika would otherwise go on to hand out what it has
                # prefetched, on a channel where nothing can be settled any more.
                raise scope.channel_error or AssertionError
            return result
        finally:
            del scope  # an error's traceback keeps this frame, and it keeps the error

    return _signed(handle, handler)


def _wrap_either(handler: Callable[..., Any], enter: Enter, bare: Callable[..., Any]) -> Any:
    """Wrap a plain handler that may be called by a client which awaits what it returns."""

    @functools.wraps(handler)
    def handle(*args: Any, **kwargs: Any) -> Any:
        scope = enter(args)
        if scope is None:
            return bare(*args, **kwargs)
        handling = scope.handling
        is_awaited = handling.client.is_awaited
        try:
            try:
                result = handler(*args, **kwargs)
            except BaseException as error:
                if is_awaited and handling.policy.settles:
                    return _finish_failed(scope, error)
                if scope.leave(error):
                    return None
                raise
            if is_awaited and (handling.policy.settles or inspect.isawaitable(result)):
                return _finish(scope, result)
            if result is not None and type(result) in _NOT_RUN:
                _never_ran(scope)
            if scope.leave(None):
                raise scope.channel_error or AssertionError  # as above
            return result
        finally:
            del scope, handling  # as above

    return _signed(handle, handler)


def is_async(handler: Any) -> bool:
    """Whether calling a handler returns a coroutine."""
    called: Any = handler if inspect.isroutine(handler) else type(handler).__call__
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)


def _never_ran(scope: Scope) -> None:
    """Declare a handler failed whose body has not run, and see that its message is not settled."""
    faults.logger.error("%s; its message is left unsettled", _NEVER_RUN)
    scope.handling.fail(_NEVER_RUN, type="hopspan.never_run")
    scope.handling.leave_unsettled()


async def _finish(scope: Scope, result: Any) -> Any:
    """Finish the scope of a plain handler whose client awaits what it returns."""
    try:
        if inspect.isawaitable(result):
            result = await result
    except BaseException as error:
        if await scope.leave_async(error):
            return None
        raise
    await scope.leave_async(None)
    return result


async def _finish_failed(scope: Scope, error: BaseException) -> None:
    """Finish the scope of a plain handler that has raised, on a client that awaits."""
    if not await scope.leave_async(error):
        raise error


def _signed(handle: Any, handler: Callable[..., Any]) -> Any:
    """Give a wrapper the handler's signature, for who does not look behind one, as Celery."""
    with suppress(TypeError, ValueError):  # some callables have none
        handle.__signature__ = inspect.signature(handler)
    return handle


def _wrap_async(handler: Callable[..., Any], enter: Enter, otherwise: Callable[..., Any]) -> Any:
    @functools.wraps(handler)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        scope = enter(args)
        if scope is None:
            return await otherwise(*args, **kwargs)
        try:
            try:
                result = await handler(*args, **kwargs)
            except BaseException as error:
                if await scope.leave_async(error):
                    return None
                raise
            await scope.leave_async(None)
            return result
        finally:
            del scope  # as above

    return _signed(handle, handler)


@overload
def consumer(handler: Handler, /) -> Handler: ...
@overload
def consumer(
    *, via: Any = None, adapter: Adapter | None = None, **settings: Unpack[Settings]
) -> Callable[[Handler], Handler]: ...
def consumer(
    handler: Callable[..., Any] | None = None,
    /,
    *,
    via: Any = None,
    adapter: Adapter | None = None,
    **settings: Any,
) -> Any:
    """Trace a consumer handler, and settle its message as its process span ends.

    Works on every handler signature of every client, sync and async, on functions and methods: the
    message is found among the positional arguments. Bare or with settings::

        @hopspan.consumer
        def on_order(channel, method, properties, body): ...

        @hopspan.consumer(policy=hopspan.requeue_once)
        async def on_order(message): ...

    Without a policy hopspan settles nothing. With one, a returning handler is acked, and a failing
    one gets the policy's verdict; its failure is logged and the handler returns None, so that a
    poison message does not stop the consumer (`reraise=True` for the other way). A failure that was
    not settled propagates, and so does the client's error when it loses the channel by settling.

    Args:
        handler: The handler, for the bare form.
        via: The consumer, or a function that returns it, for clients whose messages do not know
            theirs.
        adapter: The adapter that reads the arguments, for doubles and mocks; found by type
            otherwise.
        settings: See `hopspan.Config`.

    Returns:
        A function with the handler's signature; its `__wrapped__` is the plain handler, for unit
        tests.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        PolicyError: when the consumer is given, on subscribing or at the first delivery, a policy
            that cannot work there.
        UnknownMessageError: when called with no message of a client that hopspan knows.

    Thread and task safety: the decorated handler may be called concurrently.
    """
    overrides = Overrides(settings, CONSUMER)

    def decorate(handler: Any) -> Any:
        if isinstance(handler, classmethod | staticmethod):
            kind = type(handler).__name__
            raise UnknownMessageError(
                f"consumer: put @{kind} above @hopspan.consumer, not below it: "
                f"a {kind} object is no function yet"
            )
        client = adapter_of(type(handler))
        if client is not None and callable(handler):
            raise UnknownMessageError(
                f"consumer: it decorates a function, not a {type(handler).__qualname__} of "
                f"{client.name}: put @hopspan.consumer below the task's decorator"
            )
        if not callable(handler):
            kind = type(handler).__qualname__
            raise UnknownMessageError(f"consumer: it decorates a handler function, not a {kind}")
        decorated = wrap_handler(handler, _enter(handler, overrides, via, adapter))
        setattr(decorated, _DECORATED, _Decorated(overrides, handler, decorated))
        return decorated

    return decorate if handler is None else decorate(handler)


def _enter(  # noqa: C901 - two closures
    handler: Callable[..., Any], overrides: Overrides, via: Any, adapter: Adapter | None
) -> Enter:
    """Enter the delivery among the arguments of a decorated handler."""
    subscriptions = Subscriptions(overrides, is_pushed=True)
    if via is not None and not callable(via):
        known = adapter or adapter_among((via,))
        if known is not None:
            known.prepare(via)
            if "policy" in overrides.settings:
                refuse_on(via, known, as_policy(overrides.settings["policy"]))

    def find(args: tuple[Any, ...]) -> Any:
        found = adapter or adapter_among(args)
        delivery = None
        if found is not None:
            delivery = handed(found.delivery, args, resolved(via, adapter))
        if delivery is None and adapter is None:
            running = running_task(handler)
            if running is not None:
                if not running.is_body:
                    refuse_outside_task(handler, overrides.settings, running.adapter.client)
                delivery = running.delivery or ()
        if delivery is None and any(each in ([], (), {}) for each in args):
            return ()  # an empty batch
        if delivery is None:
            name = getattr(handler, "__qualname__", repr(handler))
            raise unknown(
                f"handler {name}",
                args,
                "call the plain handler in unit tests: it is the __wrapped__ of this one",
            )
        return delivery

    def enter(args: tuple[Any, ...]) -> Any:
        delivery = find(args)
        return delivery.enter(subscriptions.for_delivery(delivery)) if delivery else None

    return lambda args: safely(enter, args)


def refuse_on(consumer: Any, adapter: Adapter, policy: Policy) -> None:
    """Refuse a policy that can never work with a client, or on this prepared object of its.

    Raises:
        PolicyError: it says what cannot work, why, and what to change.
    """
    if policy.settles:
        refuse(policy, adapter.client, adapter.delivery.refusal(policy))
        if adapter.settles_by_itself(consumer):
            raise auto_ack_error(policy, adapter.client, "this consumer")


def overrides_of(handler: Any) -> Overrides | None:
    """The settings of a decorated handler, also through `functools.partial` and bound methods."""
    found = _found(handler)
    return None if found is None else found.overrides


def _found(handler: Any) -> _Decorated | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    found = getattr(handler, _DECORATED, None)
    if found is None and not inspect.isroutine(handler):
        found = getattr(getattr(type(handler), "__call__", None), _DECORATED, None)  # noqa: B004
    return found if isinstance(found, _Decorated) else None


def unwrapped(handler: Any) -> Any:  # noqa: PLR0911 - one for each shape
    """The plain handler of a decorated one, so that it is not traced twice.

    A wrapper of the user's own around a decorated handler stays: it is returned as it is.
    """
    if isinstance(handler, functools.partial):
        plain = unwrapped(handler.func)
        if plain is handler.func:
            return handler
        return functools.partial(plain, *handler.args, **handler.keywords)
    found = _found(handler)
    if found is None:
        return handler
    if found.wrapper is handler:
        return found.handler
    if isinstance(handler, MethodType) and found.wrapper is handler.__func__:
        return MethodType(found.handler, handler.__self__)
    if found.wrapper is getattr(type(handler), "__call__", None):  # noqa: B004
        return MethodType(found.handler, handler)
    return handler
