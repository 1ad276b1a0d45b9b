"""What is Celery's own: retries, canvas, eager calls, what it settles by itself, and its signals."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import celery.signals
import kombu
import pytest
from celery import Task, chain, chord, group
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.dispatch import Signal
from celery.worker.request import Request
from opentelemetry import baggage, context

import hopspan
from hopspan import PolicyError
from tests.contract import scenarios_metrics, scenarios_robustness
from tests.contract.celery_client import TASK, CeleryClient
from tests.contract.client import Message, in_turn, raises, succeeds
from tests.contract.scenarios_core import BODIES
from tests.contract.scenarios_privacy import SECRET, _recorded
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Span

LISTENING = ("wrapped", "instrumented", "together")
"""Faces under which somebody hears Celery's signals in the worker."""
APPS = ("wrapped", "instrumented")
"""Those of them that need no decorator."""
STALE = {
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "tracestate": "old=1",
    "baggage": "old=yes",
}
NO = ValueError("no stock")
REJECTED = {"settlement": "reject", "reason": "failed: ValueError"}
CUT = "hopspan-correlation"
SAID, ACKS = "hopspan.celery.", "hopspan.celery.acks"


def _task(client: CeleryClient, name: str, body: Callable[..., Any], **options: Any) -> Any:
    """A task of the worker's application."""
    return client.consumer.task(name=name, shared=False, acks_late=True, **options)(body)


def _work(client: CeleryClient, ends: int, **settings: Any) -> list[tuple[str, str]]:
    """Let a worker work until so many runs have ended; return which, and how."""
    ended: list[tuple[str, str]] = []

    def on_end(task: Task, state: str, **_: Any) -> None:
        ended.append((task.name, state))

    celery.signals.task_postrun.connect(on_end, weak=False, dispatch_uid="scenario")
    try:
        client.work(**settings)
        client.drive(lambda: len(ended) >= ends)
        client.sync()
    finally:
        celery.signals.task_postrun.disconnect(dispatch_uid="scenario")
    return ended


def _publish(name: str, parent: str | None = None, **more: Any) -> Span:
    return Span(f"publish {name}", "producer", parent=parent)._replace(**more)


def _process(name: str, **more: Any) -> Span:
    sent = f"publish {name}"
    return Span(f"process {name}", "consumer", parent=sent, links=(sent,))._replace(**more)


# -- retries ---------------------------------------------------------------------------------------


def _retries(client: CeleryClient, seen: list[Any]) -> Callable[..., Any]:
    """A body that asks for a retry twice, without the baggage that it has."""

    def body(self: Task, body: bytes) -> str:
        seen.append((self.request.retries, body, dict(baggage.get_all()), _carried(self)))
        if self.request.retries < 2:
            token = context.attach(baggage.clear())
            try:
                raise self.retry(countdown=0)
            finally:
                context.detach(token)
        return "done"

    return body


def _carried(task: Task) -> set[str]:
    return {key.lower() for key in task.request.headers or {}}


@over(face=APPS)
def a_retry_is_published_inside_of_the_run_that_asks_for_it(client: CeleryClient) -> None:
    seen: list[Any] = []
    client.enter_face()
    _task(client, TASK, _retries(client, seen), bind=True)
    with client.baggage(tenant="acme"):
        client.send()
    assert [(TASK, "RETRY"), (TASK, "RETRY"), (TASK, "SUCCESS")] == _work(client, 3)
    assert [
        (0, b"order", {"tenant": "acme"}, {"traceparent", "baggage"}),
        (1, b"order", {}, {"traceparent"}),
        (2, b"order", {}, {"traceparent"}),
    ] == seen
    again = client.a_publish(parent=client.processes)
    client.expect_spans(
        client.a_publish(), client.a_process(), again, client.a_process(), again, client.a_process()
    )
    assert ["ack"] * 3 == client.settlements()
    client.expect_queues()


@over(face=APPS)
def a_retry_carries_nothing_of_an_older_hop(client: CeleryClient) -> None:
    seen: list[Any] = []
    client.send_untraced(headers={**STALE, "color": "red"})
    client.enter_face(correlation="link")
    _task(client, TASK, _retries(client, seen), bind=True)
    _work(client, 3)
    assert [
        (0, b"order", {"old": "yes"}, {"traceparent", "tracestate", "baggage", "color"}),
        (1, b"order", {}, {"traceparent", "color"}),
        (2, b"order", {}, {"traceparent", "color"}),
    ] == seen


@over(face=APPS)
def a_retry_does_not_inherit_the_cut_of_its_message(client: CeleryClient) -> None:
    seen: list[Any] = []
    client.enter_face()
    _task(client, TASK, _retries(client, seen), bind=True)
    client.send(b"order", client.carrier({CUT: "link"}))
    _work(client, 3)
    assert [{CUT, "traceparent"}, {"traceparent"}, {"traceparent"}] == [each[3] for each in seen]
    again = client.a_publish(parent=client.processes, trace=1)
    client.expect_spans(
        client.a_publish(),
        client.a_process(parent=None, trace=1),
        again,
        client.a_process(trace=1),
        again,
        client.a_process(trace=1),
    )


@over(face=FACES, sampling=SAMPLINGS)
@needs("dead_letters")
def what_celery_retries_by_itself_is_not_rejected_until_it_gives_up(client: CeleryClient) -> None:
    client.send()
    retry = {"autoretry_for": (ValueError,), "max_retries": 2, "retry_backoff": False}
    ran = client.subscribe(
        raises(NO), policy=client.reject_on_error, options={**retry, "default_retry_delay": 0}
    )
    client.drive(lambda: ran.times == 3, ran)
    client.sync()
    assert (["ack", "ack", "reject"], []) == (client.settlements(), ran.escaped)
    processes = [span for span in client.telemetry.spans() if span.kind == "consumer"]
    if client.telemetry.records:
        assert [(None, "unset"), (None, "unset"), ("reject", "error")] == [
            (span.settlement, span.status) for span in processes
        ]
    client.expect_queues(dead=1)


# -- how a run ends --------------------------------------------------------------------------------

ENDS: dict[str, tuple[BaseException | None, str, str, dict[str, Any]]] = {
    "success": (None, "SUCCESS", "ack", {}),
    "failure": (NO, "FAILURE", "ack", {}),
    "ignore": (Ignore(), "IGNORED", "ack", {}),
    "reject": (Reject("no", requeue=False), "REJECTED", "reject", {"settlement": "reject"}),
    "requeue": (Reject("no", requeue=True), "REJECTED", "requeue", {"settlement": "requeue"}),
    "retry": (Retry("later"), "RETRY", "ack", {}),
}
"""What a body raises, Celery's state, what goes out, and what the span says of it."""


def _state(state: str) -> str | None:
    """Celery's word as spans say it: nothing is said of a success."""
    return None if state == "SUCCESS" else state


@over(end=ENDS, face=LISTENING)
def without_a_policy_celery_settles_as_ever_and_the_span_says_how_it_ended(
    client: CeleryClient, end: str
) -> None:
    error, state, settled, told = ENDS[end]
    client.send()
    client.handle(in_turn(raises(error) if error else succeeds, succeeds))
    assert [settled] == client.settlements()[:1]
    if client.telemetry.records:
        (process, *_) = client.telemetry.named(client.processes)
        assert _state(state) == (process.attributes or {}).get("hopspan.celery.state")
        value = next(s for s in client.telemetry.spans() if s.name == client.processes)
        expected = client.a_process(**told)
        assert (expected.failed(NO) if end == "failure" else expected) == value


@over(end=("ignore", "reject", "requeue", "retry"), face=FACES, sampling=SAMPLINGS)
def control_flow_is_no_failure_and_is_left_to_celery(client: CeleryClient, end: str) -> None:
    error, state, settled, told = ENDS[end]
    assert error is not None
    client.send()
    again = end == "requeue"
    handler = in_turn(raises(error), succeeds)
    ran = client.handle(handler, runs=2 if again else 1, policy=client.reject_on_error)
    assert [] == ran.escaped
    assert [settled, *["ack"] * again] == client.settlements()
    processes = [span for span in client.telemetry.spans() if span.kind == "consumer"]
    if client.telemetry.records:
        heard = client.face != "decorated"  # nobody else knows what became of it
        assert client.a_process(**told if heard else {}) == processes[0]
        if heard:
            first, *_ = client.telemetry.named(client.processes)
            assert state == (first.attributes or {}).get("hopspan.celery.state")
    client.expect_queues(dead=int(end == "reject" and client.features.dead_letters))


@over(face=FACES, sampling=SAMPLINGS)
def a_failure_that_was_acked_is_still_a_failed_task(client: CeleryClient) -> None:
    client.send()
    ran = client.handle(raises(NO), policy=hopspan.ack_always)
    assert ([NO], ["ack"]) == (ran.escaped, client.settlements())
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack").failed(NO))
    client.expect_queues()


@over(face=FACES, sampling=SAMPLINGS)
def what_nobody_settles_is_acked_by_celery(client: CeleryClient) -> None:
    leave = hopspan.Policy("leave_it", lambda outcome, delivery: hopspan.Verdict.LEAVE)
    client.send()
    ran = client.handle(raises(NO), policy=leave)
    assert ([NO], ["ack"]) == (ran.escaped, client.settlements())
    client.expect_queues()


@over(face=FACES, sampling=SAMPLINGS)
def an_early_acked_task_is_acked_before_it_runs_and_the_span_says_so(client: CeleryClient) -> None:
    client.send()
    ran = client.handle(raises(NO), auto_ack=True)
    assert ([NO], ["ack"]) == (ran.escaped, client.settlements())
    if client.telemetry.records:
        attributes = client.telemetry.attributes(client.processes)
        assert "ack" == attributes["hopspan.settlement"]
        assert "hopspan.celery.acks" not in attributes
    client.expect_queues()


SETTLE_SPANS = {
    "notable": ["reject"],
    "all": ["ack", "reject"],
    "none": [],
}


@over(settle_spans=SETTLE_SPANS, face=LISTENING)
def as_many_settlements_of_the_worker_are_spans_as_is_asked_for(
    client: CeleryClient, settle_spans: str
) -> None:
    client.send(b"1")
    client.send(b"2")
    client.handle(
        in_turn(succeeds, raises(NO)),
        runs=2,
        policy=client.reject_on_error,
        settle_spans=settle_spans,
    )
    assert ["ack", "reject"] == client.settlements()
    traces = {"ack": 0, "reject": 1}
    assert [client.a_settle(each, trace=traces[each]) for each in SETTLE_SPANS[settle_spans]] == [
        span for span in client.telemetry.spans() if span.kind == "client"
    ]


@over(is_settling=(False, True), face=LISTENING)
@needs("dead_letters")
def a_task_that_nobody_knows_is_rejected_and_told_of(
    client: CeleryClient, is_settling: bool
) -> None:
    client.enter_face(**{"policy": client.reject_on_error} if is_settling else {})
    with client.baggage(tenant="acme"):
        client.producer.send_task("orders.unknown", (b"order",))
    client.work()
    client.drive(client.settlements)
    client.sync()
    assert ["reject"] == client.settlements()
    publish, report = client.telemetry.spans()
    assert _publish("orders.unknown") == publish
    assert (report.kind, report.trace, report.status, report.settlement, report.reason) == (
        "internal", 0, "error", "reject", "unknown task",
    )  # fmt: skip
    assert ("publish orders.unknown",) == report.links
    client.expect_queues(dead=1)


# -- the cut ---------------------------------------------------------------------------------------

CUTS: dict[Any, dict[str, Any]] = {
    "auto": {},
    "parent": {},
    "link": {"parent": None, "trace": 1},
    "none": {"parent": None, "links": (), "trace": 1},
    "nonsense": {},
    7: {},
}


@over(cut=CUTS, face=APPS)
def one_message_is_cut_off_as_its_sender_says(client: CeleryClient, cut: Any) -> None:
    with client.baggage(tenant="acme"):
        client.send(b"order", client.carrier({CUT: cut}))
    ran = client.handle(lambda _: dict(baggage.get_all()))
    assert [{} if cut == "none" else {"tenant": "acme"}] == ran.results
    client.expect_spans(client.a_publish(), client.a_process(**CUTS[cut]))


# -- protocols, ways to call -----------------------------------------------------------------------


@over(protocol=(1, 2), face=LISTENING)
def a_task_of_either_protocol_joins_its_senders_trace(client: CeleryClient, protocol: int) -> None:
    client.producer.conf.task_protocol = protocol
    given = {"color": "red"}
    with client.span("order"), client.baggage(tenant="acme"):
        client.send(b"order", given)
    ran = client.handle(lambda message: (dict(baggage.get_all()), message.headers["color"]))
    assert [({"tenant": "acme"}, "red")] == ran.results
    assert [b"order"] == ran.bodies
    assert {"color": "red"} == given
    client.expect_spans(Span("order"), client.a_publish(parent="order"), client.a_process())
    if client.telemetry.records:
        for span in (client.publishes, client.processes):
            attributes = client.telemetry.attributes(span)
            assert attributes["messaging.message.id"]
            assert [] == [key for key in attributes if key.startswith(SAID) and key != ACKS]


WAYS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "apply_async": lambda task, headers: task.apply_async((b"order",), headers=headers),
    "signature": lambda task, headers: task.s(b"order").set(headers=headers).apply_async(),
    "group": lambda task, headers: group([task.s(b"order")], app=task.app).apply_async(
        headers=headers
    ),
    "chain": lambda task, headers: chain(task.s(b"order"), app=task.app).apply_async(
        headers=headers
    ),
    "send_task": lambda task, headers: task.app.send_task(TASK, (b"order",), headers=headers),
}


@over(way=WAYS, face=APPS)
def a_callers_headers_stay_as_they_were_whatever_is_called(client: CeleryClient, way: str) -> None:
    headers = {"color": "red", "deep": {"list": [1]}, **STALE}
    before = {**headers, "deep": {"list": [1]}}
    client.enter_face()
    task = _task(client, TASK, does_nothing)
    with client.baggage(tenant="acme"):
        WAYS[way](task, headers)
        WAYS[way](task, headers)
    assert before == headers
    for _ in range(2):
        arrived = client.take_untraced()
        assert ("red", "tenant=acme") == (arrived["color"], arrived["baggage"])
        assert "tracestate" not in arrived


def does_nothing(body: Any = None) -> None:
    """A body that does nothing; Celery takes no lambda."""


# -- canvas ----------------------------------------------------------------------------------------


def _step(name: str) -> Callable[..., str]:
    def step(*_results: Any) -> str:
        return name

    return step


@over(face=APPS)
def a_chain_goes_on_inside_of_each_link(client: CeleryClient) -> None:
    client.enter_face()
    first, second, third = (
        _task(client, name, _step(name)) for name in ("first", "second", "third")
    )
    with client.span("order"):
        chain(first.s(), second.s(), third.s(), app=client.consumer).apply_async()
    assert [(name, "SUCCESS") for name in ("first", "second", "third")] == _work(client, 3)
    client.expect_spans(
        Span("order"),
        _publish("first", "order"),
        _process("first"),
        _publish("second", "process first"),
        _process("second"),
        _publish("third", "process second"),
        _process("third"),
    )


@over(face=APPS)
def a_span_says_which_task_it_comes_from_and_what_is_not_as_usual(client: CeleryClient) -> None:
    def flaky(self: Task) -> None:
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    client.enter_face()
    first = client.consumer.task(name="first", shared=False)(_step("first"))
    second = _task(client, "second", flaky, bind=True)
    chain(first.s(), second.si(), app=client.consumer).apply_async()
    _work(client, 3)
    spans = [dict(span.attributes or {}) for span in client.telemetry.finished()]
    said = [
        {key.removeprefix(SAID): value for key, value in attributes.items() if SAID in key}
        for attributes in spans
    ]
    root = spans[0]["messaging.message.id"]
    of_root = {"root_id": root, "parent_id": root}
    assert [
        {},
        {},
        of_root,
        {**of_root, "acks": "late", "state": "RETRY"},
        {**of_root, "retries": 1},
        {**of_root, "retries": 1, "acks": "late"},
    ] == said


@over(face=APPS)
def the_members_of_a_group_are_side_by_side(client: CeleryClient) -> None:
    client.enter_face()
    tasks = [_task(client, name, _step(name)) for name in ("first", "second")]
    with client.span("order"):
        group([task.s() for task in tasks], app=client.consumer).apply_async()
    _work(client, 2)
    client.expect_spans(
        Span("order"),
        _publish("first", "order"),
        _publish("second", "order"),
        _process("first"),
        _process("second"),
    )


@over(face=APPS)
def what_is_linked_is_published_inside_of_the_run(client: CeleryClient) -> None:
    client.enter_face()
    task, after = _task(client, "task", _step("task")), _task(client, "after", _step("after"))
    with client.span("order"):
        task.apply_async(link=after.s())
    _work(client, 2)
    client.expect_spans(
        Span("order"),
        _publish("task", "order"),
        _process("task"),
        _publish("after", "process task"),
        _process("after"),
    )


@over(face=APPS)
def an_errback_is_published_inside_of_the_run_that_failed(client: CeleryClient) -> None:
    def fails() -> None:
        raise NO

    def after(task_id: str) -> None:
        """An errback that is a task of its own: it takes an id only."""

    client.enter_face()
    task, errback = _task(client, "task", fails), _task(client, "after", after)
    with client.span("order"):
        task.apply_async(link_error=errback.s())
    assert [("task", "FAILURE"), ("after", "SUCCESS")] == _work(client, 2)
    client.expect_spans(
        Span("order"),
        _publish("task", "order"),
        _process("task").failed(NO),
        _publish("after", "process task"),
        _process("after"),
    )


@over(face=APPS)
def a_chords_body_comes_after_its_header(client: CeleryClient) -> None:
    client.enter_face()
    kept = {"ignore_result": False}
    head = [_task(client, name, _step(name), **kept) for name in ("first", "second")]
    body = _task(client, "body", _step("body"), **kept)
    with client.span("order"):
        chord([task.s() for task in head], app=client.consumer)(body.s())
    assert [("first", "SUCCESS"), ("second", "SUCCESS"), ("body", "SUCCESS")] == _work(client, 3)
    spans = client.telemetry.spans()
    assert [
        Span("order"),
        _publish("first", "order"),
        _publish("second", "order"),
        _process("first"),
        _process("second"),
        _publish("body", "process second"),
    ] == [span for span in spans if span.name != "process body"]
    (last,) = (span for span in spans if span.name == "process body")
    assert ("publish body", 0) == (last.parent, last.trace)
    assert "publish body" in last.links


# -- a publish that fails --------------------------------------------------------------------------


@over(outcome=("unserialisable", "unreachable"), face=APPS, sampling=SAMPLINGS)
def a_publish_that_fails_leaves_nothing_current(client: CeleryClient, outcome: str) -> None:
    with client.span("order"):
        before = context.get_current()
        for _ in range(3):
            assert client.send_so_that(outcome, "delay").raised is not None
            assert before is context.get_current()
        client.send()
    assert client.is_current_nothing()
    sent = [span for span in client.telemetry.spans() if span.kind == "producer"]
    if client.telemetry.records:
        assert [("order", "error")] * 3 + [("order", "unset")] == [
            (span.parent, span.status) for span in sent
        ]


# -- eager, and called directly --------------------------------------------------------------------


def _doubles(body: str) -> str:
    return body * 2


def _fails(body: str) -> str:
    raise NO


@over(way=("apply", "always eager"), face=APPS)
def an_eager_call_is_an_internal_one(client: CeleryClient, way: str) -> None:
    client.enter_face()
    task, fails = _task(client, TASK, _doubles), _task(client, "orders.fail", _fails)
    client.consumer.conf.task_always_eager = way == "always eager"
    with client.span("order"):
        for each in (task, fails):
            each.apply(("ab",)) if way == "apply" else each.delay("ab")
    client.expect_spans(
        Span("order"),
        Span(f"run {TASK}", parent="order"),
        Span("run orders.fail", parent="order").failed(NO),
    )
    assert set() == client.telemetry.measured()
    assert [] == client.settlements()


@over(face=FACES)
def an_eager_call_of_a_task_with_a_policy_has_its_own_outcome(client: CeleryClient) -> None:
    decorated = hopspan.consumer(**client.settings(policy=client.reject_on_error))
    client.enter_face()
    task = _task(client, TASK, decorated(_doubles))
    fails = _task(client, "orders.fail", decorated(_fails))
    assert "abab" == task.apply(("ab",)).result
    assert NO is fails.apply(("ab",)).result


@over(face=FACES)
def a_decorated_task_that_is_called_directly_is_the_plain_function(client: CeleryClient) -> None:
    decorated = hopspan.consumer(**client.settings(policy=client.reject_on_error))
    client.enter_face()
    task, fails = (
        _task(client, name, decorated(body))
        for name, body in ((TASK, _doubles), ("orders.fail", _fails))
    )
    assert "abab" == task("ab")
    with pytest.raises(ValueError, match="no stock") as raised:
        fails("ab")
    assert NO is raised.value
    client.expect_spans()


def _falls(task: Task, times: int) -> None:
    if times:
        task(times - 1)


@over(face=APPS, decorated=(False, True))
def a_task_that_calls_itself_like_a_function_is_one_run(
    client: CeleryClient, decorated: bool
) -> None:
    settings = client.settings(policy=client.reject_on_error)
    client.enter_face()
    body = hopspan.consumer(**settings)(_falls) if decorated else _falls
    task = _task(client, "orders.fall", body, bind=True)
    task.delay(2)
    _work(client, 1)
    runs = [span.name for span in client.telemetry.spans() if span.name.startswith("process")]
    assert ["process orders.fall"] == runs


MISTAKES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "too few": ((), {}),
    "too many": ((1, 2, 3), {}),
    "unknown": ((1,), {"colour": "red"}),
}


@over(mistake=MISTAKES, face=FACES)
def wrong_arguments_are_told_to_the_caller_as_ever(client: CeleryClient, mistake: str) -> None:
    def place(order: Any, *, size: int = 1) -> None:
        """A task with a signature."""

    args, kwargs = MISTAKES[mistake]
    client.enter_face()
    bare = _task(client.app_of_its_own(), "bare", place)
    decorated = _task(client, "decorated", hopspan.consumer(**client.settings())(place))
    said = []
    for task in (bare, decorated):
        with pytest.raises(TypeError) as refused:
            task.apply_async(args, kwargs)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert 0 == client.waiting(client.queue)


# -- tasks with a way of their own to be called ----------------------------------------------------


def _with_call(client: CeleryClient, call: Callable[..., Any]) -> type[Task]:
    """The application's class of tasks, called in this way."""
    return type("Called", (client.consumer.Task,), {"__call__": call, "abstract": True})


def _by_celery(self: Task, *args: Any, **kwargs: Any) -> Any:
    return Task.__call__(self, *args, **kwargs)  # which makes a copy of the request


def _by_asyncio(self: Task, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(self.run(*args, **kwargs))


CALLS: dict[str, tuple[Callable[..., Any], bool]] = {
    "by Celery": (_by_celery, False),
    "by asyncio": (_by_asyncio, True),
}
"""How the task calls its body, and whether that is a coroutine function."""


@over(call=CALLS, decorated=(False, True), face=APPS, sampling=SAMPLINGS)
@needs("dead_letters")
def a_task_that_calls_its_body_itself_has_one_span_and_is_settled(
    client: CeleryClient, call: str, decorated: bool
) -> None:
    calls, is_async = CALLS[call]
    policy = client.settings(policy=client.reject_on_error)

    def body(order: bytes) -> None:
        if order == b"2":
            raise NO

    async def body_async(order: bytes) -> None:
        await asyncio.sleep(0)
        body(order)

    run: Callable[..., Any] = body_async if is_async else body
    client.send(b"1")
    client.send(b"2")
    client.enter_face(**{} if decorated else policy)
    run = hopspan.consumer(**policy)(run) if decorated else run
    _task(client, TASK, run, base=_with_call(client, calls))
    assert [(TASK, "SUCCESS"), (TASK, "REJECTED")] == _work(client, 2)
    assert ["ack", "reject"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_publish(trace=1),
        client.a_process(settlement="ack"),
        client.a_process(trace=1, **REJECTED).failed(NO),
        client.a_settle("reject", trace=1),
    )
    client.expect_queues(dead=1)


PARTS: dict[str, tuple[bool, str]] = {
    "all is well": (False, "ack"),
    "the part fails, which does not matter": (False, "ack"),
    "the whole fails": (True, "reject"),
}
"""How a task that calls itself ends: whether it fails, and what is sent."""


@over(part=PARTS, face=FACES, sampling=SAMPLINGS)
@needs("dead_letters")
def a_task_that_calls_itself_like_a_function_has_one_span_and_one_end(
    client: CeleryClient, part: str
) -> None:
    is_failed, settled = PARTS[part]
    raised: list[BaseException] = []

    def body(order: bytes) -> None:
        if order == b"order":
            try:
                client.consumer.tasks[TASK](b"part")
            except ValueError as error:
                raised.append(error)
            if is_failed:
                raise NO
        elif "matter" in part:
            raise NO

    decorated = hopspan.consumer(**client.settings(policy=client.reject_on_error))
    client.send()
    client.enter_face()
    _task(client, TASK, decorated(body))
    _work(client, 1)
    assert ([NO] if "matter" in part else [], [settled]) == (raised, client.settlements())
    if client.telemetry.records:
        assert [client.publishes, client.processes] == [
            span.name for span in client.telemetry.spans() if span.kind != "client"
        ]
    client.expect_queues(dead=int(is_failed))


# -- policies that cannot work ---------------------------------------------------------------------

TOO_EARLY = (
    "policy reject_on_error cannot settle for task orders.place: Celery acks it before it runs, "
    "and what is raised then changes nothing. Set acks_late=True on the task, or task_acks_late in "
    "the application's configuration, or use policy=hopspan.manual"
)


@over(when=("before", "after"), face=APPS)
def a_settling_policy_is_refused_where_a_task_is_acked_early(
    client: CeleryClient, when: str
) -> None:
    steps: list[Callable[[], Any]] = [
        lambda: client.define(does_nothing),
        lambda: client.enter_face(policy=hopspan.reject_on_error),
    ]
    first, second = steps if when == "before" else reversed(steps)
    first()
    with pytest.raises(PolicyError) as refused:
        second()
    assert TOO_EARLY == str(refused.value)


@over(face=LISTENING)
def a_settling_decorator_is_refused_where_its_task_is_acked_early(client: CeleryClient) -> None:
    with pytest.raises(PolicyError) as refused:
        client.subscribe_decorated(succeeds, {"policy": hopspan.reject_on_error}, {}, auto_ack=True)
    assert TOO_EARLY == str(refused.value)


@over(face=("decorated",))
def a_settling_decorator_alone_is_refused_at_the_first_run(client: CeleryClient) -> None:
    client.send()
    ran = client.subscribe(succeeds, policy=hopspan.reject_on_error, auto_ack=True)
    client.drive(lambda: ran.escaped, ran)
    (error,) = ran.escaped
    assert (0, PolicyError) == (ran.times, type(error))
    assert str(error).startswith("policy reject_on_error cannot settle for ")


@over(face=LISTENING)
def a_dead_letter_policy_is_refused_where_it_is_given(client: CeleryClient) -> None:
    policy = hopspan.dead_letter("orders.dlt", producer=object())
    with pytest.raises(PolicyError) as refused:
        client.subscribe(succeeds, policy=policy)
    assert str(refused.value).startswith(
        "policy dead_letter('orders.dlt') cannot work with celery: Celery has no dead-letter topic"
    )


@over(face=LISTENING)
def deferring_in_a_task_with_a_policy_is_refused(client: CeleryClient) -> None:
    said: list[str] = []

    def handler(_message: Message) -> None:
        with pytest.raises(PolicyError) as refused:
            hopspan.current().defer()
        said.append(str(refused.value))

    client.send()
    client.handle(handler, policy=client.reject_on_error)
    assert said[0].startswith("defer(): celery settles when the handler is over, so policy ")
    assert ["ack"] == client.settlements()


# -- signals and classes ---------------------------------------------------------------------------


def _receivers() -> dict[str, list[Any]]:
    """Who listens to each of Celery's signals."""
    return {
        name: list(signal.receivers or ())
        for name, signal in vars(celery.signals).items()
        if isinstance(signal, Signal)
    }


def _classes() -> dict[str, Any]:
    """What may be replaced on Celery's and kombu's classes."""
    return {
        f"{kind.__name__}.{name}": value
        for kind in (celery.Celery, Request, kombu.Message)
        for name, value in vars(kind).items()
        if callable(value)
    }


def after_uninstrument_nothing_of_ours_is_left_in_celery(client: CeleryClient) -> None:
    _forget(client)
    receivers, classes = _receivers(), _classes()
    task = client.define(does_nothing, acks_late=True)
    run = task.run
    client.instrument(policy=client.reject_on_error)
    assert receivers != _receivers()
    assert run is not task.run
    client.consumer.send_task(TASK)
    _work(client, 1)
    assert {"Message.ack", "Message.reject", "Request.on_failure"} <= {
        name for name, value in _classes().items() if value is not classes[name]
    }
    client.stop()
    hopspan.uninstrument(client.NAME)
    assert receivers == _receivers()
    assert classes == _classes()
    assert run is task.run
    assert [] == [name for name in vars(task) if "hopspan" in name]


def _forget(client: CeleryClient) -> None:
    """No application of the scenario is wrapped any more."""
    client.forget_wrapped()
    client.instrument()
    hopspan.uninstrument(client.NAME)


@over(face=("instrumented",))
def instrumenting_twice_has_each_signal_heard_once(client: CeleryClient) -> None:
    receivers = _receivers()
    hopspan.instrument(client.NAME)
    hopspan.wrap(client.consumer, **client.settings())
    assert receivers == _receivers()
    client.send()
    client.handle(succeeds)
    client.expect_spans(client.a_publish(), client.a_process())


@contextmanager
def _rival() -> Iterator[None]:
    """Somebody listens who says that they are the OpenTelemetry contrib instrumentation."""
    name = "opentelemetry.instrumentation.celery"
    module = types.ModuleType(name)
    code = "def trace_prerun(*args, **kwargs): pass"
    exec(compile(code, name, "exec"), vars(module))  # noqa: S102 - a function of that module
    celery.signals.task_prerun.connect(module.trace_prerun, weak=False)
    try:
        yield
    finally:
        celery.signals.task_prerun.disconnect(module.trace_prerun)


def where_another_instrumentation_listens_ours_does_not(client: CeleryClient) -> None:
    _forget(client)
    with _rival():
        receivers = _receivers()
        client.instrument()
        assert receivers == _receivers()
        assert [
            "hopspan leaves celery alone: its signals go to opentelemetry.instrumentation.celery "
            "already"
        ] == client.lines.take()
        hopspan.uninstrument(client.NAME)
        with pytest.raises(hopspan.ConfigurationError, match="would be lost: use one of the two"):
            client.instrument(policy=client.reject_on_error)
        assert receivers == _receivers()


# -- nothing of ours in the way, nothing of theirs on a span ---------------------------------------


@over(face=LISTENING, sampling=SAMPLINGS, place=scenarios_robustness.HANDLING)
def a_fault_of_ours_hinders_no_task(client: CeleryClient, place: str) -> None:
    turns = iter((succeeds, succeeds, raises(NO)))
    for _ in range(3):
        client.send_untraced()
    ran = client.subscribe(
        lambda message: next(turns)(message), prefetch=3, policy=client.reject_on_error
    )
    with scenarios_robustness._broken(client, place):
        client.drive(lambda: ran.times == 3, ran)
        client.sync()
    said = client.lines.take()
    assert len(set(said)) == len(said)
    assert all(line.startswith("hopspan failed at ") for line in said), said
    settlements = client.settlements()
    assert ["ack", "ack"] == settlements[:2]
    assert settlements[2] in {"ack", "reject"}  # Celery acks a failure by itself
    assert client.is_current_nothing()


@over(face=LISTENING)
def no_argument_and_no_result_is_recorded(client: CeleryClient) -> None:
    def body(self: Task, order: str, *, token: str) -> str:
        if self.request.retries == 0:
            raise self.retry(args=(SECRET,), kwargs={"token": SECRET}, countdown=0)
        return SECRET

    client.enter_face(settle_spans="all")
    task = _task(client, TASK, body, bind=True, ignore_result=False)
    after = _task(client, "after", _step("after"))
    task.apply_async((SECRET,), {"token": SECRET}, link=after.s(SECRET))
    _work(client, 3)
    assert SECRET not in _recorded(client)
    assert "token" not in _recorded(client)


@over(make=BODIES, face=LISTENING, sampling=SAMPLINGS)
def a_task_whose_body_has_not_run_has_failed_and_is_told_of(
    client: CeleryClient, make: Callable[[], Any]
) -> None:
    body = make()
    client.send()
    client.handle(lambda _: body, policy=hopspan.reject_on_error)
    if hasattr(body, "close"):
        body.close()
    (line,) = client.lines.take()
    assert "has not run" in line
    if client.telemetry.records:
        (process,) = (span for span in client.telemetry.spans() if span.name == client.processes)
        assert ("error", "hopspan.never_run") == (process.status, process.error)


# -- what others have with the decorator alone, too ------------------------------------------------


@over(way=scenarios_metrics.WAYS_TO_FAIL, face=LISTENING, sampling=SAMPLINGS)
def the_error_is_the_same_on_a_runs_metric_and_span(client: CeleryClient, way: Any) -> None:
    scenarios_metrics.the_error_is_the_same_on_metric_and_span(client, way)


@over(settle_spans=scenarios_metrics.SETTLED, face=LISTENING)
def the_duration_of_a_workers_settling_follows_the_setting(
    client: CeleryClient, settle_spans: str
) -> None:
    scenarios_metrics.the_duration_of_settling_follows_the_setting_for_settle_spans(
        client, settle_spans
    )


@over(face=LISTENING)
def a_task_that_comes_again_is_counted_again(client: CeleryClient) -> None:
    scenarios_metrics.a_message_that_comes_again_is_counted_again(client)


@over(face=LISTENING, sampling=("sampled", "unsampled"))
def what_is_not_sampled_of_tasks_is_measured_all_the_same(client: CeleryClient) -> None:
    scenarios_metrics.what_is_not_sampled_is_measured_all_the_same(client)


@over(part=scenarios_robustness.TRACERS, face=LISTENING)
def a_tracer_that_fails_hinders_no_task(client: CeleryClient, part: str) -> None:
    scenarios_robustness.a_tracer_that_fails_hinders_no_message(client, part)
