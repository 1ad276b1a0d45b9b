"""Celery, as scenarios speak to it: a worker whose loop is turned by hand, on a fake or real broker.

A message is a task with one argument, which is its body; a handler is the task's body. The worker
is Celery's own with a solo pool, so a task runs in the scenario's thread, and what it leaves
current is seen. Celery settles each message itself: in its own words a handler can `raise Reject`
or `raise Ignore`.
"""

from __future__ import annotations

import copy
import functools
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import amqp.channel
import celery.bootsteps
import celery.worker
import kombu
from celery import Celery, Task, _state, chain
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.exceptions import Ignore, Reject
from kombu.transport.virtual import base as virtual

import hopspan
from hopspan import Verdict
from hopspan.telemetry import faces
from tests.contract.client import DEADLINE, Client, Handler, Message, Ran, Sent
from tests.contract.features import Features
from tests.contract.telemetry import Lines, Span, silence
from tests.fakes.amqp import FakeRabbit

TASK = "orders.place"
"""What every scenario's task is called."""
NAP = 0.02
"""Seconds to wait for the broker, before a scenario is asked whether it is content."""
ENVELOPE = {
    "argsrepr", "compression", "eta", "expires", "group", "group_index", "id", "ignore_result",
    "kwargsrepr", "lang", "origin", "parent_id", "replaced_task_nesting", "retries", "root_id",
    "shadow", "stamped_headers", "stamps", "task", "timelimit", "x-death",
    "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason",
}  # fmt: skip
"""Headers that are Celery's own, or the broker's."""

ON_RABBITMQ = Features(
    pushes=True,
    settles=True,
    redelivers=True,
    nacks=True,
    acks_on_the_wire=True,
    dead_letters=True,
    dead_letters_by_itself=True,
    auto_acks=True,
    keeps_headers_on_requeue=True,
    reports_completion=True,
    styles=("function", "bound function", "class"),
    typed_headers=True,
    outcomes=("sent", "unserialisable", "unreachable"),
    senders=("apply_async", "delay", "send_task", "chain"),
)
ON_REDIS = ON_RABBITMQ._replace(dead_letters=False, dead_letters_by_itself=False)
"""Redis has no dead letters: what is rejected is gone."""


class Broker(NamedTuple):
    """A broker as the scenarios' applications reach it."""

    url: str
    system: str
    channel: type
    """The class by whose methods settlements go out."""
    fake: FakeRabbit | None = None


def rabbitmq(url: str, fake: FakeRabbit | None = None) -> Broker:
    """RabbitMQ, or a fake one."""
    return Broker(url, "rabbitmq", amqp.channel.Channel, fake)


def redis(url: str) -> Broker:
    """Redis."""
    return Broker(url, "redis", virtual.Channel)


class Worker(celery.worker.WorkController):  # type: ignore[misc]
    """A worker whose loop is turned by hand."""

    def should_use_eventloop(self) -> bool:
        return False

    def begin(self) -> None:
        """Start all but the loop."""
        setup_worker_optimizations(self.app, self.hostname)
        self.blueprint.state = celery.bootsteps.RUN
        self.steps[0].start(self)  # the pool
        self.consumer.blueprint.state = celery.bootsteps.RUN
        *steps, _loop = self.consumer.steps
        for step in steps:
            step.start(self.consumer)
        self.consumer.task_consumer.on_message = self.consumer.create_task_handler()
        self.consumer.task_consumer.consume()

    def turn(self) -> None:
        """Once around the loop."""
        self.flush()
        with suppress(socket.timeout):
            self.consumer.connection.drain_events(timeout=NAP)

    def flush(self) -> None:
        """Do what was put off until the next time around."""
        self.consumer.perform_pending_operations()

    def end(self) -> None:
        """Stop, in the order in which Celery does it."""
        for method in ("stop", "shutdown"):
            for step in reversed(self.consumer.steps[:-1]):
                getattr(step, method)(self.consumer)
        self.steps[0].terminate(self)
        reset_worker_optimizations(self.app)
        _state.set_default_app(None)
        _state._set_current_app(None)


class CeleryClient(Client):
    """A queue, an application that sends to it, and one that has a worker on it."""

    NAME = "celery"
    producer: Celery
    consumer: Celery

    def __init__(self, broker: Broker, features: Features, **shape: Any) -> None:
        super().__init__(features, **shape)
        self.broker = broker
        self.passwords = (kombu.Connection(broker.url).password or "nobody's",)
        suffix = uuid.uuid4().hex[:6]
        self.queue, self.dead = f"orders-{suffix}", f"dead-{suffix}"
        self.frames: list[str] = []
        """Settlements that went out on the wire."""
        self.worker: Worker | None = None
        self.apps: list[Celery] = []
        self.ran = Ran()
        self.lines.LOGGERS = (*Lines.LOGGERS, "celery.utils.dispatch.signal")  # type: ignore[misc]
        self._patches = ExitStack()

    # -- from the first to the last word -----------------------------------------------------------

    def open(self) -> None:
        self._spy()
        self.connection = kombu.Connection(self.broker.url)
        self.admin = self.connection.channel()
        for name in (self.dead, self.queue):
            self.declared(name)(self.admin).declare()
        self.producer = self._traced(self.app())
        self.consumer = self.app()

    def _spy(self) -> None:
        """See what goes out on the wire, by whichever object."""
        kind: Any = self.broker.channel
        ack, reject = kind.basic_ack, kind.basic_reject

        def basic_ack(channel: Any, delivery_tag: Any, *more: Any, **options: Any) -> Any:
            self.frames.append("ack")
            return ack(channel, delivery_tag, *more, **options)

        def basic_reject(channel: Any, delivery_tag: Any, requeue: bool = False) -> Any:
            self.frames.append("requeue" if requeue else "reject")
            return reject(channel, delivery_tag, requeue=requeue)

        for replacement in (basic_ack, basic_reject):
            name = replacement.__name__
            self._patches.enter_context(mock.patch.object(kind, name, replacement))

    def declared(self, name: str) -> kombu.Queue:
        """A queue of this scenario; rejected messages go to the other one where the broker can."""
        arguments = {}
        if self.features.dead_letters and name != self.dead:
            arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.dead}
        return kombu.Queue(name, kombu.Exchange(""), name, durable=False, queue_arguments=arguments)

    def app(self, url: str | None = None, **conf: Any) -> Celery:
        """An application that knows the queue, and one task by its name only."""
        made = Celery("orders", set_as_current=False, task_cls=self._told())
        made.conf.update(
            broker_url=url or self.broker.url,
            broker_connection_retry_on_startup=False,
            broker_transport_options={"max_retries": 0} if url else {},
            result_backend="cache+memory://",
            task_queues=[self.declared(self.queue)],
            task_default_queue=self.queue,
            task_ignore_result=True,
            task_publish_retry=False,
            worker_enable_remote_control=False,
        )
        made.conf.update(conf)
        self.apps.append(made)
        return made

    def _told(self) -> type[Task]:
        """Tasks that say what they failed by."""
        ran = lambda: self.ran  # noqa: E731 - it is that of the last subscription

        class Told(Task):  # type: ignore[misc]
            abstract = True

            def on_failure(self, exc: BaseException, *_: Any) -> None:
                ran().escaped.append(exc)

        return Told

    def _traced(self, app: Celery) -> Celery:
        return app if self.face == "instrumented" else hopspan.wrap(app, **self.settings())

    def check(self) -> None:
        if self.worker is not None:
            assert self.worker.consumer.connection.connected
        if self.broker.fake is not None:
            fake = self.broker.fake
            told = lambda: sorted(map(_word, fake.log))  # noqa: E731
            assert fake.until(lambda: sorted(self.frames) == told()), fake.log

    def close(self) -> None:
        self.stop()
        for app in self.apps:
            app.close()
            app.pool.force_close_all()
            faces._bindings.pop(app, None)  # as if it had been collected
            vars(app).clear()
        hopspan.instrument(self.NAME)  # so that nobody listens any more
        hopspan.uninstrument(self.NAME)
        for name in (self.queue, self.dead):
            self.admin.queue_delete(name)
        self.connection.close()
        self._patches.close()

    def stop(self) -> None:
        """Have the worker go; what it has not settled is for others then."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.end()

    # -- sending -----------------------------------------------------------------------------------

    @property
    def publishes(self) -> str:
        return f"publish {TASK}"

    @property
    def processes(self) -> str:
        return f"process {TASK}"

    @property
    def receives(self) -> str:
        return f"receive {TASK}"

    def settle_name(self, settlement: str) -> str:
        return "ack" if settlement == "ack" else "reject"

    def a_settle(self, settlement: str, **more: Any) -> Span:
        """The worker's main process tells, which knows the message and not why it was rejected."""
        name = f"{self.settle_name(settlement)} {TASK}"
        sent_here = {"parent": self.publishes, "links": (self.publishes,)}
        span = Span(name, "client", settlement=settlement, **sent_here)  # type: ignore[arg-type]
        return span._replace(**{**more, "reason": None})

    def expect_spans(self, *expected: Span) -> None:
        # With the decorator alone nobody listens in the worker's main process.
        if self.face == "decorated":
            expected = tuple(span for span in expected if span.kind != "client")
        super().expect_spans(*expected)

    @property
    def rejects(self) -> str:
        return f"reject {TASK}"

    @property
    def via(self) -> Any:
        return self.consumer

    @property
    def reject_on_error(self) -> hopspan.Policy:
        return hopspan.reject_on_error

    @property
    def requeue_once(self) -> hopspan.Policy:
        return hopspan.requeue_once

    def policy(
        self, name: str, decide: Callable[..., Any], verdicts: Iterable[Verdict] = tuple(Verdict)
    ) -> hopspan.Policy:
        return hopspan.Policy(name, decide, verdicts)

    def fields(self, headers: Any) -> dict[str, Any]:
        return {key: value for key, value in (headers or {}).items() if key not in ENVELOPE}

    def body(self, native: Any) -> bytes:
        return native.request.args[0]  # type: ignore[no-any-return]

    def carrier(self, headers: dict[str, Any] | None) -> Any:
        return headers

    def contents(self, carrier: Any) -> Any:
        return copy.deepcopy(carrier)

    def send(self, body: bytes = b"order", carrier: Any = None) -> None:
        self._send(self.producer, body, carrier)

    def _send(self, app: Celery, body: bytes, headers: Any = None) -> None:
        app.send_task(TASK, (body,), headers=headers)

    def configure_sender(self, **settings: Any) -> None:
        hopspan.wrap(self.producer, **self.settings(**settings))

    def sender(self) -> Callable[..., None]:
        return functools.partial(self._send, self._traced(self.app()))

    def send_untraced(self, body: bytes = b"order", headers: dict[str, Any] | None = None) -> None:
        with silence():
            self._send(self.app(), body, headers)

    def take_untraced(self, *, dead: bool = False) -> dict[str, Any]:
        self.stop()  # or it would have it
        return self.fields(self.taken(self.dead if dead else self.queue).headers)

    def taken(self, queue: str) -> kombu.Message:
        """The next message of a queue, asked for past Celery."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            message = self.admin.basic_get(queue, no_ack=True)
            if message is not None:
                return message
        raise AssertionError(f"nothing came to {queue}")

    # -- handling ----------------------------------------------------------------------------------

    def receiver(self, handler: Handler, *, decorated: bool = False, **settings: Any) -> Any:
        def receive(body: bytes) -> Any:
            return handler(self.message(body))

        return hopspan.consumer(**self.settings(**settings))(receive) if decorated else receive

    def message(self, item: Any) -> Message:
        request = celery.current_task.request
        return Message(
            item,
            dict(request.headers or {}),
            request,
            self.consumer,
            functools.partial(_raise, Ignore()),
            functools.partial(_raise, Reject("by handler", requeue=True)),
            functools.partial(_raise, Reject("by handler", requeue=False)),
        )

    def subscribe(
        self, handler: Handler, *, auto_ack: bool = False, prefetch: int = 1, **settings: Any
    ) -> Ran:
        return self._subscribe("function", handler, settings, auto_ack=auto_ack, prefetch=prefetch)

    def _subscribe(
        self, style: str, handler: Handler, settings: Any, *, auto_ack: bool, prefetch: int
    ) -> Ran:
        ran = self.ran = Ran()
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(handler), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(**settings)
        self.define(receive, style, acks_late=not auto_ack)
        self.work(prefetch)
        return ran

    def enter_face(self, **settings: Any) -> None:
        if self.face == "instrumented":
            self.instrument(**settings)
        elif self.face == "wrapped":
            hopspan.wrap(self.consumer, **self.settings(**settings))
        elif self.face == "together":
            hopspan.wrap(self.consumer, **self.settings())

    def define(self, receive: Callable[..., Any], style: str = "function", **options: Any) -> Task:
        """Make a task of a function."""
        self.consumer.tasks.pop(TASK, None)
        if style == "class":
            kind = type(
                "Place",
                (self.consumer.Task,),
                {"name": TASK, "run": staticmethod(receive), **options},
            )
            return self.consumer.register_task(kind())
        if style == "bound function":
            plain = receive

            @functools.wraps(plain)
            def receive(self: Task, body: bytes) -> Any:
                assert self.request.args == [body]
                return plain(body)

            options["bind"] = True
        return self.consumer.task(name=TASK, shared=False, **options)(receive)

    def work(self, prefetch: int = 1) -> None:
        """Have a worker begin."""
        self.stop()
        self.consumer.conf.worker_prefetch_multiplier = prefetch
        self.worker = Worker(
            app=self.consumer,
            pool="solo",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            hostname=f"worker@{self.queue}",
        )
        self.worker.begin()

    def drive(self, until: Callable[[], Any], ran: Ran | None = None) -> None:
        deadline = time.monotonic() + DEADLINE
        while not until():
            assert time.monotonic() < deadline, f"still waiting; {ran or self.ran}"
            assert self.worker is not None
            try:
                self.worker.turn()
            except BaseException as error:
                if ran is None:
                    raise
                ran.escaped.append(error)

    def sync(self) -> None:
        # Nothing is asked of the broker: while it answers, the next task might run.
        if self.worker is not None:
            self.worker.flush()

    def settlements(self) -> list[str]:
        return list(self.frames)

    def expect_queues(self, *, waiting: int = 0, dead: int = 0) -> None:
        self.sync()
        self.stop()
        expected, counted = (waiting, dead), (-1, -1)
        deadline = time.monotonic() + DEADLINE
        while counted != expected and time.monotonic() < deadline:
            counted = (self.waiting(self.queue), self.waiting(self.dead))
        assert expected == counted

    def waiting(self, queue: str) -> int:
        """How many messages the broker would hand out from a queue."""
        return int(self.admin.queue_declare(queue, passive=True).message_count)

    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        ran = self.ran = Ran()
        receive = self.receiver(ran.watched(handler), decorated=True, **inner)
        self.enter_face(**outer)
        self.define(receive, acks_late=not auto_ack)
        self.work()
        return ran

    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        ran = self._subscribe(style, body, settings, auto_ack=False, prefetch=1)
        self.drive(lambda: ran.times, ran)
        self.sync()

    # -- what Celery does not have -----------------------------------------------------------------

    def loop(self, style: str, *, prefetch: int = 1, **settings: Any) -> NoReturn:
        raise NotImplementedError("Celery has the only loop")

    def end_loop(self) -> NoReturn:
        raise NotImplementedError("Celery has the only loop")

    def own_loop(self) -> NoReturn:
        raise NotImplementedError("Celery has the only loop")

    def fetch(self) -> NoReturn:
        raise NotImplementedError("nobody asks for a task")

    def ask_in_vain(self) -> NoReturn:
        raise NotImplementedError("nobody asks for a task")

    def block(
        self, message: Message | list[Message], **settings: Any
    ) -> AbstractContextManager[Any]:
        raise NotImplementedError("a task is no message that can be given to `process`")

    def registered(self) -> NoReturn:
        raise NotImplementedError("what Celery calls is a task")

    def close_channel(self) -> NoReturn:
        raise NotImplementedError("a task has no channel")

    def watch_threads(self) -> NoReturn:
        raise NotImplementedError("Celery settles where it likes")

    def use_generated_queue(self, name: str) -> NoReturn:
        raise NotImplementedError("a span is named after the task")

    def use_wrapped_connection(self, **settings: Any) -> NoReturn:
        raise NotImplementedError("an application has all connections")

    def send_by_wrapped_connection(self, style: str, **settings: Any) -> NoReturn:
        raise NotImplementedError("an application has all connections")

    # -- what metrics and instrumentation ask for --------------------------------------------------

    @property
    def server(self) -> dict[str, Any]:
        """The attributes of spans that say where the broker is."""
        at = kombu.Connection(self.broker.url)
        return {"server.address": at.hostname, "server.port": at.port}

    @property
    def metric_attributes(self) -> dict[str, Any]:
        return {
            "messaging.system": self.broker.system,
            "messaging.destination.name": self.queue,
            "messaging.destination.template": TASK,
            **self.server,
        }

    @property
    def consumer_metric_attributes(self) -> dict[str, Any]:
        return self.metric_attributes

    def wrap_consumer(self, **settings: Any) -> Any:
        return hopspan.wrap(self.consumer, **self.settings(**settings))

    def register(self, receive: Callable[..., Any]) -> None:
        self.define(receive, acks_late=True)
        self.work()

    @property
    def classes(self) -> tuple[type, ...]:
        return (Celery, celery.worker.request.Request, kombu.Message)

    def send_wrongly(self, *, traced: bool) -> None:
        app: Any = self.producer if traced else self.consumer
        app.send_task()

    def send_so_that(self, outcome: str, style: str) -> Sent:
        app, name = self.producer, f"publish {TASK}"
        if outcome == "unreachable":
            app, name = self._traced(self.app(_nobodys_url(self.broker))), name
        try:
            self._send_by(app, style, object() if outcome == "unserialisable" else b"order")
        except Exception as error:  # noqa: BLE001 - whatever Celery raises
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            return Sent(name, kind, str(error), error)
        return Sent(name)

    def _send_by(self, app: Celery, style: str, argument: Any) -> None:
        task = app.tasks.get(TASK) or app.task(name=TASK, shared=False)(lambda body: None)
        if style == "send_task":
            app.send_task(TASK, (argument,))
        elif style == "delay":
            task.delay(argument)
        elif style == "chain":
            chain(task.si(argument), task.si(argument), app=app).apply_async()
        else:
            task.apply_async((argument,))

    def send_at_once(
        self, outcomes: Sequence[str], style: str, *, unseen: bool = False
    ) -> list[Sent]:
        sent = []
        for outcome in outcomes:
            with silence() if outcome == "untraced" else nullcontext():
                told = self.send_so_that("sent" if outcome == "untraced" else outcome, style)
            if outcome != "untraced":
                sent.append(told)
        return sent


def _nobodys_url(broker: Broker) -> str:
    """The same kind of broker, where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"{broker.url.partition('://')[0]}://127.0.0.1:{port}/"


def _raise(error: BaseException) -> NoReturn:
    raise error


def _word(frame: tuple[Any, ...]) -> str:
    name, *values = frame
    if name in {"ack", "recover"}:
        return str(name)
    return "requeue" if values[-1] else "reject"


@contextmanager
def on_fake(features: Features, **shape: Any) -> Iterator[CeleryClient]:
    """A client of a fake broker of its own."""
    with FakeRabbit() as fake, CeleryClient(rabbitmq(fake.url, fake), features, **shape) as client:
        yield client
