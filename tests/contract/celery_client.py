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
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import amqp.channel
import celery.bootsteps
import celery.worker
import kombu
import kombu.pools
from celery import Celery, Task, _state, chain
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.exceptions import Ignore, Reject
from kombu.transport.virtual import base as virtual

import hopspan
from hopspan import Verdict
from hopspan.adapters.celery import bindings
from hopspan.telemetry import scopes
from integration.brokers.processes import closed_port
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
    "shadow", "stamped_headers", "stamps", "task", "timelimit",
}  # fmt: skip
"""Headers that are Celery's own."""

ON_RABBITMQ = Features(
    pushes=True,
    calls_plainly=True,
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
        """Stop, in the order in which Celery does it; what comes meanwhile is not taken."""
        self.consumer.task_consumer.on_message = lambda _: None
        for method in ("stop", "shutdown"):
            for step in reversed(self.consumer.steps[:-1]):
                getattr(step, method)(self.consumer)
        self.steps[0].terminate(self)
        reset_worker_optimizations(self.app)
        _state.set_default_app(None)
        _state._set_current_app(None)
        _state._set_task_join_will_block(False)


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
        self._rans: list[Ran] = []
        self.lines.LOGGERS = (*Lines.LOGGERS, "celery.utils.dispatch.signal")
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
        for error in [error for ran in self._rans for error in (*ran.raised, *ran.escaped)]:
            error.__traceback__ = None  # scenarios share them, and it keeps what they ran with
        self.forget_wrapped()
        for app in self.apps:
            app.close()
            vars(app).clear()
        kombu.pools.reset()
        hopspan.instrument(self.NAME)  # so that nobody listens any more
        hopspan.uninstrument(self.NAME)
        for name in (self.queue, self.dead):
            self.admin.queue_delete(name)
        self.connection.close()
        self._patches.close()

    def forget_wrapped(self) -> None:
        """No application is wrapped any more, as if those that are had been collected."""
        for app in self.apps:
            for name, value in list(vars(app).items()):
                if isinstance(value, types.MethodType):
                    vars(app).pop(name)
            scopes._bindings.pop(app, None)
        bindings._wrapped.clear()

    def app_of_its_own(self) -> CeleryClient:
        """What stands for a client whose worker's application hopspan does not know."""
        other = copy.copy(self)
        other.consumer = self.app()
        return other

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
        known = {key: value for key, value in (headers or {}).items() if key not in ENVELOPE}
        return _in_utc(known)  # type: ignore[no-any-return]

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
            self.fields(request.headers),
            request,
            self.consumer,
            functools.partial(_raise, Ignore()),
            functools.partial(_raise, Reject("by handler", requeue=True)),
            functools.partial(_raise, Reject("by handler", requeue=False)),
        )

    def subscribe(
        self,
        handler: Handler,
        *,
        auto_ack: bool = False,
        prefetch: int = 1,
        options: Mapping[str, Any] = types.MappingProxyType({}),
        **settings: Any,
    ) -> Ran:
        """`options` are those of the task."""
        given = {"acks_late": not auto_ack, **options}
        return self._subscribe("function", handler, settings, given, prefetch)

    def _subscribe(
        self, style: str, handler: Handler, settings: Any, options: Any, prefetch: int = 1
    ) -> Ran:
        ran = self.ran = Ran()
        self._rans.append(ran)
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(handler), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(**settings)
        self.define(receive, style, **options)
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
        return int(self.declared(queue)(self.admin).queue_declare().message_count)

    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        ran = self.ran = Ran()
        self._rans.append(ran)
        receive = self.receiver(ran.watched(handler), decorated=True, **inner)
        self.enter_face(**outer)
        self.define(receive, acks_late=not auto_ack)
        self.work()
        return ran

    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        ran = self._subscribe(style, body, settings, {"acks_late": True})
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

    def lose(self) -> NoReturn:
        raise NotImplementedError("a task has no channel")

    def open_consumer(self) -> None:
        self.consumer = self.app()

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
        is_default = at.port in {None, at.get_transport_cls().default_port}
        return {"server.address": at.hostname, **({} if is_default else {"server.port": at.port})}

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
        return (Celery,)  # a worker's stay replaced for as long as an application is wrapped

    def send_wrongly(self, *, traced: bool) -> None:
        app: Any = self.producer if traced else self.consumer
        app.send_task()

    def send_so_that(self, outcome: str, style: str) -> Sent:
        app, name = self.producer, f"publish {TASK}"
        if outcome == "unreachable":
            app = self._traced(self.app(_nobodys_url(self.broker)))
        try:
            self._send_by(app, style, object() if outcome == "unserialisable" else b"order")
        except Exception as error:  # noqa: BLE001 - whatever Celery raises
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            return Sent(name, kind, str(error), error)
        return Sent(name)

    def _send_by(self, app: Celery, style: str, argument: Any) -> None:
        task = app.tasks.get(TASK) or app.task(name=TASK, shared=False)(_nothing)
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


def _nothing(body: Any) -> None:
    """What stands for the task in an application that only sends it."""


def _nobodys_url(broker: Broker) -> str:
    """The same kind of broker, where nobody answers."""
    return f"{broker.url.partition('://')[0]}://127.0.0.1:{closed_port()}/"


def _raise(error: BaseException) -> NoReturn:
    raise error


def _in_utc(value: Any) -> Any:
    """Headers with the zone of their times, which py-amqp leaves out."""
    if isinstance(value, dict):
        return {key: _in_utc(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_utc(each) for each in value]
    naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=timezone.utc) if naive else value


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


_BLOCKS = "nobody asks for a task, or handles one in a block of `process`"
_ITSELF = "Celery settles every task, asked or not"
_FAILED = "a failed task stays failed"
_POOL = "a pool process ends with what is no `Exception`"
_WORDS = "told in the words of pika"
_DEFERRED = "Celery settles a task when its body has returned"
_UNHEARD = "nobody tells of settlements where there is the decorator alone"
_MAIN = "the span of a settlement is the message's, and not the run's"
_CALLED = "Celery calls a task itself, and looks at what it returns"
_FLOW = "what is ignored is left to Celery, and nothing is said of it"
_SAID = "Celery says itself that a task was rejected"
_KEPT = "a reject or a requeue ends the body"

NOT_HERE = {
    "a_message_that_the_handler_acked_is_not_settled_again": _FLOW,
    "a_message_that_the_handler_rejected_is_not_settled_again": _UNHEARD,
    "what_hopspan_says_about_a_failure_is_in_the_trace_of_the_handler": _SAID,
    **dict.fromkeys(
        (
            "a_block_always_raises",
            "a_block_in_a_handler_counts_nothing_more",
            "a_block_in_a_handler_is_the_same_span",
            "a_block_in_a_handler_of_acked_messages_cannot_settle",
            "a_block_in_a_task_that_is_cancelled_gives_its_message_back",
            "a_block_may_be_an_asynchronous_one",
            "a_block_relates_to_its_message_as_it_is_told",
            "a_blocks_policy_that_was_refused_settles_nothing",
            "a_block_that_failed_inside_of_a_handler_counts_though_the_handler_goes_on",
            "a_block_with_nothing_around_it_is_the_messages_child",
            "a_blocks_policy_comes_before_its_handlers",
            "a_cancelled_block_has_its_message_given_back",
            "a_channels_policy_has_no_effect_in_a_loop_which_is_said_once",
            "a_dead_letter_block_is_refused_on_entering",
            "a_deferred_block_is_settled_where_the_work_is_done",
            "a_fault_around_a_block_does_not_hide_its_exception",
            "a_fault_around_a_block_is_logged_once_and_the_block_is_run",
            "a_fault_while_receiving_is_logged_once_and_every_message_is_received",
            "a_fault_while_sending_is_logged_once_and_every_message_is_sent",
            "a_handler_may_handle_another_message_inside",
            "a_loop_that_an_asynchronous_generator_has_left_leaves_nothing_current",
            "a_message_that_is_asked_for_is_counted_where_it_is_received",
            "a_message_that_the_block_acked_is_not_settled_again",
            "a_message_that_was_asked_for_untraced_is_counted_in_its_block",
            "a_message_that_was_settled_before_the_block_is_not_settled_again",
            "a_handler_of_an_ignored_message_has_the_context_that_is_around_it",
            "a_strangers_message_is_no_parent_in_a_block",
            "chosen_entries_are_attributes_of_a_receive",
            "a_setting_that_comes_too_late_is_said_to_have_no_effect",
            "a_suppressed_get_and_block_have_no_spans_and_settle",
            "a_task_may_end_before_its_generator_is_closed",
            "a_wrong_setting_of_a_block_is_refused",
            "after_uninstrument_a_live_consumer_is_asked_without_a_span",
            "after_uninstrument_a_live_sender_sends_messages_as_they_are",
            "an_answer_without_a_message_is_not_measured",
            "an_asynchronous_generator_that_is_left_in_a_loop_leaves_nothing_current",
            "an_asynchronous_loop_driven_from_other_tasks_is_not_in_scope_and_says_nothing",
            "an_asynchronous_loop_inside_of_the_users_own_generator_leaves_nothing_behind",
            "deferred_work_may_be_a_task",
            "each_turn_of_an_asynchronous_loop_is_in_its_own_messages_trace",
            "however_an_asynchronous_loop_is_left_the_context_is_what_it_was",
            "however_many_faces_a_get_has_it_has_one_span",
            "however_many_faces_a_handler_has_it_has_one_span",
            "however_many_faces_a_sender_has_a_message_has_one_span",
            "nothing_is_measured_where_instrumentation_is_suppressed",
            "the_innermost_policy_holds",
            "what_comes_after_a_block_in_a_handler_counts_as_well",
            "wrapping_one_object_leaves_the_others_alone",
        ),
        _BLOCKS,
    ),
    **dict.fromkeys(
        (
            "a_channels_policy_is_not_refused_where_the_decorator_takes_it_back",
            "a_consumer_that_acks_by_itself_is_fine_without_a_policy",
            "a_decorator_may_take_a_channels_policy_back",
            "a_fault_while_handling_is_logged_once_and_hinders_nothing",
            "a_policy_that_cannot_decide_leaves_the_message_and_says_so",
            "a_settlement_that_fails_is_said_for_each_message_and_its_failure_propagates",
            "a_settlement_that_fails_never_hides_the_handlers_exception",
            "after_uninstrument_a_registered_handler_runs_as_if_there_were_no_hopspan",
            "after_uninstrument_what_goes_on_no_longer_has_its_policy",
            "an_ack_that_fails_is_a_span_and_is_said",
            "manual_inside_takes_back_a_policy_from_outside",
            "where_it_is_not_known_how_a_handling_went_nothing_is_settled",
            "without_a_policy_nothing_is_settled",
            "without_any_policy_nothing_is_settled",
        ),
        _ITSELF,
    ),
    **dict.fromkeys(
        (
            "a_failure_that_was_not_settled_always_comes_out",
            "a_failure_that_was_settled_comes_out_where_that_is_asked_for",
            "a_failure_that_was_settled_stays_inside",
        ),
        _FAILED,
    ),
    **dict.fromkeys(
        (
            "a_cancelled_handler_has_its_message_given_back",
            "a_cancelled_handler_has_its_message_given_back_even_where_all_is_acked",
            "a_cancelled_handler_without_a_channel_leaves_its_message_to_the_broker",
            "a_handler_in_a_process_that_exits_leaves_its_message_to_the_broker",
            "deferred_work_settles_nothing_once_the_process_was_told_to_exit",
        ),
        _POOL,
    ),
    **dict.fromkeys(
        (
            "a_dead_letter_decorator_is_refused_at_the_first_message",
            "a_dead_letter_policy_is_refused_where_the_broker_does_it",
            "a_decorator_that_settles_is_refused_at_once_where_the_channel_sees_it",
            "a_refused_policy_among_others_is_refused_too",
            "a_settling_decorator_is_refused_at_the_first_message_that_is_acked_already",
            "a_settling_policy_is_refused_when_its_consumer_acks_by_itself",
        ),
        _WORDS,
    ),
    **dict.fromkeys(
        (
            "a_handler_that_defers_and_raises_before_the_work_began_has_failed",
            "a_handler_that_raises_while_its_deferred_work_goes_on_leaves_it_to_the_work",
            "deferring_twice_is_deferring_once",
            "deferred_work_in_a_thread_is_settled_when_it_is_done",
            "deferred_work_that_fails_in_a_thread_is_rejected",
            "deferred_work_that_nobody_does_is_reported_and_left",
        ),
        _DEFERRED,
    ),
    **dict.fromkeys(
        (
            "a_message_that_comes_again_is_counted_again",
            "a_tracer_that_fails_hinders_no_message",
            "each_point_says_of_what_it_is_and_nothing_of_the_single_message",
            "the_duration_of_settling_follows_the_setting_for_settle_spans",
            "the_error_is_the_same_on_metric_and_span",
            "what_is_not_sampled_is_measured_all_the_same",
        ),
        _UNHEARD,
    ),
    **dict.fromkeys(
        (
            "as_many_settlements_are_spans_as_is_asked_for",
            "hooks_see_each_operation_begin_and_end",
            "the_handlers_own_settlements_are_spans_alike",
        ),
        _MAIN,
    ),
    **dict.fromkeys(
        (
            "a_body_that_has_not_run_is_passed_on_and_left",
            "a_decorator_that_the_channel_cannot_see_still_has_its_say",
            "an_exception_of_the_users_comes_out_as_it_went_in",
            "what_a_handler_returns_is_what_the_client_gets",
        ),
        _CALLED,
    ),
    **dict.fromkeys(
        (
            "a_message_that_was_acked_is_not_settled_again_because_the_handler_raises",
            "a_settlement_after_the_handler_has_returned_is_linked",
            "after_uninstrument_a_message_from_before_is_settled_without_a_span",
        ),
        _KEPT,
    ),
}
"""Scenarios that cannot be as they are, and why; `scenarios_celery` has Celery's own of them."""

_ABOUT_DEAD_LETTERS = {
    "a_block_that_failed_inside_of_a_handler_counts_though_the_handler_goes_on",
    "a_dead_letter_block_is_refused_on_entering",
    "a_dead_letter_decorator_is_refused_at_the_first_message",
    "a_dead_letter_policy_is_refused_where_the_broker_does_it",
    "a_message_that_the_handler_rejected_is_not_settled_again",
    "a_refused_policy_among_others_is_refused_too",
    "deferred_work_that_fails_in_a_thread_is_rejected",
    "what_comes_after_a_block_in_a_handler_counts_as_well",
}
NOT_HERE_ON_REDIS = {name: why for name, why in NOT_HERE.items() if name not in _ABOUT_DEAD_LETTERS}
"""As `NOT_HERE`; what asks for dead letters does not run there anyway."""
