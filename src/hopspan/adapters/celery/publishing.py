"""Publishing a task: a span around `send_task`, by which all that publishes a task goes.

That is `apply_async` and `delay`, canvas, retries, callbacks, beat. Celery's signal before a
publish has the message that is really sent, and where to; after a publish that fails there is no
signal, so the span is ended by the interceptor.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task

from hopspan import faults
from hopspan.adapters import amqp
from hopspan.adapters.celery import chords
from hopspan.adapters.celery.brokers import publish_routes
from hopspan.adapters.celery.messages import CORRELATION_HEADER, describe_task
from hopspan.delivery import failure
from hopspan.model import SUCCESS
from hopspan.propagation import MAPPING
from hopspan.telemetry import (
    EMPTY,
    GENERATION,
    attach,
    detach,
    get_current,
    start_send,
    without_nested,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.adapters.celery.brokers import PublishRoutes
    from hopspan.model import Outcome
    from hopspan.telemetry import Binding, Instrumenter, Operation

_NO_MESSAGE: dict[str, Any] = {}


class Publish:
    """One call of `send_task`. What hooks get as the native object."""

    __slots__ = ("_has_links", "_instrumenter", "app", "name", "operation", "routes")

    def __init__(
        self, instrumenter: Instrumenter, app: Any, name: str, routes: PublishRoutes
    ) -> None:
        self.app: Any = app
        self.name: str = name
        """The task's."""
        self.routes: PublishRoutes = routes
        self.operation: Operation | None = None
        """None until the message is made."""
        self._instrumenter = instrumenter
        self._has_links = False

    def start(self, headers: dict[str, Any], exchange: str, routing_key: str, body: Any) -> None:
        """Start the span of a message that is made, and put its context into its headers."""
        # Of protocol 1, the body has all that the message says.
        is_apart = not headers.get("id") and isinstance(body, dict)
        task_message = body if is_apart else headers
        message_id = task_message.get("id")
        task: Any = get_current_task()
        if CORRELATION_HEADER in headers:
            _forget_the_last_hop(headers, message_id, task)
        attributes: dict[str, Any] = {}
        describe_task(attributes, task_message)
        operation, fresh = start_send(
            self._instrumenter,
            amqp.PUBLISH,
            (
                self.routes[exchange, routing_key, self.name],
                (message_id, None, attributes, None),
                headers,
                _carrying,
            ),
            MAPPING,
        )
        if operation is None:  # suppressed
            return
        self.operation = operation
        if fresh is not headers:
            headers.clear()
            headers.update(fresh)
        if self._instrumenter.is_watched:
            operation.call_on_start(self)
        if task is not None:
            links = chords.collect(task, message_id)
            if links:
                headers[chords.LINKS] = links
                self._has_links = True

    def end(self, outcome: Outcome = SUCCESS) -> None:
        """End the call. Never raises."""
        try:
            if self.operation is None and outcome.failed:
                self.start({}, "", "", {})  # it failed before there was a message
            operation, self.operation = self.operation, None  # or the two would keep each other
            if operation is not None:
                operation.end(outcome)
            if self._has_links and not outcome.failed:
                chords.clear(get_current_task())
        except Exception:  # noqa: BLE001 - what became of the message is Celery's to tell
            faults.report("ending a publish")


def _carrying(headers: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Never called: Celery's own headers are filled."""
    return (headers,), {}


lost_run: ContextVar[str | None] = ContextVar("hopspan-celery-lost-run", default=None)
"""The task whose run the main process is seeing to, because its child is gone."""

_publishing: ContextVar[Publish | None] = ContextVar("hopspan-celery-publish", default=None)


def publishes(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept `Celery.send_task`."""
    # As one value: other threads may find it changed as well.
    known = GENERATION[0], binding.instrumenter

    @functools.wraps(original)
    def send_task(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal known
        generation, instrumenter = known
        if generation != GENERATION[0]:
            known = GENERATION[0], binding.instrumenter
            instrumenter = known[1]
        if not instrumenter.switch.on or (
            instrumenter.may_be_unobserved and instrumenter.enabled.publish_is_noop()
        ):
            return original(self, *args, **kwargs)
        publish = _begun(instrumenter, self, args, kwargs)
        if publish is None:
            return original(self, *args, **kwargs)
        token = _publishing.set(publish)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            publish.end(failure(binding.adapter.client, error))
            raise
        finally:
            _publishing.reset(token)
        publish.end()
        return result

    return send_task


def send_task(  # noqa: PLR0917
    app: Any,  # noqa: ARG001 - the parameters are those of the method that it stands for
    name: Any,
    args: Any = None,  # noqa: ARG001
    kwargs: Any = None,  # noqa: ARG001
    countdown: Any = None,  # noqa: ARG001
    eta: Any = None,  # noqa: ARG001
    task_id: Any = None,  # noqa: ARG001
    producer: Any = None,
    connection: Any = None,
    *rest: Any,  # noqa: ARG001
    **options: Any,
) -> tuple[Any, Any]:
    """`Celery.send_task`: the task's name, and the connection of this call, if it has its own."""
    if connection is None:
        producer = producer or options.get("publisher")
        connection = getattr(producer, "__connection__", None)
    return name, connection


_FIRST_OF_RARE = 7
"""Where the parameter `producer` is, which hardly any call gives by position."""


def _begun(instrumenter: Instrumenter, app: Any, args: Any, kwargs: Any) -> Publish | None:
    get = kwargs.get
    if (
        0 < len(args) < _FIRST_OF_RARE
        and get("producer") is None
        and get("publisher") is None
        and get("connection") is None
    ):
        name, connection = args[0], None
    else:
        try:
            name, connection = send_task(app, *args, **kwargs)
        except TypeError:  # Celery is about to say so itself
            return None
    if type(name) is not str:
        name = name if isinstance(name, str) else ""
    outer = _publishing.get()
    if outer is not None and outer.operation is None and (outer.app, outer.name) == (app, name):
        return None  # a subclass's own `send_task` has called this one
    try:
        return Publish(instrumenter, app, name, publish_routes(app, connection))
    except Exception:  # noqa: BLE001
        faults.report("beginning to publish a task")
        return None


def on_before(
    headers: Any = None, exchange: Any = None, routing_key: Any = None, body: Any = None, **_: Any
) -> None:
    """Celery's `before_task_publish`: `headers` are those that will be sent, and nobody else's."""
    publish = _publishing.get()
    if publish is None or publish.operation is not None or not isinstance(headers, dict):
        return
    try:
        exchange = getattr(exchange, "name", exchange) or ""
        publish.start(headers, exchange, routing_key or "", body)
    except Exception:  # noqa: BLE001
        faults.report("starting to publish a task")


_SILENCE = without_nested(EMPTY)
"""The context of silence where nothing else is current: made once."""


def suppresses_nested(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Producer.publish` of kombu: what it uses is not to be traced once more."""

    @functools.wraps(original)
    def publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        publishing = _publishing.get()
        if publishing is None or publishing.operation is None:
            return original(self, *args, **kwargs)
        ambient = get_current()
        token = attach(without_nested(ambient) if ambient else _SILENCE)
        try:
            return original(self, *args, **kwargs)
        finally:
            detach(token)

    return publish


def publish(producer: Any, body: Any, *args: Any, **options: Any) -> None:
    """`Producer.publish` of kombu."""


def _forget_the_last_hop(headers: dict[str, Any], message_id: str | None, task: Any) -> None:
    """Remove what a retry brings along of the run that asks for it: its correlation is made."""
    run = lost_run.get() if task is None else task.request.id
    if run is not None and run == message_id:
        del headers[CORRELATION_HEADER]
