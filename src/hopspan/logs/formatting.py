"""Records as JSON, one line each, that a log backend can join on the trace.

Rules of this module: a line always is JSON, whatever is on the record; it is ASCII, so that it has
no line break within and no stream refuses it; nothing of the record is lost.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hopspan.logs.fields import SERVICE_NAME
from hopspan.logs.records import ATTRIBUTES, SERVICE_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_EXTRA = {
    *vars(logging.LogRecord("", 0, "", 0, "", (), None)),
    *("message", "asctime", "taskName"),
    *ATTRIBUTES,
}
"""What logging itself and hopspan put on a record; the rest was given by `extra=`, a factory or a
filter. `taskName` is there from Python 3.12 on."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    Its own fields are `timestamp` (UTC, ISO 8601, microseconds), `level`, `logger` and `message`;
    `trace_id`, `span_id`, `trace_flags` and `service.name` as `install` or a `TraceFilter` has put
    them on the record, and none of them where there is no span; `exception` and `stack` as text.
    Then comes whatever else is on the record, chosen baggage among it; what has the name of another
    field becomes `extra.NAME`. What cannot be written as JSON is written as text.

    Args:
        names: Other names for its own fields, for a backend that has its own:
            `{"level": "severity"}`.
        always: Fields that every line has, for example `{"service.name": "orders"}`.

    Never raises while formatting. Thread-safe.
    """

    def __init__(
        self, *, names: Mapping[str, str] | None = None, always: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._names = dict(names or {})
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        own = {**_own(record), **self._failure(record)}
        fields = {**self._always, **{self._names.get(key, key): own[key] for key in own}}
        for name, value in vars(record).items():
            if name not in _NO_EXTRA:
                fields[f"extra.{name}" if name in fields else str(name)] = value
        return _line(fields)

    def _failure(self, record: logging.LogRecord) -> dict[str, str]:
        found = {}
        if record.exc_info or record.exc_text:
            found["exception"] = record.exc_text or _safely(self.formatException, record.exc_info)
        if record.stack_info:
            found["stack"] = record.stack_info
        return found


def _own(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        "timestamp": _safely(_timestamp, record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _message(record),
    }
    for name in ATTRIBUTES:
        value = getattr(record, name, "")
        if not (isinstance(value, str) and value == ""):
            fields[SERVICE_NAME if name == SERVICE_ATTRIBUTE else name] = value
    return fields


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """With arguments that do not fit, both of them: the line is about something else than that."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - whatever an argument raises when it is turned into text
        return f"{_text(record.msg)} {_text(record.args)}"


def _safely(function: Any, value: Any) -> str:
    try:
        return str(function(value))
    except Exception:  # noqa: BLE001 - the value's own code
        return f"<{type(value).__qualname__}>"


def _text(value: Any) -> str:
    return _safely(str, value)


def _line(fields: dict[str, Any]) -> str:
    try:
        return json.dumps(fields, default=_text, allow_nan=False)
    except Exception:  # noqa: BLE001 - keys that are no text, NaN, a circle
        return json.dumps({name: _writable(value) for name, value in fields.items()})


def _writable(value: Any) -> Any:
    try:
        json.dumps(value, default=_text, allow_nan=False)
    except Exception:  # noqa: BLE001
        return _text(value)
    return value
