"""Celery's signals, connected once for all bindings; and the methods that are intercepted.

Spans that a child still has are sent before it ends: `atexit` does not run in pool processes.
Celery tells each child when it ends, at a warm or soft shutdown and when it is recycled; nobody can
tell one that is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from hopspan import faults
from hopspan.adapters.celery import publishing, reports, run, tasks
from hopspan.adapters.celery.bindings import (
    keep,
    known_bindings,
    process_binding,
    set_process_binding,
)
from hopspan.interception import Point, unweave, weave
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.telemetry import Binding

_RIVAL = "opentelemetry.instrumentation.celery"

_APP = "celery.app.base:Celery"
_REQUEST = "celery.worker.request:Request"
_MESSAGE = "kombu.message:Message"

POINTS = (
    Point(_APP, "send_task", publishing.publishes, publishing.send_task),
    Point(_APP, "_task_from_fun", tasks.makes_task, tasks.from_function, carries_policy=True),
    Point(_APP, "register_task", tasks.makes_task, tasks.from_class, carries_policy=True),
)

_WORKER = (
    Point(_REQUEST, "on_timeout", reports.reports_timeout, reports.on_timeout),
    Point(_REQUEST, "on_failure", reports.reports_loss, reports.on_failure),
    Point(_MESSAGE, "ack", reports.settles("ack", reports.acks), reports.acks),
    Point(_MESSAGE, "reject", reports.settles("reject", reports.rejects), reports.rejects),
    Point(_MESSAGE, "requeue", reports.settles("reject", reports.requeues), reports.requeues),
)
"""The points that only a worker has: importing them would be a waste elsewhere."""

_PUBLISHER = (
    Point("kombu.messaging:Producer", "publish", publishing.suppresses_nested, publishing.publish),
)
"""The points where instrumentations of what Celery uses inside are silenced."""

_woven: list[Any] = []
_woven_worker: list[Any] = []


def _weave_worker(**_: Any) -> None:
    """Celery's `celeryd_init`; or the first message, in a worker that does not send it."""
    _weave(_WORKER, _woven_worker)


def _weave(points: Any, woven: list[Any]) -> None:
    bindings = () if woven else known_bindings()
    if bindings:
        try:
            woven.append(weave(points, bindings[0]))
        except Exception:  # noqa: BLE001
            faults.report("instrumenting what Celery uses")


def _received(request: Any = None, **_: Any) -> None:
    _weave_worker()
    reports.on_received(request)


_MOST_MILLISECONDS = 5000
"""As long as the SDK waits between two exports: a collector that hangs must not keep the worker."""


def flush(**_: Any) -> None:
    """Celery's `worker_process_shutdown` and `worker_shutdown`."""
    for provider in {id(each): each for each in _providers()}.values():
        force = getattr(provider, "force_flush", None)
        if force is None:
            continue
        try:
            force(_MOST_MILLISECONDS)
        except Exception:  # noqa: BLE001
            faults.report("flushing telemetry at the end of a worker process")


def _providers() -> Iterator[Any]:
    yield trace.get_tracer_provider()
    yield metrics.get_meter_provider()
    yield get_logger_provider()
    for binding in known_bindings():
        config = binding.instrumenter.config
        yield from (config.tracer_provider, config.meter_provider, config.logger_provider)


_RECEIVERS = {
    "before_task_publish": publishing.on_before,
    "celeryd_init": _weave_worker,
    "worker_init": tasks.apply_in_worker,
    "task_received": _received,
    "task_prerun": run.on_prerun,
    "task_failure": run.on_failure,
    "task_postrun": run.on_postrun,
    "task_retry": reports.on_cancelled,
    "task_revoked": reports.on_revoked,
    "task_unknown": reports.on_unknown,
    "task_rejected": reports.on_unknown,
    "worker_process_shutdown": flush,
    "worker_shutdown": flush,
}


def connect(binding: Binding, app: Any = None) -> None:
    """Listen for one application, or for the whole process.

    Raises:
        PolicyError: the policy in force for a task that is known already cannot work, or Celery
            would never run its body.
        ConfigurationError: a policy would be lost, because another instrumentation listens.
    """
    if _rival_listens():
        _decline(binding)
        return
    if app is None:
        tasks.apply_everywhere(binding)
        set_process_binding(binding)
    else:
        tasks.apply_to_all(app, binding)
        keep(binding)
    _weave(_PUBLISHER, _woven)
    for name, receiver in _RECEIVERS.items():
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False, dispatch_uid=f"hopspan-{name}")


def disconnect(binding: Binding) -> None:
    """Listen for the process no more; and not at all, where no application is wrapped."""
    tasks.remove_policy(binding)
    if process_binding() is binding:
        set_process_binding(None)
    if not known_bindings():
        _stop_listening()


_ENDINGS = ("task_failure", "task_postrun")
"""The signals that a run still needs that has begun."""


def _stop_listening() -> None:
    _disconnect(name for name in _RECEIVERS if name not in _ENDINGS)
    for woven in (_woven, _woven_worker):
        while woven:
            unweave(woven.pop())
    run.when_idle(_stop_hearing_endings)


def _stop_hearing_endings() -> None:
    if not known_bindings():  # somebody may listen again by now
        _disconnect(_ENDINGS)


def _disconnect(names: Iterable[str]) -> None:
    for name in names:
        getattr(signals, name).disconnect(dispatch_uid=f"hopspan-{name}")


def _rival_listens() -> bool:
    """Whether the OpenTelemetry contrib instrumentation is connected."""
    receivers = [receiver for _, receiver in signals.task_prerun.receivers or ()]
    return any(getattr(each, "__module__", "").startswith(_RIVAL) for each in receivers)


def _decline(binding: Binding) -> None:
    policy = binding.instrumenter.config.policy
    if policy.settles:
        raise ConfigurationError(
            f"Celery's signals go to {_RIVAL} already, so policy {policy.name} would be lost: use "
            "one of the two"
        )
    faults.once("hopspan leaves celery alone: its signals go to %s already", _RIVAL)
