"""A channel: what a client may ask for, what it was handed and has not settled, and its consumers.

A method goes to the function named after it (`Queue.Declare` to `on_queue_declare`), which returns
the answer.
"""

from __future__ import annotations

import itertools
import secrets
from typing import Any, NamedTuple, Protocol

from pika import amqp_object, frame, spec

from .messages import Entry, Message, RefusedError, time_to_live
from .state import Queue, State

_SETTLEMENTS = {
    spec.Basic.Ack: ("ack", "delivery_tag", "multiple"),
    spec.Basic.Nack: ("nack", "delivery_tag", "multiple", "requeue"),
    spec.Basic.Reject: ("reject", "delivery_tag", "requeue"),
    spec.Basic.Recover: ("recover", "requeue"),
}


class Send(Protocol):
    def __call__(self, method: amqp_object.Method, message: Message | None = None) -> None: ...


class Consumer:
    __slots__ = ("channel", "exclusive", "no_ack", "prefetch", "queue", "tag")

    def __init__(
        self, channel: Channel, queue: Queue, tag: str, *, no_ack: bool, exclusive: bool
    ) -> None:
        self.channel, self.queue, self.tag = channel, queue, tag
        self.no_ack, self.exclusive = no_ack, exclusive
        self.prefetch = channel.prefetch  # a later Basic.Qos is for later consumers

    def has_room(self) -> bool:
        own, shared = self.prefetch, self.channel.shared_prefetch
        if self.no_ack or not (own or shared):
            return True
        pushed = [each.consumer for each in self.channel.unacked.values() if each.consumer]
        return (not own or pushed.count(self) < own) and (not shared or len(pushed) < shared)

    def take(self, entry: Entry) -> None:
        tag = self.channel.hand_out(entry, self, no_ack=self.no_ack)
        message = entry.outgoing()
        where = (message.exchange, message.routing_key)
        self.channel.send(spec.Basic.Deliver(self.tag, tag, entry.returns > 0, *where), message)

    def drop(self) -> None:
        """Its queue is gone: the client is told."""
        self.channel.cancel(self)
        self.channel.send(spec.Basic.Cancel(self.tag, nowait=True))


class Delivery(NamedTuple):
    """A message that a client has and did not settle; one from `Basic.Get` has no consumer."""

    entry: Entry
    consumer: Consumer | None


class Channel:
    """What happens between a client's Channel.Open and the Channel.CloseOk from either side."""

    def __init__(self, number: int, state: State, client: object, send: Send) -> None:
        self.number, self.send = number, send
        self.prefetch = self.shared_prefetch = 0
        self.unacked: dict[int, Delivery] = {}
        self._state, self._client = state, client
        self._consumers: dict[str, Consumer] = {}
        self._tags, self._confirms = itertools.count(1), itertools.count(1)
        self._confirming = self.released = False
        self._last_queue = ""
        self._publish = spec.Basic.Publish()
        self._incoming: Message
        self._incoming_size = 0

    def release(self) -> None:
        """Give everything back; from then on only the client's goodbye matters."""
        self.released = True
        for consumer in list(self._consumers.values()):
            self.cancel(consumer)
        self._return_all(asked=False)

    def cancel(self, consumer: Consumer) -> None:
        del self._consumers[consumer.tag]
        self._state.leave(consumer.queue, consumer)

    def hand_out(self, entry: Entry, consumer: Consumer | None, *, no_ack: bool) -> int:
        """Number a delivery and, unless it needs no settlement, remember it."""
        tag = next(self._tags)
        if not no_ack:
            self.unacked[tag] = Delivery(entry, consumer)
        return tag

    def receive(self, received: Any, raw: bytes) -> None:
        method = getattr(received, "method", None)
        if type(method) in _SETTLEMENTS:
            name, *fields = _SETTLEMENTS[type(method)]
            values = (getattr(method, field) for field in fields)
            self._state.log.append((name, self.number, *values))
        if self.released:
            return
        if method is None:
            self._on_content(received, raw)
        else:
            self._on_method(method)

    def _on_method(self, method: amqp_object.Method) -> None:
        handler = getattr(self, f"on_{method.NAME.lower().replace('.', '_')}", None)
        if handler is None:
            raise RefusedError("NOT_IMPLEMENTED", f"the fake broker has no {method.NAME}")
        answer = handler(method)
        if answer is not None and not getattr(method, "nowait", False):
            self.send(answer)

    # Publishing: a method, a header, and the body in as many frames as it takes

    def on_basic_publish(self, publish: spec.Basic.Publish) -> None:
        if publish.immediate:
            raise RefusedError("NOT_IMPLEMENTED", "immediate=true")
        self._publish = publish

    def _on_content(self, received: frame.Header | frame.Body, raw: bytes) -> None:
        if isinstance(received, frame.Header):
            where = (self._publish.exchange, self._publish.routing_key)
            header = raw[spec.FRAME_HEADER_SIZE : -spec.FRAME_END_SIZE]
            self._incoming = Message(*where, received.properties, header, b"")
            self._incoming_size = received.body_size
        else:
            self._incoming = self._incoming._replace(body=self._incoming.body + received.fragment)
        if len(self._incoming.body) == self._incoming_size:
            self._on_message(self._incoming)

    def _on_message(self, message: Message) -> None:
        time_to_live(message.properties)  # refuses one that is no number
        nacking = self._confirming and self._state.nacking
        routed, taken = (True, False) if nacking else self._state.publish(message)
        if self._publish.mandatory and not routed:
            where = (message.exchange, message.routing_key)
            self.send(spec.Basic.Return(spec.NO_ROUTE, "NO_ROUTE", *where), message)
        if self._confirming:
            number = next(self._confirms)
            self.send(spec.Basic.Ack(number) if taken else spec.Basic.Nack(number, requeue=False))

    def on_confirm_select(self, _: spec.Confirm.Select) -> spec.Confirm.SelectOk:
        self._confirming = True
        return spec.Confirm.SelectOk()

    # Consuming

    def on_basic_qos(self, qos: spec.Basic.Qos) -> spec.Basic.QosOk:
        if qos.global_qos:
            self.shared_prefetch = qos.prefetch_count
        else:
            self.prefetch = qos.prefetch_count
        return spec.Basic.QosOk()

    def on_basic_consume(self, consume: spec.Basic.Consume) -> spec.Basic.ConsumeOk:
        queue = self._queue(consume.queue)
        tag = consume.consumer_tag or f"amq.ctag-{secrets.token_urlsafe(16)}"
        self._check_consumer(queue, tag, consume)
        consumer = Consumer(self, queue, tag, no_ack=consume.no_ack, exclusive=consume.exclusive)
        self._consumers[tag] = consumer
        queue.consumers.append(consumer)
        return spec.Basic.ConsumeOk(tag)

    def _check_consumer(self, queue: Queue, tag: str, consume: spec.Basic.Consume) -> None:
        if tag in self._consumers:
            raise RefusedError("NOT_ALLOWED", f"attempt to reuse consumer tag '{tag}'")
        if consume.arguments:
            raise RefusedError(
                "NOT_IMPLEMENTED", f"the fake broker has no consumer arguments {consume.arguments}"
            )
        if queue.quorum and self.shared_prefetch:
            raise RefusedError(
                "NOT_IMPLEMENTED", f"queue '{queue.name}' in vhost '/' does not support global qos"
            )
        if any(one.exclusive for one in queue.consumers) or (consume.exclusive and queue.consumers):
            raise RefusedError(
                "ACCESS_REFUSED", f"queue '{queue.name}' in vhost '/' in exclusive use"
            )

    def on_basic_cancel(self, cancel: spec.Basic.Cancel) -> spec.Basic.CancelOk:
        if cancel.consumer_tag in self._consumers:
            self.cancel(self._consumers[cancel.consumer_tag])
        return spec.Basic.CancelOk(cancel.consumer_tag)

    def on_basic_get(self, get: spec.Basic.Get) -> spec.Basic.GetEmpty | None:
        queue = self._queue(get.queue)
        if not queue.ready:
            return spec.Basic.GetEmpty()
        entry = queue.ready.pop(0)
        tag = self.hand_out(entry, None, no_ack=get.no_ack)
        message = entry.outgoing()
        where = (message.exchange, message.routing_key)
        self.send(spec.Basic.GetOk(tag, entry.returns > 0, *where, len(queue.ready)), message)
        return None

    # Settling

    def on_basic_ack(self, ack: spec.Basic.Ack) -> None:
        self._settle(ack.delivery_tag, ack.multiple)

    def on_basic_nack(self, nack: spec.Basic.Nack) -> None:
        self._refuse(self._settle(nack.delivery_tag, nack.multiple), nack.requeue)

    def on_basic_reject(self, reject: spec.Basic.Reject) -> None:
        self._refuse(self._settle(reject.delivery_tag, False), reject.requeue)

    def on_basic_recover(self, recover: spec.Basic.Recover) -> spec.Basic.RecoverOk:
        if not recover.requeue:
            raise RefusedError("NOT_IMPLEMENTED", "requeue=false")
        self._return_all(asked=True)
        return spec.Basic.RecoverOk()

    def _settle(self, tag: int, multiple: bool) -> list[Entry]:
        """Take what a settlement is for: one delivery, all up to one, or (multiple, tag 0) all."""
        everything = multiple and tag == 0
        if tag not in self.unacked and not everything:
            raise RefusedError("PRECONDITION_FAILED", f"unknown delivery tag {tag}")
        tags = [one for one in self.unacked if one <= tag or everything] if multiple else [tag]
        return [self.unacked.pop(one).entry for one in tags]

    def _refuse(self, entries: list[Entry], requeue: bool) -> None:
        for entry in entries:
            if requeue:
                self._state.requeue(entry, asked=True)
            else:
                self._state.dead_letter(entry, "rejected")

    def _return_all(self, *, asked: bool) -> None:
        deliveries, self.unacked = self.unacked, {}
        for delivery in deliveries.values():
            self._state.requeue(delivery.entry, asked=asked)

    # Queues

    def _queue(self, name: str) -> Queue:
        """A queue by name; without one, the queue that was last declared here."""
        if not name and not self._last_queue:
            raise RefusedError("NOT_FOUND", "no previously declared queue")
        return self._state.queue(name or self._last_queue, self._client)

    def on_queue_declare(self, declare: spec.Queue.Declare) -> spec.Queue.DeclareOk:
        if declare.passive:
            queue = self._state.queue(declare.queue, self._client)
        else:
            queue = self._state.declare_queue(declare, self._client)
        self._last_queue = queue.name
        return spec.Queue.DeclareOk(queue.name, len(queue.ready), len(queue.consumers))

    def on_queue_bind(self, bind: spec.Queue.Bind) -> spec.Queue.BindOk:
        queue = self._queue(bind.queue)
        _not_default(bind.exchange)
        bindings = self._state.exchange(bind.exchange).bindings
        bindings[queue.name, bind.routing_key] = bind.arguments or {}
        return spec.Queue.BindOk()

    def on_queue_unbind(self, unbind: spec.Queue.Unbind) -> spec.Queue.UnbindOk:
        _not_default(unbind.exchange)
        self._state.unbind(unbind.exchange, unbind.queue or self._last_queue, unbind.routing_key)
        return spec.Queue.UnbindOk()

    def on_queue_purge(self, purge: spec.Queue.Purge) -> spec.Queue.PurgeOk:
        queue = self._queue(purge.queue)
        purged, queue.ready = queue.ready, []
        return spec.Queue.PurgeOk(len(purged))

    def on_queue_delete(self, delete: spec.Queue.Delete) -> spec.Queue.DeleteOk:
        if delete.queue and delete.queue not in self._state.queues:
            return spec.Queue.DeleteOk(0)
        queue = self._queue(delete.queue)
        if delete.if_unused and queue.consumers:
            raise RefusedError("PRECONDITION_FAILED", f"queue '{queue.name}' in vhost '/' in use")
        if delete.if_empty and queue.ready:
            raise RefusedError(
                "PRECONDITION_FAILED", f"queue '{queue.name}' in vhost '/' not empty"
            )
        self._state.delete_queue(queue)
        return spec.Queue.DeleteOk(len(queue.ready))

    # Exchanges

    def on_exchange_declare(self, declare: spec.Exchange.Declare) -> spec.Exchange.DeclareOk:
        _not_default(declare.exchange)
        if declare.passive:
            self._state.exchange(declare.exchange)
        else:
            self._state.declare_exchange(declare)
        return spec.Exchange.DeclareOk()

    def on_exchange_delete(self, delete: spec.Exchange.Delete) -> spec.Exchange.DeleteOk:
        _not_default(delete.exchange)
        exchange = self._state.exchanges.get(delete.exchange)
        if exchange and delete.if_unused and exchange.bindings:
            raise RefusedError(
                "PRECONDITION_FAILED", f"exchange '{delete.exchange}' in vhost '/' in use"
            )
        self._state.exchanges.pop(delete.exchange, None)
        return spec.Exchange.DeleteOk()


def _not_default(exchange: str) -> None:
    if not exchange:
        raise RefusedError("ACCESS_REFUSED", "operation not permitted on the default exchange")
