"""A run of a task, from Celery's `task_prerun` to its `task_postrun`.

What belongs to a run is kept under the task's id and the thread or greenlet that runs it: retries
keep the id, and may begin before the run before them has ended, in another thread or inside of it.
It is not kept on Celery's request, which may be pickled.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Reject
from celery.local import Proxy, maybe_evaluate
from celery.utils.threads import get_ident

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters.celery import brokers, chords
from hopspan.adapters.celery.bindings import bound_to
from hopspan.adapters.celery.deliveries import (
    RUNTIME,
    STATE,
    Run,
    carried,
    face,
    rejects_failures,
    task_attributes,
)
from hopspan.adapters.celery.tasks import is_fitted
from hopspan.model import SUCCESS, HopspanError, Outcome, Verdict
from hopspan.processing import Attachment, Hold, begin, outcome_of
from hopspan.settlement import manual
from hopspan.telemetry import face_for, start_internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.processing import Adapter, Processing
    from hopspan.telemetry import Instrumenter, Operation

_SUCCESS = states.SUCCESS


class _Turn:
    """A run that goes on."""

    # Defaults of the class: most runs neither fail nor are inside of another.
    error: BaseException | None = None
    """What the body raised, as Celery told it when there still was a traceback."""
    outer: _Turn | _Call | None = None
    """The run that this one is inside of, of the same task."""

    def __init__(self, run: Run, processing: Processing) -> None:
        self._began = perf_counter()
        self._before = sys.exc_info()[1]  # of who runs the task, in the same thread
        self._run = run
        self._processing = processing
        self._hold = Hold(processing)
        self.request: Any = run.request

    def end(self, state: str | None, value: Any) -> None:
        """Celery is done with the run."""
        try:
            self._tell(state, value)
            self._processing.policy = manual  # what the body did not raise, nobody does any more
            self._hold.conclude(self._raised(state, value))
        finally:
            self._hold.release()

    def _tell(self, state: str | None, value: Any) -> None:
        processing = self._processing
        if processing.is_over or not processing.span.is_recording():
            return  # the former by who took it over, in a thread of its own
        told: dict[str, Any] = {RUNTIME: perf_counter() - self._began}
        if state is not None:
            told[STATE] = state
        if self._run.settlement is not None and self._is_ours(value):
            told.update(names.settlement_attributes(self._run.settlement))
        processing.about = told

    def _raised(self, state: str | None, value: Any) -> BaseException | None:
        """What the run ended with; None where that is known already, or nothing was raised."""
        if state != _SUCCESS or self._run.settlement is not None:
            self._note(state, value)
            if self._is_ours(value):  # for what the body raised
                return None
        if state is None or state == _SUCCESS:  # the latter where a result cannot be stored
            escaping = sys.exc_info()[1]
            return escaping if escaping is not self._before else None
        error = self.error if self.error is not None else value
        return error if isinstance(error, BaseException) else None

    def _is_ours(self, value: Any) -> bool:
        """Whether the run has ended with what was raised for a policy."""
        return self._run.raised is not None and value is self._run.raised

    def _note(self, state: str | None, value: Any) -> None:
        """What becomes of the message, where that is another thing than was decided."""
        run, wire = self._run, self._processing.wire
        if not run.task.acks_late or self._is_ours(value):
            return
        if state == states.REJECTED and isinstance(value, Reject):
            wire.note(run, Verdict.REQUEUE if value.requeue else Verdict.REJECT)
        elif state == states.FAILURE and rejects_failures(run.task):
            wire.note(run, Verdict.REJECT)
        elif run.settlement is not None and run.settlement.verdict is not Verdict.ACK:
            wire.take_back(run)  # Celery retries it instead


class _Call:
    """An eager call: no message, nothing to settle."""

    error: BaseException | None = None
    outer: _Turn | _Call | None = None

    def __init__(self, adapter: Adapter, base: Instrumenter, task: Any, request: Any) -> None:
        self.request: Any = request
        self._adapter = adapter
        self._operation: Operation = start_internal(
            base,
            "run",
            brokers.in_process(task.name),
            task_attributes(task.name, request),
        )
        self._operation.announce(request)
        self._attached = Attachment(self._operation.context)

    def end(self, state: str | None, value: Any) -> None:
        """Celery is done with the call."""
        try:
            self._operation.end(self._outcome(state, value), {STATE: state} if state else None)
        finally:
            self._attached.detach()

    def _outcome(self, state: str | None, value: Any) -> Outcome:
        error = self.error if self.error is not None else value
        if state is None:  # Celery is about to raise it to the caller
            error = sys.exc_info()[1]
        if state in {states.FAILURE, None} and isinstance(error, BaseException):
            return outcome_of(error, self._adapter)
        return SUCCESS


_turns: dict[tuple[Any, Any], _Turn | _Call] = {}
"""By where it runs and its task's id, the innermost."""


def on_prerun(task: Any = None, task_id: Any = None, **_: Any) -> None:
    """Celery's `task_prerun`."""
    try:
        if isinstance(task, Proxy):  # what stands for the task until the application is finalised
            task = maybe_evaluate(task)
        bound = bound_to(task.app)
        if bound is None:
            return
        base = bound.instrumenter
        if not base.switch.on:
            return
        request, key = task.request, (get_ident(), task_id)
        outer = _turns.get(key)
        if outer is None or outer.request is not request:
            begins = _Call if request.is_eager else _begun
            turn = _turns[key] = begins(bound.adapter, base, task, request)
            turn.outer = outer
    except Exception:  # noqa: BLE001
        faults.report("beginning a run of a task")


def _begun(adapter: Adapter, base: Instrumenter, task: Any, request: Any) -> _Turn:
    headers = carried(vars(request))
    run = Run(task, request, headers)
    wanted = face(base, task, headers)
    try:
        processing = begin(adapter, [run], pushed=True, face=wanted, base=base)
    except HopspanError as refused:  # nobody catches here what a receiver raises
        faults.logger.error("%s; the run goes on without it", refused)
        wanted = face_for({**wanted.settings, "policy": manual})
        processing = begin(adapter, [run], pushed=True, face=wanted, base=base)
    if processing.policy.settles and not is_fitted(task):
        faults.once(
            "%s does nothing for task %s: it was known to the worker before the policy was. Call "
            "instrument or wrap where the application is made",
            processing.policy,
            task.name,
        )
    if chords.LINKS in headers:
        config = processing.instrumenter.config
        if config.trust and config.correlation != "none":
            chords.link(processing.span, headers)
    chords.leave(task, request, processing.context)
    return _Turn(run, processing)


def on_failure(task_id: Any = None, exception: Any = None, **_: Any) -> None:
    """Celery's `task_failure`, in the process that ran the body."""
    turn = _turns.get((get_ident(), task_id))
    if turn is not None:
        # Celery is handling it, and tells a stand-in for one that cannot be pickled.
        error = sys.exc_info()[1]
        turn.error = error if isinstance(error, Exception) else exception


def on_postrun(task_id: Any = None, retval: Any = None, state: str | None = None, **_: Any) -> None:
    """Celery's `task_postrun`."""
    key = (get_ident(), task_id)
    turn = _turns.pop(key, None)
    if turn is None:
        return
    if turn.outer is not None:
        _turns[key] = turn.outer
    try:
        turn.end(state, retval)
    except Exception:  # noqa: BLE001
        faults.report("ending a run of a task")
    if _afterwards and not _turns:
        waiting, _afterwards[:] = _afterwards[:], []
        for do in waiting:
            do()


_afterwards: list[Callable[[], None]] = []


def when_idle(do: Callable[[], None]) -> None:
    """Do something as soon as nothing runs in this process that we have begun to tell of."""
    if _turns:
        _afterwards[:] = [do]
    else:
        do()
