"""How hopspan gets between the user and the client: interceptors, written once, for classes and instances.

An adapter describes each intercepted method by a *reader* with the method's own signature, so that Python
binds the arguments: a reader names the parameters it needs, in the method's order, and takes the others as
they come. Parameters that a newer client adds pass through untouched; a client whose method lost or moved a
parameter that we name is not intercepted there, and is told so.

Rules: an interceptor calls the client exactly once, with the user's arguments or with ours that differ in the
headers only; an error in our code is logged once and the native call proceeds unchanged; what is woven into a
class can be taken out again without a trace.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from contextvars import ContextVar
from time import perf_counter, time_ns
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hopspan import faults
from hopspan.model import ConfigurationError, UnknownMessageError
from hopspan.processing import (
    NOTHING,
    Loop,
    adapter_of,
    auto_acked,
    begin,
    face_of,
    failure,
    refuse,
    traced,
    unknown,
)
from hopspan.telemetry import Instrumenter, instrumenter_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.conventions import Action
    from hopspan.model import Delivery, Endpoint, Outgoing
    from hopspan.processing import Adapter, Processing
    from hopspan.telemetry import Operation

Native = TypeVar("Native")

_INTERCEPTED = "__hopspan_original__"
_BINDING = "_hopspan_binding"

_inside: ContextVar[bool] = ContextVar("hopspan-inside", default=False)
"""Set while the client runs inside an intercepted call: what it calls of itself is not another operation."""


class Binding:
    """What the interceptors of one class or instance act for. Inactive: they call straight through."""

    __slots__ = ("adapter", "instrumenter")

    def __init__(self, adapter: Adapter, instrumenter: Instrumenter) -> None:
        self.adapter = adapter
        self.instrumenter = instrumenter

    @property
    def active(self) -> bool:
        """False after `uninstrument`."""
        return self.instrumenter.switch.on


class Subscription(NamedTuple):
    """A handler that is being registered with the client."""

    handler: Any
    call: Callable[[Any], tuple[Sequence[Any], dict[str, Any]]]
    """Given a handler, the arguments that register it instead."""
    native: Callable[..., Any]
    """Given what the client calls the handler with, the native delivery."""
    settles: bool
    whom: str
    """The consumer, for error messages."""


class Fetch(NamedTuple):
    """A call that asks the client for messages."""

    endpoint: Endpoint
    read: Callable[[Any], list[Delivery]]
    """Given what the client returned, the deliveries in it; empty for an empty poll."""


Interceptor = "Callable[[Callable[..., Any], Binding], Callable[..., Any]]"


class Point(NamedTuple):
    """A method to intercept: its class as text, so that naming it imports nothing."""

    owner: str
    method: str
    interceptor: Any
    reader: Callable[..., Any]
    carries_policy: bool = False
    """Without this point a settlement policy would be lost without a word."""


# -- the interceptors ----------------------------------------------------------------------------


def sends(
    action: Action, reader: Callable[..., Outgoing], completes: Callable[..., bool] | None = None
) -> Any:
    """Intercept a call that publishes one message.

    Args:
        action: What the system calls it.
        reader: From the call's arguments to an `Outgoing`.
        completes: Told `(client, operation, result)` after the call; True when it will end the operation
            later, because the outcome is not known yet.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not binding.active or _inside.get():
                return original(self, *args, **kwargs)
            operation, changed = _start_send(binding, action, reader, self, args, kwargs)
            if operation is None:
                return original(self, *args, **kwargs)
            token = _inside.set(True)
            try:
                result = original(self, *changed[0], **changed[1])
            except BaseException as error:
                operation.end(failure(binding.adapter, error))
                raise
            finally:
                _inside.reset(token)
            if completes is None or not _completes(completes, self, operation, result):
                operation.end()
            return result

        return send

    return intercept


def _start_send(
    binding: Binding,
    action: Action,
    reader: Callable[..., Outgoing],
    client: Any,
    args: Any,
    kwargs: Any,
) -> tuple[Operation | None, Any]:
    operation = None
    try:
        outgoing = reader(client, *args, **kwargs)
        operation, headers = binding.instrumenter.start_send(action, outgoing, binding.adapter.CODEC)
        if operation.plan is None:  # suppressed
            return None, None
        changed = (args, kwargs) if headers is outgoing.headers else outgoing.call(headers)
        operation.announce(client)
    except Exception as error:  # noqa: BLE001
        # A TypeError of the reader's signature is the user's: the client is about to say so itself.
        if operation is not None or not isinstance(error, TypeError):
            faults.report(f"starting to {action.name}")
        if operation is not None:
            operation.end()
        return None, None
    return operation, changed


def _completes(completes: Callable[..., bool], client: Any, operation: Operation, result: Any) -> bool:
    try:
        return completes(client, operation, result)
    except Exception:  # noqa: BLE001
        faults.report("waiting for the outcome of a publish")
        return False


def consumes(reader: Callable[..., Subscription | None]) -> Any:
    """Intercept a call that registers a handler, to which the client then pushes messages.

    The reader returns None for a registration that is not an application's.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def consume(self: Any, *args: Any, **kwargs: Any) -> Any:
            if binding.active:
                subscription = _read(reader, self, args, kwargs)
                if subscription is not None and callable(subscription.handler):
                    args, kwargs = _subscribed(subscription, binding)
            return original(self, *args, **kwargs)

        return consume

    return intercept


def _read(reader: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
    try:
        return reader(client, *args, **kwargs)
    except TypeError:  # the user's arguments: the client is about to say so itself
        return None
    except Exception:  # noqa: BLE001
        faults.report(f"reading the arguments of {getattr(reader, '__name__', reader)}")
        return None


def _subscribed(subscription: Subscription, binding: Binding) -> tuple[Any, Any]:
    """The arguments that register the handler with processing around it.

    Raises:
        PolicyError: the policy that would be in force for this handler cannot work on this consumer.
    """
    face = face_of(subscription.handler)
    instrumenter = face.over(binding.instrumenter) if face else binding.instrumenter
    if instrumenter.config.policy.settles and not subscription.settles:
        raise auto_acked(instrumenter.config.policy, subscription.whom)

    def start(args: tuple[Any, ...]) -> Processing:
        natives = [subscription.native(*args)]
        return begin(binding.adapter, natives, pushed=True, base=binding.instrumenter)

    wrapped = traced(subscription.handler, start)

    @functools.wraps(subscription.handler)
    def handle(*args: Any, **kwargs: Any) -> Any:
        return (wrapped if binding.active else subscription.handler)(*args, **kwargs)

    return subscription.call(handle)


def receives(reader: Callable[..., Fetch]) -> Any:
    """Intercept a call that asks for messages and returns them: one receive span, none for an empty result."""

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def receive(self: Any, *args: Any, **kwargs: Any) -> Any:
            fetch = _read(reader, self, args, kwargs) if binding.active and not _inside.get() else None
            if fetch is None:
                return original(self, *args, **kwargs)
            began, clock, token = time_ns(), perf_counter(), _inside.set(True)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                _received(binding, fetch, None, error, began, perf_counter() - clock)
                raise
            finally:
                _inside.reset(token)
            _received(binding, fetch, result, None, began, perf_counter() - clock)
            return result

        return receive

    return intercept


def _received(
    binding: Binding, fetch: Fetch, result: Any, error: BaseException | None, began: int, seconds: float
) -> None:
    try:
        deliveries = fetch.read(result) if error is None else []
        if deliveries or error is not None:
            codec = binding.adapter.CODEC
            operation = binding.instrumenter.start_receive(fetch.endpoint, deliveries, codec, began)
            operation.announce(result)
            if error is None:
                operation.end(seconds=seconds, messages=len(deliveries))
            else:
                operation.end(failure(binding.adapter, error), seconds=seconds, messages=0)
    except Exception:  # noqa: BLE001
        faults.report("recording a receive")


def iterates(reader: Callable[..., Callable[[Any], Any] | None], keep: Callable[[Any, Any], None]) -> Any:
    """Intercept a call that returns an iterator over messages: its loop's body is put in scope.

    Args:
        reader: From the call's arguments to a function that turns what is iterated over into a native delivery,
            or into None for what is no message.
        keep: Told `(client, loop)`, so that the client's way of ending the loop can end its scope.
    """

    def intercept(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def iterate(self: Any, *args: Any, **kwargs: Any) -> Any:
            native_of = _read(reader, self, args, kwargs) if binding.active else None
            source = original(self, *args, **kwargs)
            if native_of is None:
                return source

            def start(item: Any) -> Processing:
                native = native_of(item) if binding.active else None
                if native is None:
                    return NOTHING
                return begin(binding.adapter, [native], pushed=False, base=binding.instrumenter)

            loop = Loop(source, start)
            keep(self, loop)
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


def returns_wrapped(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept a call of a wrapped instance whose result is to be wrapped like it."""

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bind(original(self, *args, **kwargs), binding.adapter, binding.instrumenter)

    return make


# -- class scope ---------------------------------------------------------------------------------


class _Woven(NamedTuple):
    owner: type
    method: str
    before: Any
    """What the class's own `__dict__` held; the sentinel where the method was inherited."""


_INHERITED = object()


def owner_of(path: str) -> type:
    """Import the class that `module:Class` names."""
    module, _, name = path.partition(":")
    owner: type = getattr(importlib.import_module(module), name)
    return owner


def weave(points: Sequence[Point], binding: Binding) -> list[_Woven]:
    """Intercept methods of classes, for the whole process.

    Raises:
        ConfigurationError: a method that a settlement policy needs cannot be intercepted.
    """
    woven = []
    rival = next(filter(_is_wrapped, binding.adapter.RIVALS), None)
    for point in points:
        owner = owner_of(point.owner)
        original = getattr(owner, point.method)
        reason = _rivalry(rival) if rival else _reason_against(original, point.reader)
        if reason is not None:
            _decline(point, reason, binding)
            continue
        woven.append(_Woven(owner, point.method, owner.__dict__.get(point.method, _INHERITED)))
        setattr(owner, point.method, _intercepted(point, original, binding))
    return woven


def unweave(woven: Sequence[_Woven]) -> None:
    """Restore the classes exactly."""
    for owner, method, before in woven:
        if before is _INHERITED:
            delattr(owner, method)
        else:
            setattr(owner, method, before)


def _intercepted(point: Point, original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    replacement: Callable[..., Any] = point.interceptor(original, binding)
    setattr(replacement, _INTERCEPTED, original)
    return replacement


def _decline(point: Point, reason: str, binding: Binding) -> None:
    method = f"{point.owner.partition(':')[2]}.{point.method}"
    if point.carries_policy and binding.instrumenter.config.policy.settles:
        raise ConfigurationError(
            f"{method} cannot be instrumented, so policy {binding.instrumenter.config.policy.name} would be lost: "
            f"{reason}"
        )
    faults.once("hopspan leaves %s alone: %s", method, reason)


def _reason_against(original: Callable[..., Any], reader: Callable[..., Any]) -> str | None:
    """Why a method is not to be intercepted, or None."""
    if hasattr(original, "__wrapped__") and not hasattr(original, _INTERCEPTED):
        return _rivalry(original.__qualname__)
    named = _named(reader)
    theirs = _named(original)
    if theirs[: len(named)] != named:
        return (
            f"this version of the client has ({', '.join(theirs)}) where hopspan knows ({', '.join(named)}); "
            "look for a newer hopspan"
        )
    return None


def _rivalry(wrapped: str) -> str:
    return f"another instrumentation wraps {wrapped} already; use one of the two, or spans are doubled"


def _is_wrapped(path: str) -> bool:
    owner, _, method = path.rpartition(".")
    function = getattr(owner_of(owner), method, None)
    return hasattr(function, "__wrapped__") and not hasattr(function, _INTERCEPTED)


def _named(function: Callable[..., Any]) -> list[str]:
    """The parameters that can be given by position, without the first, which is the client."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in positional][1:]


# -- instance scope ------------------------------------------------------------------------------


def bind(instance: Native, adapter: Adapter, instrumenter: Instrumenter) -> Native:
    """Intercept the methods of one instance, and return it.

    The instance keeps its identity and its class, so that everything the client does with it goes on to work,
    and the channel that a callback is given is the wrapped one. A second call changes its settings.
    """
    known = instance.__dict__.get(_BINDING)
    if known is not None:
        known.instrumenter = instrumenter
        return instance
    points = [*adapter.POINTS, *adapter.INSTANCE_POINTS]  # type: ignore[attr-defined]
    mine = [point for point in points if _owns(type(instance), point)]
    if not mine:
        raise UnknownMessageError(
            f"wrap: hopspan cannot wrap a {type(instance).__qualname__}; give it a channel or a connection"
        )
    binding = Binding(adapter, instrumenter)
    instance.__dict__[_BINDING] = binding
    for point in mine:
        if point.method in instance.__dict__:
            _decline(point, "another instrumentation replaced it on this instance", binding)
            continue
        original = getattr(type(instance), point.method)
        original = getattr(original, _INTERCEPTED, original)
        reason = _reason_against(original, point.reader)
        if reason is not None:
            _decline(point, reason, binding)
            continue
        instance.__dict__[point.method] = MethodType(_intercepted(point, original, binding), instance)
    return instance


def _owns(kind: type, point: Point) -> bool:
    return any(point.owner == f"{each.__module__}:{each.__qualname__}" for each in kind.__mro__)


def wrap(native: Native, **settings: Any) -> Native:
    """Trace one native object, and nothing else: its publishes, its consumers, its settlements.

    ::

        channel = hopspan.wrap(connection.channel(), policy=hopspan.requeue_once)
        channel.basic_publish("orders", "created", body)
        channel.basic_consume("orders", on_order)

    Give it a channel, or a connection whose channels are then all wrapped. The object itself is returned: its
    methods are replaced on this one instance, so its class, its identity and everything that the client does
    with it stay as they were. Wrapping twice is once; the second call's settings hold from then on.

    Args:
        native: A channel or connection of a client that hopspan knows.
        settings: See `hopspan.Config`. Without a policy, hopspan settles nothing.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        UnknownMessageError: the object is nothing that hopspan can wrap.
        PolicyError: the policy can never work with this client.

    Thread and task safety: as the client's own object.
    """
    adapter = adapter_of(type(native))
    if adapter is None:
        raise unknown("wrap", (native,), "give it a channel or a connection of pika")
    instrumenter = Instrumenter(instrumenter_for(adapter.NAME).config.override(settings))
    refuse(instrumenter.config.policy, adapter, ())
    return bind(native, adapter, instrumenter)


__all__ = [
    "Binding", "Fetch", "Point", "Subscription", "bind", "consumes", "iterates", "owner_of",
    "receives", "returns_wrapped", "runs_first", "sends", "unweave", "weave", "wrap",
]  # fmt: skip
