"""A run of a task, from Celery's `task_prerun` to its `task_postrun`.

What belongs to a run is kept beside its request, Celery's `Context`, and not under the task's id:
retries keep the id, and may begin before the run before them has ended. It is not kept on the
request, which may be pickled.
"""

from __future__ import annotations

import sys
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Reject

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters.celery import brokers, chords
from hopspan.adapters.celery.bindings import binding_for
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
from hopspan.processing import Attachment, Hold, begin, outcome_of, started
from hopspan.settlement import manual
from hopspan.telemetry import face_for, start_internal

if TYPE_CHECKING:
    from hopspan.processing import Processing
    from hopspan.telemetry import Binding, Face, Operation


class _Turn:
    """A run that goes on."""

    __slots__ = ("_before", "_began", "_hold", "_processing", "_run", "error")

    def __init__(self, run: Run, processing: Processing) -> None:
        self._began = perf_counter()
        self._before = sys.exc_info()[1]  # of who runs the task, in the same thread
        self._run = run
        self._processing = processing
        self._hold = Hold(processing)
        self.error: BaseException | None = None
        """What the body raised, as Celery told it when there still was a traceback."""

    def end(self, state: str | None, value: Any) -> None:
        """Celery is done with the run."""
        try:
            self._tell(state, value)
            self._processing.policy = manual  # what the body did not raise, nobody does any more
            self._hold.conclude(self._raised(state, value))
        finally:
            self._hold.release()

    def _tell(self, state: str | None, value: Any) -> None:
        told: dict[str, Any] = {RUNTIME: perf_counter() - self._began}
        if state is not None:
            told[STATE] = state
        if self._run.settlement is not None and self._is_ours(value):
            told.update(names.settlement_attributes(self._run.settlement))
        if not self._processing.is_over:  # by who took it over, in a thread of its own
            self._processing.span.set_attributes(told)

    def _raised(self, state: str | None, value: Any) -> BaseException | None:
        """What the run ended with; None where that is known already, or nothing was raised."""
        self._note(state, value)
        if self._is_ours(value):  # for what the body raised
            return None
        escaping = sys.exc_info()[1]
        if state in {None, states.SUCCESS}:  # the latter where a result cannot be stored
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

    __slots__ = ("_adapter", "_attached", "_operation", "error")

    def __init__(self, binding: Binding, task: Any, request: Any) -> None:
        self._adapter = binding.adapter
        self.error: BaseException | None = None
        self._operation: Operation = start_internal(
            binding.instrumenter,
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


_turns: weakref.WeakKeyDictionary[Any, _Turn | _Call] = weakref.WeakKeyDictionary()


def on_prerun(task: Any = None, **_: Any) -> None:
    """Celery's `task_prerun`."""
    try:
        request = task.request
        binding = binding_for(task.app)
        if binding is None or request in _turns:
            return
        turn = _Call(binding, task, request) if request.is_eager else _begun(binding, task, request)
        if turn is not None:
            _turns[request] = turn
    except Exception:  # noqa: BLE001
        faults.report("beginning a run of a task")


def _begun(binding: Binding, task: Any, request: Any) -> _Turn | None:
    run = Run(task, request)

    def start(wanted: Face) -> Processing:
        return begin(binding.adapter, [run], pushed=True, face=wanted, base=binding.instrumenter)

    headers = carried(vars(request))
    wanted = face(binding, task, headers)
    try:
        processing = started(start, wanted)
    except HopspanError as refused:  # nobody catches here what a receiver raises
        faults.logger.error("%s; the run goes on without it", refused)
        processing = started(start, face_for({**wanted.settings, "policy": manual}))
    if not processing:
        return None
    if processing.policy.settles and not is_fitted(task):
        faults.once(
            "%s does nothing for task %s: it was known to the worker before the policy was. Call "
            "instrument or wrap where the application is made",
            processing.policy,
            task.name,
        )
    config = processing.instrumenter.config
    if config.trust and config.correlation != "none":
        chords.link(processing.span, headers)
    chords.leave(task, request, processing.context)
    return _Turn(run, processing)


def on_failure(sender: Any = None, exception: Any = None, **_: Any) -> None:
    """Celery's `task_failure`, in the process that ran the body."""
    turn = _turns.get(sender.request) if sender is not None else None
    if turn is not None:
        # Celery is handling it, and tells a stand-in for one that cannot be pickled.
        error = sys.exc_info()[1]
        turn.error = error if isinstance(error, Exception) else exception


def on_postrun(task: Any = None, retval: Any = None, state: str | None = None, **_: Any) -> None:
    """Celery's `task_postrun`."""
    turn = _turns.pop(task.request, None) if task is not None else None
    if turn is None:
        return
    try:
        turn.end(state, retval)
    except Exception:  # noqa: BLE001
        faults.report("ending a run of a task")


def is_idle() -> bool:
    """Whether nothing runs in this process that we have begun to tell of."""
    return not _turns
