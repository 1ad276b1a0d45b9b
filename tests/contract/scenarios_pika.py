"""What is pika's own: a channel in the channel, one thread that may settle, ticks, event loops."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from opentelemetry import baggage
from opentelemetry.context import get_current
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

import hopspan
from tests.contract.client import Message, in_turn, raises, succeeds
from tests.contract.pika_client import PikaClient
from tests.contract.scenarios_refusals import refusal
from tests.contract.scenarios_robustness import KEYS
from tests.contract.suite import FACES, SAMPLINGS, over
from tests.contract.telemetry import Span, silence

NO = ValueError("no stock")


# -- settled by the user, in pika's ways -----------------------------------------------------------


def _by_raw_channel(client: PikaClient, message: Message) -> None:
    message.via._impl.basic_ack(message.native[0].delivery_tag)


def _by_position(client: PikaClient, message: Message) -> None:
    message.via.basic_ack(message.native[0].delivery_tag, False)


def _by_keyword(client: PikaClient, message: Message) -> None:
    message.via.basic_ack(multiple=True, delivery_tag=message.native[0].delivery_tag)


def _by_default_tag(client: PikaClient, message: Message) -> None:
    message.via.basic_ack(multiple=True)


def _by_the_drivers_channel(client: PikaClient, message: Message) -> None:
    client.consumer.basic_ack(message.native[0].delivery_tag)


WAYS = (
    _by_raw_channel,
    _by_position,
    _by_keyword,
    _by_default_tag,
    _by_the_drivers_channel,
)


@over(way=WAYS, face=FACES, sampling=SAMPLINGS)
def whichever_way_a_message_is_acked_it_is_acked_once(client: PikaClient, way: Any) -> None:
    client.send(b"1")
    client.send(b"2")

    def handler(message: Message) -> None:
        if message.body == b"1":
            way(client, message)

    client.handle(handler, runs=2, policy=hopspan.reject_on_error)
    assert ["ack", "ack"] == client.settlements()
    client.expect_queues()


@over(face=FACES)
def a_handler_may_reject_by_default_arguments(client: PikaClient) -> None:
    client.send()
    handler = in_turn(
        lambda message: message.via.basic_reject(message.native[0].delivery_tag), succeeds
    )
    client.handle(handler, runs=2, policy=hopspan.reject_on_error)
    assert [("reject", 1, True), ("ack", 2, False)] == client.frames
    settled = client.telemetry.named(client.processes)[0].attributes or {}
    assert "requeue" == settled["hopspan.settlement"]


@over(face=FACES, sampling=SAMPLINGS)
def work_that_a_thread_acks_by_itself_is_not_settled_again(client: PikaClient) -> None:
    client.send()
    kept: list[Any] = []

    def work(message: Message) -> None:
        message.via.connection.add_callback_threadsafe(message.ack)

    def handler(message: Message) -> None:
        kept.append(hopspan.current().defer())
        client.in_thread(work, message).result()

    ran = client.subscribe(handler, policy=hopspan.reject_on_error)
    client.drive(client.settlements, ran)
    with kept.pop():
        pass
    client.sync()
    assert [("ack", 1, False)] == client.frames
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(face=FACES)
def a_thread_that_acks_after_the_handler_has_returned_is_too_late_for_a_policy(
    client: PikaClient,
) -> None:
    client.send()
    ran = client.handle(succeeds)
    (message,) = ran.messages
    client.in_thread(message.via.connection.add_callback_threadsafe, message.ack).result()
    client.drive(client.settlements)
    client.sync()
    assert [("ack", 1, False)] == client.frames
    client.expect_queues()


@over(face=FACES)
def what_pika_gives_back_when_a_consumer_is_cancelled_is_its_own_affair(client: PikaClient) -> None:
    for body in (b"1", b"2", b"3"):
        client.send(body)

    def handler(message: Message) -> None:
        if message.body == b"1":
            client.when_prefetched(2)
            message.via.stop_consuming()

    ran = client.handle(handler, prefetch=3, policy=hopspan.reject_on_error)
    assert [b"1"] == ran.bodies
    assert {("ack", 1, False)} == {frame for frame in client.frames if frame[0] == "ack"}
    assert {"ack", "requeue"} == set(client.settlements())
    client.expect_queues(waiting=2)


def a_message_is_settled_through_whichever_channel_the_user_has(client: PikaClient) -> None:
    client.send()
    message = client.fetch()
    with hopspan.process(
        message.native,
        via=client.consumer._impl,
        policy=hopspan.reject_on_error,
        **client.settings(),
    ):
        pass
    client.sync()
    assert [("ack", 1, False)] == client.frames


# -- all kinds of handlers and calls ---------------------------------------------------------------


class _Method:
    """A handler that is a method of something."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.bodies.append(body)

    @hopspan.consumer
    def decorated(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.bodies.append(body)

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.bodies.append(body)

    def with_more(self, more: str, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        assert more == "more"
        self.bodies.append(body)


HANDLERS: dict[str, Any] = {
    "method": lambda owner: owner.handle,
    "object": lambda owner: owner,
    "partial": lambda owner: functools.partial(owner.with_more, "more"),
    "decorated method": lambda owner: owner.decorated,
    "partial of a decorated method": lambda owner: functools.partial(owner.decorated),
    "decorated object": hopspan.consumer,
    "decorated partial": lambda owner: hopspan.consumer(functools.partial(owner.with_more, "more")),
}


@over(kind=HANDLERS, face=("wrapped", "instrumented"))
def every_kind_of_callable_is_a_handler(client: PikaClient, kind: str) -> None:
    owner = _Method()
    client.send()
    client.enter_face(policy=hopspan.reject_on_error)
    client.consumer.basic_consume(client.queue, HANDLERS[kind](owner))
    client.drive(client.settlements)
    assert [b"order"] == owner.bodies
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(face=FACES)
def arguments_by_position_and_by_name_pass_unchanged(client: PikaClient) -> None:
    client.enter_face()
    channel, seen = client.consumer, []
    properties = BasicProperties(content_type="text/plain", headers={"color": "red"}, priority=1)
    client.producer.basic_publish(
        mandatory=False,
        body="ünïcode",
        exchange="",
        routing_key=client.queue,
        properties=properties,
    )
    client.producer.basic_publish("", client.queue, b"bytes", None, True)
    tag = channel.basic_consume(
        queue=client.queue,
        consumer_tag="my-tag",
        on_message_callback=lambda *message: seen.append(message),
        exclusive=True,
        auto_ack=True,
        arguments={} if client.broker else {"x-priority": 1},
    )
    client.drive(lambda: len(seen) == 2)
    assert "my-tag" == tag
    assert ["my-tag"] * 2 == [method.consumer_tag for _, method, _, _ in seen]
    assert ["ünïcode".encode(), b"bytes"] == [body for *_, body in seen]
    assert ("text/plain", 1) == (seen[0][2].content_type, seen[0][2].priority)
    assert {channel} == {given for given, *_ in seen}


def a_sender_that_somebody_else_wraps_is_not_traced_underneath(client: PikaClient) -> None:
    original = BlockingChannel.basic_publish

    @functools.wraps(original)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    with mock.patch.object(BlockingChannel, "basic_publish", theirs):
        client.instrument()
        client.connect().channel().basic_publish("", client.queue, b"order")
        hopspan.uninstrument()
    client.lines.take()
    client.expect_spans()


# -- the ways to run a consumer --------------------------------------------------------------------


@over(face=FACES)
def start_consuming_goes_on_after_a_failure_that_was_settled(client: PikaClient) -> None:
    for body in (b"1", b"2", b"3"):
        client.send(body)

    def handler(message: Message) -> None:
        if message.body == b"2":
            raise NO
        if message.body == b"3":
            message.via.stop_consuming()

    ran = client.subscribe(handler, policy=hopspan.reject_on_error)
    client.consumer.start_consuming()
    client.sync()
    assert [b"1", b"2", b"3"] == ran.bodies
    assert ["ack", "reject", "ack"] == client.settlements()


@over(face=FACES)
def start_consuming_ends_by_a_failure_that_was_not_settled(client: PikaClient) -> None:
    client.send()
    client.subscribe(raises(NO))
    escaped = None
    try:
        client.consumer.start_consuming()
    except ValueError as error:
        escaped = error
    assert NO is escaped
    assert client.is_current_nothing()
    client.expect_spans(client.a_publish(), client.a_process().failed(NO))


@over(face=FACES)
def io_inside_of_a_handler_does_not_change_what_is_current(client: PikaClient) -> None:
    client.send(b"1")
    client.send(b"2")

    def handler(message: Message) -> bytes:
        before = get_current()
        message.via.connection.process_data_events(0)
        client.consumer.queue_declare(client.queue, passive=True)
        assert before is get_current()
        return hopspan.current().delivery.native.body

    ran = client.handle(handler, runs=2, prefetch=2, policy=hopspan.reject_on_error)
    assert [b"1", b"2"] == ran.results
    assert ["ack", "ack"] == client.settlements()


@over(face=("wrapped", "instrumented"))
def two_consumers_of_one_channel_are_told_apart(client: PikaClient) -> None:
    first, second = client.queue, f"other-{client.queue}"
    client.send(b"1")
    client.handle(succeeds, policy=hopspan.reject_on_error)
    client.use_queue(second)
    client.send(b"2")
    client.handle(succeeds, policy=hopspan.reject_on_error)
    names = [span.name for span in client.telemetry.spans() if span.kind == "consumer"]
    assert [f"process {first}", f"process {second}"] == names
    assert [("ack", 1, False), ("ack", 2, False)] == client.frames


@over(face=FACES, sampling=SAMPLINGS)
def two_channels_with_the_same_tags_are_told_apart(client: PikaClient) -> None:
    client.send(b"1")
    client.send(b"2")
    other = client.open_channel()
    client.enter_face(other)
    method, properties, body = client.take_with(other)
    message = client.fetch()
    assert method.delivery_tag == message.native[0].delivery_tag == 1
    with client.block(message, policy=hopspan.reject_on_error):
        with hopspan.process(
            (method, properties, body), via=other, policy=hopspan.ack_always, **client.settings()
        ):
            pass
        assert ["ack"] == client.settlements()
        hopspan.current().fail("no stock")
    client.sync()
    assert ["ack", "reject"] == client.settlements()


# -- the loop of `consume` -------------------------------------------------------------------------


@over(face=("wrapped", "instrumented"), sampling=SAMPLINGS)
def a_tick_is_in_nobodys_trace(client: PikaClient) -> None:
    client.send()
    client.enter_loop_face()
    before, turns = get_current(), []
    for method, _, _ in client.consumer.consume(client.queue, inactivity_timeout=0.01):
        with client.span("message" if method else "tick"):
            turns.append(bool(method))
        if not method:
            assert before is get_current()
            if len(turns) == 3:
                break
    assert [True, False, False] == turns
    client.expect_spans(
        client.a_publish(),
        client.a_process(),
        Span("message", parent=client.processes),
        Span("tick", trace=1),
        Span("tick", trace=2),
    )


@over(face=("wrapped", "instrumented"))
def a_loop_that_is_resumed_goes_on_where_it_was(client: PikaClient) -> None:
    client.send(b"1")
    client.send(b"2")
    bodies = []
    for item in client.loop("consume", prefetch=2):
        bodies.append(client.message(item).body)
        break
    with client.span("between"):
        pass
    for item in client.loop("consume", prefetch=2):
        bodies.append(client.message(item).body)
        break
    assert [b"1", b"2"] == bodies
    client.expect_spans(
        client.a_publish(),
        client.a_publish(trace=1),
        client.a_process(),
        Span("between", trace=2),
        client.a_process(trace=1),
    )


@over(face=("wrapped", "instrumented"))
def cancelling_a_loop_ends_its_scope_even_while_somebody_holds_it(client: PikaClient) -> None:
    client.send()
    loop = client.loop("consume")
    next(loop)
    assert not client.is_current_nothing()
    client.consumer.cancel()
    assert client.is_current_nothing()
    client.expect_spans(client.a_publish(), client.a_process())
    assert [] == list(loop)


@over(face=("wrapped", "instrumented"))
def a_loops_iterator_can_do_what_pikas_can(client: PikaClient) -> None:
    client.send()
    loop = client.loop("consume")
    assert iter(loop) is loop
    item = next(loop)
    assert b"order" == client.message(item).body
    assert callable(loop.send)
    loop.close()
    assert client.is_current_nothing()


@over(auto_ack=(True, False), face=("wrapped", "instrumented"))
def messages_that_a_loop_acks_by_itself_are_traced_alike(
    client: PikaClient, auto_ack: bool
) -> None:
    client.send()
    client.enter_loop_face()
    for _ in client.consumer.consume(client.queue, auto_ack):
        break
    client.expect_spans(client.a_publish(), client.a_process())
    assert [] == client.settlements()


# -- a single get ----------------------------------------------------------------------------------


@over(face=("wrapped", "instrumented"))
def a_get_is_a_receive_span_and_an_empty_one_is_nothing(client: PikaClient) -> None:
    client.send()
    client.enter_face()
    with client.span("asking"):
        client.fetch()
        assert (None, None, None) == client.consumer.basic_get(client.queue)
    client.expect_spans(
        client.a_publish(), Span("asking", trace=1), client.a_receive(parent="asking", trace=1)
    )


@over(face=FACES)
def the_block_of_an_empty_get_is_nothing(client: PikaClient) -> None:
    client.enter_face()
    empty = client.consumer.basic_get(client.queue)
    with hopspan.process(empty, via=client.consumer, **client.settings()) as operation:
        assert not operation
    client.expect_spans()


@over(face=("wrapped", "instrumented"))
def the_block_of_a_message_that_was_got_acked_cannot_settle(client: PikaClient) -> None:
    client.send()
    client.enter_face()
    got = client.take_with(client.consumer, auto_ack=True)
    said = None
    try:
        with hopspan.process(
            got, via=client.consumer, policy=hopspan.reject_on_error, **client.settings()
        ):
            raise AssertionError("unreachable")
    except hopspan.PolicyError as error:
        said = str(error)
    assert said is not None
    assert said.startswith(
        f"policy reject_on_error cannot settle for the consumer of {client.queue}: "
    )
    assert client.is_current_nothing()


# -- connections with a loop of their own ----------------------------------------------------------

STYLES = ("select", "select basic_get", "asyncio")


@over(style=STYLES, face=FACES, sampling=SAMPLINGS)
def handlers_of_an_event_loop_are_settled(client: PikaClient, style: str) -> None:
    client.send()
    client.consume_by(style, succeeds, policy=hopspan.reject_on_error)
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))
    client.expect_queues()


@over(style=STYLES, face=FACES, sampling=SAMPLINGS)
def failing_handlers_of_an_event_loop_are_rejected(client: PikaClient, style: str) -> None:
    client.send()
    client.consume_by(style, raises(NO), policy=hopspan.reject_on_error)
    assert ["reject"] == client.settlements()
    client.expect_queues(dead=1)


@over(style=("select", "asyncio"), face=FACES)
def deferred_work_of_an_event_loop_is_settled_on_its_thread(client: PikaClient, style: str) -> None:
    client.send()
    evented = client.evented(style)
    client.watch_threads(evented.channel)

    def work(deferred: Any) -> None:
        with deferred, client.span("work"):
            pass

    ran = client.subscribe_on(
        evented,
        lambda _: client.in_thread(work, hopspan.current().defer()),
        policy=hopspan.reject_on_error,
    )
    evented.run(client.settlements)
    ran.results[0].result()
    evented.run(lambda: len(client.telemetry.finished()) == 3)
    evented.sync(client.queue)
    assert [threading.get_ident()] == client.settling_threads
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )


@over(style=("select", "asyncio"))
def an_event_loop_may_run_inside_of_a_span(client: PikaClient, style: str) -> None:
    with client.baggage(tenant="acme"):
        client.send()
    seen: list[Any] = []
    with client.span("running"), client.baggage(whose="mine"):
        client.consume_by(style, lambda _: seen.append(dict(baggage.get_all())))
    assert [{"tenant": "acme"}] == seen
    client.expect_spans(client.a_publish(), Span("running", trace=1), client.a_process())


def a_wrong_thread_is_hopspans_to_avoid_also_where_it_saw_the_channel_late(
    client: PikaClient,
) -> None:
    client.send()
    client.watch_threads()

    def work(deferred: Any) -> None:
        with deferred:
            pass

    with client.block(client.fetch(), policy=hopspan.reject_on_error) as operation:
        deferred = operation.defer()
    client.in_thread(work, deferred).result()
    client.drive(client.settlements)
    assert [threading.get_ident()] == client.settling_threads


@over(style=("select", "asyncio"), key=KEYS, face=FACES)
def what_was_suppressed_when_an_event_loop_began_does_not_silence_it(
    client: PikaClient, style: str, key: str
) -> None:
    client.send()
    with silence(KEYS[key]):
        evented = client.evented(style)
        ran = client.subscribe_on(evented, succeeds)
    evented.run(lambda: ran.times)
    client.expect_spans(client.a_publish(), client.a_process())


# -- handlers whose body would never run -----------------------------------------------------------


class _Later:
    """Functions of which pika would not run the body."""

    async def handle(self, *_: Any) -> None: ...

    def generate(self, *_: Any) -> Iterator[None]:
        yield

    async def __call__(self, *_: Any) -> None: ...


LATER: dict[str, Callable[[_Later], Any]] = {
    "method": lambda owner: owner.handle,
    "object": lambda owner: owner,
    "partial": lambda owner: functools.partial(owner.handle, "more"),
    "decorated method": lambda owner: hopspan.consumer(owner.handle),
    "decorated object": hopspan.consumer,
    "partial of a decorated method": lambda owner: functools.partial(
        hopspan.consumer(owner.generate), "more"
    ),
}


def _refused(subscribe: Callable[[], Any]) -> None:
    try:
        subscribe()
    except hopspan.HopspanError as error:
        said = str(error)
    else:
        raise AssertionError("it was not refused")
    assert "plain function" in said


@over(kind=LATER, face=("wrapped", "instrumented"))
def every_kind_of_handler_whose_body_would_never_run_is_refused(
    client: PikaClient, kind: str
) -> None:
    client.enter_face()
    _refused(lambda: client.consumer.basic_consume(client.queue, LATER[kind](_Later())))
    client.send()
    client.expect_spans(client.a_publish())
    client.expect_queues(waiting=1)


@over(call=("basic_consume", "basic_get"), face=("wrapped", "instrumented"))
def an_event_loop_refuses_a_handler_whose_body_would_never_run(
    client: PikaClient, call: str
) -> None:
    evented = client.evented("select")
    client.enter_face(evented.channel)
    subscribe = getattr(evented.channel, call)
    _refused(lambda: subscribe(client.queue, _Later().handle))


@over(call=("basic_consume", "basic_get"), face=("wrapped", "instrumented"))
def an_event_loop_refuses_a_policy_that_cannot_work(client: PikaClient, call: str) -> None:
    evented = client.evented("select")
    client.enter_face(evented.channel)
    handler = client.receiver(succeeds, decorated=True, policy=client.refused_policy)
    subscribe = getattr(evented.channel, call)
    said = refusal(hopspan.PolicyError, lambda: subscribe(client.queue, handler))
    assert said.startswith("policy dead_letter('dead') cannot work with pika: ")
