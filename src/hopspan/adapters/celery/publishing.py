"""Publishing a task: a span around `send_task`, by which all that publishes a task goes.

That is `apply_async` and `delay`, canvas, retries, callbacks, beat. Celery's signal before a
publish has what is really sent, and to where; after one that fails there is no signal, so the span
is ended by who called.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from opentelemetry.context import attach, detach, get_current

from hopspan import faults
from hopspan.adapters import _amqp
from hopspan.adapters.celery import brokers, chords
from hopspan.adapters.celery.deliveries import CUT, task_attributes
from hopspan.interception import end_send
from hopspan.model import SUCCESS, MessageInfo, Outgoing
from hopspan.processing import failure, undo_leftovers
from hopspan.telemetry import without_nested

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.model import Outcome
    from hopspan.telemetry import Binding, Operation


class _Publish:
    """One call of `send_task`."""

    __slots__ = ("_binding", "_broker", "_has_links", "_operation", "app", "name")

    def __init__(self, binding: Binding, app: Any, name: str, broker: brokers.Broker) -> None:
        self.app = app
        self.name = name
        self._binding = binding
        self._operation: Operation | None = None
        self._has_links = False
        self._broker = broker

    def start(self, headers: dict[str, Any], exchange: Any, key: str | None, body: Any) -> None:
        """The message is made: start the span, and put its context into the headers."""
        if self._operation is not None:
            return
        exchange = getattr(exchange, "name", exchange) or ""
        exchange, key = brokers.known_as(self.app, exchange, key or "")
        told = headers if headers.get("id") else body  # protocol 1 has all of it in its body
        told = told if isinstance(told, dict) else {}
        message_id = told.get("id")
        _forget_the_last_hop(headers, message_id)
        attributes = task_attributes(self.name, told)
        endpoint = brokers.sent_to(self._broker, exchange, key, self.name)
        if endpoint.system == _amqp.SYSTEM and key:
            attributes[_amqp.ROUTING_KEY] = key
        undo_leftovers()
        operation, fresh = self._binding.instrumenter.start_send(
            _amqp.PUBLISH,
            Outgoing(endpoint, MessageInfo(message_id, None, attributes), headers, _carrying),
            self._binding.adapter.CODEC,
        )
        if operation.plan is None:  # suppressed
            return
        self._operation = operation
        if fresh is not headers:
            headers.clear()
            headers.update(fresh)
        operation.announce(self)
        links = chords.collect(get_current_task(), message_id)
        if links:
            headers[chords.LINKS] = links
            self._has_links = True

    @property
    def has_begun(self) -> bool:
        """Whether its message is made."""
        return self._operation is not None

    def end(self, outcome: Outcome) -> None:
        """The call is over."""
        if self._operation is None and outcome.failed:
            self.start({}, "", "", {})  # it failed before there was a message
        operation, self._operation = self._operation, None  # or the two would keep each other
        if operation is not None:
            end_send(operation, outcome)
        if self._has_links and not outcome.failed:
            chords.clear(get_current_task())


def _carrying(headers: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Nothing is called with other headers: Celery's own are filled."""
    return (headers,), {}


lost_run: ContextVar[str | None] = ContextVar("hopspan-celery-lost-run", default=None)
"""The task whose run the main process is seeing to, because its child is gone."""

_publishing: ContextVar[_Publish | None] = ContextVar("hopspan-celery-publish", default=None)


def _is_heard(binding: Binding) -> bool:
    instrumenter = binding.instrumenter
    return instrumenter.switch.on and not instrumenter.audience.has_nothing_to_carry()


def publishes(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept `Celery.send_task`."""

    @functools.wraps(original)
    def send_task(self: Any, *args: Any, **kwargs: Any) -> Any:
        publish = _begun(binding, self, args, kwargs) if _is_heard(binding) else None
        if publish is None:
            return original(self, *args, **kwargs)
        token = _publishing.set(publish)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            _end(publish, failure(binding.adapter, error))
            raise
        else:
            _end(publish, SUCCESS)
            return result
        finally:
            _publishing.reset(token)

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
) -> tuple[Any, Any, Any]:
    """`Celery.send_task`: the task's name, and the connection and producer of this call."""
    return name, connection, producer or options.get("publisher")


def _begun(binding: Binding, app: Any, args: Any, kwargs: Any) -> _Publish | None:
    try:
        name, connection, producer = send_task(app, *args, **kwargs)
    except TypeError:  # Celery is about to say so itself
        return None
    name = name if isinstance(name, str) else ""
    outer = _publishing.get()
    if outer is not None and not outer.has_begun and (outer.app, outer.name) == (app, name):
        return None  # a subclass's own `send_task` has called this one
    try:
        return _Publish(binding, app, name, _broker(app, connection, producer))
    except Exception:  # noqa: BLE001
        faults.report("beginning to publish a task")
        return None


def _end(publish: _Publish, outcome: Outcome) -> None:
    try:
        publish.end(outcome)
    except Exception:  # noqa: BLE001
        faults.report("ending the publish of a task")


def on_before(
    headers: Any = None, exchange: Any = None, routing_key: Any = None, body: Any = None, **_: Any
) -> None:
    """Celery's `before_task_publish`: `headers` are those that will be sent, and nobody else's."""
    publish = _publishing.get()
    if publish is None or not isinstance(headers, dict):
        return
    try:
        publish.start(headers, exchange, routing_key, body)
    except Exception:  # noqa: BLE001
        faults.report("starting to publish a task")


def silently(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Producer.publish` of kombu: what it uses is not to be traced once more."""

    @functools.wraps(original)
    def publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        publishing = _publishing.get()
        if publishing is None or not publishing.has_begun:
            return original(self, *args, **kwargs)
        silence = attach(without_nested(get_current()))
        try:
            return original(self, *args, **kwargs)
        finally:
            detach(silence)

    return publish


def publish(producer: Any, body: Any, *args: Any, **options: Any) -> None:
    """`Producer.publish` of kombu."""


def _broker(app: Any, connection: Any, producer: Any) -> brokers.Broker:
    """The broker of a call, which may have a connection of its own."""
    if connection is None:
        connection = getattr(producer, "__connection__", None)
    return brokers.written_by(app) if connection is None else brokers.broker_of(connection)


def _forget_the_last_hop(headers: dict[str, Any], message_id: str | None) -> None:
    """A retry brings along the headers of the run that asks for it; its cut has been made."""
    if CUT in headers:
        task: Any = get_current_task()
        run = lost_run.get() if task is None else task.request.id
        if run is not None and run == message_id:
            del headers[CUT]
