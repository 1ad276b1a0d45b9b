"""What RabbitMQ adds: names, histories of redelivery and death, settlements of many messages."""

from __future__ import annotations

from typing import Any

import hopspan
from tests.contract.amqp_client import AmqpClient
from tests.contract.client import Message, in_turn, raises, succeeds
from tests.contract.scenarios_settlement import too_late
from tests.contract.suite import FACES, SAMPLINGS, over

NO = ValueError("no stock")
FAILED = {"settlement": "requeue", "reason": "failed: ValueError"}


# -- names and attributes --------------------------------------------------------------------------


@over(face=("wrapped", "instrumented"))
def each_span_says_all_that_the_conventions_ask_for(client: AmqpClient) -> None:
    shop = f"shop-{client.queue}"
    client.use_exchange(shop, "order.#")
    client.send_to(shop, "order.created", message_id="m-1", correlation_id="c-1")
    client.handle(raises(NO), policy=hopspan.reject_on_error)
    message = {"messaging.message.id": "m-1", "messaging.message.conversation_id": "c-1"}
    key = {"messaging.rabbitmq.destination.routing_key": "order.created"}
    tag = {"messaging.rabbitmq.message.delivery_tag": 1}
    verdict = {"hopspan.settlement": "reject", "hopspan.settlement.reason": "failed: ValueError"}
    where = f"{shop}:order.created:{client.queue}"
    assert {
        **_operation("publish", "send", f"{shop}:order.created"), **client.server, **message, **key,
    } == client.telemetry.attributes(f"publish {shop}:order.created")  # fmt: skip
    assert {
        **_operation("process", "process", where), **client.server, **message, **key, **tag,
        **verdict, "error.type": "ValueError",
    } == client.telemetry.attributes(f"process {where}")  # fmt: skip
    assert {
        **_operation("nack", "settle", where), **client.server, **message, **tag, **verdict,
    } == client.telemetry.attributes(f"nack {where}")  # fmt: skip


def a_receive_span_says_so_too(client: AmqpClient) -> None:
    client.send_to("", client.queue, message_id="m-1")
    client.enter_face()
    client.fetch()
    assert {
        **_operation("receive", "receive", client.queue),
        **client.server,
        "messaging.message.id": "m-1",
        "messaging.rabbitmq.destination.routing_key": client.queue,
        "messaging.rabbitmq.message.delivery_tag": 1,
    } == client.telemetry.attributes(f"receive {client.queue}")


@over(face=("decorated",))
def a_decorator_alone_does_not_know_the_queue(client: AmqpClient) -> None:
    shop = f"shop-{client.queue}"
    client.use_exchange(shop, "order.#")
    client.send_to(shop, "order.created", message_id="m-1")
    client.handle(succeeds)
    where = f"{shop}:order.created"
    assert {
        **_operation("process", "process", where),
        **client.server,
        "messaging.message.id": "m-1",
        "messaging.rabbitmq.destination.routing_key": "order.created",
        "messaging.rabbitmq.message.delivery_tag": 1,
    } == client.telemetry.attributes(f"process {where}")


def _operation(name: str, kind: str, destination: str) -> dict[str, Any]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


@over(face=FACES)
def a_name_that_was_generated_stays_out_of_span_names(client: AmqpClient) -> None:
    name = "reply-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f"
    client.use_queue(name)
    client.send_to("", name)
    client.handle(succeeds)
    assert ["publish", "process"] == [span.name for span in client.telemetry.spans()]
    for span in client.telemetry.finished():
        attributes = span.attributes or {}
        assert (name, True) == (
            attributes["messaging.destination.name"],
            attributes["messaging.destination.anonymous"],
        )


# -- what comes again ------------------------------------------------------------------------------


def _history(client: AmqpClient) -> list[tuple[Any, ...]]:
    """Attempt and redelivered of each handling, in order."""
    handled = client.telemetry.named(client.processes)
    return [_of(span, "hopspan.attempt", "hopspan.redelivered") for span in handled]


def _of(span: Any, *names: str) -> tuple[Any, ...]:
    return tuple((span.attributes or {}).get(name) for name in names)


@over(face=FACES)
def a_message_that_comes_again_goes_on_with_its_trace(client: AmqpClient) -> None:
    client.send(b"order", client.carrier({"color": "red"}))
    ran = client.handle(in_turn(raises(NO), succeeds), runs=2, policy=hopspan.requeue_once)
    assert ran.messages[0].headers == ran.messages[1].headers
    assert [(None, None), (None, True)] == _history(client)
    client.expect_spans(
        client.a_publish(),
        client.a_process(**FAILED).failed(NO),
        client.a_settle(**FAILED),
        client.a_process(settlement="ack"),
    )


@over(face=FACES)
def a_queue_that_counts_tells_the_attempt(client: AmqpClient) -> None:
    client.use_quorum_queue()
    client.send()
    handler = in_turn(raises(NO), raises(NO), succeeds)
    client.handle(handler, runs=3, policy=hopspan.requeue_times(3))
    assert [(None, None), (2, True), (3, True)] == _history(client)
    client.expect_spans(
        client.a_publish(),
        client.a_process(**FAILED).failed(NO),
        client.a_settle(**FAILED),
        client.a_process(**FAILED).failed(NO),
        client.a_settle(**FAILED),
        client.a_process(settlement="ack"),
    )


@over(sampling=SAMPLINGS, times=(1, 2, 3))
def a_number_of_requeues_is_kept_to_where_they_are_counted(client: AmqpClient, times: int) -> None:
    client.use_quorum_queue()
    client.send()
    ran = client.handle(raises(NO), runs=times + 1, policy=hopspan.requeue_times(times))
    assert [*["requeue"] * times, "reject"] == client.settlements()
    assert times + 1 == ran.times
    if client.telemetry.records:
        last = client.telemetry.spans()[-1]
        requeues = "requeue" if times == 1 else "requeues"
        assert f"failed after {times} {requeues}: ValueError" == last.reason
    client.expect_queues(dead=1)


@over(sampling=SAMPLINGS, face=("decorated", "wrapped"))
def where_they_are_not_counted_it_is_one_requeue_and_one_warning(client: AmqpClient) -> None:
    for body in (b"1", b"2"):
        client.send(body)
    policy = hopspan.requeue_times(3)
    ran = client.handle(raises(NO), runs=4, policy=policy)
    assert [b"1", b"1", b"2", b"2"] == ran.bodies
    assert ["requeue", "reject"] * 2 == client.settlements()
    assert [
        f"requeue_times(3) on {client.queue}: this queue does not count its deliveries, so a "
        "message is requeued once and then rejected. Use a quorum queue to have it counted"
    ] == client.lines.take()
    client.expect_queues(dead=2)


def one_requeue_needs_no_counting_and_no_warning(client: AmqpClient) -> None:
    client.send()
    client.handle(raises(NO), runs=2, policy=hopspan.requeue_times(1))
    assert ["requeue", "reject"] == client.settlements()


@over(queue=("classic", "quorum"))
def one_requeue_is_one_requeue_on_every_queue(client: AmqpClient, queue: str) -> None:
    if queue == "quorum":
        client.use_quorum_queue()
    client.send()
    client.handle(raises(NO), runs=2, policy=hopspan.requeue_once)
    assert ["requeue", "reject"] == client.settlements()
    client.expect_queues(dead=1)


# -- what died -------------------------------------------------------------------------------------

DEATH = ("hopspan.death.reason", "hopspan.death.queue", "hopspan.death.count")


@over(face=FACES)
def a_dead_letter_goes_on_with_its_trace_and_says_why_it_died(client: AmqpClient) -> None:
    sent_by, came_from = client.publishes, client.queue
    with client.baggage(tenant="acme"):
        client.send(b"order", client.carrier({"color": "red"}))
    client.handle(raises(NO), policy=hopspan.reject_on_error)
    client.use_dead_letters()
    ran = client.handle(succeeds, policy=hopspan.reject_on_error)
    assert "red" == ran.messages[0].headers["color"]
    (grave,) = client.telemetry.named(client.processes)
    assert ("rejected", came_from, 1) == _of(grave, *DEATH)
    assert (None, None) == _of(grave, "hopspan.attempt", "hopspan.redelivered")
    *_, last = client.telemetry.spans()
    assert client.a_process(parent=sent_by, links=(sent_by,), settlement="ack") == last


def a_dead_letter_of_a_queue_that_counts_has_not_been_tried_where_it_is(client: AmqpClient) -> None:
    client.use_quorum_queue(x_delivery_limit=1)
    came_from = client.queue
    client.send()
    client.handle(raises(NO), runs=2, policy=hopspan.requeue_times(9))
    assert ["requeue", "requeue"] == client.settlements()
    client.use_dead_letters()
    client.handle(succeeds)
    (grave,) = client.telemetry.named(client.processes)
    assert ("delivery_limit", came_from, 1) == _of(grave, *DEATH)
    assert (None, None) == _of(grave, "hopspan.attempt", "hopspan.redelivered")


def a_message_that_dies_again_and_again_says_how_often(client: AmqpClient) -> None:
    later = client.use_retry_queue()
    client.send()
    client.handle(in_turn(raises(NO), raises(NO), succeeds), runs=3, policy=hopspan.reject_on_error)
    tries = client.telemetry.named(client.processes)
    assert [
        (None, None, None),
        ("expired", later, 1),
        ("expired", later, 2),
    ] == [_of(span, *DEATH) for span in tries]
    assert 1 == len({span.context.trace_id for span in tries if span.context})
    assert ["reject", "reject", "ack"] == client.settlements()


# -- many at once ----------------------------------------------------------------------------------


class _Held:
    """A handler that defers all of its messages but the last, with which it does something."""

    def __init__(self, count: int, last: Any) -> None:
        self.count, self.last = count, last
        self.messages: list[Message] = []
        self.deferred: list[Any] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if len(self.messages) < self.count:
            self.deferred.append(hopspan.current().defer())
        elif len(self.messages) == self.count:
            self.last(self)

    def finish(self) -> None:
        """Do the work that was deferred."""
        for deferred in self.deferred:
            with deferred:
                pass


MANY: dict[str, tuple[Any, list[tuple[Any, ...]]]] = {
    "ack up to this one": (
        lambda client, held: client.ack(held.messages[-1], multiple=True),
        [("ack", 3, True)],
    ),
    "ack up to the one before": (
        lambda client, held: client.ack(held.messages[-2], multiple=True),
        [("ack", 2, True), ("ack", 3, False)],
    ),
    "ack all": (lambda client, held: client.ack(None, multiple=True), [("ack", 0, True)]),
    "reject all": (
        lambda client, held: client.nack(None, multiple=True, requeue=False),
        [("nack", 0, True, False)],
    ),
    "ack another one": (
        lambda client, held: client.ack(held.messages[0]),
        [("ack", 1, False), ("ack", 3, False), ("ack", 2, False)],
    ),
    "reject another one": (
        lambda client, held: client.nack(held.messages[1], requeue=False),
        [("nack", 2, False, False), ("ack", 3, False), ("ack", 1, False)],
    ),
}


@over(many=MANY, face=("decorated", "wrapped"), sampling=SAMPLINGS)
def what_was_settled_together_is_not_settled_again(client: AmqpClient, many: str) -> None:
    act, expected = MANY[many]
    for body in (b"1", b"2", b"3"):
        client.send(body)
    held = _Held(3, lambda held: act(client, held))
    client.handle(held, runs=3, prefetch=3, policy=hopspan.reject_on_error)
    held.finish()
    client.sync()
    assert expected == client.frames
    client.expect_queues(dead={"reject all": 3, "reject another one": 1}.get(many, 0))


@over(everything=("ack", "reject"), face=("decorated", "wrapped"), sampling=SAMPLINGS)
def what_was_settled_before_it_was_handled_is_not_settled_again(
    client: AmqpClient, everything: str
) -> None:
    for body in (b"1", b"2", b"3"):
        client.send(body)

    def settle_all(_message: Message) -> None:
        if everything == "ack":
            client.ack(None, multiple=True)
        else:
            client.nack(None, multiple=True, requeue=False)

    handler = in_turn(settle_all, succeeds, succeeds)
    ran = client.subscribe(handler, prefetch=3, policy=hopspan.reject_on_error)
    client.when_prefetched(3)
    client.drive(lambda: ran.times == 3, ran)
    client.sync()
    assert 1 == len(client.frames)
    assert [too_late(client)] == client.lines.take()
    client.expect_queues(dead=0 if everything == "ack" else 3)


@over(face=("decorated", "wrapped"), sampling=SAMPLINGS)
def what_was_given_back_together_is_settled_when_it_comes_again(client: AmqpClient) -> None:
    for body in (b"1", b"2"):
        client.send(body)
    held = _Held(2, lambda held: client.nack(None, multiple=True, requeue=True))
    ran = client.handle(held, runs=4, prefetch=2, policy=hopspan.reject_on_error)
    held.finish()
    client.sync()
    assert [b"1", b"2", b"1", b"2"] == ran.bodies
    assert [("nack", 0, True, True), ("ack", 3, False), ("ack", 4, False)] == client.frames
    client.expect_queues()


@over(face=("decorated", "wrapped"), sampling=SAMPLINGS)
def what_was_recovered_is_settled_when_it_comes_again(client: AmqpClient) -> None:
    for body in (b"1", b"2"):
        client.send(body)
    held = _Held(2, lambda held: client.recover())
    ran = client.handle(held, runs=4, prefetch=2, policy=hopspan.reject_on_error)
    held.finish()
    client.sync()
    assert [b"1", b"2", b"1", b"2"] == ran.bodies
    assert [("recover", True), ("ack", 3, False), ("ack", 4, False)] == client.frames
    client.expect_queues()


def messages_that_were_settled_together_share_one_settle_span(client: AmqpClient) -> None:
    for body in (b"1", b"2"):
        client.send(body)
    held = _Held(2, lambda held: client.nack(None, multiple=True, requeue=False))
    client.handle(held, runs=2, prefetch=2)
    held.finish()
    rejected = {"settlement": "reject"}
    client.expect_spans(
        client.a_publish(),
        client.a_publish(trace=1),
        client.a_process(**rejected),
        client.a_process(trace=1, **rejected),
        client.a_settle("reject", trace=1, parent=client.processes, links=(client.processes,) * 2),
    )
    assert 2 == client.telemetry.attributes(f"nack {client.queue}")["messaging.batch.message_count"]


# -- the channel goes ------------------------------------------------------------------------------


@over(sampling=SAMPLINGS)
def a_second_ack_of_the_users_own_is_the_users_own(client: AmqpClient) -> None:
    client.send()
    client.ends_closed = True

    def handler(message: Message) -> None:
        message.ack()
        message.ack()

    ran = client.subscribe(handler, policy=hopspan.reject_on_error)
    client.drive(lambda: ran.times, ran)
    client.when_closed()
    assert [("ack", 1, False), ("ack", 1, False)] == client.frames


@over(sampling=SAMPLINGS)
def a_message_that_outlives_its_channel_is_not_settled_on_the_next(client: AmqpClient) -> None:
    client.send()
    kept: list[Any] = []
    client.handle(lambda _: kept.append(hopspan.current().defer()), policy=hopspan.reject_on_error)
    client.close_channel()
    with kept.pop():
        pass
    assert [] == client.frames
    (line,) = client.lines.take()
    assert f"could not ack a message of {client.queue}; the broker will hand it out again" == line
    client.expect_queues(waiting=1)
