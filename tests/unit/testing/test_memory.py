"""The in-memory queue: a client of its own, whose messages are settled once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach

import hopspan
from hopspan.delivery.batch import given, handed
from hopspan.model import Endpoint, PolicyError, Verdict
from hopspan.testing import Message, Queue
from hopspan.testing.memory import MemoryDelivery


def test_a_message_is_like_nothing_at_first() -> None:
    message = Message()
    assert (message.body, message.headers, message.verdict) == (b"", {}, None)


def test_a_message_has_headers_of_its_own() -> None:
    headers = {"color": "red"}
    message = Message(headers=headers)
    assert (message.headers == headers, message.headers is headers) == (True, False)


@pytest.mark.parametrize(
    ("settle", "verdict"),
    [
        (Message.ack, Verdict.ACK),
        (Message.requeue, Verdict.REQUEUE),
        (Message.reject, Verdict.REJECT),
    ],
)
def test_a_message_remembers_its_verdict(
    settle: Callable[[Message], None], verdict: Verdict
) -> None:
    message = Message(b"x")
    settle(message)
    assert message.verdict is verdict
    assert repr(message) == f"<message b'x', attempt 1: {verdict}>"


def test_a_message_prints_that_it_is_unsettled() -> None:
    assert repr(Message(b"x", attempt=2)) == "<message b'x', attempt 2: unsettled>"


@pytest.mark.parametrize("message", [Message(), Message(auto_ack=True)])
def test_settling_a_second_time_is_an_error(message: Message) -> None:
    """A real broker would close the channel."""
    if not message.auto_ack:
        message.ack()
    with pytest.raises(AssertionError) as raised:
        message.reject()
    assert str(raised.value) == (
        f"{message!r} was settled a second time (reject); a broker would object"
    )


def test_a_requeued_message_comes_back_first_and_says_so() -> None:
    queue = Queue()
    first = queue.publish(b"first")
    queue.publish(b"second")
    queue.messages.popleft()
    first.requeue()
    again = queue.messages[0]
    assert (again.body, again.attempt, again.verdict, again.headers) == (
        b"first",
        2,
        None,
        first.headers,
    )


def test_a_rejected_message_is_among_the_dead() -> None:
    queue = Queue()
    message = queue.publish(b"x")
    message.reject()
    assert queue.dead == [message]


def test_a_published_message_carries_the_context() -> None:
    token = attach(baggage.set_baggage("tenant", "acme"))
    message = Queue().publish(b"x", {"color": "red"})
    detach(token)
    assert message.headers == {"color": "red", "baggage": "tenant=acme"}


def test_a_queue_gives_its_messages_once() -> None:
    queue = Queue()
    given = [queue.publish(number) for number in range(3)]
    assert (list(queue), list(queue)) == (given, [])


def test_a_queue_runs_a_handler_until_nothing_is_left() -> None:
    queue, attempts = Queue(), []

    @hopspan.consumer(policy=hopspan.requeue_times(2))
    def handler(message: Message) -> None:
        attempts.append(message.attempt)
        raise ValueError("bad")

    queue.publish()
    queue.run(handler)
    assert (attempts, len(queue.dead)) == ([1, 2, 3], 1)


def test_a_queue_runs_an_async_handler() -> None:
    queue, seen = Queue(), []

    @hopspan.consumer(policy=hopspan.ack_always)
    async def handler(message: Message) -> None:
        seen.append(message)

    given = [queue.publish(number) for number in range(2)]
    asyncio.run(queue.run_async(handler))
    assert (seen, [message.verdict for message in seen]) == (given, [Verdict.ACK] * 2)


# -- the adapter -----------------------------------------------------------------------------------


def test_a_delivery_reads_its_message() -> None:
    message = Message(headers={"a": 1}, queue=Queue("orders"), attempt=2, id="m1")
    with hopspan.process(message) as op:
        delivery = op.delivery
        assert delivery.endpoint == Endpoint("memory", "orders")
        assert (delivery.headers, delivery.native) == ({"a": 1}, message)
        assert (delivery.message_id, delivery.attempt, delivery.redelivered) == ("m1", 2, True)
        assert delivery.settles is True


def test_a_message_without_a_queue_is_of_a_test() -> None:
    with hopspan.process(Message(auto_ack=True)) as op:
        delivery = op.delivery
        assert (delivery.endpoint.destination, delivery.settles) == ("test", False)
        assert (delivery.attempt, delivery.redelivered) == (1, False)


@pytest.mark.parametrize("args", [(), (1, "x"), ([],), ([1],)])
def test_what_is_no_message_is_not_found(args: tuple[object, ...]) -> None:
    assert handed(MemoryDelivery, args, None) is None


def test_messages_are_found_among_arguments() -> None:
    one, two = Message(), Message()
    found = [handed(MemoryDelivery, args, None) for args in ((1, one, two), ("x", [one, two]))]
    assert [each and [part.native for part in each.deliveries] for each in found] == [
        [one],
        [one, two],
    ]


@pytest.mark.parametrize("nothing", [[], ()])
def test_a_list_without_messages_is_no_message(nothing: object) -> None:
    assert given(MemoryDelivery, nothing, None) == ()


def test_a_message_does_not_keep_its_handling() -> None:
    message = Message()
    with hopspan.process(message) as op:
        gone = weakref.ref(op)
    del op
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (
            hopspan.dead_letter("dlt", producer=None),
            "a queue in memory keeps what was rejected by itself, in `dead`",
        ),
        (hopspan.requeue_times(2, pause=1), "a queue in memory cannot wait; leave out pause="),
    ],
)
def test_it_dead_letters_by_itself_and_cannot_wait(policy: hopspan.Policy, reason: str) -> None:
    message = Message()
    with pytest.raises(PolicyError) as raised, hopspan.process(message, policy=policy):
        pytest.fail("the block was entered")
    assert str(raised.value) == f"policy {policy.name} cannot work with memory: {reason}"
    assert message.verdict is None


def test_an_error_is_called_by_its_class() -> None:
    message = Message()
    with pytest.raises(ValueError, match="bad"), hopspan.process(message) as op:
        raise ValueError("bad")
    assert op.outcome is not None
    assert op.outcome.error_type == "ValueError"
