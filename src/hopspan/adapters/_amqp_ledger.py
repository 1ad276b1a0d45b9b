"""The settlement ledger of the AMQP clients: who has settled what on a channel, in any way."""

from __future__ import annotations

import threading
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, Delivery, Outcome, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from hopspan.processing import Processing
    from hopspan.telemetry import Instrumenter


Sent = tuple[int, bool, Verdict]
"""Delivery tag, multiple, verdict."""


class Left(NamedTuple):
    """A delivery whose handling is over, and which nobody has settled yet."""

    delivery: Delivery
    span: SpanContext
    instrumenter: Instrumenter


if TYPE_CHECKING:
    Entry = tuple[Processing, Any] | Left
    """A delivery that is being handled, or one that was."""


class Ledger:
    """Who has settled what on one channel, whatever way the settlement took.

    AMQP settles silently: a second ack raises nothing in the client, and the broker answers by
    closing the channel. So before hopspan settles it looks here, and here every settlement of the
    channel is recorded: its own, the handler's, one with `multiple=True`, one from another thread.

    Delivery tags count up on a channel. Bounded: what is forgotten is the oldest.
    """

    __slots__ = ("_left", "_lock", "_newest", "_open", "_settled", "_upto")

    MOST = 10_000

    def __init__(self, newest: Callable[[], int] = lambda: 0) -> None:
        """`newest` tells the highest tag that the client holds back for handlers to come."""
        self._newest = newest
        self._open: dict[int, list[tuple[Processing, Any]]] = {}
        self._left: dict[int, Left] = {}
        self._settled: dict[int, Verdict] = {}
        self._upto: tuple[int, Verdict] = (0, Verdict.ACK)
        self._lock = threading.Lock()

    def open(self, tag: int, native: Any, processing: Processing) -> Verdict | None:
        """Somebody begins to handle a delivery. Returns how it was settled already, if it was."""
        with self._lock:
            settled = self._settled.get(tag)
            if settled is None and tag <= self._upto[0]:
                settled = self._upto[1]
            if settled is None:
                # One more where it is handled twice at a time: alone and in a batch, say.
                self._open.setdefault(tag, []).append((processing, native))
            return settled

    def is_known(self, tag: int) -> bool:
        """Whether a delivery is or was handled, as far as is remembered."""
        with self._lock:
            return tag in self._open or tag in self._left or tag in self._settled

    def close(self, tag: int, processing: Processing, delivery: Delivery) -> None:
        """The handling is over; a later settlement is linked to it."""
        with self._lock:
            handlings = self._open.get(tag, [])
            others = [each for each in handlings if each[0] is not processing]
            if len(others) == len(handlings):
                return
            if others:
                self._open[tag] = others
                return
            del self._open[tag]
            if delivery.settles:
                span = processing.span.get_span_context()
                light = delivery._replace(headers=None, native=None)
                self._left[tag] = Left(light, span, processing.instrumenter)
                _bound(self._left, self.MOST)

    def settled(self, tag: int, verdict: Verdict, *, multiple: bool) -> list[Entry]:
        """A settlement went out. Returns the handlings known here that it settled."""
        with self._lock:
            if multiple:
                self._settled_up_to(tag, verdict)
            else:
                self._settled[tag] = verdict
                _bound(self._settled, self.MOST)
            return self._entries(tag, multiple=multiple, gone=True)

    def known(self, tag: int, *, multiple: bool) -> list[Entry]:
        """The handlings known here that a settlement would settle."""
        with self._lock:
            return self._entries(tag, multiple=multiple)

    def _entries(self, tag: int, *, multiple: bool, gone: bool = False) -> list[Entry]:
        """Tag 0 with `multiple` means everything (AMQP 0-9-1, *basic.ack*)."""
        tags = [tag]
        if multiple:
            tags = sorted(each for each in {*self._open, *self._left} if tag == 0 or each <= tag)
        entries: list[Entry] = []
        for each in tags:
            if each in self._open:
                entries.extend(self._open[each])
            elif each in self._left:
                entries.append(self._left[each])
            if gone:
                self._open.pop(each, None)
                self._left.pop(each, None)
        return entries

    def _settled_up_to(self, tag: int, verdict: Verdict) -> None:
        """Also what the client has received, and no handler has seen yet."""
        highest = tag or max((*self._open, *self._left, *self._settled, self._newest()), default=0)
        if highest > self._upto[0]:
            self._upto = (highest, verdict)


def _bound(entries: dict[int, Any], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


class _Record(NamedTuple):
    """One settlement call, from before it is made."""

    ledger: Ledger
    name: str
    sent: Sent
    error_type: Callable[[BaseException], str | None]
    began: int
    clock: float

    def succeeded(self) -> None:
        """It went out."""
        self._enter(SUCCESS)

    def failed(self, error: Exception) -> None:
        """It did not."""
        kind = self.error_type(error) or names.error_type(error)
        self._enter(Outcome(failed=True, error=error, error_type=kind, description=str(error)))

    def _enter(self, outcome: Outcome) -> None:
        timing = (self.began, perf_counter() - self.clock)
        _enter(self.ledger, self.name, self.sent, outcome, timing)


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
        record = _Record(ledger, name, sent, error_type, time_ns(), perf_counter())
        try:
            result = original(*args, **kwargs)
        except Exception as error:
            record.failed(error)
            raise
        record.succeeded()
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
        record = _Record(ledger, name, sent, error_type, time_ns(), perf_counter())
        try:
            result = await original(*args, **kwargs)
        except Exception as error:
            record.failed(error)
            raise
        except BaseException:
            record.succeeded()
            raise
        record.succeeded()
        return result

    return settle


def _sent(read: Callable[..., Sent | None], args: Any, kwargs: Any) -> Sent | None:
    try:
        return read(*args, **kwargs)
    except TypeError:  # the user's arguments: the client is about to say so itself
        return None


def _enter(
    ledger: Ledger, name: str, sent: Sent, outcome: Outcome, timing: tuple[int, float]
) -> None:
    try:
        tag, multiple, verdict = sent
        if outcome.failed:
            entries = ledger.known(tag, multiple=multiple)
        else:
            entries = ledger.settled(tag, verdict, multiple=multiple)
            for processing, native in (each for each in entries if not isinstance(each, Left)):
                processing.wire.note(native, verdict)
        _record(name, verdict, entries, outcome, timing)
    except Exception:  # noqa: BLE001
        faults.report("entering a settlement in the ledger")


def _record(
    name: str,
    verdict: Verdict,
    entries: Sequence[Entry],
    outcome: Outcome,
    timing: tuple[int, float],
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
        timing,
        inside=parents[0] if single else None,
        of=() if single else [each.span for each in theirs],
    )


def _left(processing: Processing, native: Any) -> Left:
    delivery = next(each for each in processing.deliveries if each.native is native)
    span = processing.span.get_span_context()
    return Left(delivery._replace(headers=None, native=None), span, processing.instrumenter)
