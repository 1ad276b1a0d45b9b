"""Following rebalances: what is done is committed before a partition goes, and nothing after.

The application's own listener comes first, so that it can still finish what it is about. In
kafka-python 3 listeners run on the client's I/O thread, where a synchronous commit is refused but
one can be awaited; in 2.x they run in the thread that polls.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from kafka.consumer import subscription_state

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kafka.structs import TopicPartition

    from hopspan.adapters.kafka.consumers import State

_AWAITS = hasattr(subscription_state, "AsyncConsumerRebalanceListener")


def follow(consumer: Any, state: State) -> None:
    """Be told of the consumer's rebalances, before and after its own listener."""
    subscription: Any = getattr(consumer, "_subscription", None)
    # Private to the client.
    if not (hasattr(subscription, "rebalance_listener") and hasattr(subscription, "assignment")):
        faults.once(
            "this version of kafka-python does not let hopspan follow rebalances: records of "
            "revoked partitions may be committed; look for a newer hopspan"
        )
        return
    theirs = subscription.rebalance_listener
    if not isinstance(theirs, _Following):
        kind = _FollowingAsync if _AWAITS else _Following
        subscription.rebalance_listener = kind(state, subscription, theirs)


class _Following:
    """A rebalance listener around the application's (kafka-python 2)."""

    def __init__(self, state: State, subscription: Any, theirs: Any) -> None:
        self._state = state
        self._subscription = subscription
        self._theirs = theirs

    def _kept(self) -> Mapping[TopicPartition, object]:
        """What the client knows of each partition that it has just now."""
        return dict(self._subscription.assignment)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._state.reinstate(self._kept())
        if self._theirs is not None:
            self._theirs.on_partitions_assigned(assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        try:
            if self._theirs is not None:
                self._theirs.on_partitions_revoked(revoked)
        finally:
            self._state.committer.commit(wait=True)
            self._state.suspend(revoked, self._kept())


class _FollowingAsync(_Following):
    """The same for kafka-python 3, whose I/O loop awaits it."""

    async def on_partitions_assigned(  # type: ignore[override]
        self, assigned: Collection[TopicPartition]
    ) -> None:
        self._state.reinstate(self._kept())
        await self._tell("on_partitions_assigned", assigned)

    async def on_partitions_revoked(  # type: ignore[override]
        self, revoked: Collection[TopicPartition]
    ) -> None:
        try:
            await self._tell("on_partitions_revoked", revoked)
        finally:
            await self._commit(revoked)
            self._state.suspend(revoked, self._kept())

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        try:
            await self._tell("on_partitions_lost", lost)
        finally:
            self._state.lose(lost, "lost")

    async def _tell(self, method: str, partitions: Collection[TopicPartition]) -> None:
        tell = getattr(self._theirs, method, None)
        if tell is not None:
            answer = tell(partitions)
            if inspect.isawaitable(answer):
                await answer

    async def _commit(self, partitions: Collection[TopicPartition]) -> None:
        call = self._state.committer.prepare(partitions)
        if call is None:
            return
        try:
            consumer = self._state.consumer()
            await self._state.kind.commit_async(consumer, call.offsets)
        except Exception as error:  # noqa: BLE001 - told by its span and the log
            call.failed(error)
        else:
            call.succeeded()
