"""One delivery, or a batch handled as one, from hand-over to settled.

Rules: `finish` takes effect once, whoever calls it first; the outcome is fixed before anything is
settled, and everything (span status, `error.type`, metrics, settlement) derives from it; what was
settled by the user is never settled again; a settlement that fails never hides the handler's
exception.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, Delivery, Outcome, Settlement, Verdict
from hopspan.processing.concluding import (
    decide_all,
    outcome_of,
    outcome_of_turn,
    warn_of_dropped,
    warn_of_late_work,
    warn_of_unsettled_turn,
)
from hopspan.processing.deferral import Deferred, Errand
from hopspan.processing.ownership import Ownership
from hopspan.processing.refusals import refuse_plain
from hopspan.processing.settling import Settling, refused, summary
from hopspan.telemetry.spans import OTHER_ERROR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Commits, Policy
    from hopspan.telemetry import Instrumenter, Operation

Plan = list[tuple[int, Settlement]]
"""What is to be sent for which delivery."""

_NOTHING_SENT: Mapping[int, Settlement] = {}

CURRENT = otel.create_key("hopspan-processing")


class Processing:
    """The handling of one delivery. What `current()` returns inside a handler.

    Safe to pass to another thread or task after `defer()`; otherwise used by the handler's own.
    """

    __slots__ = (
        "__weakref__", "_failure", "_inner_error", "_natives", "_once", "_operation", "adapter",
        "commits", "context", "deliveries", "instrumenter", "outcome", "ownership", "policy",
        "policy_rank", "reraise", "settled", "settled_by_policy", "_verdicts", "_wire",
    )  # fmt: skip

    def __init__(
        self,
        adapter: Adapter,
        natives: Sequence[Any],
        deliveries: Sequence[Delivery],
        instrumenter: Instrumenter,
        operation: Operation,
    ) -> None:
        self.adapter: Adapter = adapter
        self._natives = natives
        self.instrumenter: Instrumenter = instrumenter
        self._operation = operation
        self._once = threading.Lock()  # acquired by whoever finishes, and never released
        self.ownership: Ownership = Ownership()
        """Who concludes."""
        self._failure = SUCCESS
        self._inner_error: Exception | None = None
        self.policy_rank: int = 0
        """Which face the policy is of; see `Face.rank`."""
        self.settled_by_policy: bool = False
        """Whether it was hopspan that settled."""
        self.deliveries: Sequence[Delivery] = deliveries
        """The deliveries handled here: one, or those of a batch."""
        config = instrumenter.config
        self.policy: Policy = config.policy
        self.commits: Commits = config.commits
        self.reraise: bool = config.reraise
        self.outcome: Outcome | None = None
        """How the handling went; None while it goes on."""
        self.settled: bool = False
        """Whether every delivery has been settled, by the policy or by the user."""
        # Weak, or every message would leave a cycle for the garbage collector.
        self.context: Context = operation.keep_in_context(CURRENT, weakref.ref(self))
        self._verdicts: list[Verdict | None] = [None] * len(natives)
        self._wire: Settling | None = None

    def __bool__(self) -> bool:
        """True; outside a delivery `current()` is a falsy one."""
        return True

    def __repr__(self) -> str:
        where = self.delivery.endpoint.destination if self.deliveries else ""
        return f"<hopspan processing of {where}: {'over' if self.outcome else 'open'}>"

    # -- for handlers ----------------------------------------------------------------------------

    @property
    def span(self) -> Span:
        """The process span. Its status decides as well: ERROR is a failure without raising."""
        return self._operation.span

    @property
    def delivery(self) -> Delivery:
        """The (first) delivery."""
        return self.deliveries[0]

    def fail(self, reason: str, *, type: str | None = None) -> None:  # noqa: A002 - as error.type
        """Declare the handling failed without raising; the policy treats it like an exception.

        Args:
            reason: For people; becomes the span's status description.
            type: `error.type`, low-cardinality; `_OTHER` when not given.

        An exception that the handler raises afterwards takes precedence. Calling it after the
        handling is over changes nothing.
        """
        kind = OTHER_ERROR if type is None else str(type)
        self._failure = Outcome(failed=True, error_type=kind, description=reason)

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

    @property
    def wire(self) -> Settling:
        """What becomes of the deliveries on the wire. Most are settled by their handler, in time."""
        if self._wire is None:
            self._wire = Settling(
                self.adapter,
                self._natives,
                self.deliveries,
                self.instrumenter,
                self.context,
                self._verdicts,
            )
        return self._wire

    def note(self, native: Any, verdict: Verdict) -> None:
        """A settlement of one of the deliveries went out."""
        if native is self._natives[0]:
            self._verdicts[0] = verdict
        else:
            self.wire.note(native, verdict)

    @property
    def lost(self) -> Exception | None:
        """The client's error, where its channel went away while we settled."""
        return None if self._wire is None else self._wire.lost

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
        for index, settlement in self._decided(self._outcome(error)):
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
            return self._decided(outcome) if self.policy.settles else []
        except Exception:  # noqa: BLE001 - nothing is sent, so nothing is lost
            faults.report("concluding how the handling went")
            return []
        except BaseException:  # out of the user's policy: KeyboardInterrupt, say
            self._end(self._operation.elapsed(), {})
            raise

    def _decided(self, outcome: Outcome) -> Plan:
        """What is to be sent for which delivery."""
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
            attributes = None if common is None else names.settlement_attributes(common)
            if outcome.cancelled or outcome.interrupted:
                attributes = {**(attributes or {}), names.CANCELLED: True}
            uncounted = 0
            for delivery in self.deliveries:
                uncounted += not delivery.counted
            self._operation.end(outcome, attributes, seconds, uncounted)
        except Exception:  # noqa: BLE001 - the message is settled, as far as it is to be
            faults.report("ending the handling of a delivery")
        for native in self._natives:
            try:
                self.adapter.closed(native, self)
            except Exception:  # noqa: BLE001
                faults.report("closing a delivery")
