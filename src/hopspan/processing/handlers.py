"""The decorator on consumer handlers, and the wrapper that interception puts around callbacks.

Sync or async is decided once, when a handler is wrapped. Both shells do the same four things:
begin, make the process span current, finish, and undo what was made current.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from hopspan.model import UnknownMessageError
from hopspan.processing.adapting import adapter_among, adapter_of, serving, unknown
from hopspan.processing.holding import Hold
from hopspan.processing.opening import NOTHING, begin, started
from hopspan.processing.refusals import refuse_beside
from hopspan.telemetry import CONSUMER, Face

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.processing.adapting import Adapter
    from hopspan.processing.delivery import Processing

Handler = TypeVar("Handler", bound="Callable[..., Any]")

_NEVER_RUN = (
    "the handler returned a coroutine or a generator, so its body has not run; "
    "a client that calls plain functions needs a plain function"
)

_NOT_RUN = (CoroutineType, GeneratorType)

FACE = "__hopspan_face__"
"""The attribute by which a subscription recognises a decorated handler."""


def traced(handler: Callable[..., Any], start: Callable[[tuple[Any, ...]], Processing]) -> Any:
    """`handler` inside the processing that `start` begins for its positional arguments.

    Where `start` returns a falsy one, the handler runs as if it were not wrapped.
    """
    called: Any = handler if inspect.isroutine(handler) else type(handler).__call__
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called):
        return _traced_async(handler, start)

    @functools.wraps(handler)
    def handle(*args: Any, **kwargs: Any) -> Any:
        processing = started(start, args)
        if processing is NOTHING:
            return handler(*args, **kwargs)
        hold = Hold(processing)
        try:
            result = handler(*args, **kwargs)
        except BaseException as error:
            hold.conclude(error)
            if hold.swallows(error):
                return None
            hold.tell(error)
            raise
        else:
            if isinstance(result, _NOT_RUN):
                processing.fail(_NEVER_RUN, type="hopspan.never_run")
            hold.conclude()
            if processing.lost is not None:
                # As if the handler had acked: pika would otherwise go on to hand out what it
                # has prefetched, on a channel where nothing can be settled any more.
                raise processing.lost
            if processing.adapter.RAISES is not None:
                hold.tell()
            return result
        finally:
            hold.release()
            del hold, processing  # an error's traceback keeps this frame, and they keep the error

    return _signed(handle, handler)


def _signed(handle: Any, handler: Callable[..., Any]) -> Any:
    """With the handler's signature where nobody looks behind a wrapper, as Celery does not."""
    with suppress(TypeError, ValueError):  # some callables have none
        handle.__signature__ = inspect.signature(handler)
    return handle


def _traced_async(
    handler: Callable[..., Any], start: Callable[[tuple[Any, ...]], Processing]
) -> Any:
    @functools.wraps(handler)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        processing = started(start, args)
        if processing is NOTHING:
            return await handler(*args, **kwargs)
        hold = Hold(processing)
        try:
            result = await handler(*args, **kwargs)
        except BaseException as error:
            await hold.conclude_async(error)
            if hold.swallows(error):
                return None
            raise
        else:
            await hold.conclude_async()
            return result
        finally:
            hold.release()
            del hold, processing  # an error's traceback keeps this frame, and they keep the error

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
        adapter: Which adapter reads the arguments, for doubles and mocks; found by type otherwise.
        settings: See `hopspan.Config`.

    Returns:
        A function with the handler's signature; its `__wrapped__` is the plain handler, for unit
        tests.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        PolicyError: on subscribing or at the first delivery, a policy that cannot work there.
        UnknownMessageError: when called with no message of a client that hopspan knows.

    Thread and task safety: the decorated handler may be called concurrently.
    """
    face = Face(settings, CONSUMER)

    def decorate(handler: Any) -> Any:
        if isinstance(handler, classmethod | staticmethod):
            kind = type(handler).__name__
            raise UnknownMessageError(
                f"consumer: put @{kind} above @hopspan.consumer, not below it: "
                f"a {kind} object is no function yet"
            )
        client = adapter_of(type(handler))
        if client is not None and client.RAISES is not None:
            raise UnknownMessageError(
                f"consumer: it decorates a function, not a {type(handler).__qualname__} of "
                f"{client.NAME}: put @hopspan.consumer below the task's decorator"
            )
        if not callable(handler):
            kind = type(handler).__qualname__
            raise UnknownMessageError(f"consumer: it decorates a handler function, not a {kind}")
        decorated = traced(handler, _opener(handler, face, via, adapter))
        setattr(decorated, FACE, face)
        return decorated

    return decorate if handler is None else decorate(handler)


def _opener(
    handler: Callable[..., Any], face: Face, via: Any, adapter: Adapter | None
) -> Callable[[tuple[Any, ...]], Processing]:
    if via is not None and not callable(via):
        known = adapter or adapter_among((via,))
        if known is not None:
            known.prepare(via)

    def start(args: tuple[Any, ...]) -> Processing:
        served = serving(handler) if adapter is None else None
        if served is not None and served[1] is not None:
            return begin(served[0], served[1], pushed=True, face=face) if served[1] else NOTHING
        found = adapter or adapter_among(args)
        if found is None and served is not None:
            refuse_beside(handler, face, served[0])
            return NOTHING
        natives = found.handed(args, via() if callable(via) else via) if found else None
        if found is None and any(each in ([], (), {}) for each in args):
            return NOTHING  # an empty batch
        if found is None or not natives:
            name = getattr(handler, "__qualname__", repr(handler))
            raise unknown(
                f"handler {name}",
                args,
                "call the plain handler in unit tests: it is the __wrapped__ of this one",
            )
        return begin(found, natives, pushed=True, face=face)

    return start


def face_of(handler: Any) -> Face | None:
    """The settings of a decorated handler, also through `functools.partial` and bound methods."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    face = getattr(handler, FACE, None)
    if face is None and not inspect.isroutine(handler):
        face = getattr(getattr(type(handler), "__call__", None), FACE, None)  # noqa: B004
    return face if isinstance(face, Face) else None
