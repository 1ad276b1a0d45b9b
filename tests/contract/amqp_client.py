"""What scenarios about AMQP ask of a client: all kinds of queues, and settlements by tag."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from tests.contract.client import Client, Message

Frame = tuple[Any, ...]


class AmqpClient(Client):
    """A client of RabbitMQ. Its queue is classic until another one is asked for."""

    dead: str
    """The queue in which dead letters end."""
    frames: list[Frame]
    """Settlements that went out on the wire: `("ack", tag, multiple)`, `("nack", tag, multiple,
    requeue)`, `("reject", tag, requeue)`, `("recover", requeue)`."""

    @abstractmethod
    def use_queue(self, name: str, **arguments: Any) -> None:
        """Go on with this queue; `x_message_ttl=1` and the like are its arguments."""

    @abstractmethod
    def use_exchange(self, name: str, routing_key: str) -> None:
        """Declare a topic exchange, and bind the queue to it."""

    @abstractmethod
    def send_to(self, exchange: str, routing_key: str, **properties: Any) -> None:
        """Send a message, traced, with these of AMQP's own properties."""

    @abstractmethod
    def ack(self, message: Message | None, *, multiple: bool = False) -> None:
        """Ack a message by its tag (None: tag 0)."""

    @abstractmethod
    def nack(
        self, message: Message | None, *, multiple: bool = False, requeue: bool = True
    ) -> None:
        """Give back or reject a message by its tag (None: tag 0)."""

    @abstractmethod
    def recover(self) -> None:
        """Give back everything that is not settled."""

    @abstractmethod
    def when_prefetched(self, count: int) -> None:
        """Return when the client holds so many messages that it did not hand over yet."""

    @abstractmethod
    def when_closed(self) -> None:
        """Return when the broker has closed the consumer's channel."""

    @property
    @abstractmethod
    def server(self) -> dict[str, Any]:
        """The attributes of spans that say where the broker is."""

    def use_quorum_queue(self, **arguments: Any) -> None:
        """Go on with a queue that counts."""
        self.use_queue(f"quorum-{self.queue}", x_queue_type="quorum", **arguments)

    def use_retry_queue(self) -> str:
        """Go on with a queue whose dead letters come back by way of another, which is returned."""
        again, later = f"again-{self.queue}", f"later-{self.queue}"
        self.use_queue(later, x_message_ttl=1, x_dead_letter_routing_key=again)
        self.use_queue(again, x_dead_letter_routing_key=later)
        return later

    def use_dead_letters(self) -> None:
        """Go on with the queue in which dead letters end."""
        self.queue = self.dead
