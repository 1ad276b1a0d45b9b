"""Spans that a child still has are sent before it ends: `atexit` does not run in pool processes.

Celery tells each child when it ends, at a warm or soft shutdown and when it is recycled; nobody can
tell one that is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from hopspan import faults
from hopspan.adapters.celery.bindings import known_bindings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
