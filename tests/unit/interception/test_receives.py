"""The ways in which a client hands messages over: pushed, fetched, iterated over."""

from __future__ import annotations

import copy
import functools
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import hopspan
from hopspan.conventions import Action
from hopspan.delivery import Loop
from hopspan.interception import Fetch, consumes, iterates, notifies, receives
from hopspan.interception.receives import _Unintercepted
from hopspan.model import Endpoint, OperationType, PolicyError, Verdict
from hopspan.telemetry import Binding, set_for_client
from hopspan.testing import Message
from hopspan.testing.memory import ADAPTER
from tests.unit.interception import client
from tests.unit.interception.client import Channel
from tests.unit.interception.conftest import Intercept
from tests.unit.support import Seen, Telemetry, delivery

CONSUMES = consumes(client.consume)
RECEIVES = receives(client.get)
MODULE = sys.modules[receives.__module__]


def cannot(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("ours")


# -- pushed ----------------------------------------------------------------------------------------


def handled(channel: Channel, message: Message | None = None) -> Message:
    """Push a message as the client would."""
    message = Message() if message is None else message
    channel.handlers[0](message)
    return message


def test_a_pushed_message_is_handled_inside_its_span(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("consume", CONSUMES, policy=hopspan.ack_always)
    inside: list[bool] = []

    def handler(message: Message) -> None:
        inside.append(trace.get_current_span() is hopspan.current().span)

    assert channel.consume("orders", handler) == "a tag"
    message = handled(channel)
    assert (inside, message.verdict) == ([True], Verdict.ACK)
    assert [span.name for span in telemetry.spans] == ["process test"]


def test_a_push_is_no_child_of_what_is_current(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("consume", CONSUMES)
    channel.consume("orders", lambda message: None)
    with telemetry.tracer.start_as_current_span("an accident"):
        handled(channel)
    assert telemetry.seen[0].parent is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("orders", print, True), {}),
        (("orders",), {"handler": print, "auto_ack": True}),
        ((), {"queue": "orders", "handler": print, "auto_ack": True}),
    ],
)
def test_the_other_arguments_are_the_users(args: Any, kwargs: Any, intercept: Intercept) -> None:
    channel, _ = intercept("consume", CONSUMES)
    channel.consume(*args, **kwargs)
    assert channel.calls == [("consume", "orders", True)]


def test_the_registered_handler_looks_like_the_users(intercept: Intercept) -> None:
    def on_order(message: Message) -> None:
        """Handle an order."""

    channel, _ = intercept("consume", CONSUMES)
    channel.consume("orders", on_order)
    assert (channel.handlers[0].__name__, channel.handlers[0].__doc__) == (
        "on_order",
        "Handle an order.",
    )


def test_a_decorated_handler_makes_one_span_and_decides(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("consume", CONSUMES, policy=hopspan.ack_always)

    @hopspan.consumer(policy=hopspan.reject_on_error)
    def handler(message: Message) -> None:
        raise ValueError("bad")

    channel.consume("orders", handler)
    assert handled(channel).verdict is Verdict.REJECT
    assert [span.name for span in telemetry.spans] == ["reject test", "process test"]


SENT = {"traceparent": f"00-{1:032x}-{2:016x}-01"}


def test_all_settings_of_a_decorated_handler_hold(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    """Not only its policy: consumer goes before wrap and instrument."""
    channel, _ = intercept("consume", CONSUMES)
    handler = hopspan.consumer(correlation="link")(lambda message: None)
    channel.consume("orders", functools.partial(handler))
    handled(channel, Message(headers=SENT))
    assert (telemetry.only.parent, telemetry.only.links) == (None, (2,))


def test_a_policy_on_an_auto_ack_consumer_is_refused_when_subscribing(
    intercept: Intercept,
) -> None:
    channel, _ = intercept("consume", CONSUMES, policy=hopspan.ack_always)
    with pytest.raises(PolicyError) as raised:
        channel.consume("orders", print, auto_ack=True)
    assert str(raised.value) == (
        "policy ack_always cannot settle for a consumer of 'orders': it was made with "
        "auto_ack=True. Make it without, or use policy=hopspan.manual"
    )
    assert channel.calls == []


def test_the_handlers_own_policy_is_refused_when_subscribing(intercept: Intercept) -> None:
    channel, _ = intercept("consume", CONSUMES)
    handler = hopspan.consumer(policy=hopspan.requeue_once)(lambda message: None)
    with pytest.raises(PolicyError, match="policy requeue_once cannot settle"):
        channel.consume("orders", handler, auto_ack=True)


def test_a_handler_that_settles_nothing_may_have_auto_ack(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    """Its own setting goes before the channel's, also for what is refused."""
    channel, _ = intercept("consume", CONSUMES, policy=hopspan.ack_always)
    handler = hopspan.consumer(policy=hopspan.manual)(lambda message: None)
    channel.consume("orders", handler, auto_ack=True)
    handled(channel, Message(auto_ack=True))
    assert len(telemetry.spans) == 1


async def coroutine_function(message: Message) -> None: ...


def generator_function(message: Message) -> Iterator[None]:
    yield


async def async_generator_function(message: Message) -> AsyncIterator[None]:
    yield


class WithCoroutine:
    async def __call__(self, message: Message) -> None: ...


NEVER_RUN = pytest.mark.parametrize(
    "handler",
    [
        coroutine_function,
        generator_function,
        async_generator_function,
        WithCoroutine(),
        functools.partial(coroutine_function),
        hopspan.consumer(coroutine_function),
        functools.partial(hopspan.consumer(policy=hopspan.ack_always)(generator_function)),
    ],
)


@NEVER_RUN
def test_a_handler_whose_body_would_never_run_is_refused_when_subscribing(
    handler: Any, intercept: Intercept
) -> None:
    channel, _ = intercept("consume", CONSUMES)
    with pytest.raises(PolicyError, match="memory calls plain functions, and the body of"):
        channel.consume("orders", handler)
    assert channel.calls == []


@NEVER_RUN
def test_switched_off_no_handler_is_refused(handler: Any, intercept: Intercept) -> None:
    channel, binding = intercept("consume", CONSUMES)
    binding.instrumenter.switch.on = False
    channel.consume("orders", handler)
    assert channel.handlers == [handler]


@pytest.mark.parametrize("later", [False, True])
def test_settings_that_change_after_subscribing_hold_from_then_on(
    later: bool, telemetry: Telemetry
) -> None:
    """A subscription is made again when anything of what holds has changed."""
    set_for_client("memory", telemetry.instrumenter(policy=hopspan.ack_always))
    binding = Binding(ADAPTER)
    channel = Channel()
    CONSUMES(Channel.consume, binding)(channel, "orders", lambda message: 1 / 0)
    try:
        if later:
            set_for_client("memory", telemetry.instrumenter(policy=hopspan.reject_on_error))
        message = handled(channel)
    finally:
        set_for_client("memory", None)
    assert message.verdict is (Verdict.REJECT if later else Verdict.ACK)


def test_a_registration_that_is_not_an_applications_is_left_alone(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("consume", CONSUMES)
    channel.consume("internal", print)
    assert channel.handlers == [print]


def test_what_is_no_handler_is_left_to_the_client(intercept: Intercept) -> None:
    channel, _ = intercept("consume", CONSUMES)
    channel.consume("orders", "not callable")
    assert channel.handlers == ["not callable"]


def test_switched_off_a_registration_is_left_alone(intercept: Intercept) -> None:
    channel, binding = intercept("consume", CONSUMES)
    binding.instrumenter.switch.on = False
    channel.consume("orders", print)
    assert channel.handlers == [print]


def test_a_registered_handler_emits_nothing_once_it_is_switched_off(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, binding = intercept("consume", CONSUMES, policy=hopspan.ack_always)
    ran: list[Message] = []
    channel.consume("orders", ran.append)
    binding.instrumenter.switch.on = False
    set_for_client("memory", None)  # as `uninstrument` does
    message = handled(channel)
    assert (ran, message.verdict, telemetry.spans) == ([message], None, [])


def test_a_registration_that_cannot_be_read_goes_ahead(
    intercept: Intercept, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("consume", consumes(cannot))
    channel.consume("orders", print)
    assert (channel.handlers, len(logged.records)) == ([print], 1)


# -- fetched ---------------------------------------------------------------------------------------

RECEIVED = Seen(
    "receive orders",
    SpanKind.CLIENT,
    {
        "messaging.system": "memory",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "orders",
    },
)


def test_a_fetch_has_a_receive_span(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("get", RECEIVES)
    message = Message(headers=SENT)
    channel.waiting = [message]
    assert channel.get("orders") is message
    assert telemetry.only == RECEIVED._replace(links=(2,))


def test_a_fetch_counts_its_messages(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("get", RECEIVES)
    channel.waiting = [Message()]
    channel.get("orders")
    points = telemetry.points("messaging.client.consumed.messages")
    assert [value for _, value in points] == [1]


def test_an_empty_fetch_has_no_span(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("get", RECEIVES)
    assert channel.get("orders") is None
    assert (telemetry.spans, channel.calls) == ([], [("get", "orders", False)])


def test_a_fetch_that_fails_is_a_failure_and_counts_nothing(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", RECEIVES)
    channel.error = ConnectionError("closed")
    with pytest.raises(ConnectionError) as raised:
        channel.get("orders")
    assert raised.value is channel.error
    assert telemetry.only == RECEIVED._replace(
        attributes={**RECEIVED.attributes, "error.type": "ConnectionError"},
        status=("ERROR", "closed"),
        events=("exception",),
    )
    assert telemetry.points("messaging.client.consumed.messages") == []


def test_a_fetch_is_timed_from_the_call_to_its_return(
    intercept: Intercept, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(MODULE, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(MODULE, "time_ns", lambda: 1_000)
    channel, _ = intercept("get", RECEIVES)
    channel.waiting = [Message()]
    channel.get("orders")
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert (telemetry.spans[0].start_time, point.sum) == (1_000, 3.0)


def test_a_fetch_inside_an_intercepted_call_is_no_operation(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, binding = intercept("get", RECEIVES)
    channel.waiting = [Message()]

    def get_again(self: Channel, queue: str) -> Any:
        return channel.get(queue)

    receives(client.get)(get_again, binding)(channel, "orders")
    assert len(telemetry.spans) == 1


class NothingError(Exception):
    """What a client raises for an empty queue."""


def test_a_call_that_says_by_raising_that_there_is_nothing_is_no_operation(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", receives(client.get, ends=(NothingError,)))
    channel.error = NothingError()
    with pytest.raises(NothingError) as raised:
        channel.get("orders")
    assert raised.value is channel.error
    assert telemetry.spans == []
    channel.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        channel.get("orders")
    assert [span.status.status_code for span in telemetry.spans] == [StatusCode.ERROR]


POLL = Action("poll", OperationType.RECEIVE)


def polling(mixed: bool) -> Any:
    """A call for whatever there is, as a client of several queues has it."""

    def reader(channel: Any, queue: str) -> Fetch:
        return Fetch(
            Endpoint("memory", "all"), lambda messages: messages or [], POLL, mixed_endpoints=mixed
        )

    return receives(reader)


A, B = (delivery(endpoint=Endpoint("memory", queue)) for queue in "ab")


@pytest.mark.parametrize(
    ("mixed", "found", "name"),
    [
        (True, [A, A], "poll a"),
        (True, [A], "poll a"),
        (True, [A, B], "poll"),
        (False, [A, A], "poll all"),
    ],
)
def test_a_call_for_whatever_there_is_is_named_after_what_came(
    mixed: bool, found: Any, name: str, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", polling(mixed))
    channel.waiting = [found]
    channel.get("all")
    assert telemetry.only.name == name
    assert telemetry.only.attributes["messaging.operation.name"] == "poll"


@pytest.mark.parametrize(
    ("mixed", "found", "seen"),
    [
        (True, [A, B], [("poll b", 1)]),
        (True, [A, A], []),
        (True, [A, B, B], [("poll b", 2)]),
        (False, [A, B, B], [("poll all", 2)]),
    ],
)
def test_what_is_of_an_ignored_destination_was_not_received(
    mixed: bool, found: Any, seen: Any, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", polling(mixed), ignore=("a",))
    channel.waiting = [found]
    assert channel.get("all") is found
    assert [
        (span.name, span.attributes.get("messaging.batch.message_count", 1))
        for span in telemetry.seen
    ] == seen
    counted = [count for _, count in telemetry.points("messaging.client.consumed.messages")]
    assert counted == [count for _, count in seen]


def test_a_call_for_whatever_there_is_that_fails_is_named_after_what_it_asked_for(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", polling(mixed=True))
    channel.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        channel.get("all")
    assert telemetry.only.name == "poll all"


@pytest.mark.parametrize("error", [None, ValueError("bad")])
def test_afterwards_the_next_fetch_is_one_again(
    error: Exception | None, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("get", RECEIVES)
    channel.waiting, channel.error = [Message(), Message()], error
    for _ in range(2):
        with suppress(ValueError):
            channel.get("orders")
    assert len(telemetry.spans) == 2


def test_switched_off_a_fetch_is_left_alone(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, binding = intercept("get", RECEIVES)
    binding.instrumenter.switch.on = False
    channel.waiting = [Message()]
    assert channel.get("orders") is not None
    assert telemetry.spans == []


def test_the_hook_is_told_what_was_fetched(intercept: Intercept) -> None:
    told: list[Any] = []
    channel, _ = intercept("get", RECEIVES, on_start=lambda operation, native: told.append(native))
    channel.waiting = [Message()]
    message = channel.get("orders")
    channel.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        channel.get("orders")
    assert told == [message, None]


def test_a_fetch_that_cannot_be_read_goes_ahead(
    intercept: Intercept, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("get", receives(cannot))
    channel.waiting = [Message()]
    assert channel.get("orders") is not None
    assert len(logged.records) == 1


def test_a_result_that_cannot_be_read_is_returned(
    intercept: Intercept, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    def reader(channel: Any, queue: str) -> Any:
        return client.get(channel, queue)._replace(read=cannot)

    channel, _ = intercept("get", receives(reader))
    channel.waiting = [Message()]
    assert channel.get("orders") is not None
    assert (telemetry.spans, len(logged.records)) == ([], 1)


# -- iterated over ---------------------------------------------------------------------------------


def iterating(kept: list[Any] | None = None) -> Any:
    return iterates(client.iterate, lambda channel, loop: (kept or []).append((channel, loop)))


def test_the_body_of_a_loop_is_inside_the_span_of_its_message(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("iterate", iterating())
    channel.waiting = [Message(id="0"), Message(id="1")]
    inside = [hopspan.current().delivery.native is message for message in channel.iterate("orders")]
    assert (inside, len(telemetry.spans)) == ([True, True], 2)


def test_a_loop_is_a_child_of_what_is_current(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("iterate", iterating())
    channel.waiting = [Message()]
    with telemetry.tracer.start_as_current_span("job") as job:
        for _ in channel.iterate("orders"):
            pass
    assert telemetry.seen[0].parent == job.get_span_context().span_id


def test_what_is_no_message_is_in_nobodys_trace(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("iterate", iterating())
    given: Any = ["tick", Message()]
    channel.waiting = given
    assert [bool(hopspan.current()) for _ in channel.iterate("orders")] == [False, True]


def test_the_client_is_told_of_the_loop(intercept: Intercept) -> None:
    kept: list[Any] = [None]
    channel, _ = intercept("iterate", iterating(kept))
    loop = channel.iterate("orders")
    assert (kept[1:], type(loop)) == ([(channel, loop)], Loop)


def test_a_client_that_cannot_keep_the_loop_returns_it(
    intercept: Intercept, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("iterate", iterates(client.iterate, cannot))
    channel.waiting = [Message()]
    assert (len(list(channel.iterate("orders"))), len(logged.records)) == (1, 1)


def test_switched_off_an_iterator_is_the_clients_own(intercept: Intercept) -> None:
    channel, binding = intercept("iterate", iterating())
    binding.instrumenter.switch.on = False
    assert type(channel.iterate("orders")) is type(iter([]))


def test_a_loop_emits_nothing_once_it_is_switched_off(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, binding = intercept("iterate", iterating())
    channel.waiting = [Message(), Message()]
    loop = channel.iterate("orders")
    next(loop)
    binding.instrumenter.switch.on = False
    assert bool(next(loop) and hopspan.current()) is False
    del loop
    gc.collect()
    assert len(telemetry.spans) == 1


def test_a_call_that_cannot_be_read_returns_the_clients_own_iterator(
    intercept: Intercept, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("iterate", iterates(cannot, cannot))
    assert type(channel.iterate("orders")) is type(iter([]))
    assert len(logged.records) == 1


class Asking(Channel):
    """A client whose iterator gets each message by a call that is intercepted as well."""

    def iterate(self, queue: str) -> Iterator[Any]:
        return AskingIterator(self, queue)


class AskingIterator:
    def __init__(self, channel: Channel, queue: str) -> None:
        self.channel, self.queue, self.closed = channel, queue, 0

    def __iter__(self) -> AskingIterator:
        return self

    def __next__(self) -> Any:
        found = self.channel.get(self.queue)
        if found is None:
            raise StopIteration
        return found

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def asking(telemetry: Telemetry) -> Asking:
    """A client whose iterator and whose call are both intercepted."""
    channel = Asking()
    binding = Binding(ADAPTER, telemetry.instrumenter())
    for method, interceptor in (("get", RECEIVES), ("iterate", iterating())):
        changed = interceptor(getattr(Asking, method), binding)
        channel.__dict__[method] = functools.partial(changed, channel)
    return channel


def test_what_an_iterator_calls_of_itself_is_no_operation(
    asking: Asking, telemetry: Telemetry
) -> None:
    asking.waiting = [Message(), Message()]
    assert len(list(asking.iterate("orders"))) == 2
    assert [span.name for span in telemetry.spans] == ["process test", "process test"]


def test_what_the_body_of_a_loop_calls_is_an_operation(
    asking: Asking, telemetry: Telemetry
) -> None:
    """Only the client's own calls are not; even after one of them has raised."""
    asking.waiting = [Message(), Message()]
    for _ in asking.iterate("orders"):
        asking.get("orders")
    asking.waiting = [Message()]
    asking.get("orders")
    assert [span.name for span in telemetry.spans] == [
        "receive orders", "process test", "receive orders",
    ]  # fmt: skip


def test_the_clients_own_iterator_is_within_reach(asking: Asking) -> None:
    """Some clients' iterators have methods of their own."""
    loop: Any = asking.iterate("orders")
    loop.close()
    assert loop._source._source.closed == 1


def test_a_loop_over_what_can_be_copied_can_be_copied() -> None:
    quiet = _Unintercepted(iter([1, 2]), "memory")
    assert list(copy.deepcopy(quiet)) == list(quiet) == [1, 2]


def test_what_was_wrapped_around_an_iterator_is_one() -> None:
    quiet = _Unintercepted(iter([1, 2]), "memory")
    assert (iter(quiet) is quiet, list(quiet)) == (True, [1, 2])


# -- told first ------------------------------------------------------------------------------------


def test_being_told_first(intercept: Intercept) -> None:
    told: list[Any] = []

    def before(channel: Channel, *args: Any, **kwargs: Any) -> None:
        told.append((list(channel.calls), args, kwargs))

    channel: Any = intercept("publish", notifies(before))[0]
    assert channel.publish("orders", body=b"body") == "published"
    assert told == [([], ("orders",), {"body": b"body"})]
    assert channel.calls == [("publish", "orders", b"body", None, False)]


def test_switched_off_nobody_is_told(intercept: Intercept) -> None:
    channel, binding = intercept("cancel", notifies(cannot))
    binding.instrumenter.switch.on = False
    assert channel.cancel() == "cancelled"


def test_who_cannot_be_told_is_logged_once(
    intercept: Intercept, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("cancel", notifies(cannot))
    assert [channel.cancel() for _ in range(2)] == ["cancelled", "cancelled"]
    assert [record.message.partition(";")[0] for record in logged.records] == [
        "hopspan failed at before cancel (RuntimeError)"
    ]


@pytest.mark.parametrize(
    ("method", "interceptor"),
    [
        ("consume", CONSUMES),
        ("get", RECEIVES),
        ("iterate", iterating()),
        ("cancel", notifies(cannot)),
    ],
)
def test_replacements_look_like_the_method(
    method: str, interceptor: Callable[..., Any], intercept: Intercept
) -> None:
    channel, _ = intercept(method, interceptor)
    assert getattr(channel, method).__name__ == method
