"""Exceptions, as span events, as log records, or as both (*Exceptions*, 1.44)."""

from __future__ import annotations

import traceback
from types import FunctionType
from typing import TYPE_CHECKING, Protocol

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger

from hopspan import conventions as names
from hopspan.model import OperationType
from hopspan.version import VERSION

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from hopspan.config import Config
    from hopspan.conventions import Plan

    class Recorded(Protocol):
        """The part of an operation that exceptions and metrics are recorded of."""

        @property
        def span(self) -> Span: ...  # noqa: D102
        @property
        def context(self) -> Context: ...  # noqa: D102


_EVENT = "exception"


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

    def record(self, operation: Recorded, plan: Plan, error: BaseException) -> None:
        """Record the exception that ended an operation; format nothing for an unrecorded span."""
        if self._as_event and operation.span.is_recording():
            if _records_as_usual(type(operation.span)):
                operation.span.add_event(_EVENT, _attributes(error))
            else:
                operation.span.record_exception(error)
        if self._logger is None:
            return
        processing = plan.action.type is OperationType.PROCESS
        self._logger.emit(
            LogRecord(
                context=operation.context,
                severity_number=SeverityNumber.ERROR if processing else SeverityNumber.WARN,
                severity_text="ERROR" if processing else "WARN",
                event_name=plan.exception_event,
                attributes=_attributes(error),
            )
        )


def _attributes(error: BaseException) -> dict[str, str]:
    return {
        names.EXCEPTION_TYPE: names.error_type(error),
        names.EXCEPTION_MESSAGE: str(error),
        names.EXCEPTION_STACKTRACE: "".join(
            traceback.format_exception(type(error), error, _of_the_handler(error.__traceback__))
        ),
    }


def _records_as_usual(kind: type) -> bool:
    """Whether spans of a class make an event of an exception, and nothing else.

    By where the method was written: one that somebody has wrapped, to remove what is private from
    it, say, tells another place in its globals only.
    """
    method = getattr(kind, "record_exception", None)
    return (
        isinstance(method, FunctionType)
        and method.__globals__.get("__name__") == "opentelemetry.sdk.trace"
    )


_OURS = ("hopspan.delivery.", "hopspan.interception.")


def _of_the_handler(frames: TracebackType | None) -> TracebackType | None:
    """The frames from the handler on. Formatting takes time for each, and ours tell nobody more."""
    while frames is not None and frames.tb_next is not None:
        if not frames.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
            break
        frames = frames.tb_next
    return frames
