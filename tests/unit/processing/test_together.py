"""Native deliveries that a client looks after as one: opened and closed in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

import hopspan
from hopspan.model import Delivery, Endpoint, Verdict
from hopspan.processing.delivery import Processing
from hopspan.processing.opening import begin
from hopspan.processing.together import Together, together
from hopspan.telemetry import Face, Several
from hopspan.testing import Message, memory
from tests.unit.support import Adapting, Telemetry


class Described(Several):
    """The messages of a batch as values."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, index: Any) -> Any:
        return memory.delivery(self._messages[index])

    def endpoints(self) -> list[Endpoint]:
        return [self[0].endpoint]

    def headers(self, most: int) -> list[Any]:
        return [each.headers for each in self._messages[-most:]]

    def uncounted(self) -> int:
        return len(self)


class Batch(Together):
    """Messages that take note of what becomes of them as one."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.told: list[Any] = []
        self.settled: list[tuple[Message, Verdict]] = []
        self.broken: str | None = None

    def __len__(self) -> int:
        return len(self.messages)

    def __getitem__(self, index: Any) -> Any:
        return self.messages[index]

    def _tell(self, what: str, processing: Processing) -> None:
        self.told.append((what, processing))
        if self.broken == what:
            raise ValueError(f"{what} is broken")

    def deliveries(self) -> Several:
        return Described(self.messages)

    def opened(self, processing: Processing) -> Iterable[tuple[Message, Verdict]]:
        self._tell("opened", processing)
        return self.settled

    def closed(self, processing: Processing) -> None:
        self._tell("closed", processing)


class Alone(Adapting):
    """Notes what is opened and closed by itself."""

    def __init__(self) -> None:
        self.__dict__["told"] = []
        super().__init__(opened=self._opened, closed=self._closed)

    def _opened(self, native: Message, processing: Processing) -> Verdict | None:
        self.told.append(("opened", native))
        opened: Verdict | None = memory.opened(native, processing)
        return opened

    def _closed(self, native: Message, processing: Processing) -> None:
        self.told.append(("closed", native))
        memory.closed(native, processing)


Begin = Callable[..., Processing]


@pytest.fixture
def adapter() -> Alone:
    return Alone()


@pytest.fixture
def begun(adapter: Alone, telemetry: Telemetry) -> Begin:
    def begin_(natives: Sequence[Message], **settings: Any) -> Processing:
        face = Face({**telemetry.settings, **settings})
        return begin(adapter, natives, pushed=True, face=face)

    return begin_


def test_several_natives_of_a_client_that_says_so_are_together() -> None:
    batch = Batch(Message(), Message())
    assert together(batch) is batch


@pytest.mark.parametrize("natives", [[], [Message()], [Message(), Message()], Batch(Message())])
def test_a_list_is_not_and_neither_is_one_alone(natives: Sequence[Any]) -> None:
    assert together(natives) is None


def test_a_batch_is_opened_and_closed_once(begun: Begin, adapter: Alone) -> None:
    batch = Batch(Message(), Message())
    processing = begun(batch)
    processing.finish()
    assert batch.told == [("opened", processing), ("closed", processing)]
    assert adapter.told == []


def test_one_alone_is_opened_and_closed_by_itself(begun: Begin, adapter: Alone) -> None:
    message = Message()
    batch = Batch(message)
    begun(batch).finish()
    assert (batch.told, adapter.told) == ([], [("opened", message), ("closed", message)])


def test_the_deliveries_are_the_batchs_own(begun: Begin, telemetry: Telemetry) -> None:
    processing = begun(Batch(Message(), Message()))
    assert isinstance(processing.deliveries, Described)
    assert isinstance(processing.delivery, Delivery)
    processing.finish()
    assert telemetry.only.attributes["messaging.batch.message_count"] == 2


def test_each_is_settled_by_itself(begun: Begin) -> None:
    one, two = Message(), Message()
    processing = begun(Batch(one, two), policy=hopspan.reject_on_error)
    processing.note(two, Verdict.REQUEUE)
    processing.finish(ValueError())
    assert (one.verdict, two.verdict) == (Verdict.REJECT, None), "the second is settled already"
    assert processing.settled is True


@pytest.mark.parametrize("index", [0, 1])
def test_what_was_settled_before_it_was_opened_is_not_settled_again(
    index: int, begun: Begin, logged: pytest.LogCaptureFixture
) -> None:
    messages = [Message(), Message()]
    batch = Batch(*messages)
    batch.settled = [(messages[index], Verdict.ACK)]
    begun(batch, policy=hopspan.reject_on_error).finish(ValueError())
    assert messages[index].verdict is None
    assert messages[1 - index].verdict is Verdict.REJECT
    (said,) = [each.getMessage() for each in logged.records]
    assert "came too late for a message of test" in said


@pytest.mark.parametrize("what", ["opened", "closed"])
def test_a_fault_of_a_batch_is_logged_and_no_more(
    what: str, begun: Begin, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    batch = Batch(Message(), Message())
    batch.broken = what
    begun(batch, policy=hopspan.reject_on_error).finish()
    assert [each.verdict for each in batch.messages] == [Verdict.ACK, Verdict.ACK]
    assert len(telemetry.spans) == 1
    assert [each.levelname for each in logged.records] == ["ERROR"]
