"""Celery 5.4 to 5.7, through its signals; and the few wrappers that signals cannot replace.

A publish is `send_task`, for a publish that fails has no second signal. A run is from `task_prerun`
to `task_postrun`. What became of a message is told by the process that has the channel: the
worker's main process.
"""

from celery.exceptions import Ignore, Reject, Retry

from hopspan.adapters.celery import brokers, publishing, raising, signals, tasks
from hopspan.adapters.celery.deliveries import (
    SETTLED_ALREADY,
    closed,
    delivery,
    error_type,
    given,
    handed,
    hop,
    is_open,
    opened,
    owner,
    prepare,
    refusal,
    same,
    served,
    settle,
    settles_by_itself,
)
from hopspan.interception import Point
from hopspan.model import Verdict
from hopspan.propagation import MAPPING

NAME = "celery"
SYSTEM = brokers.UNKNOWN
CODEC = MAPPING
ASYNCHRONOUS = False
SETTLE_NAMES: dict[Verdict, str] = {}
CONTROL_FLOW: tuple[type[BaseException], ...] = (Ignore, Reject, Retry)
RAISES = raising
SIGNALS = signals
RIVALS = ()

_APP = "celery.app.base:Celery"

POINTS = (
    Point(_APP, "send_task", publishing.publishes, publishing.send_task),
    Point(_APP, "_task_from_fun", tasks.makes_task, tasks.from_function, carries_policy=True),
    Point(_APP, "register_task", tasks.makes_task, tasks.from_class, carries_policy=True),
)
INSTANCE_POINTS = ()

__all__ = [
    "ASYNCHRONOUS", "CODEC", "CONTROL_FLOW", "INSTANCE_POINTS", "NAME", "POINTS", "RAISES",
    "RIVALS", "SETTLED_ALREADY", "SETTLE_NAMES", "SIGNALS", "SYSTEM", "closed", "delivery",
    "error_type", "given", "handed", "hop", "is_open", "opened", "owner", "prepare",
    "refusal", "same", "served", "settle", "settles_by_itself",
]  # fmt: skip
