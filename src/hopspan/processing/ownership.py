"""Who concludes: of several faces the outermost that can, or whoever it was deferred to.

A face further in does not conclude, for what comes after it belongs to the handling as well. A loop
cannot conclude, since it does not see how its body ends; a block or a handler inside it can.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from hopspan.model import PolicyError
from hopspan.processing.deferral import Deferred

if TYPE_CHECKING:
    from hopspan.processing.delivery import Processing


class Ownership:
    """The right to conclude one processing. Its holders are on one thread at a time."""

    # As defaults of the class: of most messages nothing is deferred.
    is_claimed: bool = False
    """Whether a face has undertaken to conclude."""
    _deferred: weakref.ref[Deferred] | None = None
    _taken = False

    def claim(self) -> bool:
        """Whether whoever asks is to conclude: the first does."""
        claimed, self.is_claimed = self.is_claimed, True
        return not claimed

    def defer(self, processing: Processing) -> Deferred:
        """The right in a form that can be handed on; a new one where the last is in use already.

        Raises:
            PolicyError: the client settles when the handler returns, and cannot wait.
        """
        if processing.adapter.RAISES is not None and processing.policy.settles:
            raise PolicyError(
                f"defer(): {processing.adapter.NAME} settles when the handler is over, so policy "
                f"{processing.policy.name} cannot wait. Leave one of the two out"
            )
        deferred = self._newest()
        if deferred is None or self._taken:
            deferred = Deferred(processing)
            self._deferred = weakref.ref(deferred)
            self._taken = False
        return deferred

    def take(self) -> None:
        """The deferred operation was entered: from now on it alone concludes."""
        self._taken = True

    def left_by(self, error: BaseException | None) -> bool:
        """Whether a face that is left now, in either way, leaves the rest to another."""
        return self._deferred is not None and (error is None or self._taken)

    def passed_on_by(self, deferred: Deferred, error: BaseException | None) -> bool:
        """Whether the work of a deferred operation was deferred once more."""
        newest = self._newest()
        return newest is not None and newest is not deferred and self.left_by(error)

    def is_lost_with(self, deferred: Deferred) -> bool:
        """Whether nobody can conclude any more, now that a deferred operation is going.

        It is still there while it is finalised, also for a weak reference.
        """
        return not self._taken and self._newest() in {None, deferred}

    def _newest(self) -> Deferred | None:
        return self._deferred() if self._deferred is not None else None
