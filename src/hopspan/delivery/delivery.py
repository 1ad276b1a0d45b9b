"""A delivery: one message in hand, from hand-over to settled, as one object.

An adapter's subclass reads the client's own objects and performs one verdict (`Incoming`).
Everything else is here: the span (a delivery is an operation), the outcome, the settlement, and the
scopes in which it is current.

Rules: a delivery is concluded once, whoever comes first; the outcome is fixed before anything is
settled, and status, `error.type`, metrics and settlement all derive from it; what the user has
settled is never settled again; a settlement that fails never hides the handler's exception.

| state | scope left | left by an error | `defer()` | deferred entered | deferred left | revoked |
| --- | --- | --- | --- | --- | --- | --- |
| OPEN | OVER | OVER | DEFERRED | - | - | OVER |
| DEFERRED | stays | OVER | the same | TAKEN | - | OVER |
| TAKEN | stays | stays | new: DEFERRED | - | OVER | OVER |
| OVER | - | - | - | too late: warn | - | - |
"""

from __future__ import annotations

import weakref
from enum import Enum
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, StatusCode

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Action, Route, plan
from hopspan.delivery.client import failure
from hopspan.delivery.incoming import Incoming
from hopspan.delivery.outcomes import (
    PLAIN,
    REQUEUED_ON_CANCEL,
    auto_ack_error,
    failing_verdict,
    not_awaited,
    outcome_of,
    outcome_of_turn,
    refuse,
    require_async_with,
    warn_of_dropped,
    warn_of_late_settings,
    warn_of_late_work,
    warn_of_settled_already,
    warn_of_turn_left,
    warn_of_unsettled_turn,
)
from hopspan.model import (
    SUCCESS,
    Endpoint,
    MessageInfo,
    OperationType,
    Outcome,
    SettledMessage,
    Settlement,
    Verdict,
)
from hopspan.propagation.w3c import SPAN_KEY
from hopspan.settlement import as_policy, manual
from hopspan.telemetry import (
    EMPTY,
    OTHER_ERROR,
    UNSET,
    Attachment,
    attach,
    before,
    get_current,
    record_settle,
    restore,
    revert,
    whereabouts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from opentelemetry.trace import Span, SpanContext

    from hopspan.conventions import Plan
    from hopspan.delivery.subscription import Subscription
    from hopspan.settlement import Commits, Policy
    from hopspan.telemetry import Instrumenter, Overrides

CURRENT = otel.create_key("hopspan-delivery")
"""The key in a context under which the delivery is found. It holds a weak reference: a task that a
handler starts keeps the context, and must not keep the message."""

_ERROR = StatusCode.ERROR
_SETTLED = {verdict: names.settlement_attributes(PLAIN[verdict]) for verdict in Verdict}
_CONTINUE = Action("continue", OperationType.INTERNAL)
_HIGHEST = 9
_ref = weakref.ref


class State(Enum):
    """The states of a delivery; see the table at the head of this module."""

    OPEN = "open"
    DEFERRED = "deferred"
    TAKEN = "taken"
    OVER = "over"


CONCLUDES = {
    State.OPEN: (True, True),
    State.DEFERRED: (False, True),
    State.TAKEN: (False, False),
    State.OVER: (False, False),
}
"""Whether leaving the outermost scope concludes: when it returns, when it raises."""


class Rare:
    """The part of a delivery that hardly any message needs; made at the first use."""

    __slots__ = (
        "about", "commits", "deferred", "failure", "inner_error", "is_taken", "lost", "policy",
        "policy_rank", "reraise", "sent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.about: dict[str, Any] | None = None
        """Attributes that the client adds when the span ends."""
        self.commits: Commits | None = None
        self.deferred: weakref.ref[Deferred] | None = None
        self.failure: Outcome | None = None
        self.inner_error: Exception | None = None
        """The failure that left an inner scope."""
        self.is_taken: bool = False
        """Whether the deferred operation was entered."""
        self.lost: Exception | None = None
        """The client's error, where its channel went away while we settled."""
        self.policy: Policy | None = None
        """The policy of an inner scope, in place of the subscription's."""
        self.policy_rank: int = 0
        self.reraise: bool | None = None
        self.sent: Settlement | None = None
        """The settlement that hopspan sent, where more of it is asked for than the verdict."""


class Delivery(Incoming):
    """One message in hand. What a policy is asked about, and what `current()` returns.

    Safe to pass to another thread or task after `defer()`; otherwise used by the handler's own.
    """

    __slots__ = (
        "__weakref__", "_context", "_live", "_rare", "_token", "_unclaimed", "is_turn", "outcome",
        "settled_by_policy", "subscription", "verdict",
    )  # fmt: skip

    inner_scope: ClassVar[type[Inner]]
    """The class of further scopes around a delivery that goes on."""

    instrumenter: Instrumenter | None
    plan: Plan | None
    span: Span
    subscription: Subscription
    outcome: Outcome | None
    """How the handling went; None while it goes on."""
    verdict: Verdict | None
    """How the message was settled, whoever did; None while it is not."""
    _rare: Rare | None
    _context: Context
    settled_by_policy: bool
    """Whether hopspan settled the message, or a message of the batch."""
    is_turn: bool
    """Whether this is the turn of a loop that no scope inside has claimed."""
    # Deleted by whoever concludes: of two threads that do, one gets an AttributeError.
    _live: bool
    # The home of a loop whose turn this is; deleted by whoever is to conclude the turn.
    _unclaimed: tuple[int, object]
    _token: Any

    # -- for handlers, policies and hooks --------------------------------------------------------

    def __bool__(self) -> bool:
        """True; outside a delivery `current()` is a falsy one."""
        return True

    def __repr__(self) -> str:
        state = "over" if self.is_over else "open"
        return f"<hopspan delivery of {self._destination()}: {state}>"

    @property
    def delivery(self) -> Delivery:
        """The (first) delivery: this one."""
        return self

    @property
    def kind(self) -> type[Delivery]:
        """The class of the client's deliveries."""
        return type(self)

    @property
    def handling(self) -> Delivery:
        """The delivery or batch that is handled: this one."""
        return self

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The deliveries that are handled as one."""
        return (self,)

    @property
    def endpoint(self) -> Endpoint:
        """Where the message came from."""
        return self.read()[0].endpoint

    @property
    def message(self) -> MessageInfo:
        """The message's own facts, as a value."""
        attributes: dict[str, Any] = {}
        self.describe(attributes)
        return MessageInfo(
            attributes.get(names.MESSAGE_ID),
            attributes.get(names.CONVERSATION_ID),
            attributes,
            self.key,
        )

    @property
    def message_id(self) -> str | None:
        """`messaging.message.id`."""
        return self.message.id

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        rare = self._rare
        return self.subscription.policy if rare is None or rare.policy is None else rare.policy

    @property
    def commits(self) -> Commits:
        """When what is done is committed, on Kafka."""
        rare = self._rare
        return self.subscription.commits if rare is None or rare.commits is None else rare.commits

    @property
    def settled(self) -> bool:
        """Whether every delivery has been settled, by the policy or by the user."""
        return self.verdict is not None

    @property
    def context(self) -> Context:
        """The OpenTelemetry context in which this delivery and its span are current."""
        try:
            return self._context
        except AttributeError:
            return self._new_context()

    def _new_context(self) -> Context:
        carried = self._carried
        if not carried:
            return Context({SPAN_KEY: self.span, CURRENT: _ref(self)})
        return Context({**carried, SPAN_KEY: self.span, CURRENT: _ref(self)})

    def fail(self, reason: str, *, type: str | None = None) -> None:  # noqa: A002 - as error.type
        """Declare the handling failed without raising; the policy treats it like an exception.

        Args:
            reason: For people; becomes the span's status description.
            type: `error.type`, low-cardinality; `_OTHER` when not given.

        An exception that the handler raises afterwards takes precedence. Calling it after the
        handling is over changes nothing.
        """
        kind = OTHER_ERROR if type is None else str(type)
        self.rare().failure = Outcome(failed=True, error_type=kind, description=reason)

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
        rare = self.rare()
        newest = rare.deferred() if rare.deferred is not None else None
        if newest is None or rare.is_taken:
            newest = Deferred(self)
            rare.deferred, rare.is_taken = _ref(newest), False
        return newest

    # -- as a member of a batch ------------------------------------------------------------------

    def join_batch(self, batch: Delivery) -> None:
        """Become a member of a batch, which is what is handled."""
        self.subscription, self.span, self.plan = batch.subscription, batch.span, batch.plan
        self._carried, self._context = batch._carried, batch.context
        self._rare = self.verdict = self.outcome = self.instrumenter = None
        self.is_turn = self.settled_by_policy = False
        self._native = _ref(batch)

    @property
    def batch(self) -> Delivery | None:
        """The batch that this is handled in, if it is."""
        kept = self._native
        return kept() if isinstance(kept, weakref.ref) else None

    @property
    def sent(self) -> Settlement | None:
        """The settlement that hopspan sent, where more of it is known than the verdict."""
        return None if self._rare is None else self._rare.sent

    # -- state -----------------------------------------------------------------------------------

    def rare(self) -> Rare:
        """The rare part, made when it is first asked for."""
        if self._rare is None:
            self._rare = Rare()
        return self._rare

    @property
    def is_over(self) -> bool:
        """Whether somebody has concluded it, or it was never begun."""
        return not hasattr(self, "_live")

    @property
    def state(self) -> State:
        """Where in its life the delivery is."""
        rare = self._rare
        if self.is_over:
            return State.OVER
        if rare is None or rare.deferred is None:
            return State.OPEN
        return State.TAKEN if rare.is_taken else State.DEFERRED

    def _conclude_once(self) -> bool:
        """Whether whoever asks is to conclude: the first does."""
        try:
            del self._live
        except AttributeError:
            return False
        return True

    def claim(self) -> tuple[int, object] | None:
        """Take the turn of a loop over, to conclude it; its home, or None where it is no turn."""
        try:
            home = self._unclaimed
            del self._unclaimed
        except AttributeError:
            return None
        return home

    # -- scopes ----------------------------------------------------------------------------------

    def enter(self, subscription: Subscription, block: str = "") -> Scope:
        """Begin to handle this delivery, or join whoever handles it; make it current.

        Args:
            subscription: The settings that hold.
            block: How the user's plain `with` block reads, where it cannot await a settlement.

        Raises:
            PolicyError: the policy in force cannot work here; nothing has been started.
        """
        ongoing: Delivery | None = self.ongoing()
        if ongoing is not None and ongoing is not self and not ongoing.is_over:
            return ongoing.join(subscription, block)
        ambient = get_current()
        self.begin(subscription, ambient, EMPTY if subscription.is_pushed else ambient, block)
        if self._carried:
            context = self._new_context()
        else:
            context = Context({SPAN_KEY: self.span, CURRENT: _ref(self)})
        self._context = context
        self._token = attach(context)
        return self

    def begin(
        self, subscription: Subscription, ambient: Context, base: Context, block: str = ""
    ) -> None:
        """Begin to handle this delivery, without making it current.

        Args:
            subscription: The settings that hold.
            ambient: The current context.
            base: The context that the processing starts from.
            block: As for `enter`.

        Raises:
            PolicyError: the policy in force cannot work here; nothing has been started.
        """
        if subscription.checks:
            self._check(subscription.policy, block)
        self.subscription = subscription
        self._rare = self.verdict = self.outcome = None
        self.is_turn = self.settled_by_policy = False
        instrumenter = subscription.instrumenter
        try:
            route, headers = self.read()
        except Exception:  # noqa: BLE001 - it can be handled and settled without being understood
            faults.report("reading a delivery")
            route = Route(plan(names.PROCESS, Endpoint(self.client.system)))
            headers = None
        if (ambient and subscription.is_silenced(ambient)) or (
            instrumenter.is_ignored is not None and self.is_ignored(instrumenter, route)
        ):
            self.start_unrecorded(ambient)
        else:
            try:
                turn = None if subscription.is_pushed else self.finished_turn()
                if turn is None:
                    self.start_process(instrumenter, route, self.client.codec, headers, base)
                else:
                    self._continue(instrumenter, route, turn)
            except Exception:  # noqa: BLE001 - the handler runs, its message is settled
                faults.report("starting a process span")
                self.start_unrecorded(base)
        self._live = True
        try:
            self.verdict = self.opened()
        except Exception:  # noqa: BLE001
            faults.report("opening a delivery")
        if self.verdict is not None and subscription.settles:
            warn_of_settled_already(subscription.policy, self._destination())
        if instrumenter.is_watched:
            self.announce()

    def is_ignored(self, instrumenter: Instrumenter, route: Route) -> bool:
        """Whether the settings leave this destination untraced."""
        ignores = instrumenter.is_ignored
        return ignores is not None and ignores(route.endpoint)

    def announce(self) -> None:
        """Call the `on_start` hook with the native delivery."""
        self.call_on_start(self.native)

    def _check(self, policy: Policy, block: str) -> None:
        """Refuse a settling policy that cannot work here, before the handler runs.

        Raises:
            PolicyError: it says what cannot work, why, and what to change.
        """
        refuse(policy, self.client, self.unfit(policy))
        if not self.settles:
            whom = f"the consumer of {self.endpoint.destination or 'this queue'}"
            raise auto_ack_error(policy, self.client, whom)
        if block:
            require_async_with(block, policy, self.client)

    def _continue(self, instrumenter: Instrumenter, route: Route, turn: SpanContext) -> None:
        """Start as a part of a loop's turn that is over: counted no more, in its trace."""
        warn_of_turn_left(route.endpoint.destination)
        parent = Context({SPAN_KEY: NonRecordingSpan(turn)})
        continued = plan(_CONTINUE, route.endpoint)
        attributes = continued.attributes.copy()
        self.describe(attributes)
        self.start(instrumenter, continued, (parent, EMPTY, ()), attributes)

    def join(self, subscription: Subscription, block: str = "") -> Scope:
        """Enter one more scope around this delivery, which goes on.

        Raises:
            PolicyError: the inner scope's policy cannot work here.
        """
        self._adopt(subscription.overrides, block)
        home = self.claim()
        self.is_turn = False
        if home is not None:
            if home != whereabouts():
                warn_of_turn_left(self._destination())
        elif "policy" in subscription.overrides.settings and self._is_taken_elsewhere():
            # Or the return of the handler would settle with the policy of work that goes on.
            return self.inner_scope(self, concludes=True, deferred=self._take_over())
        return self.inner_scope(self, concludes=home is not None)

    def _is_taken_elsewhere(self) -> bool:
        """Whether this is another thread or task than the handler's, whose return concludes.

        To put back what the handler's scope made current succeeds only where that was done.
        """
        if not self.policy.settles or self.state is not State.OPEN:
            return False
        now = get_current()
        try:
            restore(self._token)
        except AttributeError:  # a loop's
            return False
        except (ValueError, RuntimeError):
            return True
        self._token = attach(self._context)
        attach(now)
        return False

    def _take_over(self) -> Deferred:
        """Defer to a block of another thread or task, which concludes when it is left."""
        deferred = self.defer()
        self.rare().is_taken = True
        return deferred

    def _adopt(self, overrides: Overrides, block: str) -> None:
        """Take over the settings of an inner scope.

        A policy counts where it has the same or a higher rank: a block goes before a handler.
        """
        settings = overrides.settings
        if "policy" in settings:
            rank = self.subscription.policy_rank if self._rare is None else self._rare.policy_rank
            if overrides.rank >= rank:
                policy = as_policy(settings["policy"])
                if policy.settles:
                    refuse(policy, self.client, self.refusal(policy))
                    self._check(policy, block)
                rare = self.rare()
                rare.policy, rare.policy_rank = policy, overrides.rank
        elif block and self.policy.settles:
            require_async_with(block, self.policy, self.client)
        if settings:
            if "commits" in settings:
                self.rare().commits = settings["commits"]
            if "reraise" in settings:
                self.rare().reraise = settings["reraise"]
            warn_of_late_settings(settings, self.subscription.instrumenter.config)

    def leave(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        """Leave the outermost scope: conclude, settle, end, and undo what was made current.

        Returns whether a handler's wrapper has to act: without an error, raise `channel_error`;
        with one, suppress it, because its message is dealt with. A block never does either.
        """
        rare = self._rare
        try:
            if rare is None or CONCLUDES[self.state][error is not None]:
                self.conclude(error)
            if is_block:
                return False
            if error is not None:
                return self.suppresses(error)
            rare = self._rare
            return rare is not None and rare.lost is not None
        finally:
            try:
                restore(self._token)
            except (ValueError, RuntimeError):
                self._revert()

    async def leave_async(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        """`leave` for clients whose settlement is awaited."""
        rare = self._rare
        try:
            if rare is None or CONCLUDES[self.state][error is not None]:
                await self.conclude_async(error)
            return error is not None and not is_block and self.suppresses(error)
        finally:
            try:
                restore(self._token)
            except (ValueError, RuntimeError):
                self._revert()

    def _revert(self) -> None:
        """Undo a scope entered elsewhere: a block in a generator that another task closes."""
        revert(self.replace_context(), before(self._token))

    def replace_context(self) -> Context:
        """Make another context, for deferred work; return the one that was, to be undone."""
        undone, self._context = self._context, self._new_context()
        return undone

    def begin_turn(
        self, subscription: Subscription, base: Context, home: tuple[int, object]
    ) -> Delivery:
        """Begin to handle this delivery as the turn of a loop, or find who handles it already.

        Args:
            subscription: The settings that hold.
            base: The context that was current when the loop began.
            home: The thread and task of the loop.
        """
        ongoing: Delivery | None = self.ongoing()
        if ongoing is not None and not ongoing.is_over:
            return ongoing
        self.begin(subscription, base, base)
        if self._carried:
            self._context = self._new_context()
        else:
            self._context = Context({SPAN_KEY: self.span, CURRENT: _ref(self)})
        self.is_turn, self._unclaimed = True, home
        return self

    def leave_unsettled(self) -> None:
        """Have nothing settled by the policy: nobody has handled the message."""
        rare = self.rare()
        rare.policy, rare.policy_rank = manual, _HIGHEST

    @property
    def channel_error(self) -> Exception | None:
        """The client's error, where its channel went away while we settled."""
        return None if self._rare is None else self._rare.lost

    def note_inner_failure(self, error: BaseException | None) -> None:
        """Note that an inner scope failed: it counts, also where the handler goes on after it."""
        if isinstance(error, Exception):
            self.rare().inner_error = error

    def revoke(self, reason: str) -> None:
        """End, and settle nothing ever after: the broker has given the delivery to somebody else.

        Safe from any thread, also while the handler goes on.
        """
        if self._conclude_once():
            self.rare().about = names.settlement_attributes(Settlement(Verdict.LEAVE, reason))
            self.outcome = Outcome(cancelled=True)
            self._end(self.elapsed())

    def drop(self, deferred: Deferred) -> None:
        """Note that a deferred operation goes; perhaps nobody has entered it."""
        rare = self._rare
        if rare is None or rare.is_taken or rare.deferred is None:
            return
        # While it is finalised, a weak reference still finds the deferred operation.
        if rare.deferred() in {None, deferred} and self._conclude_once():
            warn_of_dropped(self._destination())
            self.outcome = Outcome(cancelled=True)
            self._end(self.elapsed())

    # -- concluding ------------------------------------------------------------------------------

    def conclude(self, error: BaseException | None = None) -> None:
        """Fix the outcome, settle, end. Takes effect once.

        Raises no `Exception`, at most a `KeyboardInterrupt` or its like.
        """
        try:
            del self._live
        except AttributeError:
            return
        seconds = perf_counter() - self._began
        if error is None and self._rare is None:
            # Nearly always: the handler has returned, and it or the policy acks.
            status = getattr(self.span, "status", None)
            if status is UNSET or status is None or status.status_code is not _ERROR:
                subscription = self.subscription
                self.outcome = SUCCESS
                success = subscription.success
                if (
                    not subscription.settles
                    or (self.verdict is not None and not self.is_batch)
                    or (success is not None and self._settles_at_once(success, seconds))
                ):
                    self._end(seconds)
                    return
        planned = self._planned(error, seconds)
        if planned is None:
            self._end(seconds)
        elif self._is_here():
            self.perform(seconds, planned)
        else:
            errand = PendingSettlement(self, seconds, planned)
            try:
                self.post(errand)
            except Exception as unreachable:  # noqa: BLE001 - the connection is gone
                errand.give_up(unreachable)

    def _settles_at_once(self, settlement: Settlement, seconds: float) -> bool:
        """Settle a success here and now, without a span; False where that takes the general way."""
        if not self.settles or not self._is_here():
            return False
        was_open = self.tells_loss or self._can_settle()
        self.verdict = settlement.verdict
        clock = perf_counter()
        try:
            self.settle(settlement)
        except Exception as error:  # noqa: BLE001
            self._not_settled(settlement, error, clock, self, was_open=was_open)
        except BaseException:
            self.verdict = None
            self._end(seconds)
            raise
        else:
            self.settled_by_policy = True
        return True

    async def conclude_async(self, error: BaseException | None = None) -> None:
        """`conclude` for clients whose settlement is awaited."""
        if not self.client.is_awaited:
            self.conclude(error)
            return
        try:
            del self._live
        except AttributeError:
            return
        seconds = perf_counter() - self._began
        if error is None and self._rare is None:
            # As in `conclude`.
            status = getattr(self.span, "status", None)
            if status is UNSET or status is None or status.status_code is not _ERROR:
                subscription = self.subscription
                self.outcome = SUCCESS
                success = subscription.success
                if not subscription.settles:
                    self._end(seconds)
                    return
                if success is not None and not self.is_batch:
                    await self._succeed_async(success, seconds)
                    return
        planned = self._planned(error, seconds)
        try:
            for delivery, settlement in planned or ():
                await delivery.send_async(settlement, self)
        finally:
            self._end(seconds)

    async def _succeed_async(self, settlement: Settlement, seconds: float) -> None:
        """Settle a success whose settlement gets no span, and end. Cancelled, it counts as sent."""
        try:
            if self.verdict is not None or not self.settles:
                return
            self.verdict = settlement.verdict
            clock = perf_counter()
            try:
                waiting = self.settle(settlement)
                if waiting is not None:
                    await waiting
            except Exception as error:  # noqa: BLE001
                self.failed_to_settle(settlement, error, clock, self)
        finally:
            self._end(seconds)

    def conclude_turn(self) -> None:
        """End the turn of a loop: its body's exception is not seen, and nothing is settled.

        Nothing happens where a scope inside has claimed it, or it was deferred.
        """
        try:
            del self._unclaimed
            if self._rare is not None and not CONCLUDES[self.state][0]:
                return
            del self._live
        except AttributeError:
            return
        seconds = perf_counter() - self._began
        is_unsettled = self.verdict is None
        status = getattr(self.span, "status", None)
        if self._rare is None and (
            status is UNSET or status is None or status.status_code is not _ERROR
        ):
            outcome = SUCCESS  # nearly always
        else:
            outcome = self._outcome(None)
        if self.is_batch or not is_unsettled:
            verdicts = self.verdicts()
            outcome = outcome_of_turn(outcome, failing_verdict(verdicts))
            is_unsettled = None in verdicts
        self.outcome = outcome
        if is_unsettled:
            try:
                is_open = self.is_open()
            except Exception:  # noqa: BLE001
                faults.report("looking whether a channel is open")
                is_open = False
            if not is_open:
                if self.settles:
                    left = Settlement(Verdict.LEAVE, "channel closed")
                    self.rare().about = names.settlement_attributes(left)
                    self.outcome = outcome._replace(cancelled=not outcome.failed)
            elif self.subscription.settles and self.settles:
                warn_of_unsettled_turn(self.policy, self._destination())
        self._end(seconds)

    def verdicts(self) -> Sequence[Verdict | None]:
        """How each of the deliveries that are handled as one was settled."""
        return (self.verdict,)

    def _planned(
        self, error: BaseException | None, seconds: float
    ) -> list[tuple[Delivery, Settlement]] | None:
        """Fix the outcome; return what is to be sent for which delivery, None for nothing."""
        rare = self._rare
        try:
            if error is None and rare is None:
                status = getattr(self.span, "status", None)
                is_error = (
                    status is not UNSET and status is not None and status.status_code is _ERROR
                )
                outcome = self.failed_status() if is_error else SUCCESS
            else:
                outcome = self._outcome(error)
            self.outcome = outcome
            if self.subscription.settles if rare is None else self.policy.settles:
                return self.plan_settlement(outcome)
        except Exception:  # noqa: BLE001 - nothing is sent, so nothing is lost
            faults.report("concluding how the handling went")
        except BaseException:  # out of the user's policy: KeyboardInterrupt, say
            self._end(seconds)
            raise
        return None

    def _outcome(self, error: BaseException | None) -> Outcome:
        rare = self._rare
        if error is None and rare is not None:
            error = rare.inner_error
        if error is not None:
            return self.outcome_of(error)
        if rare is not None and rare.failure is not None:
            return rare.failure
        return self.failed_status()

    def outcome_of(self, error: BaseException) -> Outcome:
        """The outcome of an exception that left the handler."""
        return outcome_of(error, self.client)

    def plan_settlement(self, outcome: Outcome) -> list[tuple[Delivery, Settlement]] | None:
        """Decide what is to be sent for which delivery; for those that nobody has settled yet."""
        if self.verdict is not None or not self.settles:
            return None
        settlement = self.decide(outcome, self.policy)
        return None if settlement.verdict is Verdict.LEAVE else [(self, settlement)]

    def decide(self, outcome: Outcome, policy: Policy) -> Settlement:
        """Decide what becomes of this one message, which is not settled yet.

        A cancelled handler's message is given back at once, or it would block the prefetch window;
        an interpreter that is shutting down sends nothing, and neither does a policy that raises.
        After an exception of the client's own control flow, the client settles by itself.
        """
        if outcome.cancelled:
            return REQUEUED_ON_CANCEL if self._can_settle() else PLAIN[Verdict.LEAVE]
        if outcome.error is not None and not outcome.failed:
            return PLAIN[Verdict.LEAVE]
        try:
            settlement = policy.decide(outcome, self)
        except Exception:  # noqa: BLE001 - the user's own policy
            faults.logger.exception("%r could not decide; the message is left unsettled", policy)
            return PLAIN[Verdict.LEAVE]
        if settlement.verdict is Verdict.REJECT and settlement.target is None:
            return settlement._replace(target=policy.target)
        return settlement

    # -- sending settlements ---------------------------------------------------------------------

    def perform(self, seconds: float, planned: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle and end, on the client's thread."""
        try:
            for delivery, settlement in planned:
                delivery.send(settlement, self)
        finally:
            self._end(seconds)

    def send(self, settlement: Settlement, handling: Delivery) -> None:
        """Perform a verdict of hopspan's own, as a part of a handling."""
        if self.verdict is not None:  # the user did, while we were on the way
            return
        clock = perf_counter()
        if self.client.is_awaited:  # a scope further in has brought the policy
            self.failed_to_settle(settlement, not_awaited(self.client), clock, handling)
            return
        was_open = self.tells_loss or self._can_settle()
        # Before it goes out: whoever sees it on its way knows that it is ours.
        self.verdict = settlement.verdict
        try:
            self.settle(settlement)
        except Exception as error:  # noqa: BLE001
            self._not_settled(settlement, error, clock, handling, was_open=was_open)
            return
        except BaseException:
            self.verdict = None
            raise
        self._sent(settlement, clock, handling)

    def _not_settled(
        self,
        settlement: Settlement,
        error: Exception,
        clock: float,
        handling: Delivery,
        *,
        was_open: bool,
    ) -> None:
        self.failed_to_settle(settlement, error, clock, handling)
        if was_open and self.was_open(error) and not self._can_settle():
            handling.rare().lost = error

    async def send_async(self, settlement: Settlement, handling: Delivery) -> None:
        """`send` for clients whose settlement is awaited."""
        if self.verdict is not None:
            return
        clock = perf_counter()
        self.verdict = settlement.verdict
        try:
            waiting = self.settle(settlement)
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001
            self.failed_to_settle(settlement, error, clock, handling)
            return
        self._sent(settlement, clock, handling)

    def _sent(self, settlement: Settlement, clock: float, handling: Delivery) -> None:
        self.settled_by_policy = handling.settled_by_policy = True
        outcome = handling.outcome
        if settlement.reason is not None or outcome is None or outcome.failed:
            self.rare().sent = handling.rare().sent = settlement
        verdict = settlement.verdict
        is_recorded = verdict in handling.subscription.instrumenter.recorded
        if is_recorded and verdict in self.client.settle_names:
            self.record_settlement(settlement, SUCCESS, clock, handling)

    def failed_to_settle(
        self, settlement: Settlement, error: Exception, clock: float, handling: Delivery
    ) -> None:
        """Say that a verdict did not reach the broker, or that nobody knows whether it did."""
        self.verdict = None
        self.record_settlement(settlement, failure(self.client, error), clock, handling)
        verdict = settlement.verdict
        faults.logger.warning(
            "could not %s a message of %s; the broker will hand it out again",
            self.client.settle_names.get(verdict, verdict.value),
            self._destination(),
            exc_info=error,
        )

    def record_settlement(
        self, settlement: Settlement, outcome: Outcome, clock: float, handling: Delivery
    ) -> None:
        """Record the settle span of one verdict, as a part of a handling. Never raises.

        Args:
            settlement: What was sent.
            outcome: Whether it could be.
            clock: `perf_counter()` when it began.
            handling: The delivery or batch whose span it belongs to.
        """
        seconds = perf_counter() - clock
        verdict = settlement.verdict
        try:
            record_settle(
                handling.subscription.instrumenter,
                self.client.settle_names.get(verdict, verdict.value),
                settlement,
                [self.described()],
                outcome,
                (time_ns() - int(seconds * 1e9), seconds),
                inside=handling.context,
            )
        except Exception:  # noqa: BLE001
            faults.report("recording a settlement")

    def described(self) -> SettledMessage:
        """The message as the span of its settlement describes it, without body and headers."""
        attributes: dict[str, Any] = {}
        try:
            self.describe_message(attributes)
            return SettledMessage(self.endpoint, attributes)
        except Exception:  # noqa: BLE001 - its settlement can be told without it
            faults.report("reading a delivery")
            return SettledMessage(Endpoint(self.client.system), {})

    def describe_message(self, attributes: dict[str, Any]) -> None:
        """Add what is special to this message to a span that is not its process span."""
        self.describe(attributes)
        attributes.pop(names.ATTEMPT, None)
        attributes.pop(names.REDELIVERED, None)

    # -- ending ----------------------------------------------------------------------------------

    def _end(self, seconds: float) -> None:
        try:
            if self.plan is not None:
                outcome, verdict = self.outcome, self.verdict
                measures = self.subscription.instrumenter.measures
                count = self.messages_to_count() if measures else 0
                attributes: Mapping[str, Any] | None
                if outcome is SUCCESS and self._rare is None and not self.is_batch:
                    attributes = None
                    if verdict is not None and verdict is not self.said_at_start:
                        attributes = _SETTLED[verdict]
                else:
                    attributes = self.end_attributes()
                self.end(outcome or SUCCESS, attributes, seconds, count)
        except Exception:  # noqa: BLE001 - the message is settled, as far as it is to be
            faults.report("ending the handling of a delivery")
        try:
            self.closed()
        except Exception:  # noqa: BLE001
            faults.report("closing a delivery")

    def messages_to_count(self) -> int:
        """How many messages the metrics count for this handling."""
        return 0 if self.counted else 1

    def end_attributes(self) -> Mapping[str, Any] | None:
        """The attributes that are known only at the end."""
        rare, outcome, verdict = self._rare, self.outcome, self.verdict
        attributes: dict[str, Any] = {} if verdict is None else dict(_SETTLED[verdict])
        if rare is not None:
            attributes = {**(rare.about or {}), **attributes}
            if rare.sent is not None and rare.sent.verdict is verdict:
                attributes.update(names.settlement_attributes(rare.sent))
        if outcome is not None and (outcome.cancelled or outcome.interrupted):
            attributes[names.CANCELLED] = True
        return attributes

    def suppresses(self, error: BaseException) -> bool:
        """Whether a handler's failure ends here, because its message is dealt with; log it then."""
        outcome, policy, rare = self.outcome, self.policy, self._rare
        if outcome is None or outcome.error is not error or not outcome.failed:
            return False
        reraise = rare.reraise if rare is not None else None
        if self.subscription.reraise if reraise is None else reraise:
            return False
        if not (isinstance(error, Exception) and policy.settles and self.settled):
            return False
        faults.logger.error(
            "handler failed; its message of %s was settled by %s: %s",
            self._destination(),
            policy if self.settled_by_policy else "the handler itself",
            ", ".join(sorted({each.value for each in self.verdicts() if each})),
            exc_info=error,
        )
        return True

    # -- asking the adapter without being harmed by it -------------------------------------------

    def _can_settle(self) -> bool:
        try:
            return self.is_open()
        except Exception:  # noqa: BLE001
            faults.report("looking whether a channel is open")
            return False

    def _is_here(self) -> bool:
        try:
            return self.is_here()
        except Exception:  # noqa: BLE001
            faults.report("looking for the client's thread")
            return True

    def _destination(self) -> str:
        try:
            return self.endpoint.destination
        except Exception:  # noqa: BLE001
            return ""


class Inner:
    """A further scope around a delivery that goes on.

    It does not conclude, for what comes after it belongs to the handling as well; but in the turn
    of a loop, which does not see how its body ends, it does.
    """

    __slots__ = ("_attachment", "_concludes", "_deferred", "delivery")

    def __init__(
        self, delivery: Delivery, *, concludes: bool, deferred: Deferred | None = None
    ) -> None:
        self.delivery: Delivery = delivery
        self._concludes = concludes
        self._deferred = deferred
        self._attachment = Attachment(Context(delivery.context))

    @property
    def handling(self) -> Delivery:
        """The delivery that goes on."""
        return self.delivery

    @property
    def channel_error(self) -> Exception | None:
        """As of the delivery."""
        return self.delivery.channel_error

    def leave(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        """Leave the scope; returns as `Delivery.leave` does."""
        delivery = self.delivery
        try:
            if not self._concludes:
                delivery.note_inner_failure(error)
                return False
            if self._deferred is not None or CONCLUDES[delivery.state][error is not None]:
                delivery.conclude(error)
            if is_block:
                return False
            return (
                delivery.channel_error is not None if error is None else delivery.suppresses(error)
            )
        finally:
            self._attachment.leave()

    async def leave_async(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        """`leave` for clients whose settlement is awaited."""
        delivery = self.delivery
        try:
            if not self._concludes:
                delivery.note_inner_failure(error)
                return False
            if self._deferred is not None or CONCLUDES[delivery.state][error is not None]:
                await delivery.conclude_async(error)
            return error is not None and not is_block and delivery.suppresses(error)
        finally:
            self._attachment.leave()


Scope = Delivery | Inner
Delivery.inner_scope = Inner


class PendingSettlement:
    """Settling and ending on the client's thread. Ends the span even when it is never run."""

    __slots__ = ("_delivery", "_planned", "_seconds")

    def __init__(
        self, delivery: Delivery, seconds: float, planned: list[tuple[Delivery, Settlement]]
    ) -> None:
        self._delivery: Delivery | None = delivery
        self._seconds = seconds
        self._planned = planned

    def __call__(self) -> None:
        """Settle and end, the first time."""
        for delivery in self._taken():
            delivery.perform(self._seconds, self._planned)

    def give_up(self, error: Exception) -> None:
        """Say that the client's thread cannot be reached, and end unsettled."""
        for delivery in self._taken():
            unsettled = [each for each in self._planned if each[0].verdict is None]
            for each, settlement in unsettled:
                each.failed_to_settle(settlement, error, perf_counter(), delivery)
            delivery.perform(self._seconds, ())

    def _taken(self) -> Iterator[Delivery]:
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            yield delivery

    def __del__(self) -> None:
        for delivery in self._taken():  # the client dropped its callbacks with the connection
            delivery.perform(self._seconds, ())


class Deferred:
    """The right to finish a deferred operation: `with` or `async with`, once, anywhere."""

    __slots__ = ("__weakref__", "_attachment", "delivery")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery: Delivery = delivery
        self._attachment: Attachment | None = None

    @property
    def processing(self) -> Delivery:
        """The delivery. The name of version 0.1."""
        return self.delivery

    def __enter__(self) -> Delivery:
        require_async_with("operation", self.delivery.policy, self.delivery.client)
        return self._enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if not self._is_passed_on(error):
                self.delivery.conclude(error)
        finally:
            self._leave()

    async def __aenter__(self) -> Delivery:
        return self._enter()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if not self._is_passed_on(error):
                await self.delivery.conclude_async(error)
        finally:
            self._leave()

    def _enter(self) -> Delivery:
        delivery = self.delivery
        if delivery.is_over:
            warn_of_late_work(delivery._destination())  # noqa: SLF001 - the same idea
        delivery.rare().is_taken = True
        self._attachment = Attachment(Context(delivery.context))
        return delivery

    def _is_passed_on(self, error: BaseException | None) -> bool:
        """Whether the work was deferred once more."""
        rare = self.delivery.rare()
        newest = rare.deferred() if rare.deferred is not None else None
        return newest not in {None, self} and not CONCLUDES[self.delivery.state][error is not None]

    def _leave(self) -> None:
        if self._attachment is not None:
            self._attachment.leave()

    def __del__(self) -> None:
        self.delivery.drop(self)


__all__ = [
    "CONCLUDES", "CURRENT", "Deferred", "Delivery", "Inner", "PendingSettlement",
    "Rare", "Scope", "State",
]  # fmt: skip
