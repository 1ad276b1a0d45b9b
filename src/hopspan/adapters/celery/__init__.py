"""Celery 5.4 to 5.7, through its signals; and the few wrappers that signals cannot replace.

A publish is `send_task`, for a publish that fails has no second signal. A run is from `task_prerun`
to `task_postrun`. What became of a message is told by the process that has the channel: the
worker's main process.
"""

from typing import Any

from hopspan.adapters.celery import points
from hopspan.adapters.celery.run import TaskRun, run_of
from hopspan.delivery import Adapter, Running

ADAPTER = Adapter(TaskRun, points=points.POINTS, signals=points)


def running(handler: Any) -> Running:
    """The run in this thread, for a handler that Celery calls without handing it a message."""
    run, is_body = run_of(handler)
    return Running(ADAPTER, run, is_body)


__all__ = ["ADAPTER", "TaskRun", "running"]
