"""Instance scope: the methods of one object replaced, and of nothing else."""

from __future__ import annotations

import functools
import inspect
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from hopspan.delivery import adapter_of, auto_ack_error, refuse
from hopspan.interception.replacing import replace_on
from hopspan.interception.weaving import INTERCEPTED, decline, intercepted, why_not_intercept
from hopspan.model import UnknownMessageError
from hopspan.telemetry import (
    NO_OVERRIDES,
    Binding,
    Overrides,
    binding_of,
    instrumenter_for,
    keep_binding,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.delivery import Adapter
    from hopspan.interception.points import Point

Native = TypeVar("Native")


def bind(
    instance: Native, adapter: Adapter, overrides: Overrides, parent: Binding | None = None
) -> Native:
    """Intercept the methods of one instance, and return it.

    The instance keeps its identity and stays an instance of its class, so that everything the
    client does with it goes on to work, and the channel that a callback is given is the wrapped
    one. A second call changes its settings.
    """
    known = binding_of(instance)
    if known is not None:
        overrides = Overrides({**known.overrides.settings, **overrides.settings})
        _refuse_on(instance, adapter, overrides)
        known.overrides = overrides
        _listen(adapter, known, instance)
        return instance
    points = [*adapter.points, *adapter.instance_points]
    mine = [point for point in points if _owns(type(instance), point)]
    if not mine:
        raise _unwrappable(instance)
    adapter.prepare(instance)
    _refuse_on(instance, adapter, overrides)
    binding = Binding(adapter, overrides=overrides, parent=parent)
    replaced: dict[str, Any] = {}
    for point in mine:
        original = getattr(type(instance), point.method, None)
        original = getattr(original, INTERCEPTED, original)
        reason = why_not_intercept(original, point.reader)
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
    if adapter.signals is not None:
        adapter.signals.connect(binding, instance)


def bind_child(instance: Native, parent: Binding) -> Native:
    """Wrap what a wrapped object has made like it; what is wrapped already keeps its settings."""
    if binding_of(instance) is not None:
        return instance
    return bind(instance, parent.adapter, NO_OVERRIDES, parent)


def _refuse_on(instance: Any, adapter: Adapter, overrides: Overrides) -> None:
    policy = overrides.applied_to(instrumenter_for(adapter.name)).config.policy
    if policy.settles and adapter.settles_by_itself(instance):
        raise auto_ack_error(policy, adapter.client, "this consumer")


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
    overrides = Overrides(settings)
    policy = overrides.applied_to(instrumenter_for(adapter.name)).config.policy
    if policy.settles:
        refuse(policy, adapter.client, adapter.delivery.refusal(policy))
    return bind(native, adapter, overrides)


def returns_wrapped(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept a call of a wrapped instance whose result, awaited or not, is wrapped like it."""

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bind_child(original(self, *args, **kwargs), binding)

    @functools.wraps(original)
    async def make_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bind_child(await original(self, *args, **kwargs), binding)

    return make_async if inspect.iscoroutinefunction(original) else make
