"""What a task's body raises for Celery to settle as a policy has decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.exceptions import Ignore, Reject

from hopspan.adapters.celery import failures
from hopspan.model import Verdict

if TYPE_CHECKING:
    from hopspan.adapters.celery.deliveries import Run


class _Rejected(Reject, Ignore):  # type: ignore[misc]
    """A `Reject` by policy. Also an `Ignore`, which `autoretry_for` never retries."""

    def __reduce__(self) -> Any:
        """To the main process it is a plain one."""
        return Reject, (self.reason, self.requeue)


def instead(run: Run, error: BaseException | None) -> BaseException | None:
    """What the body raises for Celery to settle as was decided; None where it does so anyway."""
    settlement = run.settlement
    if settlement is None or settlement.verdict not in {Verdict.REQUEUE, Verdict.REJECT}:
        return None
    requeue = settlement.verdict is Verdict.REQUEUE
    if not requeue and isinstance(error, Exception):
        failures.store(run.task, run.request, error)
    run.raised = _Rejected(_told(error) or settlement.reason, requeue=requeue)
    return run.raised


def _told(error: BaseException | None) -> str | None:
    """An exception as text: it goes to another process, and not all of them can be pickled."""
    try:
        return None if error is None else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a hostile __str__
        return type(error).__name__


def retries(error: BaseException) -> bool:
    """Whether Celery is about to retry the task by itself (`autoretry_for`)."""
    task: Any = get_current_task()
    if task is None or not hasattr(task, "_orig_run"):
        return False
    wanted = tuple(getattr(task, "autoretry_for", ()))
    unwanted = tuple(getattr(task, "dont_autoretry_for", ()))
    most = getattr(task, "retry_kwargs", {}).get("max_retries", task.max_retries)
    most = getattr(task, "override_max_retries", most)
    left = most is None or task.request.retries < most
    return left and isinstance(error, wanted) and not isinstance(error, unwanted)
