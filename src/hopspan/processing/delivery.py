"""One delivery, or a batch handled as one, from hand-over to settled.

Rules: `finish` takes effect once, whoever calls it first; the outcome is fixed before anything is settled,
and everything (span status, `error.type`, metrics, settlement) derives from it; what was settled by the user
is never settled again; a settlement that fails never hides the handler's exception.
"""

from __future__ import annotations

import threading
import weakref
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import (
    SUCCESS,
    Delivery,
    Outcome,
    PolicyError,
    Settlement,
    Verdict,
)
from hopspan.processing.scope import Attachment
from hopspan.telemetry.spans import OTHER_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from opentelemetry.trace import Span

    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Policy
    from hopspan.telemetry import Instrumenter, Operation

CURRENT = otel.create_key("hopspan-processing")
_REQUEUED_ON_CANCEL = Settlement(Verdict.REQUEUE, "cancelled")


class Processing:
    """The handling of one delivery. What `current()` returns inside a handler.

    Safe to pass to another thread or task after `defer()`; otherwise used by the handler's own.
    """

    __slots__ = (
        "__weakref__", "_adapter", "_deferred", "_failure", "_natives", "_once", "_operation", "_taken", "_wire",
        "context", "deliveries", "instrumenter", "is_settling", "outcome", "policy", "reraise", "settled",
    )  # fmt: skip

    def __init__(
        self,
        adapter: Adapter,
        natives: Sequence[Any],
        deliveries: Sequence[Delivery],
        instrumenter: Instrumenter,
        operation: Operation,
    ) -> None:
        self._adapter = adapter
        self._natives = natives
        self.instrumenter = instrumenter
        self._operation = operation
        self._once = threading.Lock()  # acquired by whoever finishes, and never released
        self._deferred: weakref.ref[Deferred] | None = None
        self._taken = False
        self._failure = SUCCESS
        self._wire: list[Verdict | None] = [None] * len(natives)
        self.deliveries = deliveries
        """The deliveries handled here: one, or those of a batch."""
        self.policy: Policy = instrumenter.config.policy
        self.reraise = instrumenter.config.reraise
        self.outcome: Outcome | None = None
        """How the handling went; None while it goes on."""
        self.is_settling = False
        """Whether what goes out on the wire just now is our own."""
        self.settled = False
        """Whether every delivery has been settled, by the policy or by the user."""
        self.context = otel.set_value(CURRENT, self, operation.context)

    def __repr__(self) -> str:
        where = self.delivery.endpoint.destination if self.deliveries else ""
        return f"<hopspan processing of {where}: {'over' if self.outcome else 'open'}>"

    # -- for handlers ----------------------------------------------------------------------------

    @property
    def span(self) -> Span:
        """The process span. Its status decides with the outcome: ERROR is a failure without raising."""
        return self._operation.span

    @property
    def delivery(self) -> Delivery:
        """The (first) delivery."""
        return self.deliveries[0]

    def fail(self, reason: str, *, type: str | None = None) -> None:  # noqa: A002 - error.type's name
        """Declare the handling failed without raising; the policy treats it like an exception.

        Args:
            reason: For people; becomes the span's status description.
            type: `error.type`, low-cardinality; `_OTHER` when not given.

        An exception that the handler raises afterwards takes precedence. Calling it after the handling
        is over changes nothing.
        """
        self._failure = Outcome(failed=True, error_type=type or OTHER_ERROR, description=reason)

    def defer(self) -> Deferred:
        """Take over: the handler's return then concludes nothing.

        The work goes on elsewhere, in `with operation:` (or `async with`), which makes the process span
        current there, and concludes and settles at its end. Settlement happens on the client's own thread
        where the client demands it::

            def on_order(channel, method, properties, body):
                operation = hopspan.current().defer()
                pool.submit(work, operation, body)

            def work(operation, body):
                with operation:
                    place(body)

        A handler that raises before the work was begun concludes after all, with that failure. A deferred
        operation that is dropped without having been entered is logged, and its message left unsettled.
        """
        deferred = self._deferred() if self._deferred is not None else None
        if deferred is None:
            deferred = Deferred(self)
            self._deferred = weakref.ref(deferred)
        return deferred

    # -- for adapters ----------------------------------------------------------------------------

    def note(self, native: Any, verdict: Verdict) -> None:
        """A settlement of this delivery went out on the wire, whoever sent it."""
        for index, mine in enumerate(self._natives):
            if self._adapter.same(mine, native):
                self._wire[index] = verdict

    # -- for the faces ---------------------------------------------------------------------------

    def finish(self, error: BaseException | None = None) -> None:
        """Conclude, settle and end. Takes effect once. Raises nothing but what is no `Exception`."""
        if not self._once.acquire(blocking=False):
            return
        seconds = self._operation.elapsed()
        plan = self._concluded(error)
        hop = self._hop() if plan else None
        if hop is None:
            self.settle_and_end(seconds, plan)
            return
        errand = Errand(self, seconds, plan)
        try:
            hop(errand)
        except Exception as error:  # noqa: BLE001 - the connection is gone
            errand.give_up(error)

    async def finish_async(self, error: BaseException | None = None) -> None:
        """`finish` for clients whose settlement is awaited."""
        if not self._adapter.ASYNCHRONOUS:
            self.finish(error)
            return
        if not self._once.acquire(blocking=False):
            return
        seconds = self._operation.elapsed()
        plan = self._concluded(error)
        self._end(seconds, [each for each in plan if await self._settle_async(*each)])

    def finish_loop(self) -> None:
        """End what a loop's body did: its exception is not to be seen from here, and nothing is settled."""
        if not self._once.acquire(blocking=False):
            return
        outcome = self._outcome(None)
        refused = next((each for each in self._wire if each in {Verdict.REQUEUE, Verdict.REJECT}), None)
        if not outcome.failed and refused is not None:
            outcome = Outcome(failed=True, error_type=refused.value, description=f"{refused.value} by handler")
        self.outcome = outcome
        if self.policy.settles and self.delivery.settles and None in self._wire:
            faults.once(
                "a loop never settles: %s on %s did nothing. Put the loop's body into "
                "`with hopspan.process(message, via=..., policy=...)`",
                self.policy,
                self.delivery.endpoint.destination,
            )
        self._end(self._operation.elapsed(), [])

    @property
    def is_over(self) -> bool:
        """Whether somebody has finished it."""
        return self._once.locked()

    def left_by(self, error: BaseException | None) -> bool:
        """Whether a handler that returned or raised has left the rest to a deferred operation."""
        return self._deferred is not None and (error is None or self._taken)

    def take(self) -> None:
        """A deferred operation was entered: from now on it alone finishes."""
        self._taken = True

    def abandon(self) -> None:
        """A deferred operation was dropped without having been entered."""
        if self._taken or not self._once.acquire(blocking=False):
            return
        faults.logger.warning(
            "a deferred operation of %s was dropped; its message is left unsettled. Keep what defer() returns, "
            "and use it in a `with` block",
            self.delivery.endpoint.destination,
        )
        self.outcome = Outcome(cancelled=True)
        self._end(self._operation.elapsed(), [])

    def swallows(self, error: BaseException) -> bool:
        """Whether a decorated handler's failure ends here, because its policy has dealt with it."""
        if self.outcome is None or self.outcome.error is not error:
            return False
        dealt_with = self.outcome.failed and self.policy.settles and self.settled
        if dealt_with and not self.reraise:
            faults.logger.error("handler failed; its message was settled by %s", self.policy, exc_info=error)
            return True
        return False

    def is_for(self, adapter: Adapter, natives: Sequence[Any]) -> bool:
        """Whether this is the handling, still going on, of these very deliveries."""
        return (
            adapter is self._adapter
            and not self.is_over
            and len(natives) == len(self._natives)
            and all(map(adapter.same, natives, self._natives))
        )

    def adopt(self, settings: dict[str, Any], instrumenter: Instrumenter) -> None:
        """Let an inner face's explicit settings take precedence.

        Raises:
            PolicyError: its policy cannot work here.
        """
        if "policy" in settings:
            refuse(instrumenter.config.policy, self._adapter, self.deliveries)
            self.policy = instrumenter.config.policy
        if "reraise" in settings:
            self.reraise = instrumenter.config.reraise

    def settle_and_end(self, seconds: float, plan: list[tuple[int, Settlement]]) -> None:
        """The last step of `finish`, on the client's thread."""
        self._end(seconds, [each for each in plan if self._settle(*each)])

    # -- inside ----------------------------------------------------------------------------------

    def _concluded(self, error: BaseException | None) -> list[tuple[int, Settlement]]:
        try:
            return self._conclude(error)
        except Exception:  # noqa: BLE001 - nothing is sent, so nothing is lost
            faults.report("concluding how the handling went")
            return []

    def _conclude(self, error: BaseException | None) -> list[tuple[int, Settlement]]:
        """Fix the outcome; return what is to be sent for which delivery."""
        outcome = self.outcome = self._outcome(error)
        decisions = ((index, self._decide(outcome, index)) for index in range(len(self._natives)))
        return [(index, decision) for index, decision in decisions if decision is not None]

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return self._failure if self._failure.failed else self._operation.failed_status()
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return Outcome(error=error, interrupted=True)
        if not isinstance(error, Exception):  # CancelledError, GeneratorExit, GreenletExit
            return Outcome(error=error, cancelled=True)
        if isinstance(error, self._adapter.CONTROL_FLOW):
            return Outcome(error=error)
        return failure(self._adapter, error)

    def _decide(self, outcome: Outcome, index: int) -> Settlement | None:
        """What to send for one delivery; None where there is nothing for us to send."""
        delivery = self.deliveries[index]
        if not self.policy.settles or not delivery.settles or self._wire[index] is not None:
            return None
        if outcome.interrupted:
            return None
        try:
            if outcome.cancelled:
                return _REQUEUED_ON_CANCEL if self._adapter.is_open(self._natives[index]) else None
            settlement = self.policy.decide(outcome, delivery)
        except Exception:
            faults.logger.exception("%r could not decide; the message is left unsettled", self.policy)
            return None
        return None if settlement.verdict is Verdict.LEAVE else settlement

    def _hop(self) -> Callable[[Callable[[], None]], None] | None:
        """How to get to the client's own thread, where we are on another."""
        try:
            return self._adapter.hop(self._natives[0])
        except Exception:  # noqa: BLE001
            faults.report("looking for the client's thread")
            return None

    def _settle(self, index: int, settlement: Settlement) -> bool:
        if self._wire[index] is not None:  # the user did, while we were on the way
            return False
        began, clock = time_ns(), perf_counter()
        self.is_settling = True
        try:
            self._adapter.settle(self._natives[index], settlement)
        except Exception as error:  # noqa: BLE001 - the broker will hand the message out again
            self.settlement_failed(index, settlement, error, (began, perf_counter() - clock))
            return False
        finally:
            self.is_settling = False
        self._settled(index, settlement, (began, perf_counter() - clock))
        return True

    async def _settle_async(self, index: int, settlement: Settlement) -> bool:
        began, clock = time_ns(), perf_counter()
        self.is_settling = True
        try:
            waiting = self._adapter.settle(self._natives[index], settlement)
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001
            self.settlement_failed(index, settlement, error, (began, perf_counter() - clock))
            return False
        finally:
            self.is_settling = False
        self._settled(index, settlement, (began, perf_counter() - clock))
        return True

    def _settled(
        self, index: int, settlement: Settlement, timing: tuple[int, float], outcome: Outcome = SUCCESS
    ) -> None:
        try:
            name = self._adapter.SETTLE_NAMES[settlement.verdict]
            self.instrumenter.record_settle(
                name, settlement, [self.deliveries[index]], outcome, timing, inside=self.context
            )
        except Exception:  # noqa: BLE001
            faults.report("recording a settlement")

    def settlement_failed(
        self, index: int, settlement: Settlement, error: Exception, timing: tuple[int, float]
    ) -> None:
        """Say that a verdict did not reach the broker, or that nobody knows whether it did."""
        self._wire[index] = None
        self._settled(index, settlement, timing, failure(self._adapter, error))
        faults.logger.warning(
            "could not %s a message of %s; the broker will hand it out again",
            self._adapter.SETTLE_NAMES[settlement.verdict],
            self.deliveries[index].endpoint.destination,
            exc_info=error,
        )

    def _end(self, seconds: float, done: list[tuple[int, Settlement]]) -> None:
        performed = dict(done)
        known = [performed.get(i) or (verdict and Settlement(verdict)) for i, verdict in enumerate(self._wire)]
        self.settled = all(known)
        attributes: dict[str, Any] = {}
        outcome = self.outcome or SUCCESS
        if known and known[0] and len({each and each.verdict for each in known}) == 1:
            attributes.update(names.settlement_attributes(known[0]))
        if outcome.cancelled or outcome.interrupted:
            attributes[names.CANCELLED] = True
        uncounted = sum(not delivery.counted for delivery in self.deliveries)
        self._operation.end(outcome, attributes, seconds, uncounted)
        for native in self._natives:
            _guarded_close(self._adapter, native, self)


class Errand:
    """Settling and ending on the client's thread. Ends the span even when it is never run."""

    __slots__ = ("_plan", "_processing", "_seconds")

    def __init__(self, processing: Processing, seconds: float, plan: list[tuple[int, Settlement]]) -> None:
        self._processing: Processing | None = processing
        self._seconds = seconds
        self._plan = plan

    def __call__(self) -> None:
        processing, self._processing = self._processing, None
        if processing is not None:
            processing.settle_and_end(self._seconds, self._plan)

    def give_up(self, error: Exception) -> None:
        """The client's thread is not to be reached: say so, and end unsettled."""
        processing, self._processing = self._processing, None
        if processing is not None:
            for index, settlement in self._plan:
                processing.settlement_failed(index, settlement, error, (time_ns(), 0.0))
            processing.settle_and_end(self._seconds, [])

    def __del__(self) -> None:
        processing, self._processing = self._processing, None
        if processing is not None:  # the client dropped its queue of callbacks with the connection
            processing.settle_and_end(self._seconds, [])


class Deferred:
    """The right to finish a deferred operation: `with` or `async with`, once, in any thread or task."""

    __slots__ = ("__weakref__", "_attached", "processing")

    def __init__(self, processing: Processing) -> None:
        self.processing = processing
        self._attached: Attachment | None = None

    def __enter__(self) -> Processing:
        self.processing.take()
        self._attached = Attachment(self.processing.context)
        return self.processing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        try:
            self.processing.finish(error)
        finally:
            self._leave()

    async def __aenter__(self) -> Processing:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        try:
            await self.processing.finish_async(error)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._attached is not None:
            self._attached.detach()

    def __del__(self) -> None:
        self.processing.abandon()


def failure(adapter: Adapter, error: BaseException) -> Outcome:
    """The outcome of an exception: its `error.type` in the client's words, or its class name."""
    try:
        kind = adapter.error_type(error) or names.error_type(error)
        return Outcome(failed=True, error=error, error_type=kind, description=str(error))
    except Exception:  # noqa: BLE001 - a hostile __str__, say
        return Outcome(failed=True, error=error, error_type=names.error_type(error))


def _guarded_close(adapter: Adapter, native: Any, processing: Processing) -> None:
    try:
        adapter.closed(native, processing)
    except Exception:  # noqa: BLE001
        faults.report("closing a delivery")


def refuse(policy: Policy, adapter: Adapter, deliveries: Sequence[Delivery]) -> None:
    """Refuse a policy that cannot work, before the handler runs.

    Raises:
        PolicyError: it says what cannot work, why, and what to change.
    """
    if not policy.settles:
        return
    reason = adapter.refusal(policy)
    if reason is not None:
        raise PolicyError(f"policy {policy.name} cannot work with {adapter.NAME}: {reason}")
    for delivery in deliveries:
        if not delivery.settles:
            raise auto_acked(policy, f"the consumer of {delivery.endpoint.destination or 'this queue'}")


def auto_acked(policy: Policy, whom: str) -> PolicyError:
    """A settling policy where the broker has settled already."""
    return PolicyError(
        f"policy {policy.name} cannot settle for {whom}: it was given auto_ack=True, so the broker forgets a "
        "message when it hands it out. Consume with auto_ack=False, or use policy=hopspan.manual"
    )
