"""Instance scope: the methods of one object replaced, and of nothing else."""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from hopspan.interception.replacing import replace_on
from hopspan.interception.weaving import INTERCEPTED, decline, intercepted, reason_against
from hopspan.model import UnknownMessageError
from hopspan.processing import adapter_of, refuse, settled_already
from hopspan.telemetry import NO_SETTINGS, Binding, Face, binding_of, instrumenter_for, keep_binding

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.interception.points import Point
    from hopspan.processing import Adapter

Native = TypeVar("Native")


def bind(instance: Native, adapter: Adapter, face: Face, maker: Binding | None = None) -> Native:
    """Intercept the methods of one instance, and return it.

    The instance keeps its identity and stays an instance of its class, so that everything the
    client does with it goes on to work, and the channel that a callback is given is the wrapped
    one. A second call changes its settings.
    """
    known = binding_of(instance)
    if known is not None:
        face = Face({**known.face.settings, **face.settings})
        _refuse_on(instance, adapter, face)
        known.face = face
        _listen(adapter, known, instance)
        return instance
    points = [*adapter.POINTS, *adapter.INSTANCE_POINTS]
    mine = [point for point in points if _owns(type(instance), point)]
    if not mine:
        raise _unwrappable(instance)
    adapter.prepare(instance)
    _refuse_on(instance, adapter, face)
    binding = Binding(adapter, face=face, maker=maker)
    replaced: dict[str, Any] = {}
    for point in mine:
        original = getattr(type(instance), point.method, None)
        original = getattr(original, INTERCEPTED, original)
        reason = reason_against(original, point.reader)
        if point.method in getattr(instance, "__dict__", ()):
            reason = "another instrumentation replaced it on this instance"
        if reason is not None:
            decline(point, reason, binding)
            continue
        replaced[point.method] = MethodType(intercepted(point, original, binding), instance)
    replace_on(instance, replaced)
    keep_binding(instance, binding)
    _listen(adapter, binding, instance)
    return instance


def _listen(adapter: Adapter, binding: Binding, instance: Any) -> None:
    if adapter.SIGNALS is not None:
        adapter.SIGNALS.connect(binding, instance)


def bind_new(instance: Native, maker: Binding) -> Native:
    """Wrap what a wrapped object has made like it; what is wrapped already keeps its settings."""
    if binding_of(instance) is not None:
        return instance
    return bind(instance, maker.adapter, NO_SETTINGS, maker)


def _refuse_on(instance: Any, adapter: Adapter, face: Face) -> None:
    policy = face.over(instrumenter_for(adapter.NAME)).config.policy
    if policy.settles and adapter.settles_by_itself(instance):
        raise settled_already(policy, adapter, "this consumer")


def _unwrappable(instance: Any) -> UnknownMessageError:
    kind = f"the class {instance.__name__}" if isinstance(instance, type) else repr(type(instance))
    return UnknownMessageError(
        f"wrap: {kind} is nothing that hopspan can wrap; give it a channel, connection, producer "
        "or consumer of a client that it knows"
    )


def _owns(kind: type, point: Point) -> bool:
    return any(point.owner == f"{each.__module__}:{each.__qualname__}" for each in kind.__mro__)


def wrap(native: Native, **settings: Unpack[Settings]) -> Native:
    """Trace one native object, and nothing else: its publishes, its consumers, its settlements.

    ::

        channel = hopspan.wrap(connection.channel(), policy=hopspan.requeue_once)
        channel.basic_publish("orders", "created", body)
        channel.basic_consume("orders", on_order)

    Give it a channel, a producer, a consumer, or a connection whose channels are then all wrapped.
    The object itself is returned: its methods are replaced on this one instance, so its identity
    and everything that the client does with it stay as they were. Wrapping twice is once; the
    second call's settings hold from then on.

    Args:
        native: A channel, connection, producer or consumer of a client that hopspan knows.
        settings: See `hopspan.Config`. Without a policy, hopspan settles nothing.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        UnknownMessageError: the object is nothing that hopspan can wrap.
        PolicyError: the policy can never work with this client.

    Thread and task safety: as the client's own object.
    """
    adapter = adapter_of(type(native))
    if adapter is None:
        raise _unwrappable(native)
    face = Face(settings)
    policy = face.over(instrumenter_for(adapter.NAME)).config.policy
    refuse(policy, adapter)
    return bind(native, adapter, face)


def returns_wrapped(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept a call of a wrapped instance whose result is to be wrapped like it."""

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bind_new(original(self, *args, **kwargs), binding)

    return make


def returns_wrapped_async(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """`returns_wrapped` for a call that is awaited."""

    @functools.wraps(original)
    async def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bind_new(await original(self, *args, **kwargs), binding)

    return make
