"""Policies on tasks: refused where they cannot work, as soon as the task is known."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from celery._state import _get_active_apps
from celery.utils.threads import get_ident

from hopspan import faults
from hopspan.adapters.celery.bindings import binding_for
from hopspan.adapters.celery.run import (
    CELERYS_OWN,
    FITTED,
    PREPARED,
    Fitted,
    TaskRun,
    decorator_of,
    innermost,
    run_of,
)
from hopspan.delivery import Subscriptions, auto_ack_error, refuse, unwrapped, wrap_handler
from hopspan.interception import refuse_handler
from hopspan.model import HopspanError, PolicyError
from hopspan.telemetry import NO_OVERRIDES

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.telemetry import Binding


def makes_task(original: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """Intercept what registers a task with an application, and returns it."""

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        task = original(self, *args, **kwargs)
        if binding.active:
            apply_policy(task, binding)
        return task

    return make


def from_function(app: Any, fun: Any, *args: Any, **options: Any) -> None:
    """`Celery._task_from_fun`."""


def from_class(app: Any, task: Any, *args: Any, **options: Any) -> None:
    """`Celery.register_task`."""


def apply_policy(task: Any, binding: Binding) -> None:
    """See that the policy that is in force for a task works, or refuse it.

    Raises:
        PolicyError: it cannot, or Celery would never run the task's body.
    """
    name = getattr(task, "name", None) or ""
    if name.startswith(CELERYS_OWN) or not hasattr(task, "run"):
        return
    _refuse_body(task)
    overrides = decorator_of(task)
    policy = (overrides or NO_OVERRIDES).applied_to(binding.instrumenter).config.policy
    if policy.settles:
        client = TaskRun.client
        refuse(policy, client, TaskRun.refusal(policy))
        if not task.acks_late:
            raise auto_ack_error(policy, client, f"task {name}")
    body = task.run  # asked for once: a bound method is another object each time
    is_decorated = unwrapped(body) is not body
    if (is_decorated or (policy.settles and overrides is None)) and not hasattr(body, FITTED):
        task.run = _settling(task, body, binding)


def _refuse_body(task: Any) -> None:
    """Refuse a body that Celery would only call, and never run.

    A task with a way of its own to be called may run it, and so may a pool of somebody else's.
    """
    try:
        refuse_handler(getattr(task, "_orig_run", task.run), TaskRun.client)
    except PolicyError:
        # Imported only here: it brings the worker along, which who only publishes does without.
        from celery.app.trace import task_has_custom  # noqa: PLC0415

        is_custom = task_has_custom(task, "__call__")
        if not is_custom and not os.environ.get("CELERY_CUSTOM_WORKER_POOL"):
            raise


def _settling(task: Any, body: Callable[..., Any], binding: Binding) -> Any:
    """A body that raises what the policy decides: the task's own, or what it is decorated with."""
    plain = unwrapped(body)
    subscriptions = Subscriptions(decorator_of(task) or NO_OVERRIDES, is_pushed=True)

    def enter(_: tuple[Any, ...]) -> Any:
        try:
            told = innermost.get(get_ident())
            if told is not None and told.task is task:
                told.depth += 1
                return told
            # No signal has told of the run, or it is no run at all.
            run = run_of(plain)[0] if binding.active else None
            if run is None:
                return None
            return run.enter(subscriptions.for_delivery(run, binding.instrumenter))
        except HopspanError:
            raise
        except Exception:  # noqa: BLE001 - the body runs, its message is Celery's to settle
            faults.report("beginning to handle a delivery")
            return None

    settling = wrap_handler(plain, enter, otherwise=body, is_awaited=False)
    setattr(settling, FITTED, Fitted(binding, body))
    return settling


def apply_to_all(app: Any, binding: Binding) -> None:
    """See to the tasks that an application has already.

    Raises:
        PolicyError: the policy in force for one of them cannot work.
    """
    if app.finalized:
        for task in list(app.tasks.values()):
            apply_policy(task, binding)


def apply_everywhere(binding: Binding) -> None:
    """`apply_to_all` for every application of this process."""
    for app in list(_get_active_apps()):
        apply_to_all(app, binding)


def apply_in_worker(**_: Any) -> None:
    """Celery's `worker_init`: tasks that were defined before `instrument` have been made by now."""
    for app in list(_get_active_apps()):
        binding = binding_for(app)
        try:
            if binding is not None:
                apply_to_all(app, binding)
        except HopspanError as refused:  # Celery lets no receiver stop a worker
            faults.logger.error("%s; its runs go on without it", refused)


def remove_policy(binding: Binding) -> None:
    """Give tasks the bodies back that they had."""
    for app in list(_get_active_apps()):
        for task in list(app._tasks.values()):  # noqa: SLF001 - `tasks` would finalise it
            task.__dict__.pop(PREPARED, None)
            fitted = getattr(task.__dict__.get("run"), FITTED, None)
            if fitted is not None and fitted.binding is binding:
                task.run = fitted.body
