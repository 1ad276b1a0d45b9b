"""Rebalances: what is done is committed before a partition goes, and what is kept goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import hopspan
from hopspan import faults
from hopspan.adapters.kafka import consumer as rebalancing
from hopspan.adapters.kafka.consumer import ConsumerState, _AsyncListener, _Listener, track
from hopspan.delivery import Delivery
from hopspan.model import Verdict
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Consumer,
    Handle,
    polled,
    record,
)
from tests.unit.support import Telemetry, in_thread

BAD = ValueError("bad")


class Theirs:
    """The application's listener."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.error: Exception | None = None

    def _tell(self, *told: Any) -> None:
        self.told.append(told)
        if self.error is not None:
            raise self.error

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._tell("assigned", assigned)

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._tell("revoked", revoked)

    def on_partitions_lost(self, lost: Any) -> None:
        self._tell("lost", lost)


class TheirsAsync(Theirs):
    """The same for kafka-python 3."""

    async def on_partitions_assigned(self, assigned: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self._tell("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self._tell("revoked", revoked)

    async def on_partitions_lost(self, lost: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self._tell("lost", lost)


class Awaited:
    """What kafka-python 3 returns of an asynchronous commit: it can be awaited."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if self.error is not None:
            raise self.error


Tell = Callable[..., None]


class Rebalance:
    """Tells the consumer's listener, as one of the client's versions does."""

    def __init__(self, consumer: Consumer, *, awaits: bool) -> None:
        self.consumer, self.awaits = consumer, awaits

    def __call__(self, event: str, *partitions: Any) -> None:
        listener = self.consumer._subscription.rebalance_listener
        answer = getattr(listener, f"on_partitions_{event}")(set(partitions))
        if self.awaits:
            asyncio.run(answer)
        else:
            assert answer is None


@pytest.fixture(params=["2", "3"])
def rebalance(
    request: pytest.FixtureRequest, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> Rebalance:
    """A tracked consumer's rebalances, in both versions' way."""
    awaits = request.param == "3"
    monkeypatch.setattr(rebalancing, "_AWAITS", awaits)
    if awaits:
        original = Consumer.commit_async

        def commit_async(self: Consumer, offsets: Any = None, callback: Any = None) -> Any:
            original(self, offsets, callback)
            return Awaited(self.errors.get("awaited"))

        monkeypatch.setattr(Consumer, "commit_async", commit_async)
    track(consumer)
    return Rebalance(consumer, awaits=awaits)


# -- following -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("awaits", "kind"), [(False, _Listener), (True, _AsyncListener)])
def test_the_listener_is_of_the_clients_version(
    awaits: bool, kind: type, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalancing, "_AWAITS", awaits)
    track(consumer)
    assert type(consumer._subscription.rebalance_listener) is kind


def test_a_later_subscription_is_followed_too(consumer: Consumer, state: ConsumerState) -> None:
    told: list[Any] = []
    consumer.subscribe(["orders"], listener=Theirs(told))
    listener = consumer._subscription.rebalance_listener
    assert isinstance(listener, _Listener)
    rebalancing.follow(consumer, state)
    assert consumer._subscription.rebalance_listener is listener


@pytest.mark.parametrize("missing", ["_subscription", "rebalance_listener", "assignment"])
def test_a_version_that_cannot_be_followed_is_told_once(
    missing: str, consumer: Consumer, logged: pytest.LogCaptureFixture
) -> None:
    faults.forget()
    holder = consumer if missing == "_subscription" else consumer._subscription
    delattr(holder, missing)
    state = ConsumerState(consumer, Consumer)
    for _ in range(2):
        rebalancing.follow(consumer, state)
    assert [each.message for each in logged.records] == [
        "this version of kafka-python does not let hopspan follow rebalances: records of revoked "
        "partitions may be committed; look for a newer hopspan"
    ]


# -- the application's listener --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Theirs, TheirsAsync])
def test_the_applications_listener_is_told(
    kind: type[Theirs], consumer: Consumer, rebalance: Rebalance
) -> None:
    if kind is TheirsAsync and not rebalance.awaits:
        kind = Theirs  # there is no other in kafka-python 2
    told: list[Any] = []
    consumer.subscribe(["orders"], listener=kind(told))
    rebalance("revoked", ORDERS)
    rebalance("assigned", ORDERS, OTHERS)
    assert told == [("revoked", {ORDERS}), ("assigned", {ORDERS, OTHERS})]


@pytest.mark.parametrize("kind", [Theirs, TheirsAsync])
def test_the_applications_listener_is_told_of_losses(
    kind: type[Theirs], consumer: Consumer, rebalance: Rebalance
) -> None:
    if not rebalance.awaits:
        assert not hasattr(consumer._subscription.rebalance_listener, "on_partitions_lost")
        return
    told: list[Any] = []
    consumer.subscribe(["orders"], listener=kind(told))
    rebalance("lost", ORDERS)
    assert told == [("lost", {ORDERS})]


def test_a_listener_without_a_method_is_not_asked_for_it(
    consumer: Consumer, rebalance: Rebalance
) -> None:
    if rebalance.awaits:
        consumer.subscribe(["orders"], listener=object())
        for event in ("revoked", "assigned", "lost"):
            rebalance(event, ORDERS)


def test_the_application_can_still_finish_before_the_partition_goes(
    consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    theirs = Theirs([])
    theirs.on_partitions_revoked = lambda revoked: processing.conclude()  # type: ignore[method-assign]
    consumer.subscribe(["orders"], listener=theirs)
    consumer._subscription.assignment = {}
    rebalance("revoked", ORDERS)
    assert consumer.commits() == [{ORDERS: 11}]


def test_what_the_applications_listener_raises_is_raised_and_the_partition_lost(
    consumer: Consumer, rebalance: Rebalance, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    theirs = Theirs([])
    theirs.error = ValueError("theirs")
    consumer.subscribe(["orders"], listener=theirs)
    consumer._subscription.assignment = {}
    with pytest.raises(ValueError, match="theirs") as raised:
        rebalance("revoked", ORDERS)
    assert raised.value is theirs.error
    assert processing.is_over is True


# -- what goes, and what stays ---------------------------------------------------------------------


def test_a_partition_that_goes_takes_its_open_spans_along(
    consumer: Consumer, rebalance: Rebalance, handling: Handle, telemetry: Telemetry
) -> None:
    first, second = polled(consumer, record(10), record(20, partition=1))
    gone, kept = handling(first), handling(second)
    consumer._subscription.assignment = {OTHERS: "b"}
    rebalance("revoked", ORDERS)
    assert (gone.is_over, kept.is_over) == (True, False)
    gone.conclude()
    assert (gone.settled, consumer.commits()) == (False, [])
    attributes = telemetry.only.attributes
    assert (
        attributes["hopspan.settlement"],
        attributes["hopspan.settlement.reason"],
        attributes["hopspan.cancelled"],
    ) == ("leave", "revoked", True)
    kept.conclude()
    consumer.close()
    assert consumer.commits() == [{OTHERS: 21}]


def test_what_is_done_is_committed_before_it_goes(
    consumer: Consumer, rebalance: Rebalance, handling: Handle, telemetry: Telemetry
) -> None:
    first, _ = polled(consumer, record(10), record(11))
    handling(first).conclude()
    consumer._subscription.assignment = {}
    rebalance("revoked", ORDERS)
    assert consumer.commits() == [{ORDERS: 11}]
    assert [span.name for span in telemetry.spans][-1:] == ["commit orders"]
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


def test_a_commit_that_fails_does_not_keep_the_partition(
    consumer: Consumer,
    rebalance: Rebalance,
    state: ConsumerState,
    handling: Handle,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    first, second = polled(consumer, record(10), record(11))
    handling(first).conclude()
    open_ = handling(second)
    consumer.errors = {"commit": BAD, "awaited": BAD}
    consumer._subscription.assignment = {}
    rebalance("revoked", ORDERS)
    assert (open_.is_over, list(state.tracker.partitions.frontiers)) == (True, [])
    spans = {span.name: span.status[0] for span in telemetry.seen}
    assert spans["commit orders"] == "ERROR"
    assert len(logged.records) == 1


def test_a_lost_partition_is_not_committed_any_more(
    consumer: Consumer,
    rebalance: Rebalance,
    state: ConsumerState,
    handling: Handle,
    telemetry: Telemetry,
) -> None:
    if not rebalance.awaits:
        return  # kafka-python 2 tells of every loss as of a revocation
    first, second = polled(consumer, record(10), record(11))
    handling(first).conclude()
    open_ = handling(second)
    rebalance("lost", ORDERS)
    consumer.close()
    assert (open_.is_over, consumer.commits()) == (True, [])
    assert telemetry.seen[-1].attributes["hopspan.settlement.reason"] == "lost"


def test_a_partition_that_comes_back_as_it_was_goes_on(
    consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    """An eager rebalance revokes everything, and gives most of it back."""
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    rebalance("revoked", ORDERS, OTHERS)
    rebalance("assigned", ORDERS, OTHERS)
    assert processing.is_over is False
    processing.conclude()
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


def test_a_partition_that_comes_back_anew_is_another_one(
    consumer: Consumer, rebalance: Rebalance, state: ConsumerState, handling: Handle
) -> None:
    """The client starts from what is committed: this record is handed out again."""
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    rebalance("revoked", ORDERS)
    consumer._subscription.assignment = {ORDERS: "another", OTHERS: "b"}
    rebalance("assigned", ORDERS)
    assert (processing.is_over, list(state.tracker.partitions.frontiers)) == (True, [])
    (again,) = polled(consumer, record(10))
    handling(again).conclude()
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


def test_in_between_nothing_is_committed(
    consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    """Nobody knows yet whose it is."""
    (first,) = polled(consumer, record(10))
    processing = handling(first, commits=hopspan.Commits(every=1, seconds=None, wait=True))
    rebalance("revoked", ORDERS, OTHERS)
    processing.conclude()
    consumer.poll()
    assert consumer.commits() == []
    rebalance("assigned", ORDERS, OTHERS)
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_record_that_is_requeued_in_between_is_sought_afterwards(
    elsewhere: bool, consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first, policy=hopspan.requeue_times(2, then=Verdict.LEAVE))
    rebalance("revoked", ORDERS, OTHERS)
    if elsewhere:
        in_thread(lambda: processing.conclude(BAD))
    else:
        processing.conclude(BAD)
    assert consumer.asked("seek") == []
    rebalance("assigned", ORDERS, OTHERS)
    consumer.poll()
    assert consumer.asked("seek") == [("seek", ORDERS, 10)]


def test_a_partition_that_is_gone_after_all_ends_what_is_open(
    consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    first, second = polled(consumer, record(10), record(20, partition=1))
    gone, kept = handling(first), handling(second)
    rebalance("revoked", ORDERS, OTHERS)
    consumer._subscription.assignment = {OTHERS: "b"}
    rebalance("assigned", OTHERS)
    assert (gone.is_over, kept.is_over) == (True, False)
    kept.conclude()
    consumer.close()
    assert consumer.commits() == [{OTHERS: 21}]


@pytest.mark.parametrize("method", ["close", "unsubscribe"])
def test_a_revocation_that_nobody_follows_up_ends_with_the_consumption(
    method: str, consumer: Consumer, rebalance: Rebalance, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    processing = handling(first)
    rebalance("revoked", ORDERS)
    getattr(consumer, method)()
    assert processing.is_over is True


def test_a_record_of_a_partition_that_went_cannot_be_settled(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    """It was in hands when the partition went, and its handling begins only now."""
    (first,) = polled(consumer, record(10))
    stale = handling(first, policy=hopspan.manual)
    state.tracker.revoke([ORDERS])
    assert stale.is_over is True
    again = handling(record(10))
    again.conclude()
    consumer.close()
    assert [span.name for span in telemetry.seen][:1] == ["process orders"]


def test_a_fault_while_ending_a_span_does_not_stop_the_rebalance(
    consumer: Consumer,
    state: ConsumerState,
    handling: Handle,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    original = Delivery.revoke

    def revoke(self: Delivery, reason: str) -> None:
        if self is one:
            raise RuntimeError("ours")
        original(self, reason)

    first, second = polled(consumer, record(10), record(11))
    one, other = handling(first), handling(second)
    monkeypatch.setattr(Delivery, "revoke", revoke)
    state.tracker.revoke([ORDERS])
    assert (other.is_over, len(logged.records)) == (True, 1)
