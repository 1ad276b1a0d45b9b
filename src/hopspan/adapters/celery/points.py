"""Celery's signals, connected once for all bindings; and the worker's classes, woven with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals

from hopspan import faults
from hopspan.adapters.celery import flushing, publishing, reports, running, tasks
from hopspan.adapters.celery.bindings import everybodys, keep, known_bindings, set_everybodys
from hopspan.interception import Point, unweave, weave
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hopspan.telemetry import Binding

_RIVAL = "opentelemetry.instrumentation.celery"

_REQUEST = "celery.worker.request:Request"
_MESSAGE = "kombu.message:Message"

_WORKER = (
    Point(_REQUEST, "on_timeout", reports.tells_timeout, reports.on_timeout),
    Point(_REQUEST, "on_failure", reports.tells_loss, reports.on_failure),
    Point(_MESSAGE, "ack", reports.settles("ack", reports.acks), reports.acks),
    Point(_MESSAGE, "reject", reports.settles("reject", reports.rejects), reports.rejects),
    Point(_MESSAGE, "requeue", reports.settles("reject", reports.requeues), reports.requeues),
)
"""What only a worker has: importing it would be a waste elsewhere."""

_PUBLISHER = (
    Point("kombu.messaging:Producer", "publish", publishing.silently, publishing.publish),
)
"""Where instrumentations of what Celery uses inside are silenced."""

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


_RECEIVERS = {
    "before_task_publish": publishing.on_before,
    "celeryd_init": _weave_worker,
    "worker_init": tasks.fit_for_worker,
    "task_received": _received,
    "task_prerun": running.on_prerun,
    "task_failure": running.on_failure,
    "task_postrun": running.on_postrun,
    "task_retry": reports.on_cancelled,
    "task_revoked": reports.on_revoked,
    "task_unknown": reports.on_unknown,
    "task_rejected": reports.on_unknown,
    "worker_process_shutdown": flushing.flush,
    "worker_shutdown": flushing.flush,
}


def connect(binding: Binding, app: Any = None) -> None:
    """Listen for one application, or for everybody.

    Raises:
        PolicyError: the policy in force for a task that is known already cannot work.
        ConfigurationError: a policy would be lost, because another instrumentation listens.
    """
    if _rival_listens():
        _decline(binding)
        return
    if app is None:
        tasks.fit_everywhere(binding)
        set_everybodys(binding)
    else:
        tasks.fit_all(app, binding)
        keep(binding)
    _weave(_PUBLISHER, _woven)
    for name, receiver in _RECEIVERS.items():
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False, dispatch_uid=f"hopspan-{name}")


def disconnect(binding: Binding) -> None:
    """Listen for everybody no more; and not at all, where no application is wrapped."""
    tasks.unfit(binding)
    if everybodys() is binding:
        set_everybodys(None)
    if not known_bindings():
        _stop_listening()


_ENDINGS = ("task_failure", "task_postrun")
"""How a run goes on that has begun."""


def _stop_listening() -> None:
    _disconnect(name for name in _RECEIVERS if name not in _ENDINGS)
    for woven in (_woven, _woven_worker):
        while woven:
            unweave(woven.pop())
    running.when_idle(_stop_hearing_endings)


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
