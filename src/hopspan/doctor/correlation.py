"""Log correlation: whether a line leads to its trace."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from hopspan import logs
from hopspan.doctor.findings import Finding, ok, warning
from hopspan.logs.structured import Processor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment


def installed(environment: Environment) -> Iterable[Finding]:
    """Log records carry the trace."""
    if environment.set_up is None:
        return
    if environment.set_up.correlates_logs:
        yield ok("log records carry the trace")
    else:
        yield warning(
            "log records do not carry the trace, so a line does not lead to it",
            "hopspan.logs.install(), or hopspan.logs.structlog_processor() among structlog's "
            "processors",
        )


def is_there() -> bool:
    """Whether anything in this process puts the trace on log records, ours or another's."""
    return logs.installed() or _by_factory() or any(map(_correlates, _parts())) or _by_structlog()


def _by_factory() -> bool:
    """OpenTelemetry's own instrumentation of logging, which sets a record factory."""
    factory = logging.getLogRecordFactory()
    return str(getattr(factory, "__module__", "")).startswith("opentelemetry.")


def _parts() -> Iterator[Any]:
    """Every logger and handler, and their filters."""
    named = list(logging.Logger.manager.loggerDict.values())
    loggers = [logging.getLogger(), *(each for each in named if isinstance(each, logging.Logger))]
    for logger in loggers:
        for part in (logger, *logger.handlers):
            yield part
            yield from part.filters


def _correlates(part: Any) -> bool:
    """Our filter; or a handler that exports records over OTLP, which have the trace anyway."""
    is_exporting = isinstance(part, logging.Handler) and _is_opentelemetrys(part)
    return isinstance(part, logs.TraceFilter) or is_exporting


def _is_opentelemetrys(part: object) -> bool:
    return any(kind.__module__.startswith("opentelemetry.") for kind in type(part).__mro__)


def _by_structlog() -> bool:
    structlog = sys.modules.get("structlog")
    processors = structlog.get_config()["processors"] if structlog else ()
    return any(isinstance(each, Processor) for each in processors)
