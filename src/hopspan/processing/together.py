"""Native deliveries that are handled as one, and that a client looks after as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopspan.model import Verdict
    from hopspan.processing.delivery import Processing
    from hopspan.telemetry import Several


class Together(Sequence[Any]):
    """What an adapter's `given` may return for many messages, instead of a list of natives.

    Each is still to be had, and settled by itself.
    """

    __slots__ = ()

    @abstractmethod
    def deliveries(self) -> Several:
        """All of them as values."""

    @abstractmethod
    def opened(self, processing: Processing) -> Iterable[tuple[Any, Verdict]]:
        """Remember who handles them; returns those that were settled already, and how."""

    @abstractmethod
    def closed(self, processing: Processing) -> None:
        """The handling is over."""


def together(natives: Sequence[Any]) -> Together | None:
    """Natives that are looked after as one; None for one alone, and for a list."""
    return natives if len(natives) > 1 and isinstance(natives, Together) else None
