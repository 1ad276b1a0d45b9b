"""What a span says at its start, besides what every span of its kind says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.entries import names_of, recorded
from hopspan.model import OperationType
from hopspan.telemetry.capturing import Capture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context

    from hopspan.config import Config
    from hopspan.conventions import Plan
    from hopspan.model import Delivery, Message, Settlement
    from hopspan.propagation import Codec

_WITH_ENTRIES = frozenset({OperationType.SEND, OperationType.RECEIVE, OperationType.PROCESS})


class Description:
    """Messages, their headers, and baggage, as one `Config` wants them told."""

    __slots__ = ("_captured", "_entries", "_with_key")

    def __init__(self, config: Config) -> None:
        self._with_key = config.message_key
        # None where there is nothing to do: most programs set neither.
        self._captured = Capture(config.capture_headers) if config.capture_headers else None
        self._entries = names_of(config.baggage_attributes or None)

    def of_message(
        self, plan: Plan, message: Message, headers: Any, codec: Codec, carried: Context
    ) -> dict[str, Any]:
        """All that a span says of its single message."""
        attributes = names.message_attributes(message, plan.attributes, with_key=self._with_key)
        if self._captured is not None and headers:
            attributes.update(self._captured.attributes(codec, headers))
        if self._entries is None:
            return attributes
        return self._with_entries(plan, attributes, carried)

    def of_delivery(
        self, plan: Plan, delivery: Delivery, codec: Codec, carried: Context
    ) -> dict[str, Any]:
        """All that a process span says of its single message."""
        attributes = self.of_message(plan, delivery.message, delivery.headers, codec, carried)
        if delivery.attempt is not None:
            attributes[names.ATTEMPT] = delivery.attempt
        if delivery.redelivered:
            attributes[names.REDELIVERED] = True
        return attributes

    def of_several(
        self, plan: Plan, attributes: Mapping[str, Any], carried: Context
    ) -> dict[str, Any]:
        """All that a span says of several, or of none."""
        attributes = {**plan.attributes, **attributes}
        if self._entries is None:
            return attributes
        return self._with_entries(plan, attributes, carried)

    def _with_entries(
        self, plan: Plan, attributes: dict[str, Any], carried: Context
    ) -> dict[str, Any]:
        """With baggage, which never wins where names are the same."""
        if self._entries is None or plan.action.type not in _WITH_ENTRIES:
            return attributes
        try:
            return {**recorded(carried, self._entries), **attributes}
        except Exception:  # noqa: BLE001 - a value that cannot be told, say
            faults.report("recording baggage on a span")
            return attributes


def of_settlement(settlement: Settlement, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """What a settle span says: the verdict, and of what."""
    attributes = names.settlement_attributes(settlement)
    if len(deliveries) == 1:
        attributes.update(names.settled_attributes(deliveries[0].message))
    elif deliveries:
        attributes[names.BATCH_MESSAGE_COUNT] = len(deliveries)
    return attributes
