"""The facade of a client's consumer: all that the commit engine knows of a client.

An adapter derives from `Consumer`. A partition is any hashable value of the client's with a `topic`
and a `partition`; a record is any object of the client's.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from hopspan.offsets.frontier import OFFSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from hopspan.delivery import Client
    from hopspan.model import Endpoint
    from hopspan.offsets.frontier import Done


Partition = Any
"""A partition as the client writes it: hashable, with a `topic` and a `partition`."""


class Position(NamedTuple):
    """The offset that a commit tells for a partition."""

    offset: int
    epoch: int
    """The leader epoch; -1 for none (KIP-320)."""


Positions = dict[Partition, Position]


class Consumer(ABC):
    """One consumer of a client.

    `commit`, `commit_async`, `seek`, `pause`, `resume` and `paused` are called on the consumer's
    own thread only, and raise what the client raises.
    """

    client: ClassVar[Client]
    """The constants of the client."""
    group: str | None
    """The consumer group; None where there is nowhere to commit to."""
    commits_by_itself: bool
    """Whether the client commits whatever becomes of a record."""
    endpoint: Callable[[str], Endpoint]
    """A topic as this consumer sees it."""
    offset_of: Callable[[Any], int] = OFFSET
    """The offset of a record."""

    def __init__(self, native: Any) -> None:
        self._native = weakref.ref(native)
        self.thread: int | None = None
        """The thread that uses the consumer; None while it is unknown."""

    @property
    def native(self) -> Any:
        """The client's object; None when it is gone."""
        return self._native()

    def is_here(self) -> bool:
        """Whether the calling thread may use the consumer."""
        return self.thread == threading.get_ident()

    def seen_here(self) -> None:
        """Note that the calling thread uses the consumer."""
        self.thread = threading.get_ident()

    def guess_thread(self) -> None:
        """Take the calling thread for the one that uses the consumer, where nothing else is known.

        Only where it is the application's only thread: another may be of a pool, and the next poll
        tells. Daemons are taken for the libraries' own: those of clients and exporters.
        """
        if self.thread is None and _is_only_thread():
            self.seen_here()

    @abstractmethod
    def partition_of(self, record: Any) -> Partition:
        """The partition that a record is of."""

    @abstractmethod
    def describe(self, partition: Partition, done: Done) -> dict[str, Any]:
        """The attributes of a record that is done, for the span of its commit."""

    @abstractmethod
    def commit(self, positions: Positions, seconds: float) -> None:
        """Commit, and wait for the broker for so long at most."""

    @abstractmethod
    def commit_async(
        self, positions: Positions, answered: Callable[[Any], None]
    ) -> Callable[[], bool]:
        """Commit without waiting.

        Args:
            positions: The offsets.
            answered: To be called once, with the error or with anything else.

        Returns:
            Whether the answer is there, also where `answered` was not called yet.
        """

    @abstractmethod
    def commit_awaited(self, positions: Positions) -> Awaitable[object]:
        """Commit, and await the broker, where the client's own loop runs."""

    @abstractmethod
    def seek(self, partition: Partition, offset: int) -> None:
        """Go to an offset."""

    @abstractmethod
    def pause(self, partition: Partition) -> None:
        """Hand out nothing of a partition."""

    @abstractmethod
    def resume(self, partition: Partition) -> None:
        """End a pause."""

    @abstractmethod
    def paused(self) -> Collection[Partition]:
        """The partitions that are paused."""


def _is_only_thread() -> bool:
    here = threading.current_thread()
    return all(each is here or each.daemon for each in threading.enumerate())
