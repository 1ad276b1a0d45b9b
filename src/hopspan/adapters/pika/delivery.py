"""One message as pika hands it out: what is asked of it is read when it is asked."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

from pika.exceptions import ChannelWrongStateError
from pika.spec import Basic

from hopspan.adapters.amqp import SETTLE_NAMES, SETTLED_ALREADY, SYSTEM, AmqpDelivery
from hopspan.adapters.pika.channel import (
    State,
    error_type,
    inner,
    is_here,
    notice_thread,
    scheduler,
    state_of,
)
from hopspan.delivery import Client, Delivery
from hopspan.model import Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.adapters.amqp import Routes
    from hopspan.adapters.amqp_ledger import Ledger


class PikaDelivery(AmqpDelivery):
    """A delivery of pika. `channel`, `method`, `properties` and `body` are the client's own."""

    __slots__ = ("body", "channel", "method", "properties", "tag")

    kept: State
    ledger: Ledger
    routes: Routes
    queue: str | None
    auto_ack: bool
    tag: int
    channel: Any
    method: Any
    properties: Any
    body: Any

    client: ClassVar[Client] = Client(
        "pika",
        system=SYSTEM,
        settle_names=SETTLE_NAMES,
        settled_already=SETTLED_ALREADY,
        error_type=error_type,
    )
    tells_loss = True

    def __init__(  # noqa: PLR0917 - made for every message
        self,
        kept: State,
        source: tuple[Any, str | None, bool],
        channel: Any,
        method: Any,
        properties: Any,
        body: Any,
    ) -> None:
        """A delivery.

        Args:
            kept: The state that is kept of its channel.
            source: Its queue's routes, its queue, and whether the broker has settled it.
            channel: The channel that the user sees.
            method: The client's `Basic.Deliver` or `Basic.GetOk`.
            properties: The client's properties.
            body: The message's body.
        """
        self.kept = kept
        self.ledger = kept.ledger
        self.routes, self.queue, self.auto_ack = source
        self.channel, self.method, self.properties, self.body = channel, method, properties, body
        self.tag = method.delivery_tag
        self.seen_before = False

    # -- finding it ------------------------------------------------------------------------------

    @classmethod
    def of(cls, message: Any, via: Any) -> PikaDelivery | None:
        """`(method, properties, body)` with the channel as `via`, or `(channel, method, ...)`."""
        match message:
            case (Basic.Deliver() | Basic.GetOk() as method, properties, body) if via is not None:
                return cls._found(via, method, properties, body)
            case (channel, Basic.Deliver() | Basic.GetOk() as method, properties, body):
                return cls._found(channel, method, properties, body)
        return None

    @classmethod
    def given(cls, message: Any, via: Any) -> Delivery | tuple[()] | None:
        match message:
            case (None, _, _):  # of an empty `basic_get`
                return ()
        return cls.of(message, via)

    @classmethod
    def handed(cls, args: tuple[Any, ...], via: Any) -> Delivery | None:  # noqa: ARG003
        """`channel, method, properties, body` among a handler's arguments."""
        for index, argument in enumerate(args):
            if isinstance(argument, Basic.Deliver | Basic.GetOk) and 0 < index < len(args) - 2:
                found = cls._found(args[index - 1], argument, args[index + 1], args[index + 2])
                notice_thread(found.kept)
                return found
        return None

    @classmethod
    def _found(cls, channel: Any, method: Any, properties: Any, body: Any) -> PikaDelivery:
        state = state_of(channel)
        known = state.fetched.get(method.delivery_tag)
        if known is not None and known.method is method:
            return cls(state, known.source, channel, method, properties, body)
        source = state.source(None, _is_auto_acked(channel, method))
        return cls(state, source, channel, method, properties, body)

    @property
    def source(self) -> Any:
        """The channel that the message came by."""
        return self.channel

    # -- handling it -----------------------------------------------------------------------------

    def is_open(self) -> bool:
        return bool(self.channel.is_open)

    def was_open(self, error: Exception) -> bool:
        return not isinstance(error, ChannelWrongStateError)

    def is_here(self) -> bool:
        kept = self.kept
        if kept.thread is not None:
            return kept.thread == get_ident()
        return is_here(kept, self.channel)

    def post(self, errand: Callable[[], None]) -> None:
        schedule = scheduler(self.channel)
        if schedule is None:
            errand()
        else:
            schedule(errand)

    def settle(self, settlement: Settlement) -> None:
        """Perform a verdict; `is_here` is true (pika FAQ: *Is Pika thread safe?*)."""
        if settlement.verdict is Verdict.ACK:
            self.channel.basic_ack(self.tag)
        elif settlement.verdict is not Verdict.LEAVE:
            self.channel.basic_nack(self.tag, requeue=settlement.verdict is Verdict.REQUEUE)


def _is_auto_acked(channel: Any, method: Any) -> bool:
    unacked = getattr(inner(channel), "_consumers_with_noack", None)
    # Private to pika: anything else there, in a later version or a test double, tells nothing.
    return isinstance(unacked, set) and getattr(method, "consumer_tag", None) in unacked
