"""The application of the stories: what workers, beat and the publisher import."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.signals import task_prerun, task_received, worker_process_init, worker_ready
from kombu.entity import Exchange, Queue
from opentelemetry import baggage, context, trace

import hopspan
from integration.celery_story.settings import Settings, dead_queue_of, queue_of
from integration.celery_story.sink import provider
from integration.faults.journal import Journal

SETTINGS = Settings.from_environment()
JOURNAL = Journal(Path(SETTINGS.journal))
PATIENCE = 60.0
"""Seconds after which a task that waits to be told or killed gives up."""


def _telemetry(**_: Any) -> None:
    trace.set_tracer_provider(provider(JOURNAL, SETTINGS.role, SETTINGS.delay))


if SETTINGS.provider == "import":
    _telemetry()
else:
    worker_process_init.connect(_telemetry, weak=False)


def _before(task: Any = None, **_: Any) -> None:
    left = [str(value) for value in context.get_current().values()]
    JOURNAL.write("before", task=task.request.id, left=left)


task_prerun.connect(_before, weak=False)  # hears of a run before hopspan does
hopspan.instrument("celery")


def _queue(name: str, **arguments: Any) -> Any:
    exchange = Exchange("")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


def _queues() -> list[Any]:
    queues = [_queue(SETTINGS.queue, **SETTINGS.queue_arguments)]
    for case in SETTINGS.cases:
        dead = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_queue_of(SETTINGS.queue, case),
        }
        queues.append(_queue(queue_of(SETTINGS.queue, case), **dead))
    return queues


def _transport_options() -> dict[str, object]:
    is_redis = SETTINGS.broker.startswith("redis")
    own = {"global_keyprefix": f"{SETTINGS.queue}:"} if is_redis else {}
    return {**own, **SETTINGS.transport_options}


app = Celery("shop", broker=SETTINGS.broker, backend=SETTINGS.backend)
app.conf.update(
    task_default_queue=SETTINGS.queue,
    task_queues=_queues(),
    broker_connection_retry_on_startup=True,
    broker_transport_options=_transport_options(),
    result_backend_transport_options={"global_keyprefix": f"{SETTINGS.queue}:"},
    worker_hijack_root_logger=False,
    beat_schedule={"tick": {"task": "tick", "schedule": SETTINGS.tick}} if SETTINGS.tick else {},
)


def _ready(sender: Any = None, **_: Any) -> None:
    JOURNAL.write("ready", node=sender.hostname, process=os.getpid())


def _received(request: Any = None, **_: Any) -> None:
    JOURNAL.write("received", task=request.id)


worker_ready.connect(_ready, weak=False)
task_received.connect(_received, weak=False)


def task(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Celery's decorator, with a type."""
    decorate: Callable[[Callable[..., Any]], Any] = app.task(name=name, **options)
    return decorate


def _seen(task: Any, number: int) -> None:
    span = trace.get_current_span().get_span_context()
    JOURNAL.write(
        "run",
        name=task.name,
        number=number,
        task=task.request.id,
        process=os.getpid(),
        inside=f"{span.trace_id:032x}-{span.span_id:016x}",
        baggage=dict(baggage.get_all()),
    )


@task("work", bind=True)
def work(self: Any, number: int, seconds: float = 0.0) -> int:
    """Write down who one is, and take a while."""
    _seen(self, number)
    time.sleep(seconds)
    return number


@task("add")
def add(first: int, second: int) -> int:
    """Add up two numbers."""
    return first + second


@task("total")
def total(numbers: list[int]) -> int:
    """Add up what the header of a chord returned."""
    return sum(numbers)


@task("flaky", bind=True, max_retries=2)
def flaky(self: Any) -> int:
    """Succeed at the third attempt."""
    attempt: int = self.request.retries
    if attempt < 2:
        raise self.retry(countdown=0)
    return attempt


@task("order")
def order(number: int) -> None:
    """Take an order, and have the customer told."""
    app.send_task("notify", (number,))


@task("notify", bind=True)
def notify(self: Any, number: int) -> None:
    """Tell the customer."""
    _seen(self, number)


@task("tick", bind=True)
def tick(self: Any) -> None:
    """What beat has done."""
    _seen(self, 0)


# -- tasks that end badly -------------------------------------------------------------------------


class FailureError(Exception):
    """What a task fails with."""


def end(task: Any, ending: str) -> str:
    """Say that one has begun, wait for the word to go on, and end in the way that is asked for."""
    JOURNAL.write("started", task=task.request.id, process=os.getpid())
    deadline = time.monotonic() + PATIENCE
    while ending == "never" or not Path(SETTINGS.go).exists():
        assert time.monotonic() < deadline, "nobody told me to go on"
        time.sleep(0.02)
    if ending == "reject":
        raise Reject("no", requeue=False)
    if ending == "requeue":
        raise Reject("not now", requeue=True)
    if ending == "ignore":
        raise Ignore("never mind")
    if ending == "fail":
        raise FailureError(ending)
    return ending


def _ends(name: str, **options: Any) -> None:
    task(name, bind=True, **options)(end)


_ends("early")
_ends("late", acks_late=True)
_ends("late_requeue_lost", acks_late=True, reject_on_worker_lost=True)
_ends("late_strict", acks_late=True, acks_on_failure_or_timeout=False)


@task("late_policy", bind=True, acks_late=True)
@hopspan.consumer(policy=hopspan.reject_on_error)
def late_policy(self: Any, ending: str) -> str:
    """What hopspan settles."""
    return end(self, ending)


@task("late_policy_once", bind=True, acks_late=True)
@hopspan.consumer(policy=hopspan.requeue_once)
def late_policy_once(self: Any, ending: str) -> str:
    """What hopspan settles."""
    return end(self, ending)
