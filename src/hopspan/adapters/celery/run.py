"""A run of a task as a delivery, from Celery's `task_prerun` to its `task_postrun`.

Celery settles its messages itself, and an exception is how a body tells it what to do. It acks
*early*, when a pool process accepts a task, unless the task says `acks_late`; then it acks when the
body has returned, and rejects when the body raises `Reject` (Celery's *Tasks: acks_late*, *Reject*).
So settling a run means to keep the verdict, and leaving the task's body means to raise it.

An open run is found by Celery's request, which is of this run alone: a task's id is that of all its
retries, which may begin before the run before them has ended, in another thread or inside of it.
Nothing is kept on the request itself, which may be pickled.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import celery
from celery import states
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject, Retry
from celery.local import Proxy, maybe_evaluate
from celery.utils.serialization import get_pickleable_exception
from celery.utils.threads import get_ident

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import amqp
from hopspan.adapters.celery import brokers, chords
from hopspan.adapters.celery.bindings import binding_for
from hopspan.adapters.celery.messages import (
    CORRELATION_HEADER,
    STATE,
    TASK,
    describe_message,
    describe_task,
    headers_of,
    requested_correlation,
)
from hopspan.delivery import Client, Delivery, Inner, Subscription, outcome_of, overrides_of
from hopspan.model import SUCCESS, HopspanError, Outcome, PolicyError, Verdict
from hopspan.settlement import manual
from hopspan.telemetry import (
    GENERATION,
    NO_OVERRIDES,
    Attachment,
    Instrumenter,
    cached_overrides,
    detach,
    start_internal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hopspan.conventions import Route
    from hopspan.delivery import Deferred
    from hopspan.model import Settlement
    from hopspan.settlement import Policy
    from hopspan.telemetry import Binding, Operation, Overrides

SETTLED_ALREADY = (
    "Celery acks it before it runs, and what is raised then changes nothing. Set acks_late=True on "
    "the task, or task_acks_late in the application's configuration"
)

_SUCCESS = states.SUCCESS
_NOWHERE: dict[str, Any] = {}
_RAISED = frozenset({Verdict.REQUEUE, Verdict.REJECT})
"""The verdicts that Celery learns by an exception."""


def error_type(error: BaseException) -> str | None:
    """The broker's code, where one is behind an error of kombu's."""
    for each in (error, error.__cause__):
        code = getattr(each, "reply_code", None)
        if code in amqp.REPLY_CODES:
            return amqp.REPLY_CODES[code]
        if type(each).__name__ == "MessageNacked":  # of py-amqp, where confirms are asked for
            return amqp.NACKED
    return None


_open: dict[int, TaskRun] = {}
"""The runs that go on, by the identity of their request; decorated bodies alone are here too."""


class TaskRun(Delivery):
    """One run of a task: its message in hand."""

    __slots__ = (
        "_before", "_error", "_headers", "_raised", "is_late", "outer", "request", "settlement",
        "task", "task_message",
    )  # fmt: skip
    client = Client(
        "celery",
        system=brokers.UNKNOWN,
        settle_names={},
        settled_already=SETTLED_ALREADY,
        control_flow=(Ignore, Reject, Retry),
        error_type=error_type,
    )

    def __init__(
        self, task: Any, request: Any, task_message: dict[str, Any] | None = None
    ) -> None:
        """Take a run in hand; nothing is read yet.

        Args:
            task: The task.
            request: Celery's `Context` or the worker's `Request`.
            task_message: All that the message says of the task; what the context holds if omitted.
        """
        self.task: Any = task
        self.request: Any = request
        self.task_message: dict[str, Any] = (
            request.__dict__ if task_message is None else task_message
        )
        self.is_late: bool = bool(task.acks_late)
        """Whether Celery acks when the body is over."""
        self.settlement: Settlement | None = None
        """The decision about the message, which Celery is to carry out."""
        self.outer: TaskRun | EagerRun | None = None
        """The run that this one is inside of, of the same task in the same thread."""
        self._headers: dict[str, Any] | None = None
        self._raised: BaseException | None = None
        # What the body raised, as Celery told it when there still was a traceback.
        self._error: BaseException | None = None
        # The exception of whoever runs the task, in the same thread.
        self._before: BaseException | None = None

    # -- read ------------------------------------------------------------------------------------

    @property
    def carried(self) -> dict[str, Any]:
        """The headers of the message."""
        headers = self._headers
        if headers is None:
            headers = self._headers = headers_of(self.task_message)
        return headers

    def read(self) -> tuple[Route, Any]:
        headers = self._headers
        if headers is None:
            headers = self._headers = headers_of(self.task_message)
        task = self.task
        info = self.task_message.get("delivery_info") or _NOWHERE
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
        queues = exchange and len(task.app.amqp.queues)
        return prepared(task).routes[exchange, routing_key, self.is_late, queues], headers

    def describe(self, attributes: dict[str, Any]) -> None:
        describe_message(attributes, self.task_message)
        if self.redelivered:
            attributes[names.REDELIVERED] = True
            attempt = self.attempt
            if attempt is not None and attempt != 1:
                attributes[names.ATTEMPT] = attempt

    def describe_message(self, attributes: dict[str, Any]) -> None:
        attributes.update(self.read()[0].particular)
        super().describe_message(attributes)

    @property
    def source(self) -> Any:
        """The application."""
        return self.task.app

    @property
    def redelivered(self) -> bool:
        info = self.task_message.get("delivery_info") or _NOWHERE
        return info.get("redelivered") is True

    @property
    def attempt(self) -> int | None:
        if not self.redelivered:
            return 1
        is_counted = self.endpoint.system == amqp.SYSTEM
        return amqp.attempt(self.carried, redelivered=True) if is_counted else None

    @property
    def settles(self) -> bool:
        return self.is_late

    # -- while it runs ---------------------------------------------------------------------------

    def ongoing(self) -> Delivery | None:
        return _open.get(id(self.request))

    def opened(self) -> Verdict | None:
        """Be found by the request; an early-acked task's message is acked when its body begins."""
        _open[id(self.request)] = self
        return None if self.is_late else Verdict.ACK

    def closed(self) -> None:
        if _open.get(id(self.request)) is self:
            del _open[id(self.request)]

    def defer(self) -> Deferred:
        """As for every delivery, where no policy settles.

        Raises:
            PolicyError: a policy is in force: Celery settles when the body is over.
        """
        policy = self.policy
        if policy.settles:
            raise PolicyError(
                f"defer(): {self.client.name} settles when the handler is over, so policy "
                f"{policy.name} cannot wait. Leave one of the two out"
            )
        return super().defer()

    def join(self, subscription: Subscription, block: str = "") -> Body:
        # The decorator's settings hold from the beginning: a run begins with those of its body.
        if subscription.overrides is not self.subscription.overrides:
            self._adopt(subscription.overrides, block)
        return Body(self, concludes=False)

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:
        if policy.target is not None:
            return (
                "Celery has no dead-letter topic. Use policy=hopspan.reject_on_error, and a queue "
                "with the argument x-dead-letter-exchange on RabbitMQ"
            )
        if policy.pauses:
            return (
                "a rejected message comes back at once. Leave out pause=, or use Celery's own retry"
            )
        return None

    # -- settling, which is Celery's -------------------------------------------------------------

    def settle(self, settlement: Settlement) -> None:
        """Keep the verdict: whoever leaves the task's body raises it."""
        self.settlement = settlement

    def leave(self, error: BaseException | None, *, is_block: bool = False) -> bool:  # noqa: ARG002
        """Leave a decorated body that no signal has told of. A failed task stays failed."""
        super().leave(error, is_block=True)
        self.raise_instead(error)
        return False

    async def leave_async(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        return self.leave(error, is_block=is_block)

    def outcome_of(self, error: BaseException) -> Outcome:
        outcome = super().outcome_of(error)
        if outcome.failed and _is_retried(self.task, self.request, error):
            return Outcome(error=error)
        return outcome

    def decide_inside(self, error: BaseException | None) -> None:
        """Decide as a body is left that is inside of the run: Celery learns it from there."""
        if not self.policy.settles:
            return
        try:
            planned = self.plan_settlement(self._outcome(error))
        except Exception:  # noqa: BLE001 - of what the body has raised, or of its span
            faults.report("concluding how the handling went")
            return
        for _, settlement in planned or ():
            self.verdict = settlement.verdict
            self.settle(settlement)

    def raise_instead(self, error: BaseException | None) -> None:
        """Raise what has Celery settle as was decided, if it would not do so anyway.

        Raises:
            Reject: by policy, from the body's own error.
        """
        settlement = self.settlement
        if settlement is None or settlement.verdict not in _RAISED:
            return
        is_requeued = settlement.verdict is Verdict.REQUEUE
        if not is_requeued and isinstance(error, Exception):
            _store_failure(self.task, self.request, error)
        self._raised = _Rejected(_as_text(error) or settlement.reason, requeue=is_requeued)
        raise self._raised from error

    # -- between Celery's signals ----------------------------------------------------------------

    def begin_run(self, subscription: Subscription) -> None:
        """Begin at `task_prerun`."""
        self._before = sys.exc_info()[1]
        self.enter(subscription)

    def note_failure(self, error: BaseException | None) -> None:
        """Note what Celery tells of a failure while it still has the exception's traceback."""
        self._error = error

    def end(self, state: str | None, value: Any) -> None:  # type: ignore[override]
        """End at `task_postrun`."""

    def end_run(self, state: str | None, value: Any) -> None:
        """End at `task_postrun`.

        Args:
            state: Celery's word for how the run ended; None where Celery is about to raise.
            value: What the body returned or raised.
        """
        try:
            error = self._ended_by(state, value)
            if self.verdict is None and self.policy.settles:
                self.leave_unsettled()  # the body is over: nobody raises it any more
            if self._rare is None or self.concludes(error):
                self.conclude(error)
        finally:
            self._put_back()
