"""Work that goes on after the handler has returned, in another thread or task."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING

from hopspan.processing.scope import Attachment

if TYPE_CHECKING:
    from types import TracebackType

    from hopspan.model import Settlement
    from hopspan.processing.delivery import Processing


class Errand:
    """Settling and ending on the client's thread. Ends the span even when it is never run."""

    __slots__ = ("_plan", "_processing", "_seconds")

    def __init__(
        self, processing: Processing, seconds: float, plan: list[tuple[int, Settlement]]
    ) -> None:
        self._processing: Processing | None = processing
        self._seconds = seconds
        self._plan = plan

    def __call__(self) -> None:
        """Settle and end, the first time."""
        processing, self._processing = self._processing, None
        if processing is not None:
            processing.settle_and_end(self._seconds, self._plan)

    def give_up(self, error: Exception) -> None:
        """The client's thread is not to be reached: say so, and end unsettled."""
        processing, self._processing = self._processing, None
        if processing is not None:
            for index, settlement in self._plan:
                processing.wire.failed(index, settlement, error, (time_ns(), 0.0))
            processing.settle_and_end(self._seconds, [])

    def __del__(self) -> None:
        processing, self._processing = self._processing, None
        if processing is not None:  # the client dropped its queue of callbacks with the connection
            processing.settle_and_end(self._seconds, [])


class Deferred:
    """The right to finish a deferred operation: `with` or `async with`, once, anywhere."""

    __slots__ = ("__weakref__", "_attached", "processing")

    def __init__(self, processing: Processing) -> None:
        self.processing: Processing = processing
        self._attached: Attachment | None = None

    def __enter__(self) -> Processing:
        return self._enter("operation")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if not self.processing.ownership.passed_on_by(self, error):
                self.processing.finish(error)
        finally:
            self._leave()

    async def __aenter__(self) -> Processing:
        return self._enter("")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if not self.processing.ownership.passed_on_by(self, error):
                await self.processing.finish_async(error)
        finally:
            self._leave()

    def _enter(self, plain: str) -> Processing:
        self.processing.take(plain)
        self._attached = Attachment(self.processing.context)
        return self.processing

    def _leave(self) -> None:
        if self._attached is not None:
            self._attached.detach()

    def __del__(self) -> None:
        self.processing.abandon(self)
