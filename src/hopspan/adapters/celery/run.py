"""A run of a task as a delivery, from Celery's `task_prerun` to its `task_postrun`.

Celery settles its messages itself, and an exception is how a body tells it what to do. It acks
*early*, when a pool process accepts a task, unless the task says `acks_late`; then it acks when the
body has returned, and rejects when the body raises `Reject` (Celery's *Tasks: acks_late*). So
settling a run means to keep the verdict, and leaving the task's body means to raise it.

A run is found by the thread or greenlet that it is in, the innermost first. A task's id is that of
all its retries, which may begin before the run before them has ended, elsewhere or inside of it.
Nothing is kept on Celery's request, which may be pickled.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import celery
from celery import states
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject, Retry
from celery.local import Proxy, maybe_evaluate
from celery.utils.serialization import get_pickleable_exception
from celery.utils.threads import get_ident
from opentelemetry.trace import StatusCode

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import amqp
from hopspan.adapters.celery import brokers, chords
from hopspan.adapters.celery.bindings import binding_for
from hopspan.adapters.celery.messages import (
    CORRELATION_HEADER,
    STATE,
    TASK,
    describe_task,
    headers_of,
    requested_correlation,
)
from hopspan.delivery import (
    CONCLUDES,
    Client,
    Delivery,
    Inner,
    Subscription,
    outcome_of,
    overrides_of,
)
from hopspan.model import SUCCESS, HopspanError, Outcome, PolicyError, Verdict
from hopspan.settlement import manual
from hopspan.telemetry import (
    EMPTY,
    GENERATION,
    NO_OVERRIDES,
    Attachment,
    Instrumenter,
    attach,
    cached_overrides,
    get_current,
    restore,
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
_ERROR = StatusCode.ERROR
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


innermost: dict[Any, Any] = {}
"""The innermost `TaskRun` or `EagerRun` that signals have told of, by its thread or greenlet."""
_untold: dict[int, TaskRun] = {}
"""The runs of decorated bodies that no signal has told of, by the id of their identity."""


class TaskRun(Delivery):
    """One run of a task: its message in hand."""

    __slots__ = (
        "_error", "_raised", "before", "carried", "depth", "is_late", "outer", "request",
        "said_at_start", "settlement", "task", "task_id", "task_message",
    )  # fmt: skip
    client: ClassVar[Client] = Client(
        "celery",
        system=brokers.UNKNOWN,
        settle_names={},
        settled_already=SETTLED_ALREADY,
        control_flow=(Ignore, Reject, Retry),
        error_type=error_type,
    )

    def __init__(self, task: Any, request: Any, task_message: dict[str, Any] | None = None) -> None:
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
        self.task_id: Any = None
        """The id that signals tell."""
        self.is_late: bool = bool(task.acks_late)
        """Whether Celery acks when the body is over."""
        self.said_at_start: Verdict | None = None if self.is_late else Verdict.ACK
        self.depth: int = 0
        """How many scopes its body is inside of; the outermost decides."""
        self.settlement: Settlement | None = None
        """The decision about the message, which Celery is to carry out."""
        self.outer: TaskRun | EagerRun | None = None
        """The run that this one is inside of, in the same thread."""
        self.before: BaseException | None = None
        """The exception that whoever runs the task is handling, in the same thread."""
        self.carried: dict[str, Any] | None = None
        """The headers of the message, once they are looked for."""
        self._raised: BaseException | None = None
        # The error that the body raised, as Celery told it when there still was a traceback.
        self._error: BaseException | None = None

    # -- read ------------------------------------------------------------------------------------

    def read(self) -> tuple[Route, Any]:
        headers, task = self.carried, self.task
        if headers is None:
            headers = self.carried = headers_of(self.task_message)
        info = self.task_message.get("delivery_info") or _NOWHERE
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
        queues = exchange and len(task.app.amqp.queues)
        ready = task.__dict__.get(PREPARED) or prepared(task)
        return ready.routes[exchange, routing_key, self.is_late, queues], headers

    def describe(self, attributes: dict[str, Any]) -> None:
        task_message = self.task_message
        describe_task(attributes, task_message)
        task_id = task_message.get("id")
        if task_id and isinstance(task_id, str):
            attributes[names.MESSAGE_ID] = task_id
        if (task_message.get("delivery_info") or _NOWHERE).get("redelivered") is True:
            attributes[names.REDELIVERED] = True
            attempt = self.attempt
            if attempt is not None and attempt != 1:
                attributes[names.ATTEMPT] = attempt

    def describe_message(self, attributes: dict[str, Any]) -> None:
        attributes.update(self.read()[0].particular)
        attributes.pop(names.SETTLEMENT, None)  # which is the run's
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
        return amqp.attempt(self.headers, redelivered=True) if is_counted else None

    @property
    def settles(self) -> bool:
        return self.is_late

    # -- while it runs ---------------------------------------------------------------------------

    @property
    def identity(self) -> Any:
        """An object of this run alone, which copies of its request share.

        Celery copies the request where a task is called like a function.
        """
        return self.task_message.get("delivery_info") or self.request

    def ongoing(self) -> Delivery | None:
        told = innermost.get(get_ident())
        if isinstance(told, TaskRun) and told.identity is self.identity:
            return told
        return _untold.get(id(self.identity))

    def opened(self) -> Verdict | None:
        """Be found again; an early-acked task's message is acked when its body begins."""
        if self.task_id is None:
            _untold[id(self.identity)] = self
            self.depth = 1
        return self.said_at_start

    def closed(self) -> None:
        if self.task_id is None and _untold.get(id(self.identity)) is self:
            del _untold[id(self.identity)]

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
        return Body(self)

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
        """Leave the body: decide, and raise what has Celery settle so. A failed task stays failed.

        That is also the end of a run that no signal has told of.

        Raises:
            Reject: by policy, from the body's own error.
        """
        self.depth -= 1
        if self.depth:  # the body has called the task like a function
            return False
        if self.task_id is not None:
            return self.leave_body(error)
        super().leave(error, is_block=True)
        self._raise_instead(error)
        return False

    def leave_body(self, error: BaseException | None) -> bool:
        """Leave the body of a run that goes on after it; returns False.

        Raises:
            Reject: by policy, from the body's own error.
        """
        if error is None and self._acks_success():
            return False
        self.note_inner_failure(error)
        self._decide(error)
        self._raise_instead(error)
        return False

    async def leave_async(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        return self.leave(error, is_block=is_block)

    def outcome_of(self, error: BaseException) -> Outcome:
        outcome = super().outcome_of(error)
        if outcome.failed and _is_retried(self.task, self.request, error):
            return Outcome(error=error)
        return outcome

    def _acks_success(self) -> bool:
        """Ack a success, where that is known beforehand; False where more is to be decided."""
        status = getattr(self.span, "status", None)
        if self._rare is not None or (status is not None and status.status_code is _ERROR):
            return False
        subscription = self.subscription
        success = subscription.success
        if success is None or self.verdict is not None or not self.is_late:
            return not subscription.settles
        self.verdict, self.settlement = success.verdict, success
        return True

    def _decide(self, error: BaseException | None) -> None:
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
            if settlement.verdict in _RAISED:
                self.rare().sent = settlement

    def _raise_instead(self, error: BaseException | None) -> None:
        """Raise what has Celery settle as was decided, if it would not do so anyway."""
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
        """Begin at `task_prerun`, and be current: `enter` for a run that nobody can have begun."""
        self.begin(subscription, get_current(), EMPTY)
        self._context = context = self._new_context()
        self._token = attach(context)

    def note_failure(self, error: Any) -> None:
        """Note what Celery tells of a failure while the exception still has its traceback."""
        self._error = error

    def end_run(self, state: str | None, value: Any) -> None:
        """End at `task_postrun`.

        Args:
            state: Celery's word for how the run ended; None where Celery is about to raise.
            value: What the body returned or raised.
        """
        settlement = self.settlement
        if state == _SUCCESS and (settlement is None or settlement.verdict is Verdict.ACK):
            escaping = sys.exc_info()[1]  # a result that cannot be stored
            error = escaping if escaping is not self.before else None
        else:
            error = self._ended_by(state, value)
        if self.verdict is None and (self._rare is not None or self.subscription.settles):
            self.leave_unsettled()  # the body is over: nobody raises it any more
        try:
            if self._rare is None or CONCLUDES[self.state][error is not None]:
                self.conclude(error)
        finally:
            try:
                restore(self._token)
            except (ValueError, RuntimeError):
                self._revert()

    def _ended_by(self, state: str | None, value: Any) -> BaseException | None:
        """The error that the run ended by; None where it is known already, or there is none."""
        if state is not None and state != _SUCCESS and not self.is_over:
            self.rare().about = {STATE: state}
        is_ours = self._raised is not None and value is self._raised
        if is_ours:  # for what the body raised
            return None
        if self.is_late:
            self._note_settlement(state, value)
        if state is None or state == _SUCCESS:
            escaping = sys.exc_info()[1]
            return escaping if escaping is not self.before else None
        error = self._error if self._error is not None else value
        return error if isinstance(error, BaseException) else None

    def _note_settlement(self, state: str | None, value: Any) -> None:
        """Note what becomes of the message, where that is another thing than was decided."""
        verdict: Verdict | None = None
        if state == states.REJECTED and isinstance(value, Reject):
            verdict = Verdict.REQUEUE if value.requeue else Verdict.REJECT
        elif state == states.FAILURE and _rejects_failures(self.task):
            verdict = Verdict.REJECT
        elif self.settlement is None or self.settlement.verdict is Verdict.ACK:
            return
        self.verdict, self.rare().sent = verdict, None  # no verdict: Celery retries it instead


class Body(Inner):
    """A further scope inside of a run, which decides for the run where it is the outermost."""

    __slots__ = ()
    delivery: TaskRun  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, run: TaskRun) -> None:
        super().__init__(run, concludes=False)
        run.depth += 1

    def leave(self, error: BaseException | None, *, is_block: bool = False) -> bool:  # noqa: ARG002
        """Leave it as the body is left.

        Raises:
            Reject: by policy, from the body's own error.
        """
        run = self.delivery
        run.depth -= 1
        try:
            return not run.depth and run.leave_body(error)
        finally:
            self._attachment.leave()

    async def leave_async(self, error: BaseException | None, *, is_block: bool = False) -> bool:
        """`leave` for a body that something of the user's awaits."""
        return self.leave(error, is_block=is_block)


TaskRun.inner_scope = Body


# -- raising ---------------------------------------------------------------------------------------


class _Rejected(Reject, Ignore):  # type: ignore[misc]
    """A `Reject` by policy. Also an `Ignore`, which `autoretry_for` never retries."""

    def __reduce__(self) -> Any:
        """Be a plain `Reject` to the main process."""
        return Reject, (self.reason, self.requeue)


def _as_text(error: BaseException | None) -> str | None:
    """An exception as text: it goes to another process, and not all of them can be pickled."""
    try:
        return None if error is None else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a hostile __str__
        return type(error).__name__


_STORES_ITSELF = (5, 7)


def _store_failure(task: Any, request: Any, error: Exception) -> None:
    """Store the failure of a run that is about to be rejected for good, for who waits for it.

    Celery does so since 5.7. Before, the result of a rejected task was pending for ever, and no
    error callback was called.
    """
    if tuple(celery.VERSION[:2]) >= _STORES_ITSELF:
        return
    ignored = task.ignore_result if request.ignore_result is None else request.ignore_result
    try:
        task.backend.mark_as_failure(
            request.id,
            get_pickleable_exception(error),
            request=request,
            store_result=not ignored or task.store_errors_even_if_ignored,
        )
    except Exception:  # noqa: BLE001
        faults.report("storing the failure of a rejected task")


def _is_retried(task: Any, request: Any, error: BaseException) -> bool:
    """Whether Celery is about to retry a run by itself (`autoretry_for`)."""
    if not hasattr(task, "_orig_run"):
        return False
    wanted = tuple(getattr(task, "autoretry_for", ()))
    unwanted = tuple(getattr(task, "dont_autoretry_for", ()))
    most = getattr(task, "retry_kwargs", {}).get("max_retries", task.max_retries)
    most = getattr(task, "override_max_retries", most)
    left = most is None or request.retries < most
    return left and isinstance(error, wanted) and not isinstance(error, unwanted)


def _rejects_failures(task: Any) -> bool:
    """Whether Celery rejects the message of a late-acked task that failed (`acks_on_failure`)."""
    acks = getattr(task, "acks_on_failure", None)  # since 5.7
    return not (task.acks_on_failure_or_timeout if acks is None else acks)


# -- a task, prepared ------------------------------------------------------------------------------

FITTED = "__hopspan_fitted__"
"""The attribute of a body of ours, in place of a task's, that raises what a policy decides."""
PREPARED = "__hopspan_prepared__"
"""The attribute of a task that keeps what its runs have in common."""
CELERYS_OWN = "celery."
"""The beginning of the names of Celery's own tasks, which no policy is for."""


class Prepared:
    """All that the runs of one task have in common. Renewed when a setting has changed.

    Thread-safe: a race at worst makes the same twice.
    """

    __slots__ = (
        "_requested", "acks_late", "binding", "body", "generation", "routes", "subscription",
    )  # fmt: skip

    def __init__(self, task: Any) -> None:
        self.routes: brokers.ProcessRoutes = brokers.ProcessRoutes(task.app, task.name or "")
        self.body: Any = None
        """A function that is known to be the task's body."""
        self.generation: int = -1
        self.acks_late: Any = None
        self.binding: Binding | None = None
        self.subscription: Subscription | None = None
        """The settings of its runs; None where they are not traced."""
        self._requested: dict[tuple[Subscription, str], Subscription] = {}

    def renew(self, task: Any) -> None:
        """Take up the settings that hold now."""
        generation, acks_late, subscription = GENERATION[0], task.acks_late, None
        binding = binding_for(task.app)
        if binding is not None:
            subscription = _subscription(task, binding.instrumenter)
            if subscription.settles and not is_fitted(task):
                faults.once(
                    "%s does nothing for task %s: it was known to the worker before the policy "
                    "was. Call instrument or wrap where the application is made",
                    subscription.policy,
                    task.name,
                )
        self.binding, self.subscription, self._requested = binding, subscription, {}
        # Last: another thread that finds these finds the others as well.
        self.acks_late, self.generation = acks_late, generation

    def subscription_for(self, task: Any, headers: dict[str, Any]) -> Subscription | None:
        """The settings for one message: its sender may say how it is to be related to."""
        subscription = self.subscription
        if subscription is None or CORRELATION_HEADER not in headers:
            return subscription
        wanted = requested_correlation(headers)
        if wanted is None or not subscription.instrumenter.config.trust:
            return subscription
        key = subscription, wanted
        found = self._requested.get(key)
        if found is None:
            overrides = cached_overrides({**subscription.overrides.settings, "correlation": wanted})
            found = self._requested[key] = _subscription(task, subscription.instrumenter, overrides)
        return found


def prepared(task: Any) -> Prepared:
    """All that the runs of a task have in common."""
    found: Prepared | None = task.__dict__.get(PREPARED)
    if found is None:
        found = task.__dict__[PREPARED] = Prepared(task)
    return found


def current_settings(task: Any) -> Prepared:
    """The same, with the settings that hold now."""
    found = prepared(task)
    if found.generation != GENERATION[0] or found.acks_late is not task.acks_late:
        found.renew(task)
    return found


def _subscription(
    task: Any, base: Instrumenter, overrides: Overrides | None = None
) -> Subscription:
    """The settings of a task's runs; without a policy that is refused, which is said."""
    if overrides is None:
        overrides = decorator_of(task) or NO_OVERRIDES

    def subscribe(overrides: Overrides) -> Subscription:
        return Subscription(
            TaskRun,
            overrides.applied_to(base),
            overrides,
            is_pushed=True,
            settles=bool(task.acks_late),
            whom=f"task {task.name}",
        )

    without = cached_overrides({**overrides.settings, "policy": manual})
    if not task.name or task.name.startswith(CELERYS_OWN):
        return subscribe(without)
    try:
        return subscribe(overrides)
    except HopspanError as refused:  # nobody catches here what a receiver of signals raises
        faults.logger.error("%s; its runs go on without it", refused)
        return subscribe(without)


class Fitted(NamedTuple):
    """A body of ours, as it remembers the one that it stands for."""

    binding: Binding
    body: Any


def decorator_of(task: Any) -> Overrides | None:
    """The settings of a task's decorated body, or None."""
    body = task.run
    fitted = getattr(body, FITTED, None)
    return overrides_of(body if fitted is None else fitted.body)


def is_fitted(task: Any) -> bool:
    """Whether what a policy decides is raised by a task's body."""
    return hasattr(task.run, FITTED) or overrides_of(task.run) is not None


def run_of(handler: Any) -> tuple[TaskRun | None, bool]:
    """The run in this thread that a handler is the body of; and whether it is a task's body at all.

    None where it is called like any function.
    """
    task: Any = get_current_task()
    if task is None:
        return None, False
    ready = prepared(task)
    if ready.body is handler or is_body(task, handler):
        ready.body = handler
        request = task.request
        is_call = request.called_directly or request.is_eager or _calls_itself(task, request)
        return None if is_call else TaskRun(task, request), True
    return None, any(is_body(other, handler) for other in task.app.tasks.values())


def _calls_itself(task: Any, request: Any) -> bool:
    """Whether a task has called itself like a function: Celery then makes a copy of its request."""
    kept = task.request_stack.stack if len(task.request_stack) > 1 else ()
    return any(each.id == request.id for each in kept if each is not request)


def is_body(task: Any, handler: Any) -> bool:
    """Whether a function is what a task runs, behind whatever wraps it."""
    bodies = [task.run, *(vars(kind).get("run") for kind in type(task).__mro__)]
    return any(handler in _layers(body) for body in bodies)


def _layers(body: Any) -> Iterator[Any]:
    """A function, and all that is behind it."""
    while body is not None:
        yield body
        body = getattr(body, "__func__", None) or getattr(body, "__wrapped__", None)


# -- signals ---------------------------------------------------------------------------------------


class EagerRun:
    """An eager call: no message, nothing to settle."""

    __slots__ = ("_attached", "_error", "_operation", "outer", "request", "task_id")
    task = None
    """It is no run of a task."""

    def __init__(
        self, task: Any, request: Any, task_id: Any, outer: Any, base: Instrumenter
    ) -> None:
        self.request: Any = request
        self.task_id: Any = task_id
        self.outer: TaskRun | EagerRun | None = outer
        self._error: Any = None
        attributes = {TASK: task.name}
        describe_task(attributes, request.__dict__)
        self._operation: Operation = start_internal(
            base, "run", brokers.in_process(task.name), attributes
        )
        self._operation.call_on_start(request)
        self._attached = Attachment(self._operation.context)

    def note_failure(self, error: Any) -> None:
        """As of a run."""
        self._error = error

    def end_run(self, state: str | None, value: Any) -> None:
        """As of a run."""
        try:
            told = {STATE: state} if state is not None and state != _SUCCESS else None
            self._operation.end(self._outcome(state, value), told)
        finally:
            self._attached.detach()

    def _outcome(self, state: str | None, value: Any) -> Outcome:
        error = self._error if self._error is not None else value
        if state is None:  # Celery is about to raise it to the caller
            error = sys.exc_info()[1]
        if state in {states.FAILURE, None} and isinstance(error, BaseException):
            return outcome_of(error, TaskRun.client)
        return SUCCESS


def on_prerun(  # noqa: PLR0917 - as Celery sends it: names are quicker than a dict of them
    task: Any = None,
    task_id: Any = None,
    signal: Any = None,  # noqa: ARG001
    sender: Any = None,  # noqa: ARG001
    args: Any = None,  # noqa: ARG001
    kwargs: Any = None,  # noqa: ARG001
    **_: Any,
) -> None:
    """Celery's `task_prerun`."""
    try:
        if isinstance(task, Proxy):  # what stands for the task until the application is finalised
            task = maybe_evaluate(task)
        ready = task.__dict__.get(PREPARED)
        if (
            ready is None
            or ready.generation != GENERATION[0]
            or ready.acks_late is not task.acks_late
        ):
            ready = current_settings(task)
        binding, subscription = ready.binding, ready.subscription
        if binding is None or subscription is None:
            return
        request, where = task.request_stack.top, get_ident()
        outer = innermost.get(where)
        if outer is not None and outer.request is request:
            return
        if request.is_eager:
            innermost[where] = EagerRun(task, request, task_id, outer, binding.instrumenter)
            return
        run = TaskRun(task, request)
        headers = run.carried = headers_of(run.task_message)
        if CORRELATION_HEADER in headers:
            subscription = ready.subscription_for(task, headers) or subscription
        run.task_id, run.outer, run.before = task_id, outer, sys.exc_info()[1]
        run.begin_run(subscription)
        innermost[where] = run
        if request.chord is not None or chords.LINKS in headers:
            _link_chord(run)
    except Exception:  # noqa: BLE001
        faults.report("beginning a run of a task")


def _link_chord(run: TaskRun) -> None:
    """Link the run to a chord's header, whose body it is; leave its context where it is of one."""
    if chords.LINKS in run.headers:
        config = run.subscription.instrumenter.config
        if config.trust and config.correlation != "none":
            chords.link(run.span, run.headers)
    if run.request.chord is not None:
        chords.leave(run.task, run.request, run.context)


def on_failure(task_id: Any = None, exception: Any = None, **_: Any) -> None:
    """Celery's `task_failure`, in the process that ran the body."""
    run = innermost.get(get_ident())
    if run is not None and run.task_id == task_id:
        # Celery is handling it, and tells a stand-in for one that cannot be pickled.
        error = sys.exc_info()[1]
        run.note_failure(error if isinstance(error, Exception) else exception)


def on_postrun(  # noqa: PLR0917
    task_id: Any = None,
    retval: Any = None,
    state: str | None = None,
    signal: Any = None,  # noqa: ARG001 - as above
    sender: Any = None,  # noqa: ARG001
    task: Any = None,  # noqa: ARG001
    args: Any = None,  # noqa: ARG001
    kwargs: Any = None,  # noqa: ARG001
    **_: Any,
) -> None:
    """Celery's `task_postrun`."""
    where = get_ident()
    run = innermost.get(where)
    if run is None or run.task_id != task_id:
        return
    if run.outer is None:
        del innermost[where]
    else:
        innermost[where] = run.outer
    try:
        run.end_run(state, retval)
    except Exception:  # noqa: BLE001
        faults.report("ending a run of a task")
    if _afterwards and not innermost:
        waiting, _afterwards[:] = _afterwards[:], []
        for do in waiting:
            do()


_afterwards: list[Callable[[], None]] = []


def when_idle(do: Callable[[], None]) -> None:
    """Do something as soon as no run goes on in this process that we have begun to trace."""
    if innermost:
        _afterwards[:] = [do]
    else:
        do()
