"""The commit engine over a client of another kind: its records have methods, its calls are noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from opentelemetry.trace import SpanContext

import hopspan
from hopspan.delivery import Client
from hopspan.model import Endpoint
from hopspan.offsets import (
    Consumer,
    Done,
    Frontier,
    Partition,
    Position,
    Positions,
    Registry,
    Tracker,
)
from tests.unit.support import Telemetry, in_thread


class Place(NamedTuple):
    """A partition, as this client writes it."""

    topic: str
    partition: int


ORDERS, OTHERS = Place("orders", 0), Place("orders", 1)


class Message:
    """A record of which nothing is an attribute."""

    def __init__(self, offset: int, place: Place = ORDERS) -> None:
        self._offset, self._place = offset, place

    def offset(self) -> int:
        return self._offset

    def place(self) -> Place:
        return self._place


class Native:
    """The client's consumer."""


class Facade(Consumer):
    """Notes what the engine asks of the client."""

    client = Client(
        "another",
        system="kafka",
        error_type=lambda error: "GONE" if isinstance(error, ConnectionError) else None,
    )
    group = "billing"
    commits_by_itself = False
    offset_of = staticmethod(Message.offset)

    def __init__(self, native: Native) -> None:
        super().__init__(native)
        self.endpoint: Callable[[str], Endpoint] = lambda topic: Endpoint("kafka", topic)
        self.calls: list[Any] = []
        self.error: Exception | None = None
        self.stopped: set[Partition] = set()

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def partition_of(self, record: Message) -> Place:
        return record.place()

    def describe(self, partition: Partition, done: Done) -> dict[str, Any]:
        return {"offset": done.offset}

    def commit(self, positions: Positions, seconds: float) -> None:
        self._note("commit", positions, seconds)

    def commit_async(
        self, positions: Positions, answered: Callable[[Any], None]
    ) -> Callable[[], bool]:
        self._note("commit_async", positions)
        answered(None)
        return lambda: True

    async def commit_awaited(self, positions: Positions) -> None:
        await asyncio.sleep(0)
        self._note("commit_awaited", positions)

    def seek(self, partition: Partition, offset: int) -> None:
        self._note("seek", partition, offset)

    def pause(self, partition: Partition) -> None:
        self._note("pause", partition)

    def resume(self, partition: Partition) -> None:
        self._note("resume", partition)

    def paused(self) -> set[Partition]:
        return self.stopped


class Handled:
    """A handling that notes what it is told."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.told: list[str] = []

    def revoke(self, reason: str) -> None:
        self.told.append(reason)

    def committed(self) -> None:
        self.told.append("committed")

    def as_done(self) -> Done:
        return Done(self.offset, False, SpanContext(1, self.offset, is_remote=False))


@pytest.fixture
def native() -> Native:
    return Native()


@pytest.fixture
def facade(native: Native) -> Facade:
    return Facade(native)


@pytest.fixture
def tracker(facade: Facade) -> Tracker:
    """A tracker that has handed out three records of one partition and one of another."""
    found = Tracker(facade)
    found.run_pending()
    found.handed_out({ORDERS: [Message(at) for at in (10, 11, 12)], OTHERS: [Message(5, OTHERS)]})
    return found


def frontier(tracker: Tracker, place: Place = ORDERS) -> Frontier:
    return tracker.partitions.frontiers[place]


def handle(tracker: Tracker, handling: Handled, place: Place = ORDERS) -> None:
    """Begin to handle a record."""
    frontier(tracker, place).handling[handling.offset] = handling


def conclude(tracker: Tracker, *offsets: int, every: int = 1, wait: bool = True) -> None:
    """Handle these, and ACK them."""
    for offset in offsets:
        strategy = hopspan.Commits(every=every, seconds=None, wait=wait)
        tracker.conclude(frontier(tracker), offset, 7, Handled(offset).as_done(), strategy)


# -- committing ------------------------------------------------------------------------------------


def test_what_is_done_is_committed_with_its_epoch(tracker: Tracker, facade: Facade) -> None:
    conclude(tracker, 11, 10)
    assert facade.calls == [("commit", {ORDERS: Position(12, 7)}, 10.0)]


def test_a_client_may_answer_at_once(tracker: Tracker, facade: Facade) -> None:
    conclude(tracker, 10, 11, wait=False)
    assert facade.calls == [
        ("commit_async", {ORDERS: Position(11, 7)}),
        ("commit_async", {ORDERS: Position(12, 7)}),
    ]


def test_a_client_with_a_loop_awaits_its_commits(tracker: Tracker, facade: Facade) -> None:
    conclude(tracker, 10, every=5)
    for _ in range(2):
        asyncio.run(tracker.committer.commit_awaited([ORDERS]))
    assert facade.calls == [("commit_awaited", {ORDERS: Position(11, 7)})]


def test_a_commit_that_fails_while_it_is_awaited_is_repeated(
    tracker: Tracker, facade: Facade, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    tracker.committer.instrumenter = telemetry.instrumenter()
    conclude(tracker, 10, every=5)
    facade.error = ConnectionError("gone")
    asyncio.run(tracker.committer.commit_awaited([ORDERS]))
    facade.error = None
    tracker.committer.commit(wait=True)
    assert [call[0] for call in facade.calls] == ["commit_awaited", "commit"]
    assert [span.attributes.get("error.type") for span in telemetry.seen] == ["GONE", None]
    assert [span.attributes["offset"] for span in telemetry.seen] == [10, 10]
    assert len(logged.records) == 1


def test_a_commit_of_several_says_their_number(tracker: Tracker, telemetry: Telemetry) -> None:
    tracker.committer.instrumenter = telemetry.instrumenter()
    conclude(tracker, 10, 11, 12, every=3)
    span = telemetry.only
    assert (span.attributes["messaging.batch.message_count"], span.links) == (3, (10, 11, 12))
    assert "offset" not in span.attributes


def test_a_commit_of_the_applications_settles_what_is_being_handled(
    tracker: Tracker, telemetry: Telemetry
) -> None:
    below, beyond = Handled(10), Handled(12)
    instrumenter = telemetry.instrumenter()
    for handling in (below, beyond):
        handle(tracker, handling)
    tracker.user_commit({ORDERS: 12, OTHERS: None}, instrumenter).succeeded()
    assert (below.told, beyond.told) == (["committed"], [])
    assert telemetry.only.links == (10,)
    assert frontier(tracker).settled_below == 12


def test_a_commit_of_the_applications_without_offsets_is_of_everything_handed_out(
    tracker: Tracker,
) -> None:
    tracker.user_commit(None, None).succeeded()
    assert [each.settled_below for each in tracker.partitions.frontiers.values()] == [13, 6]


# -- other threads, and what is asked of the client ------------------------------------------------


def test_another_thread_leaves_the_client_to_its_own(tracker: Tracker, facade: Facade) -> None:
    in_thread(lambda: conclude(tracker, 10))
    in_thread(lambda: tracker.requeue(frontier(tracker), ORDERS, 11, 1, 0.0))
    assert facade.calls == []
    tracker.run_pending()
    assert facade.calls == [
        ("seek", ORDERS, 11),
        ("commit", {ORDERS: Position(11, 7)}, 10.0),
    ]


def test_a_pause_of_the_applications_is_left_alone(tracker: Tracker, facade: Facade) -> None:
    facade.stopped = {ORDERS}
    tracker.requeue(frontier(tracker), ORDERS, 11, 1, 0.5)
    assert facade.calls == [("seek", ORDERS, 11)]
    facade.stopped = set()
    tracker.requeue(frontier(tracker), ORDERS, 10, 1, 0.5)
    assert facade.calls[1:] == [("seek", ORDERS, 10), ("pause", ORDERS)]


# -- whose a record is -----------------------------------------------------------------------------


def test_a_record_is_found_by_the_very_object(tracker: Tracker, native: Native) -> None:
    registry = Registry()
    registry.add(native, tracker)
    mine = [Message(20), Message(21)]
    tracker.handed_out({ORDERS: mine})
    found = tracker, {ORDERS: frontier(tracker)}
    assert (registry.find({ORDERS: mine}), registry.find({ORDERS: mine[:1]})) == (found, found)
    for others in ([Message(20)], [mine[0], Message(21)]):
        assert registry.find({ORDERS: others}) is None
    elsewhere = Place("bills", 0)
    assert registry.knows_some({ORDERS: [Message(20)]}) is True
    assert registry.knows_some({elsewhere: [Message(20, elsewhere)]}) is False


def test_a_consumer_that_is_gone_has_handed_out_nothing(tracker: Tracker, facade: Facade) -> None:
    registry, gone = Registry(), Native()
    other = Tracker(Facade(gone))
    registry.add(gone, other)
    mine = Message(20)
    other.handed_out({ORDERS: [mine]})
    assert registry.find({ORDERS: [mine]}) == (other, {ORDERS: frontier(other)})
    del gone
    assert registry.find({ORDERS: [mine]}) is None


def test_a_partition_that_is_gone_ends_its_handlings(tracker: Tracker) -> None:
    gone, kept = Handled(10), Handled(5)
    handle(tracker, gone)
    handle(tracker, kept, OTHERS)
    tracker.keep_only([OTHERS])
    assert (gone.told, kept.told) == (["revoked"], [])
    assert tracker.partitions.all() == [OTHERS]
