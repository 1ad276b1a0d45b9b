"""Entering the settlements of an AMQP channel in its ledger, and telling of the application's."""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters._amqp_ledger import Left
from hopspan.model import SUCCESS, Outcome, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context

    from hopspan.adapters._amqp_ledger import Entry, Ledger, Sent
    from hopspan.processing import Processing


Timing = tuple[int, float]
"""When a call began: in ns since the epoch, and by the clock that durations are taken from."""


class _Record(NamedTuple):
    """One settlement call, from before it is made."""

    ledger: Ledger
    name: str
    sent: Sent
    error_type: Callable[[BaseException], str | None]
    timing: Timing

    def failed(self, error: Exception) -> None:
        """It did not go out."""
        outcome = self._failure(error)
        _enter(self.ledger, self.name, self.sent, outcome, self.timing)

    def take_back(self, entries: Sequence[Entry], error: Exception) -> None:
        """It did not go out after all; what the channel is good for then, it does not settle."""
        for entry in entries:
            if not isinstance(entry, Left):
                entry[0].wire.take_back(entry[1])
        _tell(self.name, self.sent, entries, self._failure(error), self.timing)

    def _failure(self, error: Exception) -> Outcome:
        kind = self.error_type(error) or names.error_type(error)
        return Outcome(failed=True, error=error, error_type=kind, description=str(error))


def recording(
    original: Callable[..., Any],
    ledger: Ledger,
    name: str,
    read: Callable[..., Sent | None],
    error_type: Callable[[BaseException], str | None],
) -> Callable[..., Any]:
    """A channel's own settlement method, with every call of it entered in the ledger.

    Args:
        original: The bound method.
        ledger: The channel's ledger.
        name: The method's name on settle spans.
        read: From the call's arguments to `(delivery tag, multiple, verdict)`; None for a call that
            settles nothing.
        error_type: The client's word for an error.
    """

    def settle(*args: Any, **kwargs: Any) -> Any:
        sent = _sent(read, args, kwargs)
        if sent is None:
            return original(*args, **kwargs)
        timing = time_ns(), perf_counter()
        try:
            result = original(*args, **kwargs)
        except Exception as error:
            _Record(ledger, name, sent, error_type, timing).failed(error)
            raise
        _enter(ledger, name, sent, SUCCESS, timing)
        return result

    return settle


def recording_async(
    original: Callable[..., Any],
    ledger: Ledger,
    name: str,
    read: Callable[..., Sent | None],
    error_type: Callable[[BaseException], str | None],
) -> Callable[..., Any]:
    """`recording` for a client whose settlement is awaited.

    One that is cancelled counts as sent: it may be on its way, and a second one would cost the
    channel. If it is not, the broker hands the message out again when the channel closes.
    """

    async def settle(*args: Any, **kwargs: Any) -> Any:
        sent = _sent(read, args, kwargs)
        if sent is None:
            return await original(*args, **kwargs)
        timing = time_ns(), perf_counter()
        # Entered before it is waited for: others may conclude in the meantime.
        entries, is_told = _claim(ledger, sent)
        try:
            result = await original(*args, **kwargs)
        except Exception as error:
            _Record(ledger, name, sent, error_type, timing).take_back(entries, error)
            raise
        except BaseException:
            _tell(name, sent, entries if is_told else (), SUCCESS, timing)
            raise
        if is_told:
            _tell(name, sent, entries, SUCCESS, timing)
        return result

    return settle


def _sent(read: Callable[..., Sent | None], args: Any, kwargs: Any) -> Sent | None:
    try:
        return read(*args, **kwargs)
    except TypeError:  # the user's arguments: the client is about to say so itself
        return None


def _claim(ledger: Ledger, sent: Sent) -> tuple[Sequence[Entry], bool]:
    """It is going out: nobody else is to settle it. Also whether a span is to tell of it."""
    try:
        tag, multiple, verdict = sent
        entries = ledger.settled(tag, verdict, multiple=multiple)
        return entries, _note(entries, verdict)
    except Exception:  # noqa: BLE001
        faults.report("entering a settlement in the ledger")
        return (), False


def _tell(
    name: str, sent: Sent, entries: Sequence[Entry], outcome: Outcome, timing: Timing
) -> None:
    """Record what became of it."""
    if not entries:
        return
    try:
        _record(name, sent[2], entries, outcome, timing)
    except Exception:  # noqa: BLE001
        faults.report("recording a settlement")


def _enter(ledger: Ledger, name: str, sent: Sent, outcome: Outcome, timing: Timing) -> None:
    try:
        tag, multiple, verdict = sent
        if outcome.failed:
            entries: Sequence[Entry] = ledger.known(tag, multiple=multiple)
        else:
            entries = ledger.settled(tag, verdict, multiple=multiple)
            if not _note(entries, verdict):
                return
        if entries:
            _record(name, verdict, entries, outcome, timing)
    except Exception:  # noqa: BLE001
        faults.report("entering a settlement in the ledger")


def _note(entries: Sequence[Entry], verdict: Verdict) -> bool:
    """Tell who handles them; whether a span is to tell of it as well."""
    is_told = False
    for entry in entries:
        if isinstance(entry, Left):
            instrumenter = entry.instrumenter
        else:
            processing, native = entry
            processing.note(native, verdict)
            instrumenter = processing.instrumenter
        is_told = is_told or verdict in instrumenter.audience.told
    return is_told


def _record(
    name: str,
    verdict: Verdict,
    entries: Sequence[Entry],
    outcome: Outcome,
    timing: Timing,
) -> None:
    """Tell of what the user has settled; what hopspan settles, its processing tells of."""
    theirs: list[Left] = []
    parents: list[Context] = []
    for entry in entries:
        if isinstance(entry, Left):
            theirs.append(entry)
        elif not entry[0].wire.is_ours:
            parents.append(entry[0].context)
            theirs.append(_left(*entry))
    if not theirs:
        return
    single = len(theirs) == 1 and len(parents) == 1
    theirs[0].instrumenter.record_settle(
        name,
        Settlement(verdict),
        [each.delivery for each in theirs],
        outcome,
        (timing[0], perf_counter() - timing[1]),
        inside=parents[0] if single else None,
        of=() if single else [each.span for each in theirs],
    )


def _left(processing: Processing, native: Any) -> Left:
    delivery = next(each for each in processing.deliveries if each.native is native)
    span = processing.span.get_span_context()
    return Left(delivery._replace(headers=None, native=None), span, processing.instrumenter)
