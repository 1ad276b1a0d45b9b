"""Going back to records that are to be handed out again, at once or after a pause.

During a pause the partition is paused in the client: the consumer goes on to poll, and stays in its
group. A partition that the application has paused itself, or takes over, is left to it.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hopspan.offsets.consumer import Consumer, Partition
    from hopspan.offsets.partitions import Partitions


class Rewinding:
    """One consumer's. `run` calls the client, so it belongs on the consumer's thread."""

    __slots__ = ("_consumer", "_partitions", "pauses", "rewinds")

    def __init__(self, consumer: Consumer, partitions: Partitions) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self.rewinds: dict[Partition, tuple[int, float]] = {}
        """The offset to go back to, and the seconds to pause then."""
        self.pauses: dict[Partition, float] = {}
        """The ends of our own pauses."""

    def add(self, partition: Partition, offset: int, pause: float) -> None:
        """Go back to a record at the next `run`."""
        lowest, longest = self.rewinds.get(partition, (offset, pause))
        self.rewinds[partition] = (min(lowest, offset), max(longest, pause))

    def forget(self, partition: Partition) -> None:
        """The application went elsewhere, or the partition did."""
        self.rewinds.pop(partition, None)

    def hand_back_pause(self, partitions: Iterable[Partition]) -> None:
        """The application itself pauses or resumes: from now on it decides."""
        for partition in partitions:
            self.pauses.pop(partition, None)

    def seconds_left(self) -> list[float]:
        """Seconds until the end of each pause."""
        return [max(0.0, until - monotonic()) for until in list(self.pauses.values())]

    def run(self) -> None:
        """Go back where that is asked for, and end the pauses that are over."""
        for partition in list(self.rewinds):
            if not self._partitions.is_suspended(partition):
                self._rewind(partition)
        if self.pauses:
            self._resume()

    def _rewind(self, partition: Partition) -> None:
        with self._partitions.lock:
            offset, pause = self.rewinds.pop(partition, (0, 0.0))
            frontier = self._partitions.frontiers.get(partition)
        if frontier is None:
            return  # it is revoked
        if frontier.position is not None and offset >= frontier.position:
            return  # it will be handed out again as it is
        try:
            self._consumer.seek(partition, offset)
        except Exception:  # noqa: BLE001 - next time, or whoever has the partition then
            self.add(partition, offset, pause)
            faults.report("seeking back to a record")
            return
        frontier.position = offset
        if pause or partition in self.pauses:
            self._pause(partition, monotonic() + pause)

    def _pause(self, partition: Partition, until: float) -> None:
        if partition in self.pauses:
            self.pauses[partition] = max(self.pauses[partition], until)
        elif partition not in self._consumer.paused():
            self._consumer.pause(partition)
            self.pauses[partition] = until

    def _resume(self) -> None:
        now = monotonic()
        for partition in [each for each, until in list(self.pauses.items()) if until <= now]:
            self.pauses.pop(partition, None)
            self._consumer.resume(partition)
