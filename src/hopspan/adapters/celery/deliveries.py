"""One run of a task as a delivery. Celery settles it: what we decide, the task's body raises.

Celery acks *early*, when a pool process accepts a task, unless the task says `acks_late`; then it
acks when the body has returned, and rejects when the body raises `Reject`
(Celery's *Tasks: acks_late*, *Reject*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from celery._state import get_current_task

from hopspan.adapters import _amqp
from hopspan.adapters.celery import brokers
from hopspan.model import Delivery, MessageInfo, Settlement, Verdict
from hopspan.processing import face_of
from hopspan.propagation import context_fields
from hopspan.settings import Correlation
from hopspan.telemetry import NO_SETTINGS, face_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hopspan.processing import Processing
    from hopspan.settlement import Policy
    from hopspan.telemetry import Face, Instrumenter

SETTLED_ALREADY = (
    "Celery acks it before it runs, and what is raised then changes nothing. Set acks_late=True on "
    "the task, or task_acks_late in the application's configuration"
)

CUT = "hopspan-correlation"
"""A header that a sender adds to one message: how its handling is to relate to it."""
_CUTS = frozenset({CUT})
_CORRELATIONS = get_args(Correlation)

TASK = "hopspan.celery.task"
STATE = "hopspan.celery.state"
RUNTIME = "hopspan.celery.runtime"
RETRIES = "hopspan.celery.retries"
ROOT_ID = "hopspan.celery.root_id"
PARENT_ID = "hopspan.celery.parent_id"
ACKS = "hopspan.celery.acks"


class Run:
    """One run of a task: the native delivery."""

    # Defaults of the class: of most runs nothing is decided.
    settlement: Settlement | None = None
    """What was decided for its message."""
    raised: BaseException | None = None
    """What the task's body raised for that."""

    def __init__(self, task: Any, request: Any, headers: dict[str, Any] | None = None) -> None:
        self.task: Any = task
        self.request: Any = request
        """Celery's `Context`: of this run alone, where a task's id is that of all its retries."""
        self.headers: dict[str, Any] | None = headers
        """Those of its message, where somebody has looked for them."""


def carried(told: dict[str, Any]) -> dict[str, Any]:
    """The headers of a task's message, where `told` is what the message says of the task.

    Celery keeps a message's own headers among what it says itself, and again by themselves; unless
    one of them is called `headers`, as with the integrations of Sentry and Datadog. What came with
    the message then is what is not in there.
    """
    apart = told.get("headers")
    if not isinstance(apart, dict):
        return told
    try:
        ours = context_fields() | _CUTS
    except Exception:  # noqa: BLE001 - a propagator that fails
        return apart
    at_top = ours & told.keys()
    if not at_top or at_top == ours & apart.keys():
        return apart
    return {**{name: value for name, value in apart.items() if name not in ours}, **told}


def task_attributes(
    name: str | None, headers: Any, *, acks_late: bool | None = None
) -> dict[str, Any]:
    """What spans say about a task; `headers` are those of its message. Never its arguments."""
    found: dict[str, Any] = {RETRIES: headers.get("retries") or 0}
    root, parent = headers.get("root_id"), headers.get("parent_id")
    if name and isinstance(name, str):
        found[TASK] = name
    if root and isinstance(root, str):
        found[ROOT_ID] = root
    if parent and isinstance(parent, str):
        found[PARENT_ID] = parent
    if acks_late is not None:
        found[ACKS] = "late" if acks_late else "early"
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def described(
    app: Any,
    task: str,
    told: dict[str, Any],
    headers: dict[str, Any],
    native: Any = None,
    *,
    acks_late: bool,
) -> Delivery:
    """A task's message as a value.

    Args:
        app: The application.
        task: The task's registered name.
        told: What the message says about the task.
        headers: What is `carried` in there.
        native: What stands for it.
        acks_late: Whether it can still be settled.
    """
    info = told.get("delivery_info") or {}
    endpoint, routing_key = brokers.origin(
        app, info.get("exchange") or "", info.get("routing_key") or "", task
    )
    attributes = task_attributes(task, told, acks_late=acks_late)
    redelivered = info.get("redelivered") is True
    if routing_key is not None:
        attributes[_amqp.ROUTING_KEY] = routing_key
        attempt = _amqp.attempt(headers, redelivered)
    else:
        attempt = None if redelivered else 1
    message = MessageInfo(_text(told.get("id")), None, attributes)
    return Delivery(endpoint, message, headers, native, redelivered, attempt, acks_late)


def delivery(run: Run) -> Delivery:
    """A run's message as a value."""
    task, told = run.task, vars(run.request)
    headers = carried(told) if run.headers is None else run.headers
    late = bool(task.acks_late)
    return described(task.app, task.name, told, headers, run, acks_late=late)


def served(handler: Any) -> list[Run] | None:
    """The run that a handler is the body of; empty where it is called like any function.

    None for what is the body of no task.
    """
    task: Any = get_current_task()
    if is_body(task, handler):
        request = task.request
        return [] if request.called_directly or request.is_eager else [Run(task, request)]
    others = task.app.tasks.values()
    return [] if any(is_body(other, handler) for other in others) else None


def is_body(task: Any, handler: Any) -> bool:
    """Whether a function is what a task runs, behind whatever wraps it."""
    bodies = [task.run, *(vars(kind).get("run") for kind in type(task).__mro__)]
    return any(handler in _layers(body) for body in bodies)


def _layers(body: Any) -> Iterator[Any]:
    """A function, and all that is behind it."""
    while body is not None:
        yield body
        body = getattr(body, "__func__", None) or getattr(body, "__wrapped__", None)


def handed(args: Any, via: Any) -> Any:
    """Nothing: what a task is given is data."""


def given(message: Any, via: Any) -> Any:
    """Nothing: a task is not a message that can be given to `process`."""


def owner(run: Run) -> Any:
    """The application."""
    return run.task.app


def same(run: Run, other: Run) -> bool:
    """Whether two are one run."""
    return run.request is other.request


def opened(run: Run, processing: Processing) -> Verdict | None:  # noqa: ARG001
    """An early-acked task's message has been acked when its body begins."""
    return None if run.task.acks_late else Verdict.ACK


def closed(run: Run, processing: Processing) -> None:
    """Nothing is kept."""


def is_open(run: Run) -> bool:  # noqa: ARG001 - Celery's main process has the channel
    """A run can be settled for as long as it goes on."""
    return True


def settle(run: Run, settlement: Settlement) -> None:
    """Have the body raise it."""
    run.settlement = settlement


def cut(headers: dict[str, Any]) -> Face:
    """How the sender wants its message to be joined, if it says so."""
    wanted = headers.get(CUT)
    if isinstance(wanted, str) and wanted in _CORRELATIONS:
        return face_for({"correlation": wanted})
    return NO_SETTINGS


def face(base: Instrumenter, task: Any, headers: dict[str, Any]) -> Face:
    """What a task's decorator says, and over that its message, if its sender is to be believed."""
    mine = face_of(task.run) or NO_SETTINGS
    if CUT not in headers:
        return mine
    theirs = cut(headers)
    if not theirs.settings or not mine.over(base).config.trust:
        return mine
    return face_for({**mine.settings, **theirs.settings})


def told_by(base: Instrumenter, task: Any, headers: dict[str, Any]) -> Instrumenter:
    """What traces a task's message where no run of it does."""
    return face(base, task, headers).over(base)


def rejects_failures(task: Any) -> bool:
    """Whether Celery rejects the message of a late-acked task that failed (`acks_on_failure`)."""
    acks = getattr(task, "acks_on_failure", None)  # since 5.7
    return not (task.acks_on_failure_or_timeout if acks is None else acks)


def hop(run: Run) -> None:
    """We are where it is settled."""


def refusal(policy: Policy, run: Run | None = None) -> str | None:  # noqa: ARG001
    """Why a policy can never work with Celery."""
    if policy.target is not None:
        return (
            "Celery has no dead-letter topic. Use policy=hopspan.reject_on_error, and a queue with "
            "the argument x-dead-letter-exchange on RabbitMQ"
        )
    if policy.pauses:
        return "a rejected message comes back at once. Leave out pause=, or use Celery's own retry"
    return None


def prepare(app: Any) -> None:
    """An application is ready as it is."""


def settles_by_itself(instance: Any) -> bool:  # noqa: ARG001
    """That depends on the task."""
    return False


def error_type(error: BaseException) -> str | None:
    """The broker's code, where one is behind an error of kombu's."""
    for each in (error, error.__cause__):
        code = getattr(each, "reply_code", None)
        if code in _amqp.REPLY_CODES:
            return _amqp.REPLY_CODES[code]
        if type(each).__name__ == "MessageNacked":  # of py-amqp, where confirms are asked for
            return _amqp.NACKED
    return None
