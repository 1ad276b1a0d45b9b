"""The message of a task: where Celery keeps its headers, and what spans say of it.

The words for the fields of a message are those of protocol 2 (Celery's *Message protocol*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from hopspan.config.settings import Correlation
from hopspan.propagation import context_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

CORRELATION_HEADER = "hopspan-correlation"
"""A header that a sender adds to one message: how its handling is to relate to it."""
_CORRELATIONS = get_args(Correlation)

TASK = "hopspan.celery.task"
STATE = "hopspan.celery.state"
RETRIES = "hopspan.celery.retries"
ROOT_ID = "hopspan.celery.root_id"
PARENT_ID = "hopspan.celery.parent_id"
ACKS = "hopspan.celery.acks"

_known: tuple[Any, frozenset[str]] = (None, frozenset())
"""The headers of the configured propagator, and all that are hopspan's to read."""


def _ours() -> frozenset[str]:
    global _known  # noqa: PLW0603 - asked for every message
    fields = context_fields()
    if _known[0] is not fields:
        _known = fields, fields | {CORRELATION_HEADER}
    return _known[1]


def headers_of(task_message: dict[str, Any]) -> dict[str, Any]:
    """The headers of a task's message, given all that the message says.

    Celery keeps a message's own headers among what it says itself, and again by themselves; unless
    one of them is called `headers`, as with the integrations of Sentry and Datadog. What came with
    the message then is what is not in there.
    """
    apart = task_message.get("headers")
    if not isinstance(apart, dict):
        return task_message
    try:
        ours = _ours()
    except Exception:  # noqa: BLE001 - a propagator that fails
        return apart
    for name in ours:
        if (name in apart) is not (name in task_message):
            return _merged(task_message, apart, ours)
    return apart


def _merged(
    task_message: dict[str, Any], apart: dict[str, Any], ours: frozenset[str]
) -> dict[str, Any]:
    if not ours & task_message.keys():
        return apart
    return {**{name: value for name, value in apart.items() if name not in ours}, **task_message}


def describe_task(attributes: dict[str, Any], task_message: Mapping[str, Any]) -> None:
    """Add what a message says of its task, where that is anything: never its arguments.

    Most tasks run for the first time, and are their own root.
    """
    get = task_message.get
    retries, root, parent = get("retries"), get("root_id"), get("parent_id")
    if retries:
        attributes[RETRIES] = retries
    if root and isinstance(root, str) and root != get("id"):
        attributes[ROOT_ID] = root
    if parent and isinstance(parent, str):
        attributes[PARENT_ID] = parent


def requested_correlation(headers: Mapping[str, Any]) -> str | None:
    """How the sender wants its message to be related to, if it says so."""
    wanted = headers.get(CORRELATION_HEADER)
    return wanted if isinstance(wanted, str) and wanted in _CORRELATIONS else None
