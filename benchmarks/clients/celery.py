"""Celery: tasks are sent through kombu's transport in memory, and run by Celery's own tracer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NamedTuple

from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.utils.dispatch import Signal
from celery.worker.request import Request
from kombu.messaging import Producer
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
POLICY = hopspan.requeue_once
_SIGNALS = [each for each in vars(signals).values() if isinstance(each, Signal)]
_SHARED: tuple[type, ...] = (Producer,)
"""Classes beneath Celery that an instrumentation may change, for every application of the process."""

Methods = dict[tuple[type, str], Any]


class Process(NamedTuple):
    """The changes that an instrumentation has made to the whole process."""

    receivers: list[list[Any]]
    """Of each signal."""
    methods: Methods
    """Of the shared classes."""

    @classmethod
    def now(cls) -> Process:
        """As it is."""
        return cls(
            [list(signal.receivers) for signal in _SIGNALS],
            {(owner, name): each for owner in _SHARED for name, each in vars(owner).items()},
        )

    def enter(self) -> None:
        """Connect these receivers and no others, and have these methods."""
        for signal, each in zip(_SIGNALS, self.receivers, strict=True):
            signal.receivers[:] = each
            signal.sender_receivers_cache.clear()
        for (owner, name), method in self.methods.items():
            if vars(owner)[name] is not method:
                setattr(owner, name, method)


_BEFORE = Process.now()
_woven: Methods = {}
"""The methods that hopspan has woven: once, with the first application that it wraps."""


def _changed(instrument: Callable[[], Any]) -> Process:
    """The process as an instrumentation changes it; it is as before afterwards."""
    _BEFORE.enter()
    instrument()
    found = Process.now()
    _BEFORE.enter()
    return found


def _wrapped(app: Celery, telemetry: Telemetry, settings: Mapping[str, Any]) -> Process:
    """The process as hopspan changes it for an application, which is wrapped from now on."""
    found = _changed(lambda: hopspan.wrap(app, **{**telemetry.providers, **settings}))
    _woven.update(
        (key, each) for key, each in found.methods.items() if each is not _BEFORE.methods.get(key)
    )
    return found._replace(methods={**found.methods, **_woven})


def instrument_by_contrib(telemetry: Telemetry, *, metrics: bool) -> None:
    """Contrib's histogram cannot be switched off, only be given to a provider that does nothing."""
    instrumentor = object.__new__(CeleryInstrumentor)
    meters = telemetry.meter_provider if metrics else NoOpMeterProvider()
    instrumentor._instrument(tracer_provider=telemetry.tracer_provider, meter_provider=meters)


def _contrib(telemetry: Telemetry, *, metrics: bool) -> Process:
    return _changed(lambda: instrument_by_contrib(telemetry, metrics=metrics))


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


def _task(app: Celery, body: Callable[..., Any] = nothing, **options: Any) -> Any:
    return app.task(name="orders.place", shared=False, **options)(body)


def _row(name: str, process: Process, run: Any, telemetry: Telemetry | None) -> Row:
    row = Row(name, run, enter=process.enter, leave=_leave)
    return row if telemetry is None else row._replace(flush=telemetry.flush)


def _leave() -> None:
    _BEFORE.enter()
    for queue in Channel.queues.values():
        queue.queue.clear()


class ApplyAsync:
    """`task.apply_async`."""

    seconds = 0.02
    """Of a sample: a publish takes so long that the usual ones hold too few."""

    def __init__(self) -> None:
        self._apps: dict[str, Celery] = {}

    def bare(self) -> Row:
        return self._row("bare", _BEFORE)

    def contrib(self, telemetry: Telemetry) -> Row:
        return self._row("contrib", _contrib(telemetry, metrics=False), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        app = self._apps[name] = open_app(name)
        return self._row(name, _wrapped(app, telemetry, settings), telemetry)

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

        return _row(by.name, _BEFORE, run, telemetry)

    def carried(self, row: Row) -> Mapping[str, Any]:
        """The headers of a message that a row sends, as they are in the queue."""
        row.run(range(1))
        queue = Channel.queues[self._apps[row.name].conf.task_default_queue]
        return dict(queue.get_nowait()["headers"])

    def _row(self, name: str, process: Process, telemetry: Telemetry | None = None) -> Row:
        app = self._apps.setdefault(name, open_app(name))
        task = _task(app)

        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                task.apply_async((1,), headers={**PLAIN})

        return _row(name, process, run, telemetry)


class Run:
    """A run of a task, as a worker's process does it: from the tracer's first line to its last."""

    encloses = True
    """Whether contrib's span is current in the task's body."""

    def __init__(
        self, mode: str, body: Callable[..., Any] = nothing, *, acks_late: bool = False
    ) -> None:
        self.mode, self.body = mode, body
        self.acks = acks_late
        """Whether what becomes of a run decides over its message: early-acked ones are settled."""
        self._runs: dict[str, tuple[Celery, Any, Process]] = {}

    def looking(self, look: Callable[[], None]) -> Run:
        """The same with a task that looks around."""

        def place(order: int) -> None:
            look()

        return Run(self.mode, place, acks_late=self.acks)

    def policied(self) -> Run:
        """The same where a policy is to settle: Celery settles late."""
        return Run(self.mode, self.body, acks_late=True)

    def bare(self) -> Row:
        return self._row("bare", open_app("bare"), _BEFORE)

    def contrib(self, telemetry: Telemetry) -> Row:
        process = _contrib(telemetry, metrics=False)
        return self._row("contrib", open_app("contrib"), process, telemetry)

    def more(self, telemetry: Telemetry) -> Iterable[Row]:
        """Contrib with the histogram that it always has."""
        if telemetry.meter_provider is not None:
            name = "contrib + metrics"
            yield self._row(name, open_app(name), _contrib(telemetry, metrics=True), telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        return self._ours(name, self.body, telemetry, settings)

    def decorated(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A decorated body with a policy, in a wrapped application."""
        body = hopspan.consumer(policy=POLICY)(self.body)
        return self._ours(name, body, telemetry, settings)

    def wrapped(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A plain body in an application that is wrapped with a policy."""
        return self._ours(name, self.body, telemetry, {**settings, "policy": POLICY})

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        app = open_app(by.name)
        return self._row(by.name, app, _BEFORE, telemetry, _by_hand(by, app, self.body))

    def is_settled(self, row: Row) -> bool:
        """Whether a worker acks the message of such a run, and once, when the run is over."""
        app, run_task, process = self._runs[row.name]
        told: list[str] = []
        task = app.tasks["orders.place"]

        def traced(*args: Any, **kwargs: Any) -> Any:
            told.append("ran")
            return run_task(*args, **kwargs)

        task.__trace__ = traced
        message = SimpleNamespace(
            headers=self._request(app),
            body=((1,), {}, {}),
            properties={},
            delivery_info={},
            acknowledged=False,
        )
        request = Request(
            message,
            app=app,
            task=task,
            decoded=True,
            on_ack=lambda *_: told.append("acked"),
            on_reject=lambda *_: told.append("rejected"),
        )
        process.enter()
        request.execute()
        _leave()
        return told == ["ran", "acked"]

    def _ours(
        self,
        name: str,
        body: Callable[..., Any],
        telemetry: Telemetry,
        settings: Mapping[str, Any],
    ) -> Row:
        app = open_app(name)
        return self._row(name, app, _wrapped(app, telemetry, settings), telemetry, body)

    def _row(
        self,
        name: str,
        app: Celery,
        process: Process,
        telemetry: Telemetry | None = None,
        body: Callable[..., Any] | None = None,
    ) -> Row:
        _task(app, self.body if body is None else body, acks_late=self.acks)
        process.enter()  # the tracer looks which signals anybody listens to
        # A worker has the task itself; what the decorator gives is a proxy of it.
        run_task = build_tracer("orders.place", app.tasks["orders.place"], app=app)
        _BEFORE.enter()
        self._runs[name] = app, run_task, process

        def prepare(count: int) -> list[dict[str, Any]]:
            return [self._request(app) for _ in range(count)]

        def run(requests: list[dict[str, Any]]) -> None:
            for request in requests:
                run_task(request["id"], (1,), {}, request)

        return _row(name, process, run, telemetry)._replace(prepare=prepare)

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
