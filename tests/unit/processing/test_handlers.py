"""The decorator on consumer handlers: sync and async, bare and with settings, on any callable."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_current

import hopspan
from hopspan.model import (
    ConfigurationError,
    PolicyError,
    Settlement,
    UnknownMessageError,
    Verdict,
)
from hopspan.processing.handlers import face_of, traced
from hopspan.processing.opening import NOTHING
from hopspan.telemetry import Face
from hopspan.testing import Message, Queue, memory
from tests.unit.support import Adapting, Telemetry


@pytest.fixture(autouse=True)
def context_is_restored() -> Iterator[None]:
    before = get_current()
    yield
    assert get_current() is before


async def settle_later(native: Message, settlement: Settlement) -> None:
    await asyncio.sleep(0)
    memory.settle(native, settlement)


AWAITED: Any = Adapting(ASYNCHRONOUS=True, settle=settle_later)


def run(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a handler as its client does, awaited or not."""
    result = handler(*args, **kwargs)
    return asyncio.run(awaited(result)) if inspect.isawaitable(result) else result


async def awaited(result: Any) -> Any:
    return await result


def sync_handler(message: Message, *, fail: BaseException | None = None) -> Any:
    if fail is not None:
        raise fail
    return hopspan.current(), trace.get_current_span()


async def async_handler(message: Message, *, fail: BaseException | None = None) -> Any:
    await asyncio.sleep(0)
    return sync_handler(message, fail=fail)


class Both:
    """A handler of each kind, and the adapter that goes with it."""

    def __init__(self, handler: Any, adapter: Any) -> None:
        self.handler, self.adapter = handler, adapter


@pytest.fixture(params=["sync", "async", "async on a client that needs no waiting"])
def both(request: pytest.FixtureRequest) -> Both:
    return {
        "sync": Both(sync_handler, memory),
        "async": Both(async_handler, AWAITED),
        "async on a client that needs no waiting": Both(async_handler, memory),
    }[request.param]


def decorated(both: Both, telemetry: Telemetry, **settings: Any) -> Any:
    decorate = hopspan.consumer(adapter=both.adapter, **telemetry.settings, **settings)
    return decorate(both.handler)


# -- what a handler is like ------------------------------------------------------------------------


def test_it_runs_inside_the_process_span(both: Both, telemetry: Telemetry) -> None:
    processing, span = run(decorated(both, telemetry), Message())
    assert (bool(processing), span is processing.span) == (True, True)
    assert [each.name for each in telemetry.spans] == ["process test"]


def test_its_result_is_returned(telemetry: Telemetry) -> None:
    handler = hopspan.consumer(**telemetry.settings)(lambda message: "result")
    assert handler(Message()) == "result"


def test_its_arguments_are_passed_through(telemetry: Telemetry) -> None:
    @hopspan.consumer(**telemetry.settings)
    def handler(first: Any, message: Message, *, extra: Any) -> Any:
        return first, message, extra

    message = Message()
    assert handler(1, message, extra=2) == (1, message, 2)


def test_it_keeps_its_name_and_the_plain_handler(both: Both, telemetry: Telemetry) -> None:
    handler = decorated(both, telemetry)
    assert (handler.__name__, handler.__wrapped__) == (both.handler.__name__, both.handler)


def test_it_stays_sync_or_async(both: Both, telemetry: Telemetry) -> None:
    handler = decorated(both, telemetry)
    assert inspect.iscoroutinefunction(handler) == inspect.iscoroutinefunction(both.handler)


def test_bare_it_settles_nothing() -> None:
    @hopspan.consumer
    def handler(message: Message) -> str:
        return "result"

    message = Message()
    assert (handler(message), message.verdict) == ("result", None)


def test_called_without_settings_it_decorates_too() -> None:
    @hopspan.consumer()
    def handler(message: Message) -> str:
        return "result"

    assert handler(Message()) == "result"


# -- settling --------------------------------------------------------------------------------------


def test_returning_is_success(both: Both, telemetry: Telemetry) -> None:
    message = Message()
    run(decorated(both, telemetry, policy=hopspan.reject_on_error), message)
    assert message.verdict is Verdict.ACK


def test_a_failure_that_was_settled_is_logged_and_none_returned(
    both: Both, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """A poison message must not stop the consumer."""
    message, error = Message(), ValueError("bad")
    handler = decorated(both, telemetry, policy=hopspan.reject_on_error)
    assert run(handler, message, fail=error) is None
    assert message.verdict is Verdict.REJECT
    assert [record.exc_info and record.exc_info[1] for record in logged.records] == [error]


def test_a_failure_that_was_settled_can_be_raised_again(both: Both, telemetry: Telemetry) -> None:
    message, error = Message(), ValueError("bad")
    handler = decorated(both, telemetry, policy=hopspan.reject_on_error, reraise=True)
    with pytest.raises(ValueError, match="bad") as raised:
        run(handler, message, fail=error)
    assert (raised.value, message.verdict) == (error, Verdict.REJECT)


def test_a_failure_that_was_not_settled_is_raised(both: Both, telemetry: Telemetry) -> None:
    with pytest.raises(ValueError, match="bad"):
        run(decorated(both, telemetry), Message(), fail=ValueError("bad"))
    assert telemetry.only.status == ("ERROR", "bad")


@pytest.mark.parametrize(
    ("leaving", "verdict"),
    [
        (asyncio.CancelledError(), Verdict.REQUEUE),
        (GeneratorExit(), Verdict.REQUEUE),
        (KeyboardInterrupt(), None),
        (SystemExit(1), None),
    ],
)
def test_what_is_no_failure_is_always_raised(
    leaving: BaseException, verdict: Verdict | None, both: Both, telemetry: Telemetry
) -> None:
    async def drive(handler: Any, message: Message) -> BaseException | None:
        try:
            result = handler(message, fail=leaving)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:  # noqa: BLE001 - it must not reach the event loop
            return error
        return None

    message = Message()
    handler = decorated(both, telemetry, policy=hopspan.reject_on_error)
    assert asyncio.run(drive(handler, message)) is leaving
    assert message.verdict is verdict


def test_a_deferred_handler_concludes_nothing(telemetry: Telemetry) -> None:
    operations: list[Any] = []

    @hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    def handler(message: Message) -> None:
        operations.append(hopspan.current().defer())

    message = Message()
    handler(message)
    assert (message.verdict, telemetry.spans) == (None, [])
    with operations.pop():
        pass
    assert message.verdict is Verdict.ACK


def test_a_deferred_async_handler_concludes_nothing(telemetry: Telemetry) -> None:
    async def scenario() -> None:
        operations: list[Any] = []

        @hopspan.consumer(adapter=AWAITED, policy=hopspan.ack_always, **telemetry.settings)
        async def handler(message: Message) -> None:
            operations.append(hopspan.current().defer())

        await handler(message)
        assert message.verdict is None
        async with operations.pop():
            pass

    message = Message()
    asyncio.run(scenario())
    assert message.verdict is Verdict.ACK


def test_a_handler_that_failed_while_its_work_goes_on_is_raised(
    both: Both, telemetry: Telemetry
) -> None:
    """The work will tell how it went; what the handler itself raised is not hidden meanwhile."""
    operations: list[Any] = []

    def take_and_fail(message: Message) -> None:
        operation = hopspan.current().defer()
        operations.append(operation)
        operation.processing.take("")
        raise ValueError("bad")

    async def take_and_fail_later(message: Message) -> None:
        take_and_fail(message)

    is_async = inspect.iscoroutinefunction(both.handler)
    given = Both(take_and_fail_later if is_async else take_and_fail, both.adapter)
    message = Message()
    with pytest.raises(ValueError, match="bad"):
        run(decorated(given, telemetry, policy=hopspan.reject_on_error), message)
    assert message.verdict is None
    run(operations[0].processing.finish_async)


# -- faces in faces --------------------------------------------------------------------------------


def test_two_faces_make_one_span_and_the_inner_one_decides(telemetry: Telemetry) -> None:
    @hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    def handler(message: Message) -> None:
        with hopspan.process(message, policy=hopspan.reject_on_error):
            raise ValueError("bad")

    message = Message()
    handler(message)
    assert message.verdict is Verdict.REJECT
    assert [span.name for span in telemetry.spans] == ["reject test", "process test"]


def test_a_handler_inside_another_messages_handler_is_its_own(telemetry: Telemetry) -> None:
    inner = hopspan.consumer(**telemetry.settings)(lambda message: None)
    outer = hopspan.consumer(**telemetry.settings)(lambda message: inner(Message()))
    outer(Message())
    assert [span.name for span in telemetry.spans] == ["process test", "process test"]
    assert [span.parent for span in telemetry.spans] == [None, None]


# -- what can be decorated -------------------------------------------------------------------------


class Consumer:
    def __init__(self) -> None:
        self.seen: list[Message] = []

    @hopspan.consumer(policy=hopspan.ack_always)
    def method(self, message: Message) -> None:
        self.seen.append(message)

    @staticmethod
    @hopspan.consumer(policy=hopspan.ack_always)
    def static(message: Message) -> None:
        """Nothing to do."""

    @classmethod
    @hopspan.consumer(policy=hopspan.ack_always)
    def of_class(cls, message: Message) -> None:
        """Nothing to do."""


def test_methods_can_be_decorated() -> None:
    consumer = Consumer()
    messages = [Message() for _ in range(3)]
    consumer.method(messages[0])
    consumer.static(messages[1])
    consumer.of_class(messages[2])
    assert [message.verdict for message in messages] == [Verdict.ACK] * 3
    assert consumer.seen == messages[:1]


class Handling:
    def __call__(self, message: Message) -> str:
        return "result"


class HandlingLater:
    async def __call__(self, message: Message) -> str:
        return "result"


async def with_extra(extra: int, message: Message) -> str:
    return "result"


@pytest.mark.parametrize(
    "handler",
    [
        Handling(),
        HandlingLater(),
        functools.partial(with_extra, 1),
        functools.partial(lambda extra, message: "result", 1),
        Handling().__call__,
        HandlingLater().__call__,
    ],
)
def test_anything_callable_can_be_decorated(handler: Any, telemetry: Telemetry) -> None:
    message = Message()
    handle = hopspan.consumer(policy=hopspan.reject_on_error, **telemetry.settings)(handler)
    assert run(handle, message) == "result"
    assert message.verdict is Verdict.ACK


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "consumer: it decorates a handler function, not a int"),
        (
            staticmethod(print),
            "consumer: put @staticmethod above @hopspan.consumer, not below it: "
            "a staticmethod object is no function yet",
        ),
        (
            classmethod(print),
            "consumer: put @classmethod above @hopspan.consumer, not below it: "
            "a classmethod object is no function yet",
        ),
    ],
)
def test_what_is_no_function_is_an_error(thing: Any, message: str) -> None:
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.consumer(policy=hopspan.ack_always)(thing)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"nonsense": 1}, ConfigurationError), ({"policy": 3}, PolicyError)],
)
def test_a_wrong_setting_is_an_error_when_decorating(settings: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        hopspan.consumer(**settings)


# -- finding the message ---------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), (1, "x")])
def test_a_call_without_a_message_is_an_error_that_tells_how_to_test(args: Any) -> None:
    @hopspan.consumer
    def handler(*args: Any) -> None:
        raise AssertionError("unreachable")

    kinds = ", ".join(type(each).__name__ for each in args) or "nothing"
    with pytest.raises(UnknownMessageError) as raised:
        handler(*args)
    assert str(raised.value) == (
        f"handler {handler.__qualname__}: no message of a client that hopspan knows in what it "
        f"was given ({kinds}); call the plain handler in unit tests: it is the __wrapped__ of "
        "this one"
    )


def test_another_object_of_a_known_client_is_no_message() -> None:
    with pytest.raises(UnknownMessageError, match=r"in what it was given \(Queue\)"):
        hopspan.consumer(lambda *args: None)(Queue())


def test_a_handler_without_a_name_is_told_as_it_prints() -> None:
    handler = functools.partial(print)
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.consumer(handler)()
    assert str(raised.value).startswith(f"handler {handler!r}: ")


def test_via_is_given_to_the_adapter() -> None:
    vias: list[Any] = []

    def handed(args: Any, via: Any) -> Any:
        vias.append(via)
        return memory.handed(args)

    adapter: Any = Adapting(handed=handed)
    for via in ("the consumer", lambda: "asked for"):
        hopspan.consumer(via=via, adapter=adapter)(lambda message: None)(Message())
    assert vias == ["the consumer", "asked for"]


def test_a_list_of_messages_is_handled_as_one(telemetry: Telemetry) -> None:
    messages = [Message(), Message()]
    handler = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)(lambda batch: None)
    handler(messages)
    assert [message.verdict for message in messages] == [Verdict.ACK, Verdict.ACK]


@pytest.mark.parametrize("args", [([],), ((),), ({},), ("self", []), ([], "more")])
def test_an_empty_batch_is_handled_without_a_span(args: Any, telemetry: Telemetry) -> None:
    """A poll that brought nothing: the handler runs, and says what it says."""
    handler = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    given: list[Any] = []

    @handler
    def handle(*args: Any) -> str:
        given.append(args)
        assert not hopspan.current()
        return "handled"

    assert (handle(*args), given, telemetry.spans) == ("handled", [args], [])


def test_an_empty_batch_is_handled_by_a_coroutine_as_well(telemetry: Telemetry) -> None:
    @hopspan.consumer(**telemetry.settings)
    async def handle(batch: list[Message]) -> int:
        return len(batch)

    assert (asyncio.run(handle([])), telemetry.spans) == (0, [])


@pytest.mark.parametrize("nothing", [None, "", 0, b"", False])
def test_what_is_falsy_is_no_empty_batch(nothing: Any) -> None:
    with pytest.raises(UnknownMessageError):
        hopspan.consumer(lambda batch: None)(nothing)


def test_the_plain_handler_takes_anything() -> None:
    @hopspan.consumer
    def handler(body: Any) -> Any:
        return body

    assert handler.__wrapped__("not a message") == "not a message"  # type: ignore[attr-defined]


def test_a_policy_that_cannot_work_is_refused_before_the_handler_runs() -> None:
    @hopspan.consumer(policy=hopspan.ack_always)
    def handler(message: Message) -> None:
        raise AssertionError("unreachable")

    with pytest.raises(PolicyError, match="auto_ack=True"):
        handler(Message(auto_ack=True))


# -- the face of a handler -------------------------------------------------------------------------


def test_a_decorated_handler_has_a_face() -> None:
    handler = hopspan.consumer(reraise=True)(lambda message: None)
    found = face_of(handler)
    assert found is not None
    assert found.settings == {"reraise": True}


def test_a_face_is_found_through_partials_and_methods() -> None:
    face = face_of(Consumer().method)
    assert isinstance(face, Face)
    partial = functools.partial(functools.partial(Consumer().method))
    assert face_of(partial) is face


class Decorated:
    @hopspan.consumer(reraise=True)
    def __call__(self, message: Message) -> None:
        """Nothing to do."""


def test_a_face_is_found_on_a_callable_object() -> None:
    found = face_of(Decorated())
    assert found is not None
    assert found.settings == {"reraise": True}


class Lying:
    """As a mock is: it has every attribute."""

    __hopspan_face__ = "something"

    def __call__(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize("handler", [lambda: None, print, Handling(), Lying(), None, 3])
def test_others_have_none(handler: Any) -> None:
    assert face_of(handler) is None


# -- traced ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [sync_handler, async_handler])
def test_where_nothing_was_begun_the_handler_runs_as_it_is(handler: Any) -> None:
    processing, _ = run(traced(handler, lambda args: NOTHING), Message())
    assert processing is NOTHING


@pytest.mark.parametrize("handler", [sync_handler, async_handler])
def test_a_fault_of_ours_runs_the_handler_as_it_is(
    handler: Any, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(args: Any) -> Any:
        raise RuntimeError("ours")

    for _ in range(2):
        run(traced(handler, cannot), Message())
    assert len(logged.records) == 1


@pytest.mark.parametrize("handler", [sync_handler, async_handler])
def test_an_exception_of_a_handler_that_is_not_traced_is_raised(handler: Any) -> None:
    with pytest.raises(ValueError, match="bad"):
        run(traced(handler, lambda args: NOTHING), Message(), fail=ValueError("bad"))


def a_coroutine(message: Message) -> Any:
    return async_handler(message)


def a_generator(message: Message) -> Any:
    return (each for each in (message,))


@pytest.mark.parametrize("handler", [a_coroutine, a_generator])
def test_a_handler_whose_body_was_never_run_has_failed(handler: Any, telemetry: Telemetry) -> None:
    """A plain function that returns a coroutine is no coroutine function: nobody awaits it."""
    message = Message()
    decorate = hopspan.consumer(policy=hopspan.reject_on_error, **telemetry.settings)
    decorate(handler)(message).close()
    assert message.verdict is Verdict.REJECT
    assert telemetry.spans[-1].attributes["error.type"] == "hopspan.never_run"  # type: ignore[index]


def test_a_settlement_that_cost_the_channel_is_raised_as_the_handlers_own_would_be(
    telemetry: Telemetry,
) -> None:
    """The client must not go on to hand out what can never be settled."""
    closed = ConnectionError("closed")
    open_ = [True]

    def settle(native: Message, settlement: Settlement) -> None:
        open_[0] = False
        raise closed

    adapter: Any = Adapting(settle=settle, is_open=lambda native: open_[0])
    decorate = hopspan.consumer(policy=hopspan.ack_always, adapter=adapter, **telemetry.settings)
    with pytest.raises(ConnectionError) as raised:
        decorate(lambda message: None)(Message())
    assert raised.value is closed
    assert decorate(lambda message: "result")(Message()) == "result"
