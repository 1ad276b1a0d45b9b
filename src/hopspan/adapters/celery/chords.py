"""The body of a chord is linked to every task of its header, wherever those have run.

Celery publishes a body when the last task of the header is done, from the process that ran it, and
nothing there knows the others. So each of them leaves its span's context in the result backend,
beside what Celery keeps there for the chord; the last one sends them all along with the body.
Only where the backend is Redis, which can do it in one step.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hopspan import conventions as names
from hopspan import faults
from hopspan.telemetry import Attachment, get_current, link_limit, without_nested

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.trace import Span, SpanContext

LINKS = "hopspan-links"
"""The header of a body's message: a `traceparent` for each task of the chord's header."""

_ONE_DAY = 86_400
_MOST = 10_000
"""A message carries no more."""
_w3c = TraceContextTextMapPropagator()


def leave(task: Any, request: Any, context: Context) -> None:
    """Leave the context of a run for the body of its chord, if it has one."""
    if request.chord is None or not request.group:
        return
    try:
        client = _redis(task.backend)
        if client is None or not get_current_span(context).get_span_context().trace_flags.sampled:
            return
        carrier: dict[str, str] = {}
        _w3c.inject(carrier, context)
        key = _key(task.backend, request.group)
        with _Silence(), client.pipeline() as steps:
            steps.hset(key, request.id, carrier["traceparent"])
            steps.expire(key, int(task.backend.expires or _ONE_DAY))
            steps.execute()
    except Exception:  # noqa: BLE001
        faults.report("leaving a span's context for the body of a chord")


def collect(task: Any, message_id: str | None) -> list[str]:
    """The contexts that a chord's header has left, where a message is that chord's body."""
    try:
        if not _is_body(task, message_id):
            return []
        client = _redis(task.backend)
        with _Silence():
            found = [] if client is None else client.hvals(_key(task.backend, task.request.group))
        return sorted(each.decode() if isinstance(each, bytes) else each for each in found)[:_MOST]
    except Exception:  # noqa: BLE001
        faults.report("collecting the spans of a chord's header")
        return []


def clear(task: Any) -> None:
    """Delete what was left: the body has been published."""
    try:
        with _Silence():
            _redis(task.backend).delete(_key(task.backend, task.request.group))
    except Exception:  # noqa: BLE001
        faults.report("clearing the spans of a chord's header")


def _is_body(task: Any, message_id: str | None) -> bool:
    request = None if task is None else task.request
    if request is None or request.chord is None or not request.group:
        return False
    return bool(request.chord.get("options", {}).get("task_id") == message_id)


class _Silence:
    """A block in which the commands that we send to Redis are not traced."""

    def __enter__(self) -> None:
        self._attached = Attachment(without_nested(get_current()))

    def __exit__(self, *raised: object) -> None:
        self._attached.detach()


def link(span: Span, headers: dict[str, Any]) -> None:
    """Link a run to the spans that its message names."""
    told = headers.get(LINKS)
    if not isinstance(told, list | tuple):
        return
    found = list(_contexts(told[:_MOST]))
    newest = found[-link_limit() :]
    for context in newest:
        span.add_link(context)
    if len(newest) < len(found):
        span.set_attribute(names.LINKS_OMITTED, len(found) - len(newest))


def _contexts(told: Iterable[Any]) -> Iterator[SpanContext]:
    for each in told:
        if isinstance(each, str):
            carried = _w3c.extract({"traceparent": each}, Context())
            context = get_current_span(carried).get_span_context()
            if context.is_valid:
                yield context


def _redis(backend: Any) -> Any:
    """The client of a result backend that is Redis; None for any other."""
    module = sys.modules.get("celery.backends.redis")
    return backend.client if module and isinstance(backend, module.RedisBackend) else None


def _key(backend: Any, group: str) -> Any:
    return backend.get_key_for_group(group, ".hopspan")
