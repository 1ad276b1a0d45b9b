"""One delivery, or a batch handled as one, from hand-over to settled.

Rules: `finish` takes effect once, whoever calls it first; the outcome is fixed before anything is
settled, and everything (span status, `error.type`, metrics, settlement) derives from it; what was
settled by the user is never settled again; a settlement that fails never hides the handler's
exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict
from hopspan.processing.concluding import (
    decide_all,
    outcome_of,
    outcome_of_turn,
    warn_of_dropped,
    warn_of_late_work,
    warn_of_unsettled_turn,
)
from hopspan.processing.deferral import Deferred, Errand
from hopspan.processing.handled import Handled
from hopspan.processing.refusals import refuse_plain
from hopspan.processing.settling import refused, summary
from hopspan.processing.together import together
from hopspan.telemetry import uncounted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hopspan.processing.adapting import Adapter

Plan = list[tuple[int, Settlement]]
"""What is to be sent for which delivery."""

_NOTHING_SENT: Mapping[int, Settlement] = {}


class Processing(Handled):
    """The handling of one delivery. What `current()` returns inside a handler.

    Safe to pass to another thread or task after `defer()`; otherwise used by the handler's own.
    """

    __slots__ = ()
    # As `Handled` has them: type checkers want to be told again where they are set.
    outcome: Outcome | None
    settled: bool
    settled_by_policy: bool

    def defer(self) -> Deferred:
        """Take over: the handler's return then concludes nothing.

        The work goes on elsewhere, in `with operation:` (or `async with`), which makes the process
        span current there, and concludes and settles at its end. Settlement happens on the client's
        own thread where the client demands it::

            def on_order(channel, method, properties, body):
                operation = hopspan.current().defer()
                pool.submit(work, operation, body)

            def work(operation, body):
                with operation:
                    place(body)

        A handler that raises before the work was begun concludes after all, with that failure. A
        deferred operation that is dropped without having been entered is logged, and its message
        left unsettled.
        """
        return self.ownership.defer(self)

    # -- for the faces ---------------------------------------------------------------------------

    def finish(self, error: BaseException | None = None) -> None:
        """Conclude, settle and end. Takes effect once. Raises only what is no `Exception`."""
        if not self._once.acquire(blocking=False):
            return
        seconds = self._operation.elapsed()
        plan = self._concluded(error)
        if not plan:
            self._end(seconds, _NOTHING_SENT)
            return
        hop = self.wire.hop()
        if hop is None:
            self.settle_and_end(seconds, plan)
            return
        errand = Errand(self, seconds, plan)
        try:
            hop(errand)
        except Exception as unreachable:  # noqa: BLE001 - the connection is gone
            errand.give_up(unreachable)

    async def finish_async(self, error: BaseException | None = None) -> None:
        """`finish` for clients whose settlement is awaited."""
        if not self.adapter.ASYNCHRONOUS:
            self.finish(error)
            return
        if not self._once.acquire(blocking=False):
            return
        seconds = self._operation.elapsed()
        sent: dict[int, Settlement] = {}
        try:
            for index, settlement in self._concluded(error):
                if await self.wire.send_async(index, settlement):
                    sent[index] = settlement  # noqa: PERF403 - kept when one of them is cancelled
        finally:
            self._end(seconds, sent)

    def finish_loop(self) -> None:
        """End what a loop's body did: its exception is not seen here, and nothing is settled."""
        if not self._once.acquire(blocking=False):
            return
        self.outcome = outcome_of_turn(self._outcome(None), refused(self._verdicts))
        if None in self._verdicts:
            warn_of_unsettled_turn(self.policy, self.delivery)
        self._end(self._operation.elapsed(), {})

    @property
    def is_over(self) -> bool:
        """Whether somebody has finished it."""
        return self._once.locked()

    def failed_inside(self, error: BaseException | None) -> None:
        """A face further in was left: a failure counts, also where the handler goes on after it."""
        if isinstance(error, Exception):
            self._inner_error = error

    def settle_inside(self, error: BaseException | None) -> None:
        """A face further in was left, and its client reads the verdict from what it raises."""
        if not self.policy.settles:
            return
        try:
            plan = self._decided(self._outcome(error))
        except Exception:  # noqa: BLE001 - of what the handler has raised, or of its span
            faults.report("concluding how the handling went")
            return
        for index, settlement in plan:
            self.wire.send(index, settlement)

    def told(self, error: BaseException | None) -> BaseException | None:
        """What a handler is to raise for the client to settle as was decided; None for nothing."""
        raising = self.adapter.RAISES
        return None if raising is None else raising.instead(self._natives[0], error)

    def take(self, plain: str) -> None:
        """A deferred operation is entered.

        Raises:
            PolicyError: the block is a plain one, and settling must be awaited.
        """
        refuse_plain(plain, self.policy, self.adapter)
        if self.is_over:
            warn_of_late_work(self.delivery)
        self.ownership.take()

    def abandon(self, deferred: Deferred) -> None:
        """A deferred operation is dropped; it may be that nobody has entered it."""
        if not self.ownership.is_lost_with(deferred) or not self._once.acquire(blocking=False):
            return
        warn_of_dropped(self.delivery)
        self._break_off()

    def lose(self, reason: str) -> None:
        """The broker has given the delivery to somebody else: end, and settle nothing ever after.

        Safe from any thread, also while the handler goes on.
        """
        if self._once.acquire(blocking=False):
            left = names.settlement_attributes(Settlement(Verdict.LEAVE, reason))
            self.span.set_attributes(left)
            self._break_off()

    def _break_off(self) -> None:
        self.outcome = Outcome(cancelled=True)
        self._end(self._operation.elapsed(), {})

    def is_for(self, adapter: Adapter, natives: Sequence[Any]) -> bool:
        """Whether this is the handling, still going on, of these very deliveries."""
        return (
            adapter is self.adapter
            and not self.is_over
            and len(natives) == len(self._natives)
            and all(map(adapter.same, natives, self._natives))
        )

    def settle_and_end(self, seconds: float, plan: Plan) -> None:
        """The last step of `finish`, on the client's thread."""
        sent: dict[int, Settlement] = {}
        try:
            for index, settlement in plan:
                if self.wire.send(index, settlement):
                    sent[index] = settlement  # noqa: PERF403 - kept at a KeyboardInterrupt
        finally:
            self._end(seconds, sent)

    # -- inside ----------------------------------------------------------------------------------

    def _concluded(self, error: BaseException | None) -> Plan:
        """Fix the outcome; return what is to be sent for which delivery."""
        try:
            self.outcome = outcome = self._outcome(error)
            return self._decided(outcome)
        except Exception:  # noqa: BLE001 - nothing is sent, so nothing is lost
            faults.report("concluding how the handling went")
            return []
        except BaseException:  # out of the user's policy: KeyboardInterrupt, say
            self._end(self._operation.elapsed(), {})
            raise

    def _decided(self, outcome: Outcome) -> Plan:
        """What is to be sent for which delivery."""
        if not self.policy.settles:
            return []
        return decide_all(self.policy, outcome, self.adapter, self.deliveries, self._verdicts)

    def _outcome(self, error: BaseException | None) -> Outcome:
        error = error if error is not None else self._inner_error
        if error is not None:
            return outcome_of(error, self.adapter)
        return self._failure if self._failure.failed else self._operation.failed_status()

    def _end(self, seconds: float, sent: Mapping[int, Settlement]) -> None:
        try:
            self.settled_by_policy = bool(sent)
            self.settled, common = summary(self._verdicts, sent)
            outcome = self.outcome or SUCCESS
            attributes = self.about
            if common is not None:
                attributes = {**attributes, **names.settlement_attributes(common)}
            if outcome.cancelled or outcome.interrupted:
                attributes = {**attributes, names.CANCELLED: True}
            self._operation.end(outcome, attributes, seconds, uncounted(self.deliveries))
        except Exception:  # noqa: BLE001 - the message is settled, as far as it is to be
            faults.report("ending the handling of a delivery")
        batch = together(self._natives)
        if batch is not None:
            self._close(batch.closed, self)
            return
        for native in self._natives:
            self._close(self.adapter.closed, native, self)

    @staticmethod
    def _close(closed: Callable[..., None], *which: Any) -> None:
        try:
            closed(*which)
        except Exception:  # noqa: BLE001
            faults.report("closing a delivery")
