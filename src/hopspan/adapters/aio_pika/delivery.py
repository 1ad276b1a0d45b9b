"""One message as aio-pika hands it out: what is asked of it is read when it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from aio_pika import IncomingMessage

from hopspan.adapters.aio_pika.channel import STATE, error_type, state_of
from hopspan.adapters.amqp import NO_ACK, SETTLE_NAMES, SYSTEM, AmqpDelivery, Routes
from hopspan.delivery import Client
from hopspan.model import Settlement, Verdict

if TYPE_CHECKING:
    from hopspan.adapters.amqp_ledger import Ledger
    from hopspan.delivery import Delivery

# Private to aio-pika: where one is missing, nothing is known to be wrong.
_CHANNEL, _NO_ACK = "_IncomingMessage__channel", "_IncomingMessage__no_ack"
_PROCESSED = "_IncomingMessage__processed"


class Received(NamedTuple):
    """A message and where it came from, for hooks and policies that ask for the native delivery."""

    message: Any
    """aio-pika's own."""
    queue: str | None
    """The queue's name, where it is known."""


class AioPikaDelivery(AmqpDelivery):
    """A delivery of aio-pika. Used in the event loop of its channel."""

    __slots__ = ("incoming", "tag", "via")

    client: ClassVar[Client] = Client(
        "aio-pika",
        system=SYSTEM,
        is_awaited=True,
        settle_names=SETTLE_NAMES,
        settled_already=NO_ACK,
        error_type=error_type,
    )

    def __init__(self, via: Any, message: Any) -> None:
        """A delivery.

        Args:
            via: The queue or channel that the message came by, where that is known.
            message: aio-pika's `IncomingMessage`.
        """
        channel = getattr(message, _CHANNEL, None)
        kept = (channel is not None and channel.__dict__.get(STATE)) or state_of(channel)
        self.kept: Any = kept
        self.ledger: Ledger = kept.ledger
        self.via: Any = via
        self.incoming: Any = message
        self.queue: str | None = getattr(via, "name", None)
        self.routes: Routes = kept.routes[self.queue]
        self.tag: int = message.delivery_tag or 0
        self.auto_ack: bool = getattr(message, _NO_ACK, False)
        self.seen_before = False

    # -- finding it ------------------------------------------------------------------------------

    @classmethod
    def of(cls, message: Any, via: Any) -> AioPikaDelivery | None:
        if not isinstance(message, IncomingMessage):
            return None
        found = cls(via, message)
        known = found.kept.fetched.get(found.tag)
        return cls(known[1], message) if known is not None and known[0] == id(message) else found

    @classmethod
    def fetched(cls, queue: Any, message: Any) -> AioPikaDelivery:
        """A message that `Queue.get` has returned: its queue is known if it is handled later.

        Of the message, which may be large, only the identity is kept.
        """
        found = cls(queue, message)
        found.kept.remember(found.tag, (id(message), queue))
        return found

    @classmethod
    def given(cls, message: Any, via: Any) -> Delivery | tuple[()] | None:
        """A message; none at all is what `get(fail=False)` returns for an empty queue."""
        return () if message is None and via is not None else cls.of(message, via)

    @property
    def native(self) -> Received:
        return Received(self.incoming, self.queue)

    @property
    def source(self) -> Any:
        """The queue that the message came by, where that is known."""
        return self.via

    # -- handling it -----------------------------------------------------------------------------

    def opened(self) -> Verdict | None:
        settled = super().opened()
        if settled is None and not self.auto_ack and getattr(self.incoming, _PROCESSED, False):
            return Verdict.ACK  # or another, before its channel was seen: done in any case
        return settled

    def is_open(self) -> bool:
        channel = getattr(self.incoming, _CHANNEL, None)
        return channel is not None and not channel.is_closed

    def settle(self, settlement: Settlement) -> Any:
        """Perform a verdict; awaited in the event loop that asks for it."""
        if settlement.verdict is Verdict.ACK:
            return self.incoming.ack()
        return self.incoming.nack(requeue=settlement.verdict is Verdict.REQUEUE)


# A message of aio-pika is what other clients give apart, under the same names.
AioPikaDelivery.method = AioPikaDelivery.properties = AioPikaDelivery.__dict__["incoming"]
