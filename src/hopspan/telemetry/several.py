"""Many deliveries at once, without a value for each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from hopspan.model import Delivery

if TYPE_CHECKING:
    from hopspan.model import Endpoint


class Several(Sequence[Delivery]):
    """Deliveries that become values one by one, when they are asked for: most never are.

    What an operation says of all of them it asks for in one go. An adapter may make these where its
    client hands out many messages at a time; a list does as well.
    """

    __slots__ = ()

    @abstractmethod
    def endpoints(self) -> Collection[Endpoint]:
        """Where they are from, each once."""

    @abstractmethod
    def headers(self, most: int) -> Sequence[Any]:
        """Those of the newest, at most so many."""

    @abstractmethod
    def uncounted(self) -> int:
        """How many of them no receive operation has counted."""


def headers_of(deliveries: Sequence[Delivery], most: int) -> Sequence[Any]:
    """The headers of the newest, at most so many."""
    if isinstance(deliveries, Several):
        return deliveries.headers(most)
    return [each.headers for each in deliveries[max(0, len(deliveries) - most) :]]


def common_endpoint(deliveries: Sequence[Delivery]) -> Endpoint:
    """The endpoint of all deliveries; one without a destination where they differ."""
    endpoints: Collection[Endpoint] = (
        deliveries.endpoints()
        if isinstance(deliveries, Several)
        else dict.fromkeys(each.endpoint for each in deliveries)
    )
    first = next(iter(endpoints))
    if len(endpoints) == 1:
        return first
    return first._replace(destination="", template=None, anonymous=False, temporary=False)


def uncounted(deliveries: Sequence[Delivery]) -> int:
    """How many of them no receive operation has counted."""
    if len(deliveries) == 1:
        return 0 if deliveries[0].counted else 1
    if isinstance(deliveries, Several):
        return deliveries.uncounted()
    return sum(not each.counted for each in deliveries)
