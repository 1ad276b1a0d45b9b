"""What the AMQP 0-9-1 clients share: RabbitMQ's names, its delivery history, and the settlement ledger.

Imports no client. Naming follows the conventions' RabbitMQ page; history is what RabbitMQ puts into
headers.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, Delivery, Endpoint, Outcome, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from hopspan.processing import Processing
    from hopspan.telemetry import Instrumenter

SYSTEM = "rabbitmq"
PUBLISH = names.Action("publish", names.OperationType.SEND)
ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
SETTLE_NAMES = {
    Verdict.ACK: "ack",
    Verdict.REQUEUE: "nack",
    Verdict.REJECT: "nack",
    Verdict.LEAVE: "leave",
}

# Constants of the protocol (AMQP 0-9-1, section 1.2): a broker's code is the best error.type there
# is.
REPLY_CODES = {
    311: "content-too-large", 312: "no-route", 313: "no-consumers", 320: "connection-forced",
    402: "invalid-path", 403: "access-refused", 404: "not-found", 405: "resource-locked",
    406: "precondition-failed", 501: "frame-error", 502: "syntax-error", 503: "command-invalid",
    504: "channel-error", 505: "unexpected-frame", 506: "resource-error", 530: "not-allowed",
    540: "not-implemented", 541: "internal-error",
}  # fmt: skip
NACKED = "nack"
"""`error.type` of a publish that the broker did not confirm."""

_GENERATED = re.compile(
    r"^(amq\.gen-|amq\.rabbitmq\.reply-to|amq\.ctag)"  # by RabbitMQ
    r"|[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}",  # by clients: a UUID in the name
    re.IGNORECASE,
)


class Server(NamedTuple):
    """The broker, as the client was told to reach it. Never with a password."""

    address: str | None = None
    port: int | None = None


@lru_cache(maxsize=1024)
def sent_to(exchange: str, routing_key: str, server: Server) -> Endpoint:
    """Where a publish goes: `{exchange}:{routing key}`, without the empty part."""
    name = ":".join(part for part in (exchange, routing_key) if part) or "amq.default"
    return Endpoint(
        SYSTEM,
        name,
        anonymous=bool(_GENERATED.search(routing_key)),
        server_address=server.address,
        server_port=server.port,
    )


@lru_cache(maxsize=1024)
def consumed_from(exchange: str, routing_key: str, queue: str | None, server: Server) -> Endpoint:
    """Where a delivery came from: `{exchange}:{routing key}:{queue}`; a routing key equal to the queue once."""
    parts = [exchange, routing_key, queue if queue != routing_key else None]
    name = ":".join(part for part in parts if part) or "amq.default"
    return Endpoint(
        SYSTEM,
        name,
        anonymous=bool(_GENERATED.search(queue or "") or _GENERATED.search(routing_key)),
        server_address=server.address,
        server_port=server.port,
    )


def attempt(headers: Mapping[str, Any] | None, redelivered: bool) -> int | None:
    """Which attempt this is: quorum queues count returns, classic ones only know the first.

    Some versions leave the count out at the first delivery, so a message that is not redelivered is
    the first.
    """
    count = headers.get("x-delivery-count") if headers else None
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return int(count) + 1
    return None if redelivered else 1


def death(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Why a dead-lettered message died last: attributes from the newest entry of `x-death`."""
    deaths = headers.get("x-death") if headers else None
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], Mapping):
        return {}
    last = deaths[0]
    found: dict[str, Any] = {}
    for name, key, kind in (
        (names.DEATH_REASON, "reason", str),
        (names.DEATH_QUEUE, "queue", str),
        (names.DEATH_COUNT, "count", int),
    ):
        value = last.get(key)
        if isinstance(value, kind):
            found[name] = int(value) if kind is int else value
    return found


class _Left(NamedTuple):
    """A delivery whose handling is over, and which nobody has settled yet."""

    delivery: Delivery
    span: SpanContext
    instrumenter: Instrumenter


class Ledger:
    """Who has settled what on one channel, whatever way the settlement took.

    AMQP settles silently: a second ack raises nothing in the client, and the broker answers by
    closing the channel. So before hopspan settles it looks here, and here every settlement of the
    channel is recorded: its own, the handler's, one with `multiple=True`, one from another thread.

    Delivery tags count up on a channel. Bounded: what is forgotten is the oldest.
    """

    __slots__ = ("_left", "_lock", "_open", "_settled", "_upto")

    MOST = 10_000

    def __init__(self) -> None:
        self._open: dict[int, tuple[Processing, Any]] = {}
        self._left: dict[int, _Left] = {}
        self._settled: dict[int, Verdict] = {}
        self._upto: tuple[int, Verdict] = (0, Verdict.ACK)
        self._lock = threading.Lock()

    def open(self, tag: int, native: Any, processing: Processing) -> Verdict | None:
        """Somebody begins to handle a delivery. Returns how it was settled already, if it was."""
        with self._lock:
            self._left.pop(tag, None)
            settled = self._settled.get(tag)
            if settled is None and tag <= self._upto[0]:
                settled = self._upto[1]
            if settled is None:
                self._open[tag] = (processing, native)
            return settled

    def close(self, tag: int, processing: Processing, delivery: Delivery) -> None:
        """The handling is over; a later settlement is linked to it."""
        with self._lock:
            found = self._open.get(tag)
            if found is None or found[0] is not processing:
                return
            del self._open[tag]
            if delivery.settles:
                span = processing.span.get_span_context()
                light = delivery._replace(headers=None, native=None)
                self._left[tag] = _Left(light, span, processing.instrumenter)
                _bound(self._left, self.MOST)

    def settled(
        self, tag: int, verdict: Verdict, *, multiple: bool
    ) -> list[tuple[Processing, Any] | _Left]:
        """A settlement went out. Returns the deliveries known here that it settled."""
        with self._lock:
            if not multiple:
                self._settled[tag] = verdict
                _bound(self._settled, self.MOST)
                found = [self._open.pop(tag, None) or self._left.pop(tag, None)]
                return [each for each in found if each is not None]
            known = [*self._open, *self._left]
            tags = [each for each in known if tag == 0 or each <= tag]
            highest = tag or max(known, default=0)
            if highest > self._upto[0]:
                self._upto = (highest, verdict)
            return [self._open.pop(each, None) or self._left.pop(each) for each in tags]

    def forget_all(self, verdict: Verdict) -> list[tuple[Processing, Any] | _Left]:
        """Everything outstanding was given back at once (`basic.recover`)."""
        return self.settled(0, verdict, multiple=True)


def _bound(entries: dict[int, Any], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


def recording(
    original: Callable[..., Any],
    ledger: Ledger,
    name: str,
    read: Callable[..., tuple[int, bool, Verdict]],
    error_type: Callable[[BaseException], str | None],
) -> Callable[..., Any]:
    """A channel's own settlement method, with every call of it entered in the ledger.

    Args:
        original: The bound method.
        ledger: The channel's ledger.
        name: The method's name on settle spans.
        read: From the call's arguments to `(delivery tag, multiple, verdict)`.
        error_type: The client's word for an error.
    """

    def settle(*args: Any, **kwargs: Any) -> Any:
        began, clock = time_ns(), perf_counter()
        outcome = SUCCESS
        try:
            return original(*args, **kwargs)
        except Exception as error:
            outcome = Outcome(
                failed=True, error=error, error_type=error_type(error) or names.error_type(error)
            )
            raise
        finally:
            timing = (began, perf_counter() - clock)
            try:
                _enter(ledger, name, read(*args, **kwargs), outcome, timing)
            except TypeError:  # the user's arguments; the client has said so
                pass
            except Exception:  # noqa: BLE001
                faults.report("entering a settlement in the ledger")

    return settle


def _enter(
    ledger: Ledger,
    name: str,
    sent: tuple[int, bool, Verdict],
    outcome: Outcome,
    timing: tuple[int, float],
) -> None:
    tag, multiple, verdict = sent
    if outcome.failed:
        return
    theirs: list[tuple[Delivery, SpanContext, Instrumenter]] = []
    parents = []
    for each in ledger.settled(tag, verdict, multiple=multiple):
        if isinstance(each, _Left):
            theirs.append((each.delivery, each.span, each.instrumenter))
            continue
        processing, native = each
        processing.wire.note(native, verdict)
        if not processing.wire.is_ours:
            parents.append(processing.context)
            delivery = next(d for d in processing.deliveries if d.native is native)
            theirs.append((delivery, processing.span.get_span_context(), processing.instrumenter))
    if not theirs:
        return
    single = len(theirs) == 1 and len(parents) == 1
    theirs[0][2].record_settle(
        name,
        Settlement(verdict),
        [delivery for delivery, _, _ in theirs],
        outcome,
        timing,
        inside=parents[0] if single else None,
        of=() if single else [span for _, span, _ in theirs],
    )
