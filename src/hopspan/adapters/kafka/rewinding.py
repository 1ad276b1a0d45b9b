"""Going back to records that are to be handed out again, at once or after a pause.

While it pauses, a partition is paused in the client: the consumer goes on to poll, and stays in its
group. What the application has paused itself, or takes over, is left to it.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.structs import TopicPartition

    from hopspan.adapters.kafka.consumers import State


_PUT_ASIDE = "_paused_partition_records"


class Rewinding:
    """One consumer's. What touches the client runs on the consumer's thread."""

    __slots__ = ("pauses", "rewinds")

    def __init__(self) -> None:
        self.rewinds: dict[TopicPartition, tuple[int, float]] = {}
        """Where to go back to, and for how long to pause then."""
        self.pauses: dict[TopicPartition, float] = {}
        """Until when we have paused which partition."""

    def add(self, partition: TopicPartition, offset: int, pause: float) -> None:
        """Go back to a record, when the consumer's thread comes by."""
        lowest, longest = self.rewinds.get(partition, (offset, pause))
        self.rewinds[partition] = (min(lowest, offset), max(longest, pause))

    def forget(self, partition: TopicPartition) -> None:
        """The application went elsewhere, or the partition did."""
        self.rewinds.pop(partition, None)

    def let_go(self, partitions: Iterable[TopicPartition]) -> None:
        """The application itself pauses or resumes: from now on it decides."""
        for partition in partitions:
            self.pauses.pop(partition, None)

    def waits(self) -> list[float]:
        """Seconds until each paused partition is due."""
        return [max(0.0, until - monotonic()) for until in list(self.pauses.values())]

    def carry_out(self, state: State) -> None:
        """Go back where that is asked for, and end the pauses that are over."""
        for partition in list(self.rewinds):
            if not state.is_suspended(partition):
                self._rewind(state, partition)
        if self.pauses:
            self._resume(state)

    def _rewind(self, state: State, partition: TopicPartition) -> None:
        with state.lock:
            offset, pause = self.rewinds.pop(partition, (0, 0.0))
            frontier = state.frontiers.get(partition)
        if frontier is None:
            return  # it is revoked
        if frontier.position is not None and offset >= frontier.position:
            return  # it will be handed out again as it is
        try:
            state.kind.seek(state.consumer(), partition, offset)
        except Exception:  # noqa: BLE001 - next time, or whoever has the partition then
            self.add(partition, offset, pause)
            faults.report("seeking back to a record")
            return
        frontier.position = offset
        if pause or partition in self.pauses:
            self._pause(state, partition, monotonic() + pause)

    def _pause(self, state: State, partition: TopicPartition, until: float) -> None:
        consumer = state.consumer()
        if partition in self.pauses:
            self.pauses[partition] = max(self.pauses[partition], until)
        elif partition not in consumer.paused():
            state.kind.pause(consumer, partition)
            self.pauses[partition] = until

    def _resume(self, state: State) -> None:
        now = monotonic()
        for partition in [each for each, until in list(self.pauses.items()) if until <= now]:
            self.pauses.pop(partition, None)
            consumer = state.consumer()
            # kafka-python 3.0 never fetches on from what it has put aside while the partition was
            # paused, once another was read; and it is what lies before the seek.
            getattr(getattr(consumer, "_fetcher", None), _PUT_ASIDE, {}).pop(partition, None)
            state.kind.resume(consumer, partition)
