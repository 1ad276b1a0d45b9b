"""Records as values: one at a time, or many of which nobody may ever ask for a single one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from hopspan import conventions as names
from hopspan.adapters import _kafka
from hopspan.model import Delivery, MessageInfo
from hopspan.telemetry import Several

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from hopspan.adapters.kafka.consumers import Received, State
    from hopspan.model import Endpoint

Item = TypeVar("Item")

_NOTHING: dict[str, Any] = {}
_NOWHERE = _kafka.Server()
TOPIC, HEADERS = attrgetter("topic"), attrgetter("headers")


def info(record: Any, state: State | None) -> MessageInfo:
    """What is special to a record."""
    attributes: dict[str, Any] = {
        **(_NOTHING if state is None else state.about()),
        names.PARTITION_ID: str(record.partition),
        _kafka.OFFSET: record.offset,
    }
    if record.value is None:
        attributes[_kafka.TOMBSTONE] = True
    key = record.key
    return MessageInfo(None, None, attributes, None if key is None else _kafka.key(key))


def endpoint(topic: str, state: State | None) -> Endpoint:
    """A topic, as the consumer sees it if that is known."""
    return _kafka.endpoint(topic, _NOWHERE) if state is None else state.endpoint(topic)


def delivery(native: Received) -> Delivery:
    """A record as a value."""
    _, record, frontier, state, _ = native
    attempt = 1 if frontier is None else frontier.attempt(record.offset)
    return Delivery(
        endpoint(record.topic, state),
        info(record, state),
        record.headers,
        native,
        attempt > 1,
        attempt,
        state is None or not state.commits_by_itself,
        frontier is not None and record.offset in frontier.counted,
    )


class OnDemand(Sequence[Item]):
    """What is made of records when somebody asks for it: one, some, or all of them at last."""

    __slots__ = ("_all", "records")

    def __init__(self, records: Sequence[Any]) -> None:
        self.records: Sequence[Any] = records
        self._all: list[Item] | None = None

    @abstractmethod
    def make(self, record: Any) -> Item:
        """What is made of one record."""

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if self._all is not None:
            return self._all[index]
        if isinstance(index, slice):
            return [*map(self.make, self.records[index])]
        return self.make(self.records[index])

    def __iter__(self) -> Iterator[Item]:
        if self._all is None:
            self._all = [*map(self.make, self.records)]
        return iter(self._all)


class Polled(OnDemand[Delivery], Several):
    """What a poll has brought, for its span."""

    __slots__ = ("_state",)

    def __init__(self, records: Sequence[Any], state: State) -> None:
        super().__init__(records)
        self._state = state

    def make(self, record: Any) -> Delivery:
        """A record as a value."""
        state = self._state
        return Delivery(state.endpoint(record.topic), info(record, state), record.headers, None)

    def endpoints(self) -> AbstractSet[Endpoint]:
        """Where they are from."""
        return {self._state.endpoint(each) for each in set(map(TOPIC, self.records))}

    def headers(self, most: int) -> list[Any]:
        """Those of the newest."""
        return [*map(HEADERS, self.records[-most:])] if most else []

    def uncounted(self) -> int:
        """How many of them no poll has counted."""
        return len(self)
