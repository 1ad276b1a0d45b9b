"""The settlement ledger of the AMQP clients: who has settled what on a channel, in any way.

AMQP settles silently: a second ack raises nothing in the client, and the broker answers by closing
the channel. So before hopspan settles it looks here, and here every settlement of the channel is
entered: its own, the handler's, one with `multiple=True`, one from another thread.

The path of a common message takes no lock. Where a delivery may have been seen before, it is
entered first and then looked for among what is settled; a settlement is kept first, and then its
deliveries are looked for. So one of the two always sees the other, whatever threads they are on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import faults
from hopspan.delivery.outcomes import PLAIN
from hopspan.model import SUCCESS, Outcome, SettledMessage, Verdict
from hopspan.telemetry import record_settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import SpanContext

    from hopspan.delivery import Delivery
    from hopspan.telemetry import Instrumenter


Sent = tuple[int, bool, Verdict]
"""Delivery tag, multiple, verdict."""

_EVERYTHING = 0
"""The tag that stands for all deliveries, with `multiple` (AMQP 0-9-1, *basic.ack*)."""


class Unsettled(NamedTuple):
    """A delivery whose handling is over, and which nobody has settled yet."""

    message: SettledMessage | None
    """The message, without body and headers; None where there is nothing to settle."""
    span: SpanContext
    instrumenter: Instrumenter
    is_turn: bool
    """Whether it was handled by a loop, whose body may go on with it elsewhere."""


class Ledger:
    """The deliveries and settlements of one channel. Delivery tags count up on a channel.

    Thread-safe. Bounded: what is forgotten is the oldest.
    """

    __slots__ = (
        "_newest", "_old", "highest", "highest_settled", "left", "lock", "open", "upto", "young",
    )  # fmt: skip

    MOST = 10_000

    def __init__(self, newest: Callable[[], int] = lambda: 0) -> None:
        """Begin empty.

        Args:
            newest: Returns the highest tag that the client holds back for handlers to come.
        """
        self._newest = newest
        self.open: dict[int, Any] = {}
        """By tag, the delivery that is being handled; a list where there are several."""
        # Ordered: a plain dict takes longer and longer to find its first entry while it loses them.
        self.left: OrderedDict[int, Unsettled] = OrderedDict()
        self.highest: int = 0
        """The highest tag that was entered."""
        self.highest_settled: int = 0
        """The highest tag that was settled without being handled, or with others."""
        # Two dictionaries that take turns: between them they hold at least the newest `MOST`.
        self.young: dict[int, Verdict] = {}
        self._old: dict[int, Verdict] = {}
        self.upto: tuple[int, Verdict] = (0, Verdict.ACK)
        self.lock: threading.Lock = threading.Lock()

    # -- deliveries ------------------------------------------------------------------------------

    def enter(self, tag: int, delivery: Any) -> Verdict | None:
        """Enter a delivery that may have been seen before; return how it was settled already."""
        is_another = self.open.setdefault(tag, delivery) is not delivery
        delivery.seen_before = is_another or self.was_handled(tag)
        if is_another:
            self._enter_another(tag, delivery)
        self.left.pop(tag, None)
        return self.verdict_of(tag)

    def _enter_another(self, tag: int, delivery: Any) -> None:
        """Enter a delivery that is handled twice at a time: alone and in a batch, say."""
        with self.lock:
            self.open[tag] = [*self.handlings(tag), delivery]

    def handlings(self, tag: int) -> list[Delivery]:
        """The deliveries with a tag that are being handled."""
        found = self.open.get(tag)
        if found is None:
            return []
        return found if isinstance(found, list) else [found]

    def verdict_of(self, tag: int) -> Verdict | None:
        """How a delivery was settled, if it was."""
        found = self.young.get(tag) or self._old.get(tag)
        if found is None and tag <= self.upto[0]:
            return self.upto[1]
        return found

    def was_handled(self, tag: int) -> bool:
        """Whether a delivery was handled or settled by itself, as far as is remembered."""
        return tag in self.left or tag in self.young or tag in self._old

    def finished_turn(self, tag: int) -> SpanContext | None:
        """The span of a loop's turn that has left this delivery unsettled."""
        left = self.left.get(tag)
        return left.span if left is not None and left.is_turn else None

    def leave(self, tag: int, delivery: Delivery) -> None:
        """Leave a delivery whose handling is over; a later settlement is linked to it."""
        unsettled = _unsettled(delivery)
        with self.lock:
            handlings = self.handlings(tag)
            others = [each for each in handlings if each is not delivery]
            if others or not handlings:
                if others:
                    self.open[tag] = others if len(others) > 1 else others[0]
                return
            if unsettled is not None:  # before it is left: a settlement finds one of the two
                self.left[tag] = unsettled
                if len(self.left) > self.MOST:
                    self.left.popitem(last=False)
            del self.open[tag]
        if unsettled is not None and self.verdict_of(tag) is not None:  # settled in the meantime
            self.left.pop(tag, None)

    # -- settlements -----------------------------------------------------------------------------

    def settle(self, tag: int, verdict: Verdict) -> None:
        """Keep that one delivery is settled."""
        self.young[tag] = verdict
        if len(self.young) > self.MOST:
            self.rotate()
        with self.lock:
            self.highest_settled = max(self.highest_settled, tag)

    def notify(self, tag: int, verdict: Verdict) -> None:
        """Give their verdict to the deliveries of a tag whose settlement has been kept."""
        for delivery in self.handlings(tag):
            if delivery.verdict is None:
                delivery.verdict = verdict
        self.left.pop(tag, None)

    def take_back(self, tag: int) -> None:
        """Forget that one delivery is settled: it did not go out after all."""
        self.young.pop(tag, None)
        self._old.pop(tag, None)

    def rotate(self) -> None:
        """Forget the oldest half of what is settled."""
        with self.lock:
            if len(self.young) > self.MOST:
                self._old, self.young = self.young, {}

    def settle_up_to(self, tag: int, verdict: Verdict) -> None:
        """Keep that all up to a tag are settled, also those that no handler has seen yet."""
        highest = tag or max(self.highest, self.highest_settled, self._newest())
        with self.lock:
            if highest > self.upto[0]:
                self.upto = (highest, verdict)
            self.highest_settled = max(self.highest_settled, highest)

    def tags(self, tag: int, *, multiple: bool) -> Sequence[int]:
        """The tags known here that a settlement is about."""
        if not multiple:
            return (tag,)
        known = {*self.open.copy(), *self.left.copy()}
        return sorted(each for each in known if tag == _EVERYTHING or each <= tag)


def _unsettled(delivery: Delivery) -> Unsettled | None:
    """The rest of a delivery whose handling is over, kept where anybody may come back to it."""
    settles = delivery.settles
    if delivery.verdict is not None or not (settles or delivery.is_turn):
        return None
    return Unsettled(
        delivery.described() if settles else None,
        delivery.span.get_span_context(),
        delivery.subscription.instrumenter,
        delivery.is_turn,
    )


# -- the channel's own methods ---------------------------------------------------------------------


class _Call:
    """One call of a settling method, from before it is made."""

    __slots__ = (
        "_began", "_clock", "_is_ours", "_ledger", "_name", "_sent", "_taken", "_upto",
        "deliveries", "left",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, name: str, sent: Sent) -> None:
        self._ledger, self._name, self._sent = ledger, name, sent
        self._began, self._clock = time_ns(), perf_counter()
        self.deliveries: list[Delivery] = []
        self.left: list[Unsettled] = []
        self._taken: dict[int, Unsettled] = {}
        self._upto = ledger.upto
        tag, multiple, _ = sent
        # Before hopspan settles a delivery, it gives it its verdict; and it settles one at a time.
        self._is_ours: bool = not multiple and any(
            each.verdict is not None for each in ledger.handlings(tag)
        )

    def look(self) -> Sequence[int]:
        """Look for the deliveries that it settles; return the tags known of them.

        First among those that are handled: one whose handling ends in between is found among those
        that are left.
        """
        tag, multiple, _ = self._sent
        ledger = self._ledger
        tags = ledger.tags(tag, multiple=multiple)
        self.deliveries = [
            each for tag in tags for each in ledger.handlings(tag) if each.verdict is None
        ]
        found = (ledger.left.get(tag) for tag in tags)
        self.left = [each for each in found if each is not None and each.message is not None]
        return tags

    def enter(self) -> None:
        """Enter what is settled: nobody else is to settle it."""
        tag, multiple, verdict = self._sent
        ledger = self._ledger
        if multiple:
            ledger.settle_up_to(tag, verdict)
        else:
            ledger.settle(tag, verdict)
        tags = self.look()
        for delivery in self.deliveries:
            delivery.verdict = verdict
        self._taken = {each: ledger.left.pop(each) for each in tags if each in ledger.left}

    def take_back(self) -> None:
        """Take back what did not go out after all."""
        tag, multiple, _ = self._sent
        for delivery in self.deliveries:
            delivery.verdict = None
        self._ledger.left.update(self._taken)
        if multiple:
            self._ledger.upto = self._upto
        else:
            self._ledger.take_back(tag)

    def record(self, outcome: Outcome) -> None:
        """Record the settle span of the application's settlement, where it is notable."""
        if self._is_ours:  # who handles it records it
            return
        verdict = self._sent[2]
        instrumenters = [each.subscription.instrumenter for each in self.deliveries]
        instrumenters += [each.instrumenter for each in self.left]
        if not any(verdict in each.recorded or outcome.failed for each in instrumenters):
            return
        is_single = len(self.deliveries) == 1 and not self.left
        messages = [each.described() for each in self.deliveries]
        spans = [each.span.get_span_context() for each in self.deliveries]
        record_settle(
            instrumenters[0],
            self._name,
            PLAIN[verdict],
            [*messages, *(each.message for each in self.left if each.message is not None)],
            outcome,
            (self._began, perf_counter() - self._clock),
            inside=self.deliveries[0].context if is_single else None,
            of=() if is_single else [*spans, *(each.span for each in self.left)],
        )


def recorded(  # noqa: C901 - the common call is one function, for speed
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
    handled = ledger.open

    def settle(*args: Any, **kwargs: Any) -> Any:
        try:
            sent = read(*args, **kwargs)
        except TypeError:  # the user's arguments: the client is about to say so itself
            sent = None
        if sent is None:
            return original(*args, **kwargs)
        tag, multiple, verdict = sent
        found: Any = handled.get(tag)
        if (
            found is None
            or multiple
            or type(found) is list
            or verdict in found.subscription.instrumenter.recorded
        ):
            return _settle_noted(sent, args, kwargs)
        # The common call: one delivery, and no span is made of it unless it fails.
        is_ours = found.verdict is not None
        clock = perf_counter()
        try:
            result = original(*args, **kwargs)
        except Exception as error:
            if not is_ours:
                found.record_settlement(PLAIN[verdict], _failure(error, error_type), clock, found)
            raise
        young = ledger.young
        young[tag] = verdict
        if len(young) > ledger.MOST:
            ledger.rotate()
        if not is_ours:
            found.verdict = verdict
        if handled.get(tag) is not found:  # its handling has ended, or another one has begun
            ledger.notify(tag, verdict)
        return result

    def _settle_noted(sent: Sent, args: Any, kwargs: Any) -> Any:
        call = _called(ledger, name, sent)
        try:
            result = original(*args, **kwargs)
        except Exception as error:
            if call is not None:
                _guarded(call.look)
            _fail(call, error, error_type)
            raise
        if call is not None:
            _guarded(call.enter)
            _guarded(call.record, SUCCESS)
        return result

    return settle


def recorded_async(  # noqa: C901 - as above
    original: Callable[..., Any],
    ledger: Ledger,
    name: str,
    read: Callable[..., Sent | None],
    error_type: Callable[[BaseException], str | None],
) -> Callable[..., Any]:
    """`recorded` for a client whose settlement is awaited.

    One that is cancelled counts as sent: it may be on its way, and a second one would cost the
    channel. If it is not, the broker hands the message out again when the channel closes.
    """
    handled = ledger.open

    async def settle(*args: Any, **kwargs: Any) -> Any:
        try:
            sent = read(*args, **kwargs)
        except TypeError:  # the user's arguments: the client is about to say so itself
            sent = None
        if sent is None:
            return await original(*args, **kwargs)
        tag, multiple, verdict = sent
        found: Any = handled.get(tag)
        if (
            found is None
            or multiple
            or type(found) is list
            or verdict in found.subscription.instrumenter.recorded
        ):
            return await _settle_noted(sent, args, kwargs)
        is_ours = found.verdict is not None
        clock = perf_counter()
        # Entered before it is waited for: others may conclude in the meantime.
        young = ledger.young
        young[tag] = verdict
        if len(young) > ledger.MOST:
            ledger.rotate()
        if not is_ours:
            found.verdict = verdict
        try:
            return await original(*args, **kwargs)
        except Exception as error:
            ledger.take_back(tag)
            if not is_ours:
                found.verdict = None
                found.record_settlement(PLAIN[verdict], _failure(error, error_type), clock, found)
            raise

    async def _settle_noted(sent: Sent, args: Any, kwargs: Any) -> Any:
        call = _called(ledger, name, sent)
        if call is not None:
            _guarded(call.enter)
        try:
            result = await original(*args, **kwargs)
        except Exception as error:
            if call is not None:
                call.take_back()
            _fail(call, error, error_type)
            raise
        except BaseException:
            if call is not None:
                _guarded(call.record, SUCCESS)
            raise
        if call is not None:
            _guarded(call.record, SUCCESS)
        return result

    return settle


def _called(ledger: Ledger, name: str, sent: Sent) -> _Call | None:
    try:
        return _Call(ledger, name, sent)
    except Exception:  # noqa: BLE001
        faults.report("entering a settlement in the ledger")
        return None


def _fail(
    call: _Call | None, error: Exception, error_type: Callable[[BaseException], str | None]
) -> None:
    if call is not None:
        _guarded(call.record, _failure(error, error_type))


def _failure(error: Exception, error_type: Callable[[BaseException], str | None]) -> Outcome:
    kind = error_type(error) or names.error_type(error)
    return Outcome(failed=True, error=error, error_type=kind, description=str(error))


def _guarded(do: Callable[..., object], *args: Any) -> None:
    try:
        do(*args)
    except Exception:  # noqa: BLE001
        faults.report("entering a settlement in the ledger")


# -- readers of `basic_ack` and its like; the clients name methods and parameters alike ------------


def _ack(delivery_tag: int = 0, multiple: bool = False, *_rest: Any, **_added: Any) -> Sent:
    return delivery_tag, multiple, Verdict.ACK


def _nack(
    delivery_tag: int = 0,
    multiple: bool = False,
    requeue: bool = True,
    *_rest: Any,
    **_added: Any,
) -> Sent:
    return delivery_tag, multiple, Verdict.REQUEUE if requeue else Verdict.REJECT


def _reject(delivery_tag: int = 0, requeue: bool = True, *_rest: Any, **_added: Any) -> Sent:
    return delivery_tag, False, Verdict.REQUEUE if requeue else Verdict.REJECT


def _recover(requeue: bool = False, *_rest: Any, **_added: Any) -> Sent | None:
    # Without `requeue` the broker redelivers to this very consumer, or refuses: nothing is settled.
    return (0, True, Verdict.REQUEUE) if requeue else None


SETTLEMENTS: dict[str, Callable[..., Sent | None]] = {
    "basic_ack": _ack,
    "basic_nack": _nack,
    "basic_reject": _reject,
    "basic_recover": _recover,
}
