"""Facts that only the worker's main process knows: settlements, and runs nobody else can report.

It has the channel, so all acks and rejects are its own; and it is what remains where a child was
killed, ran into its hard time limit, or never began: a task that was revoked or has expired.
"""

from __future__ import annotations

import functools
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters.celery.publishing import lost_run
from hopspan.adapters.celery.run import TaskRun, current_settings
from hopspan.delivery import failure
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.propagation import MAPPING
from hopspan.telemetry import (
    Attachment,
    get_current,
    is_suppressed,
    record_settle,
    relate,
    start_internal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from hopspan.telemetry import Binding, Instrumenter

_CLIENT = TaskRun.client
_RECEIVED = "__hopspan_received__"
"""The attribute of a message that keeps its task, and what it says of that. Not the request, which
may be gone when it is settled, and has the message."""


def on_received(request: Any = None, **_: Any) -> None:
    """Celery's `task_received`: from now on its settlement is seen."""
    try:
        if current_settings(request.task).subscription is not None:
            request.message.__dict__[_RECEIVED] = (request.task, request.request_dict)
    except Exception:  # noqa: BLE001
        faults.report("receiving a task")


# -- settlements ----------------------------------------------------------------------------------


def acks(_message: Any, *_: Any, **__: Any) -> Settlement:
    """`Message.ack` of kombu."""
    return Settlement(Verdict.ACK)


def rejects(_message: Any, requeue: bool = False) -> Settlement:
    """`Message.reject` of kombu."""
    return Settlement(Verdict.REQUEUE if requeue else Verdict.REJECT)


def requeues(_message: Any) -> Settlement:
    """`Message.requeue` of kombu."""
    return Settlement(Verdict.REQUEUE)


def settles(name: str, reader: Callable[..., Settlement]) -> Any:
    """Intercept a settlement of a task's message."""

    def intercept(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
        @functools.wraps(original)
        def settle(self: Any, *args: Any, **kwargs: Any) -> Any:
            received = self.__dict__.pop(_RECEIVED, None)
            if received is None:
                return original(self, *args, **kwargs)
            began, clock = time_ns(), perf_counter()
            error: Exception | None = None
            try:
                return original(self, *args, **kwargs)
            except Exception as failed:
                error = failed
                raise
            finally:
                timing = (began, perf_counter() - clock)
                _record(name, (reader, self, args, kwargs), received, error, timing)

        return settle

    return intercept


def _record(name: str, call: Any, received: Any, error: Exception | None, timing: Any) -> None:
    try:
        task, task_message = received
        run = TaskRun(task, None, task_message)
        instrumenter = _instrumenter_for(run)
        if instrumenter is None or is_suppressed(get_current()):
            return
        reader, message, args, kwargs = call
        settlement = reader(message, *args, **kwargs)
        notable = error is not None
        if not instrumenter.enabled.records_settlement(settlement.verdict, notable=notable):
            return
        outcome = SUCCESS if error is None else failure(_CLIENT, error)
        inside, linked = _around(instrumenter, run.headers)
        described = [run.described()]
        record_settle(
            instrumenter, name, settlement, described, outcome, timing, inside=inside, of=linked
        )
    except Exception:  # noqa: BLE001
        faults.report("recording how a task was settled")


# -- runs that nobody else reports -----------------------------------------------------------------


def on_revoked(
    sender: Any = None, request: Any = None, terminated: Any = False, expired: Any = False, **_: Any
) -> None:
    """Celery's `task_revoked`. Celery has acked its message."""
    what = "expire" if expired else "terminate" if terminated else "revoke"
    _report_run(what, sender, request, SUCCESS, Settlement(Verdict.ACK, _PAST[what]))


_PAST = {"expire": "expired", "terminate": "terminated", "revoke": "revoked"}


def on_cancelled(sender: Any = None, request: Any = None, einfo: Any = None, **_: Any) -> None:
    """Celery's `task_retry`, of a run that the main process cut short."""
    if einfo is None:
        _report_run("cancel", sender, request, SUCCESS)


def reports_timeout(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Request.on_timeout`: at its hard limit, a child is killed."""

    @functools.wraps(original)
    def on_timeout(self: Any, *args: Any, **kwargs: Any) -> Any:
        soft = args[0] if args else kwargs.get("soft")
        if not soft:
            limit = args[1] if len(args) > 1 else kwargs.get("timeout")
            _report_failure("time_limit", self, TimeLimitExceeded(limit))
        with _InTraceOf(self):
            return original(self, *args, **kwargs)

    return on_timeout


def on_timeout(request: Any, soft: Any, timeout: Any) -> None:
    """`Request.on_timeout`."""


def reports_loss(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Request.on_failure`: of a child that is gone, too."""

    @functools.wraps(original)
    def on_failure(self: Any, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info, "exception", None)
        error = getattr(error, "exc", error)
        known = self._already_revoked or self._already_cancelled
        if isinstance(error, WorkerLostError | SystemExit) and not known:
            _report_failure("lost", self, error)
        with _InTraceOf(self):
            return original(self, exc_info, *args, **kwargs)

    return on_failure


def on_failure(request: Any, exc_info: Any) -> None:
    """`Request.on_failure`."""


class _NoTask:
    """The task of a message that names none of this worker's."""

    name = ""
    acks_late = False
    run = None

    def __init__(self, app: Any) -> None:
        self.app: Any = app


def on_unknown(sender: Any = None, message: Any = None, exc: Any = None, **told: Any) -> None:
    """Celery's `task_unknown` and `task_rejected`: what is no task here is rejected, and lost."""
    try:
        headers = message.headers if isinstance(message.headers, dict) else {}
        task_message = {**headers, "delivery_info": message.delivery_info or {}}
        run = TaskRun(_NoTask(sender.app), None, task_message)
        settlement = Settlement(Verdict.REJECT, "unknown task" if "name" in told else "no task")
        error = exc if isinstance(exc, BaseException) else ValueError("not a task")
        _report("reject", run, failure(_CLIENT, error), settlement)
    except Exception:  # noqa: BLE001
        faults.report("reporting a message that is no task")


class _InTraceOf:
    """A block in which what Celery publishes for a lost run, a retry say, is in the run's trace."""

    __slots__ = ("_attached", "_marked")

    def __init__(self, request: Any) -> None:
        self._attached: Attachment | None = None
        self._marked = lost_run.set(request.id)
        try:
            run = TaskRun(request.task, None, request.request_dict)
            instrumenter = _instrumenter_for(run)
            if instrumenter is None or get_current_span().get_span_context().is_valid:
                return
            parent, _, _ = relate(instrumenter.config, run.headers, MAPPING, get_current())
            self._attached = Attachment(parent)
        except Exception:  # noqa: BLE001
            faults.report("going on in a task's trace")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        lost_run.reset(self._marked)
        if self._attached is not None:
            self._attached.detach()


def _report_failure(what: str, request: Any, error: BaseException) -> None:
    outcome = Outcome(failed=True, error_type=names.error_type(error), description=str(error))
    _report_run(what, request.task, request._context, outcome)  # noqa: SLF001


def _report_run(
    what: str, task: Any, request: Any, outcome: Outcome, settlement: Settlement | None = None
) -> None:
    try:
        _report(what, TaskRun(task, request), outcome, settlement)
    except Exception:  # noqa: BLE001
        faults.report("reporting what became of a task")


def _report(what: str, run: TaskRun, outcome: Outcome, settled: Settlement | None) -> None:
    """Record a short span about a message, in its trace and linked to it."""
    instrumenter = _instrumenter_for(run)
    if instrumenter is None or is_suppressed(get_current()):
        return
    inside, linked = _around(instrumenter, run.headers)
    attributes: dict[str, Any] = {}
    run.describe_message(attributes)
    if settled is not None:
        attributes.update(names.settlement_attributes(settled))
    operation = start_internal(
        instrumenter, what, run.endpoint, attributes, parent=inside, of=linked
    )
    operation.call_on_start(run)
    operation.end(outcome)


def _instrumenter_for(run: TaskRun) -> Instrumenter | None:
    """The settings for a message where no run of it goes on here; None where it is not traced."""
    settings = current_settings(run.task).subscription_for(run.task, run.headers)
    return None if settings is None else settings.instrumenter


def _around(instrumenter: Instrumenter, headers: Any) -> tuple[Context, list[SpanContext]]:
    """The context that a span about a message belongs to, and the span that it is linked to."""
    parent, _, links = relate(instrumenter.config, headers, MAPPING, Context())
    return parent, [link.context for link in links]
