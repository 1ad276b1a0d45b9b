"""Reading the records that kafka-python hands out, and settling them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import ConsumerRecord

from hopspan.adapters.kafka import dead_letters
from hopspan.adapters.kafka.batches import Batch, runs_of
from hopspan.adapters.kafka.commits import done_of
from hopspan.adapters.kafka.consumers import Received, state_of
from hopspan.adapters.kafka.errors import RevokedError
from hopspan.adapters.kafka.registry import SeveralError, holding_all, tracker_of
from hopspan.adapters.kafka.tracking import track
from hopspan.model import Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hopspan.adapters._kafka_frontier import Frontier
    from hopspan.processing import Processing
    from hopspan.settlement import Policy


def handed(args: tuple[Any, ...], via: Any = None) -> Sequence[Received] | None:
    """The record, or the batch of records, among a handler's arguments."""
    return next((found for found in (given(each, via) for each in args) if found), None)


def given(message: Any, via: Any) -> Sequence[Received] | None:
    """A record, a list of records, or what `poll` returns."""
    if isinstance(message, ConsumerRecord):
        return [_received(message, via)]
    if isinstance(message, dict) and all(isinstance(each, list) for each in message.values()):
        message = [record for several in message.values() for record in several]
    if not isinstance(message, list | tuple) or not _are_records(message):
        return None
    return _batch(tuple(message), via) if len(message) > 1 else [_received(r, via) for r in message]


def _are_records(given: Sequence[Any]) -> bool:
    if all(issubclass(kind, ConsumerRecord) for kind in set(map(type, given))):
        return True
    return all(isinstance(each, ConsumerRecord) for each in given)  # doubles say so one by one


def _received(record: Any, via: Any) -> Received:
    consumer = via if isinstance(via, KafkaConsumer) else tracker_of(record)
    return Received(None, record, None) if consumer is None else track(consumer).received(record)


def _batch(records: Sequence[Any], via: Any) -> Sequence[Received]:
    runs = runs_of(records)
    if isinstance(via, KafkaConsumer):
        state = track(via)
        return Batch(records, runs, state, state.received_all(runs))
    try:
        held = holding_all(runs)
    except SeveralError:
        return [_received(each, via) for each in records]
    return Batch(records, runs) if held is None else Batch(records, runs, *held)


def settles_by_itself(instance: Any) -> bool:
    """Whether a consumer commits whatever becomes of its records."""
    state = state_of(instance)
    return state is not None and state.commits_by_itself


def owner(native: Received) -> Any:
    """The consumer that the record came by."""
    return native.consumer


def same(native: Received, other: Received) -> bool:
    """Whether both are one delivery: the client makes one object for each hand-over."""
    return native.record is other.record


def opened(native: Received, processing: Processing) -> Verdict | None:
    """Enter a record in its partition's frontier."""
    _, record, frontier, state, _ = native
    if state is None or frontier is None:
        return None
    with state.lock:
        state.settles = state.settles or processing.policy.settles
        state.committer.instrumenter = processing.instrumenter
        frontier.handle(processing, native)
        return Verdict.ACK if record.offset < frontier.settled_below else None


def closed(native: Received, processing: Processing) -> None:
    """The handling is over."""
    state, frontier = native.state, native.frontier
    if state is not None and frontier is not None:
        with state.lock:
            frontier.leave(processing, native)


def is_open(native: Received) -> bool:
    """Whether the record can still be settled."""
    return native.frontier is not None and native.frontier.alive


def settle(native: Received, settlement: Settlement) -> None:
    """Perform a verdict, from any thread.

    Raises:
        RevokedError: the partition is not ours any more.
    """
    _, record, frontier, state, shared = native
    if state is None or frontier is None or not frontier.alive:
        raise RevokedError("the partition was revoked, or the consumer is closed")
    state.settles = True
    processing = next(
        (one for one, mine in frontier.handling.get(record.offset, ()) if mine is native),
        None if shared is None else shared.processing,
    )
    if settlement.verdict is Verdict.REQUEUE:
        state.requeue(native, _attempt(native, processing, frontier), settlement.pause)
        return
    if settlement.verdict is Verdict.REJECT:
        attempt = _attempt(native, processing, frontier)
        try:
            dead_letters.publish(native, settlement.target, processing, attempt)
        except BaseException:
            state.requeue(native, attempt, dead_letters.PAUSE)
            raise
    with state.lock:
        done = None
        if processing is not None:
            done = done_of(processing, native)
            state.committer.strategy = processing.commits
        frontier.conclude(record.offset, record.leader_epoch, done)
    state.committer.concluded()


def _attempt(native: Received, processing: Processing | None, frontier: Frontier) -> int:
    """Which attempt this is: as it was known when the handling began.

    Somebody else who handles the same record may have concluded it since. What is told of a batch
    is read as it is asked for, so that it knows nothing older.
    """
    if processing is not None and native.shared is None:
        for each in processing.deliveries:
            if each.native.record is native.record and each.attempt is not None:
                return each.attempt
    return frontier.attempt(native.record.offset)


def hop(native: Received) -> None:
    """Any thread will do: what the client's own has to do is left for it."""


def refusal(policy: Policy, native: Received | None = None) -> str | None:
    """Why a policy cannot work here."""
    if Verdict.REJECT in policy.verdicts and policy.target is None:
        return (
            "Kafka cannot reject a record. Say where it is to go: "
            "policy=hopspan.dead_letter(topic, producer=...), or "
            "hopspan.requeue_times(n, then=hopspan.dead_letter(...))"
        )
    if native is None:
        return None
    if native.consumer is None:
        return (
            "a record does not know its consumer. Give it as via=, or wrap the consumer with "
            "hopspan.wrap(consumer)"
        )
    return None if policy.target is None else dead_letters.refusal(policy.target, native.record)
