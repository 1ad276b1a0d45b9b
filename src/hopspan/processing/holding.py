"""One face's part in a processing: what it makes current, and the end of its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hopspan import faults
from hopspan.processing.scope import Attachment

if TYPE_CHECKING:
    from hopspan.processing.delivery import Processing


class Hold(Attachment):
    """From entering a face to leaving it, in one thread and task; `release` comes last."""

    __slots__ = ("_concludes", "_processing")

    def __init__(self, processing: Processing) -> None:
        self._processing = processing
        self._concludes = processing.ownership.claim()
        Attachment.__init__(self, processing.context)

    def conclude(self, error: BaseException | None = None) -> None:
        """The face is left: finish, or leave it to the face further out or to a deferred one."""
        if not self._concludes:
            self._processing.failed_inside(error)
            if self._processing.adapter.RAISES is not None:
                self._processing.settle_inside(error)
        elif not self._processing.ownership.left_by(error):
            self._processing.finish(error)

    async def conclude_async(self, error: BaseException | None = None) -> None:
        """`conclude` for clients whose settlement is awaited."""
        if not self._concludes:
            self._processing.failed_inside(error)
        elif not self._processing.ownership.left_by(error):
            await self._processing.finish_async(error)

    def tell(self, error: BaseException | None = None) -> None:
        """Raise what the client is to settle by, if it settles by what a handler raises."""
        told = self._processing.told(error)
        if told is not None:
            raise told from error

    def swallows(self, error: BaseException) -> bool:
        """Whether a decorated handler's failure ends here, because its message is dealt with."""
        processing, outcome = self._processing, self._processing.outcome
        if not self._concludes or outcome is None or outcome.error is not error:
            return False
        if processing.adapter.RAISES is not None:  # a failed task stays failed
            return False
        if not (outcome.failed and isinstance(error, Exception)) or processing.reraise:
            return False
        if not (processing.policy.settles and processing.settled):
            return False
        faults.logger.error(
            "handler failed; its message of %s was settled by %s: %s",
            processing.delivery.endpoint.destination,
            processing.policy if processing.settled_by_policy else "the handler itself",
            ", ".join(sorted({each.value for each in processing.wire.verdicts if each})),
            exc_info=error,
        )
        return True

    def release(self) -> None:
        """Undo what was made current."""
        self.detach()
