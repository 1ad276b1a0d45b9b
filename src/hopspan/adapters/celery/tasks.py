"""Policies on tasks: refused where they cannot work, as soon as the task is known."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from celery._state import _get_active_apps

from hopspan import faults
from hopspan.adapters.celery.bindings import binding_for
from hopspan.adapters.celery.deliveries import served
from hopspan.model import PolicyError
from hopspan.processing import NOTHING, begin, face_of, refuse, settled_already, traced
from hopspan.telemetry import NO_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.processing import Processing
    from hopspan.telemetry import Binding

_CELERYS_OWN = "celery."
_FITTED = "__hopspan_fitted__"


def makes_task(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept what registers a task with an application, and returns it."""

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        task = original(self, *args, **kwargs)
        if binding.active:
            fit(task, binding)
        return task

    return make


def from_function(app: Any, fun: Any, *args: Any, **options: Any) -> None:
    """`Celery._task_from_fun`."""


def from_class(app: Any, task: Any, *args: Any, **options: Any) -> None:
    """`Celery.register_task`."""


def fit_all(app: Any, binding: Binding) -> None:
    """See to the tasks that an application has already.

    Raises:
        PolicyError: the policy in force for one of them cannot work.
    """
    if app.finalized:
        for task in list(app.tasks.values()):
            fit(task, binding)


def fit_everywhere(binding: Binding) -> None:
    """`fit_all` for every application of this process."""
    for app in list(_get_active_apps()):
        fit_all(app, binding)


def fit(task: Any, binding: Binding) -> None:
    """See that the policy that is in force for a task works, or refuse it.

    Raises:
        PolicyError: it cannot.
    """
    name = getattr(task, "name", None) or ""
    if name.startswith(_CELERYS_OWN) or not hasattr(task, "run"):
        return
    face = face_of(task.run)
    policy = (face or NO_SETTINGS).over(binding.instrumenter).config.policy
    if not policy.settles:
        return
    refuse(policy, binding.adapter)
    if not task.acks_late:
        raise settled_already(policy, binding.adapter, f"task {name}")
    if face is None and not hasattr(task.run, _FITTED):
        task.run = _settling(task.run, binding)


def is_fitted(task: Any) -> bool:
    """Whether what a policy decides is raised by a task's body."""
    return face_of(task.run) is not None or hasattr(task.run, _FITTED)


def fit_for_worker(**_: Any) -> None:
    """Celery's `worker_init`: tasks that were defined before `instrument` have been made by now."""
    for app in list(_get_active_apps()):
        binding = binding_for(app)
        try:
            if binding is not None:
                fit_all(app, binding)
        except PolicyError as refused:  # Celery lets no receiver stop a worker
            faults.logger.error("%s; its runs go on without it", refused)


def unfit(binding: Binding) -> None:
    """Give tasks the bodies back that they had."""
    for app in list(_get_active_apps()):
        for task in list(app._tasks.values()):  # noqa: SLF001 - `tasks` would finalise it
            if getattr(task.__dict__.get("run"), _FITTED, None) is binding:
                task.run = task.run.__wrapped__


def _settling(run: Callable[..., Any], binding: Binding) -> Any:
    """A task's body that raises what the policy of its application decides."""

    def start(_: Any) -> Processing:
        natives = served(run) if binding.active else None
        if not natives:
            return NOTHING
        return begin(binding.adapter, natives, pushed=True, base=binding.instrumenter)

    settling = traced(run, start)
    setattr(settling, _FITTED, binding)
    return settling
