"""Handled messages, besides: conclusions in a race, bodies that never ran, faults, and what is told."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import hopspan
from hopspan.delivery import Client, adapter_among, failure, overrides_of, unwrapped
from hopspan.delivery import adapter as lookup
from hopspan.delivery.delivery import Delivery
from hopspan.model import Outcome, Verdict
from hopspan.testing import Message, Queue, memory
from hopspan.testing.memory import ADAPTER, MemoryDelivery
from tests.unit.support import DEADLINE, Telemetry

# -- conclusions in a race -------------------------------------------------------------------------


def all_at_once(*works: Callable[[], Any]) -> None:
    """Run each in a thread of its own, all from the same moment on."""
    barrier = threading.Barrier(len(works), timeout=DEADLINE)

    def run(work: Callable[[], Any]) -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)


@pytest.mark.parametrize("attempt", range(20))
def test_whoever_comes_first_concludes_and_nobody_else(attempt: int, telemetry: Telemetry) -> None:
    """Deferred work ends, and the broker takes the message back, in whatever threads."""
    message = Message()
    settings = {"policy": hopspan.reject_on_error, **telemetry.settings}
    with hopspan.process(message, **settings) as op:
        deferred = op.defer()

    def work() -> None:
        with deferred:
            pass

    all_at_once(work, *(functools.partial(op.revoke, "partition lost") for _ in range(7)))
    assert [span.name for span in telemetry.spans] == ["process test"]
    points = telemetry.points("messaging.client.consumed.messages")
    assert [count for _, count in points] == [1]
    told = telemetry.only.attributes["hopspan.settlement"]
    assert (message.verdict, told) in {(Verdict.ACK, "ack"), (None, "leave")}


# -- bodies that have not run ----------------------------------------------------------------------


async def coroutine(message: Message) -> None: ...


def generator(message: Message) -> Iterator[None]:
    yield


async def async_generator(message: Message) -> AsyncIterator[None]:
    yield


def close(result: Any) -> None:
    """No warning of a coroutine that was never awaited."""
    getattr(result, "close", lambda: None)()


@pytest.mark.parametrize("body", [coroutine, generator, async_generator])
def test_a_handler_whose_body_has_not_run_has_failed_and_settles_nothing(
    body: Any, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """A plain function that returns a coroutine cannot be told beforehand."""
    handler = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)(
        lambda message: body(message)
    )
    message = Message()
    close(handler(message))
    assert message.verdict is None
    assert telemetry.only.attributes["error.type"] == "hopspan.never_run"
    assert telemetry.only.status[0] == "ERROR"
    assert [(record.levelname, record.message) for record in logged.records] == [
        (
            "ERROR",
            "the handler returned a coroutine or a generator, so its body has not run; a client "
            "that calls plain functions needs a plain function; its message is left unsettled",
        )
    ]


# -- the handler behind a decorated one ------------------------------------------------------------


class Handlers:
    """Handlers that are methods, and an object that is one."""

    @hopspan.consumer(correlation="link")
    def method(self, message: Message) -> str:
        return "method"

    @hopspan.consumer(correlation="link")
    def __call__(self, message: Message) -> str:
        return "object"


@hopspan.consumer(correlation="link")
def decorated(message: Message, word: str = "function") -> str:
    return word


def around(handler: Any) -> Any:
    @functools.wraps(handler)
    def wrapper(*args: Any) -> Any:
        return handler(*args)

    return wrapper


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (decorated, "function"),
        (Handlers().method, "method"),
        (Handlers(), "object"),
        (functools.partial(decorated, word="partial"), "partial"),
        (functools.partial(functools.partial(Handlers().method)), "method"),
    ],
    ids=["function", "method", "object", "partial", "partials"],
)
def test_the_settings_and_the_plain_handler_of_a_decorated_one_are_found(
    handler: Any, answer: str
) -> None:
    """So that a subscription does not trace it twice."""
    overrides = overrides_of(handler)
    assert overrides is not None
    assert overrides.settings == {"correlation": "link"}
    assert unwrapped(handler)("no message at all") == answer
    assert overrides_of(unwrapped(handler)) is None


def test_a_wrapper_of_the_users_own_around_a_decorated_handler_stays() -> None:
    wrapper = around(decorated)
    assert unwrapped(wrapper) is wrapper


@pytest.mark.parametrize("handler", [print, len, functools.partial(print), object(), Queue.run])
def test_what_is_not_decorated_has_no_settings_and_is_its_own_handler(handler: Any) -> None:
    assert overrides_of(handler) is None
    assert unwrapped(handler) is handler


# -- faults of ours --------------------------------------------------------------------------------


def cannot(*_args: object) -> Any:
    raise RuntimeError("ours")


def test_a_fault_at_the_end_of_a_turn_does_not_stop_the_loop(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Delivery, "conclude_turn", cannot)
    bodies = [
        each.body for each in hopspan.each([Message("a"), Message("b")], **telemetry.settings)
    ]
    assert (bodies, bool(hopspan.current())) == (["a", "b"], False)
    assert [record.message.partition(";")[0] for record in logged.records] == [
        "hopspan failed at ending a turn of a loop (RuntimeError)"
    ]


@pytest.mark.parametrize("part", ["ongoing", "begin", "_new_context"])
def test_a_fault_at_the_beginning_runs_the_body_and_settles_nothing(
    part: str, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    kind = MemoryDelivery if part == "ongoing" else Delivery
    monkeypatch.setattr(kind, part, cannot)
    headers = {"baggage": "tenant=acme"}
    messages = [Message(headers=headers) for _ in range(3)]
    ran: list[Any] = []
    hopspan.consumer(policy=hopspan.ack_always)(ran.append)(messages[0])
    with hopspan.process(messages[1], policy=hopspan.ack_always) as op:
        ran.append(messages[1])
    ran.extend(hopspan.each([messages[2]]))
    assert (ran, bool(op), [message.verdict for message in messages]) == (
        messages,
        False,
        [None] * 3,
    )
    assert [record.levelname for record in logged.records] == ["ERROR"]


# -- what a delivery tells of itself ---------------------------------------------------------------


def test_a_delivery_prints_where_it_came_from_and_whether_it_goes_on() -> None:
    with hopspan.process(Message(queue=Queue("orders"))) as op:
        inside = repr(op)
    assert [inside, repr(op), repr(hopspan.current())] == [
        "<hopspan delivery of orders: open>",
        "<hopspan delivery of orders: over>",
        "<hopspan delivery of nothing>",
    ]


def test_a_delivery_tells_its_messages_own_facts_as_a_value() -> None:
    with hopspan.process(Message(id="m1", attempt=2)) as op:
        message = op.message
    assert (message.id, message.conversation_id, message.key) == ("m1", None, None)
    assert message.attributes == {
        "messaging.message.id": "m1",
        "hopspan.attempt": 2,
        "hopspan.redelivered": True,
    }


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_is_told_as_its_deliveries(size: int) -> None:
    messages = [Message(queue=Queue("orders")) for _ in range(size)]
    with hopspan.process(messages, policy=hopspan.ack_always) as op:
        assert [delivery.native for delivery in op.deliveries] == messages
        assert (op.native, op.delivery) == (messages, op.deliveries[0])
        assert (op.settled, op.settled_by_policy) == (False, False)
    assert op.settled is True


# -- whose object it is ----------------------------------------------------------------------------


def test_the_first_object_of_a_known_client_decides() -> None:
    message = Message()
    for candidates in ((message,), (1, "x", message), ([message],), ({"partition": [message]},)):
        assert adapter_among(candidates) is ADAPTER
    for candidates in ((), (1,), ([],), ([1],), ({},)):
        assert adapter_among(candidates) is None


def test_without_a_lookup_no_client_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core alone knows none: the adapters' package tells it how to find them."""
    monkeypatch.setattr(lookup, "_locators", [])
    assert adapter_among((Message(),)) is None


def test_a_failure_has_the_clients_word_or_the_name_of_its_class() -> None:
    error = ValueError("bad")
    plain, with_words = (
        Client("x", system="x"),
        Client("x", system="x", error_type=lambda error: f"x.{error}"),
    )
    assert [failure(client, error) for client in (plain, with_words)] == [
        Outcome(True, error, "ValueError", "bad"),
        Outcome(True, error, "x.bad", "bad"),
    ]


def test_a_client_without_a_word_for_it_does_not_hide_a_failure() -> None:
    error = ValueError("bad")
    assert failure(Client("x", system="x", error_type=cannot), error).error_type == "ValueError"


# -- coroutines ------------------------------------------------------------------------------------


def test_a_plain_handler_that_returns_a_coroutine_is_finished_where_the_client_awaits(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryDelivery.client, "is_awaited", True)
    finished: list[str] = []

    async def body(message: Message) -> str:
        await asyncio.sleep(0)
        finished.append(message.body)
        return "done"

    handler = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)(
        lambda message: body(message)
    )
    message = Message("a")

    async def client() -> Any:
        return await handler(message)

    assert asyncio.run(client()) == "done"
    assert (finished, message.verdict, len(telemetry.spans)) == (["a"], Verdict.ACK, 1)


def test_the_module_of_the_queue_has_its_adapter() -> None:
    assert memory.ADAPTER.delivery is MemoryDelivery
    assert (memory.ADAPTER.name, memory.ADAPTER.points) == ("memory", ())
