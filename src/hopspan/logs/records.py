"""The standard library's logging: the fields as attributes of each record.

`install` wraps `Logger.makeRecord` and no record factory: the attributes come after those of
`extra=`, which logging refuses to let overwrite what a factory has set. What is on a record already
stays. Rule of this module: it never raises into the application, and a record always has the four
attributes, empty ones where there is no span, so that `%(trace_id)s` can be in any format.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.logs.fields import SERVICE_NAME, SPAN_ID, TRACE_FLAGS, TRACE_ID, Fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SERVICE_ATTRIBUTE = "service_name"
"""What `service.name` is called on a record: formats in the `{` style cannot have the dot."""
ATTRIBUTES = (TRACE_ID, SPAN_ID, TRACE_FLAGS, SERVICE_ATTRIBUTE)
"""What every record has."""


def stamp(record: logging.LogRecord, fields: Fields) -> None:
    """Put the fields on a record, unless it has a trace id already. Never raises.

    It has one when it was stamped before, maybe in another thread, or by the application.
    """
    attributes = record.__dict__
    if TRACE_ID not in attributes:
        try:
            current = fields.current()
            attributes.setdefault(SERVICE_ATTRIBUTE, current.pop(SERVICE_NAME, ""))
            for name, value in current.items():
                attributes.setdefault(name, value)
        except Exception:  # noqa: BLE001 - a log line without its trace is better than none
            faults.report("putting the trace on a log record")
    for name in ATTRIBUTES:
        attributes.setdefault(name, "")


class TraceFilter(logging.Filter):
    """Puts the fields on the records of one handler or logger; filters nothing out.

    For those who do not want `install`, which does it for all of them. A handler that works in
    another thread, such as one behind a queue, is too late for it: there, give it to the
    `QueueHandler`.

    Args:
        baggage: Names and prefixes (`app.*`) of the baggage entries to copy.

    Raises:
        ConfigurationError: `baggage` is no list of these.
    """

    def __init__(self, baggage: Iterable[str] = ()) -> None:
        super().__init__()
        self._fields = Fields(baggage)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let it pass, with the fields on it."""
        stamp(record, self._fields)
        return True


class _Installation:
    """Our wrapper of `Logger.makeRecord`, and what was there before."""

    def __init__(self, fields: Fields) -> None:
        self.fields: Fields | None = fields
        """None when it has been uninstalled, and somebody has wrapped it in between."""
        self.before: Callable[..., logging.LogRecord] = logging.Logger.makeRecord
        self.wrapper = self._wrapper()
        logging.Logger.makeRecord = self.wrapper  # type: ignore[method-assign]

    def _wrapper(self) -> Any:
        @functools.wraps(self.before)
        def make_record(logger: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
            record = self.before(logger, *args, **kwargs)
            if self.fields is not None:
                stamp(record, self.fields)
            return record

        return make_record

    def undo(self) -> None:
        self.fields = None
        if logging.Logger.makeRecord is self.wrapper:
            logging.Logger.makeRecord = self.before  # type: ignore[method-assign]


_lock = threading.Lock()
_installation: list[_Installation] = []


def install(baggage: Iterable[str] | None = None) -> None:
    """Have every record of the standard library's logging carry the trace, in this process.

    Records get the attributes `trace_id`, `span_id`, `trace_flags` and `service_name`, as strings
    that are empty where no span is current, and one attribute for each chosen baggage entry that is
    there. What the application puts on a record itself, by `extra=` or a record factory, stays.

    Args:
        baggage: Names and prefixes (`app.*`) of the baggage entries to copy; none by default. A
            later call with a list replaces it, one without leaves it as it is.

    Raises:
        ConfigurationError: `baggage` is no list of these.

    Installing twice is once. Thread-safe.
    """
    fields = None if baggage is None else Fields(baggage)
    with _lock:
        if not _installation:
            _installation.append(_Installation(fields or Fields()))
        elif fields is not None:
            _installation[0].fields = fields


def uninstall() -> None:
    """Undo `install`. Records made from now on are as they were without it."""
    with _lock:
        while _installation:
            _installation.pop().undo()


def installed() -> bool:
    """Whether `install` is in force."""
    return bool(_installation)
