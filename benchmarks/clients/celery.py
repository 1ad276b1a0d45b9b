"""Celery: tasks are sent through kombu's transport in memory, and run by Celery's own tracer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.utils.dispatch import Signal
from kombu.transport.memory import Channel
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Link, set_span_in_context

import hopspan
from benchmarks.floors import Floor, traceparent
from benchmarks.modes import Telemetry
from benchmarks.sampling import Row

PLAIN: Mapping[str, Any] = {"tenant": "acme"}
_SIGNALS = [each for each in vars(signals).values() if isinstance(each, Signal)]
_BEFORE = [list(signal.receivers) for signal in _SIGNALS]

Receivers = list[list[Any]]


def _receive(receivers: Receivers) -> None:
    """Signals are the whole process's: connect these receivers, and no others."""
    for signal, each in zip(_SIGNALS, receivers, strict=True):
        signal.receivers[:] = each
        signal.sender_receivers_cache.clear()


def _connected(connect: Callable[[], Any]) -> Receivers:
    """The receivers that an instrumentation connects."""
    _receive(_BEFORE)
    connect()
    found = [list(signal.receivers) for signal in _SIGNALS]
    _receive(_BEFORE)
    return found


def instrument_by_contrib(telemetry: Telemetry, *, metrics: bool) -> None:
    """Contrib's histogram cannot be switched off, only be given to a provider that does nothing."""
    instrumentor = object.__new__(CeleryInstrumentor)
    meters = telemetry.meter_provider if metrics else NoOpMeterProvider()
    instrumentor._instrument(tracer_provider=telemetry.tracer_provider, meter_provider=meters)


def _contrib(telemetry: Telemetry, *, metrics: bool) -> Receivers:
    return _connected(lambda: instrument_by_contrib(telemetry, metrics=metrics))


def open_app(name: str) -> Celery:
    """An application with one task, and a queue that is its own."""
    return Celery(
        f"bench {name}",
        broker="memory://",
        set_as_current=False,
        changes={
            "task_default_queue": f"orders-{name}-{uuid.uuid4().hex[:4]}",
            "task_ignore_result": True,
        },
    )


def nothing(order: int) -> None:
    """A task that does nothing."""


def _task(app: Celery, body: Callable[..., Any] = nothing) -> Any:
    return app.task(name="orders.place", shared=False)(body)


def _sends(name: str, receivers: Receivers, run: Any, telemetry: Telemetry | None) -> Row:
    row = Row(name, run, enter=lambda: _receive(receivers), leave=_leave)
    return row if telemetry is None else row._replace(flush=telemetry.flush)


def _leave() -> None:
    _receive(_BEFORE)
    for queue in Channel.queues.values():
        queue.queue.clear()


class ApplyAsync:
    """`task.apply_async`."""

    warm = 20

    def __init__(self) -> None:
        self._apps: dict[str, Celery] = {}

    def bare(self) -> Row:
        return self._row("bare", _BEFORE)

    def contrib(self, telemetry: Telemetry) -> Row:
        return self._row("contrib", _contrib(telemetry, metrics=False), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        app = self._apps[name] = open_app(name)
        receivers = _connected(lambda: hopspan.wrap(app, **{**telemetry.providers, **settings}))
        return self._row(name, receivers, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        app = self._apps[by.name] = open_app(by.name)
        task = _task(app)
        start, shape, measure = by.tracer.start_span, by.shape, by.measure
        name, kind, attributes = shape.name, shape.kind, shape.attributes

        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                headers = {**PLAIN} if by.propagates else {**PLAIN, **by.carried}
                began = perf_counter()
                span = start(name, None, kind, attributes)
                if by.propagates:
                    propagate.inject(headers, set_span_in_context(span))
                task.apply_async((1,), headers=headers)
                if measure is not None:
                    measure(perf_counter() - began, set_span_in_context(span))
                span.end()

        return _sends(by.name, _BEFORE, run, telemetry)

    def carried(self, row: Row) -> Mapping[str, Any]:
        """The headers of a message that a row sends, as they are in the queue."""
        row.run(range(1))
        queue = Channel.queues[self._apps[row.name].conf.task_default_queue]
        return dict(queue.get_nowait()["headers"])

    def _row(self, name: str, receivers: Receivers, telemetry: Telemetry | None = None) -> Row:
        app = self._apps.setdefault(name, open_app(name))
        task = _task(app)

        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                task.apply_async((1,), headers={**PLAIN})

        return _sends(name, receivers, run, telemetry)


class Run:
    """A run of a task, as a worker's process does it: from the tracer's first line to its last."""

    def __init__(self, mode: str, body: Callable[..., Any] = nothing) -> None:
        self.mode, self.body = mode, body

    def looking(self, look: Callable[[], None]) -> Run:
        """The same with a task that looks around."""

        def place(order: int) -> None:
            look()

        return Run(self.mode, place)

    def bare(self) -> Row:
        return self._row("bare", open_app("bare"), _BEFORE)

    def contrib(self, telemetry: Telemetry) -> Row:
        receivers = _contrib(telemetry, metrics=False)
        return self._row("contrib", open_app("contrib"), receivers, telemetry)

    def more(self, telemetry: Telemetry) -> Iterable[Row]:
        """Contrib with the histogram that it always has."""
        if telemetry.meter_provider is not None:
            name = "contrib + metrics"
            yield self._row(name, open_app(name), _contrib(telemetry, metrics=True), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        app = open_app(name)
        receivers = _connected(lambda: hopspan.wrap(app, **{**telemetry.providers, **settings}))
        return self._row(name, app, receivers, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        app = open_app(by.name)
        return self._row(by.name, app, _BEFORE, telemetry, lambda body: _by_hand(by, app, body))

    def _row(
        self,
        name: str,
        app: Celery,
        receivers: Receivers,
        telemetry: Telemetry | None = None,
        around: Callable[[Any], Any] = lambda body: body,
    ) -> Row:
        task = _task(app, around(self.body))
        _receive(receivers)  # the tracer looks which signals anybody listens to
        # A worker has the task itself; what the decorator gives is a proxy of it.
        run_task = build_tracer(task.name, app.tasks[task.name], app=app)
        _receive(_BEFORE)

        def prepare(count: int) -> list[dict[str, Any]]:
            return [self._request(app) for _ in range(count)]

        def run(requests: list[dict[str, Any]]) -> None:
            for request in requests:
                run_task(request["id"], (1,), {}, request)

        row = _sends(name, receivers, run, telemetry)
        return row._replace(prepare=prepare)

    def _request(self, app: Celery) -> dict[str, Any]:
        """What a worker knows of a message of protocol 2."""
        number = str(uuid.uuid4())
        carried = {**PLAIN, "traceparent": traceparent(self.mode)}
        headers = {
            "lang": "py", "task": "orders.place", "id": number, "root_id": number,
            "parent_id": None, "group": None, "retries": 0, "timelimit": [None, None],
            "argsrepr": "(1,)", "kwargsrepr": "{}", "origin": "gen1@host", **carried,
        }  # fmt: skip
        return {
            **headers,
            "headers": carried,
            "hostname": "worker@host",
            "ignore_result": True,
            "reply_to": number,
            "correlation_id": number,
            "delivery_info": {
                "exchange": "",
                "routing_key": app.conf.task_default_queue,
                "priority": 0,
                "redelivered": False,
            },
        }


def _by_hand(by: Floor, app: Celery, body: Callable[..., Any]) -> Callable[..., Any]:
    start, shape, measure = by.tracer.start_span, by.shape, by.measure
    name, kind, attributes = shape.name, shape.kind, shape.attributes
    is_linked = shape.is_linked

    def place(order: int) -> Any:
        began = perf_counter()
        parent, links = by.parent, by.links
        if by.propagates:
            parent = propagate.extract(app.current_task.request.headers)
            if is_linked:
                links = (Link(trace.get_current_span(parent).get_span_context()),)
        span = start(name, parent, kind, attributes, links)
        current = set_span_in_context(span, parent)
        token = attach(current)
        try:
            return body(order)
        finally:
            detach(token)
            if measure is not None:
                measure(perf_counter() - began, current)
            span.end()

    return place
