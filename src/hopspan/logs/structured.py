"""structlog: the fields as entries of an event. Imports nothing of structlog's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.logs.fields import SERVICE_NAME, TRACE_ID, Fields
from hopspan.logs.records import ATTRIBUTES, SERVICE_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

_RECORD = "_record"
"""Where structlog's `ProcessorFormatter` keeps the record of the standard library."""


class Processor:
    """A structlog processor that adds the fields. Made by `structlog_processor`."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The event with the fields in it. Never raises."""
        try:
            for name, value in self._found(event).items():
                event.setdefault(name, value)
        except Exception:  # noqa: BLE001 - a log line without its trace is better than none
            faults.report("putting the trace on a structlog event")
        return event

    def _found(self, event: MutableMapping[str, Any]) -> dict[str, str]:
        """What the record was stamped with, which may have been in another thread; or is current.

        The rest of what is on a record, baggage too, is for structlog's `ExtraAdder`.
        """
        record = event.get(_RECORD)
        if record is None or not hasattr(record, TRACE_ID):
            return self._fields.current()
        found = {name: getattr(record, name, "") for name in ATTRIBUTES}
        service = found.pop(SERVICE_ATTRIBUTE)
        return {name: value for name, value in {**found, SERVICE_NAME: service}.items() if value}


def structlog_processor(baggage: Iterable[str] = ()) -> Processor:
    """A processor that adds `trace_id`, `span_id`, `trace_flags`, `service.name` and baggage.

    ::

        structlog.configure(processors=[
            hopspan.logs.structlog_processor(baggage=["tenant_id"]),
            structlog.processors.JSONRenderer(),
        ])

    Nothing is added where no span is current. What the event has already stays. In the
    `foreign_pre_chain` of a `ProcessorFormatter` it takes what `install` has put on the record.

    Args:
        baggage: Names and prefixes (`app.*`) of the baggage entries to copy.

    Raises:
        ConfigurationError: `baggage` is no list of these.

    Thread-safe and task-safe.
    """
    return Processor(Fields(baggage))
