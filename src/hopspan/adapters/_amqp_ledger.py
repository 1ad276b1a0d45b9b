"""The settlement ledger of the AMQP clients: who has settled what on a channel, in any way."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan.model import Delivery, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        # Ordered: a plain dict takes longer and longer to find its first entry while it loses them.
        self._left: OrderedDict[int, Left] = OrderedDict()
        self._settled: OrderedDict[int, Verdict] = OrderedDict()
        self._upto: tuple[int, Verdict] = (0, Verdict.ACK)
        self._lock = threading.Lock()

    def open(self, tag: int, native: Any, processing: Processing) -> Verdict | None:
        """Somebody begins to handle a delivery. Returns how it was settled already, if it was."""
        with self._lock:
            settled = self._settled.get(tag)
            if settled is None and tag <= self._upto[0]:
                settled = self._upto[1]
            if settled is None:
                handlings = self._open.get(tag)
                if handlings is None:
                    self._open[tag] = [(processing, native)]
                else:  # handled twice at a time: alone and in a batch, say
                    handlings.append((processing, native))
            return settled

    def is_known(self, tag: int) -> bool:
        """Whether a delivery is or was handled, as far as is remembered."""
        return tag in self._open or tag in self._left or tag in self._settled

    def has_open(self, tag: int) -> bool:
        """Whether a delivery is being handled and not settled; nearly all are settled by then."""
        return tag in self._open

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

    def settled(self, tag: int, verdict: Verdict, *, multiple: bool) -> Sequence[Entry]:
        """A settlement went out. Returns the handlings known here that it settled."""
        with self._lock:
            if multiple:
                self._settled_up_to(tag, verdict)
                return self._entries(tag, multiple=True, gone=True)
            self._settled[tag] = verdict
            _bound(self._settled, self.MOST)
            handlings, left = self._open.pop(tag, None), self._left.pop(tag, None)
            if handlings is None:
                return [] if left is None else [left]
            return handlings

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


def _bound(entries: OrderedDict[int, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
