"""A task that a policy rejects for good has failed, for who waits for its result as well.

Celery 5.7 stores a failure where a task rejects its message without requeueing it. Before, the
result was pending for ever, and no error callback was called.
"""

from __future__ import annotations

from typing import Any

import celery
from celery.utils.serialization import get_pickleable_exception

from hopspan import faults

_STORES_ITSELF = (5, 7)


def store(task: Any, request: Any, error: Exception) -> None:
    """Store the failure of a run that is about to be rejected for good."""
    if tuple(celery.VERSION[:2]) >= _STORES_ITSELF:
        return
    ignored = task.ignore_result if request.ignore_result is None else request.ignore_result
    try:
        task.backend.mark_as_failure(
            request.id,
            get_pickleable_exception(error),
            request=request,
            store_result=not ignored or task.store_errors_even_if_ignored,
        )
    except Exception:  # noqa: BLE001
        faults.report("storing the failure of a rejected task")
