"""What only the worker's main process knows: settlements, and runs that nobody else can tell of.

It has the channel, so all acks and rejects are its own; and it is what remains where a child was
killed, ran into its hard time limit, or never began: a task that was revoked or has expired.
"""

from __future__ import annotations

import functools
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters.celery.bindings import binding_for
from hopspan.adapters.celery.deliveries import carried, cut, described, told_by
from hopspan.adapters.celery.publishing import lost_run
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.processing import Attachment, failure
from hopspan.propagation import MAPPING
from hopspan.telemetry import is_suppressed, of_message, start_internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from hopspan.model import Delivery
    from hopspan.telemetry import Binding, Instrumenter

_TASK = "__hopspan_task__"
"""Where a message keeps what it is of. Not the request, which may be gone when it is settled, and
has the message."""


def on_received(request: Any = None, **_: Any) -> None:
    """Celery's `task_received`: from now on its settlement is seen."""
    try:
        if binding_for(request.app) is not None:
            request.message.__dict__[_TASK] = (request.task, request.request_dict)
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
            of = self.__dict__.pop(_TASK, None)
            if of is None:
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
                _record(name, (reader, self, args, kwargs), of, error, timing)

        return settle

    return intercept


def _record(name: str, call: Any, of: Any, error: Exception | None, timing: Any) -> None:
    try:
        task, told = of
        binding = binding_for(task.app)
        if binding is None or is_suppressed(get_current()):
            return
        reader, message, args, kwargs = call
        settlement = reader(message, *args, **kwargs)
        outcome = SUCCESS if error is None else failure(binding.adapter, error)
        headers = carried(told)
        instrumenter = told_by(binding.instrumenter, task, headers)
        if not instrumenter.audience.tells_of(settlement.verdict, notable=outcome.failed):
            return
        deliveries = [_delivery(task, told, headers)]
        inside, linked = _around(instrumenter, headers)
        instrumenter.record_settle(
            name, settlement, deliveries, outcome, timing, inside=inside, of=linked
        )
    except Exception:  # noqa: BLE001
        faults.report("recording how a task was settled")


# -- runs that nobody else tells of ---------------------------------------------------------------


def on_revoked(
    sender: Any = None, request: Any = None, terminated: Any = False, expired: Any = False, **_: Any
) -> None:
    """Celery's `task_revoked`. Celery has acked its message."""
    what = "expire" if expired else "terminate" if terminated else "revoke"
    _report(what, sender, request, SUCCESS, Settlement(Verdict.ACK, _PAST[what]))


_PAST = {"expire": "expired", "terminate": "terminated", "revoke": "revoked"}


def on_cancelled(sender: Any = None, request: Any = None, einfo: Any = None, **_: Any) -> None:
    """Celery's `task_retry`, of a run that the main process cut short."""
    if einfo is None:
        _report("cancel", sender, request, SUCCESS)


def tells_timeout(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Request.on_timeout`: at its hard limit, a child is killed."""

    @functools.wraps(original)
    def on_timeout(self: Any, *args: Any, **kwargs: Any) -> Any:
        soft = args[0] if args else kwargs.get("soft")
        if not soft:
            limit = args[1] if len(args) > 1 else kwargs.get("timeout")
            _report_failure("time_limit", self, TimeLimitExceeded(limit))
        with _Within(self):
            return original(self, *args, **kwargs)

    return on_timeout


def on_timeout(request: Any, soft: Any, timeout: Any) -> None:
    """`Request.on_timeout`."""


def tells_loss(original: Callable[..., Any], _: Binding) -> Callable[..., Any]:
    """Intercept `Request.on_failure`: of a child that is gone, too."""

    @functools.wraps(original)
    def on_failure(self: Any, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info, "exception", None)
        error = getattr(error, "exc", error)
        known = self._already_revoked or self._already_cancelled
        if isinstance(error, WorkerLostError | SystemExit) and not known:
            _report_failure("lost", self, error)
        with _Within(self):
            return original(self, exc_info, *args, **kwargs)

    return on_failure


def on_failure(request: Any, exc_info: Any) -> None:
    """`Request.on_failure`."""


def on_unknown(sender: Any = None, message: Any = None, exc: Any = None, **told: Any) -> None:
    """Celery's `task_unknown` and `task_rejected`: what is no task here is rejected, and lost."""
    try:
        binding = binding_for(sender.app)
        if binding is None:
            return
        headers = message.headers if isinstance(message.headers, dict) else {}
        known = {**headers, "delivery_info": message.delivery_info or {}}
        delivery = described(sender.app, "", known, carried(known), acks_late=False)
        settlement = Settlement(Verdict.REJECT, "unknown task" if "name" in told else "no task")
        error = exc if isinstance(exc, BaseException) else ValueError("not a task")
        outcome = failure(binding.adapter, error)
        _tell("reject", cut(headers).over(binding.instrumenter), delivery, outcome, settlement)
    except Exception:  # noqa: BLE001
        faults.report("reporting a message that is no task")


class _Within:
    """What Celery publishes for a run that is gone, a retry or an errback, goes on in its trace."""

    __slots__ = ("_attached", "_marked")

    def __init__(self, request: Any) -> None:
        self._attached: Attachment | None = None
        self._marked = lost_run.set(request.id)
        try:
            binding = binding_for(request.app)
            if binding is not None and not get_current_span().get_span_context().is_valid:
                headers = carried(request.request_dict)
                config = told_by(binding.instrumenter, request.task, headers).config
                parent, _, _ = of_message(config, headers, MAPPING, get_current())
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
    _report(what, request.task, request._context, outcome)  # noqa: SLF001


def _report(
    what: str, task: Any, request: Any, outcome: Outcome, settlement: Settlement | None = None
) -> None:
    """A short span about a run."""
    try:
        binding = binding_for(task.app)
        if binding is not None:
            headers = carried(vars(request))
            wanted = told_by(binding.instrumenter, task, headers)
            _tell(what, wanted, _delivery(task, vars(request), headers), outcome, settlement)
    except Exception:  # noqa: BLE001
        faults.report("reporting what became of a task")


def _tell(
    what: str,
    instrumenter: Instrumenter,
    delivery: Delivery,
    outcome: Outcome,
    settled: Settlement | None,
) -> None:
    """A short span about a message, in its trace and linked to it."""
    if is_suppressed(get_current()):
        return
    inside, linked = _around(instrumenter, delivery.headers)
    attributes = names.message_attributes(delivery.message)
    if settled is not None:
        attributes.update(names.settlement_attributes(settled))
    operation = start_internal(
        instrumenter, what, delivery.endpoint, attributes, parent=inside, of=linked
    )
    operation.announce(delivery)
    operation.end(outcome)


# -- in common ------------------------------------------------------------------------------------


def _delivery(task: Any, told: dict[str, Any], headers: dict[str, Any]) -> Delivery:
    return described(task.app, task.name, told, headers, acks_late=bool(task.acks_late))


def _around(instrumenter: Instrumenter, headers: Any) -> tuple[Context, list[SpanContext]]:
    """The context that a span about a message belongs to, and the span that it is linked to."""
    parent, _, links = of_message(instrumenter.config, headers, MAPPING, Context())
    return parent, [link.context for link in links]
