"""Exceptions, as span events, as log records, or as both (*Exceptions*, 1.44)."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger

from hopspan import conventions as names
from hopspan.model import OperationType
from hopspan.version import VERSION

if TYPE_CHECKING:
    from hopspan.config import Config
    from hopspan.telemetry.spans import Operation


class Exceptions:
    """Records exceptions in the way that the configuration asks for."""

    __slots__ = ("_as_event", "_logger")

    def __init__(self, config: Config) -> None:
        self._as_event = config.exceptions != "logs"
        self._logger = (
            None
            if config.exceptions == "event"
            else get_logger("hopspan", VERSION, config.logger_provider, names.SCHEMA_URL)
        )

    def record(self, operation: Operation, error: BaseException) -> None:
        """Record what ended an operation. Nothing is formatted for a span that is not recorded."""
        if self._as_event and operation.span.is_recording():
            operation.span.record_exception(error)
        if self._logger is None or operation.plan is None:
            return
        processing = operation.plan.action.type is OperationType.PROCESS
        self._logger.emit(
            LogRecord(
                context=operation.context,
                severity_number=SeverityNumber.ERROR if processing else SeverityNumber.WARN,
                severity_text="ERROR" if processing else "WARN",
                event_name=operation.plan.exception_event,
                attributes=_attributes(error),
            )
        )


def _attributes(error: BaseException) -> dict[str, str]:
    return {
        names.EXCEPTION_TYPE: names.error_type(error),
        names.EXCEPTION_MESSAGE: str(error),
        names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(error)),
    }
