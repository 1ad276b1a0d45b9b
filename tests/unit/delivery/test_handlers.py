"""`consumer`: the decorator on handlers, sync and async, bare and with settings, on any callable."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import pytest
from opentelemetry import trace

import hopspan
from hopspan import ConfigurationError, UnknownMessageError
from tests.unit.delivery.client import AsyncLetter, Letter, Stop
from tests.unit.delivery.ways import WAYS, Way, handle, quietly, raises
from tests.unit.support import Telemetry

HANDLERS = [way for way in WAYS if "handler" in way.name]
BAD = ValueError("bad")


def call(handler: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a handler as its client does, awaited or not."""

    async def awaited() -> Any:
        return await result

    result = handler(*args, **kwargs)
    return asyncio.run(awaited()) if inspect.isawaitable(result) else result


def plain(letter: Letter, *, extra: Any = None) -> Any:
    """Handle a letter."""
    return letter.name, extra, bool(hopspan.current())


async def awaited(letter: Letter, *, extra: Any = None) -> Any:
    """Handle a letter later."""
    await asyncio.sleep(0)
    return plain(letter, extra=extra)


BOTH = pytest.mark.parametrize("handler", [plain, awaited])


# -- what a decorated handler is like --------------------------------------------------------------


@BOTH
def test_it_is_called_like_the_plain_one_and_returns_what_that_returns(
    handler: Any, telemetry: Telemetry
) -> None:
    decorated = hopspan.consumer(**telemetry.settings)(handler)
    assert ("1", 2, True) == call(decorated, Letter(), extra=2)


@BOTH
def test_it_looks_like_the_plain_one(handler: Any) -> None:
    decorated: Any = hopspan.consumer(handler)
    assert (handler.__name__, handler.__doc__) == (decorated.__name__, decorated.__doc__)
    assert inspect.signature(handler) == inspect.signature(decorated)
    assert inspect.iscoroutinefunction(handler) == inspect.iscoroutinefunction(decorated)
    assert decorated.__wrapped__ is handler


def test_the_plain_one_is_had_for_unit_tests() -> None:
    decorated: Any = hopspan.consumer(lambda body: body)
    assert "no message" == decorated.__wrapped__("no message")


@pytest.mark.parametrize("decorate", [hopspan.consumer, hopspan.consumer()])
def test_bare_it_settles_nothing(decorate: Any) -> None:
    letter = Letter()
    assert ("1", None, True) == decorate(plain)(letter)
    assert [] == letter.channel.sent


# -- what comes out of it --------------------------------------------------------------------------


@pytest.mark.parametrize("way", HANDLERS, ids=lambda way: way.name)
def test_a_failure_that_was_settled_is_logged_and_stays_inside(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """A poison message must not stop the consumer."""
    settings = {"policy": hopspan.reject_on_error, **telemetry.settings}
    assert None is way.run(way.letter(), raises(BAD), **settings)
    assert [
        (
            "ERROR",
            "handler failed; its message of orders was settled by <policy reject_on_error>: reject",
            BAD,
        )
    ] == [
        (record.levelname, record.message, record.exc_info and record.exc_info[1])
        for record in logged.records
    ]


def test_who_settled_it_is_logged(telemetry: Telemetry, logged: pytest.LogCaptureFixture) -> None:
    def body(letter: Letter) -> None:
        letter.requeue()
        raise BAD

    settings = {"policy": hopspan.reject_on_error, **telemetry.settings}
    assert None is handle(HANDLERS[0], Letter(), body, **settings)
    assert ["handler failed; its message of orders was settled by the handler itself: requeue"] == [
        record.message for record in logged.records
    ]


def _requeues_and_raises(letter: Letter) -> None:
    letter.requeue()
    raise BAD


class Abort(BaseException):
    """Not for hopspan to keep."""


ESCAPING: list[Any] = [
    (raises(BAD), BAD, {"policy": hopspan.reject_on_error, "reraise": True}, "reject"),
    (raises(BAD), BAD, {"policy": hopspan.manual}, None),
    (_requeues_and_raises, BAD, {"policy": hopspan.manual}, "requeue"),
    (raises(stop := Stop()), stop, {"policy": hopspan.ack_always}, None),
    (raises(abort := Abort()), abort, {"policy": hopspan.reject_on_error}, "reject"),
]


@pytest.mark.parametrize(("body", "error", "settings", "sent"), ESCAPING)
def test_other_exceptions_come_out(
    body: Any, error: BaseException, settings: Any, sent: str | None, telemetry: Telemetry
) -> None:
    letter = Letter()
    assert error is handle(HANDLERS[0], letter, body, **settings, **telemetry.settings)
    assert ([(sent, "1")] if sent else []) == letter.channel.sent


# -- what can be decorated -------------------------------------------------------------------------


class Service:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hopspan.consumer(policy=hopspan.ack_always)
    def method(self, letter: Letter) -> None:
        self.seen.append(letter.name)

    @staticmethod
    @hopspan.consumer(policy=hopspan.ack_always)
    def static(letter: Letter) -> None: ...

    @classmethod
    @hopspan.consumer(policy=hopspan.ack_always)
    def of_class(cls, letter: Letter) -> None: ...


def test_methods_can_be_decorated() -> None:
    service = Service()
    letters = [Letter("method"), Letter("static"), Letter("of_class")]
    for letter in letters:
        getattr(service, letter.name)(letter)
    assert ["ack"] * 3 == [letter.verb for letter in letters]
    assert ["method"] == service.seen


class Handling:
    def __call__(self, letter: Letter) -> str:
        return "result"


class HandlingLater:
    async def __call__(self, letter: Letter) -> str:
        return "result"


async def with_more(more: int, letter: Letter) -> str:
    return "result"


@pytest.mark.parametrize(
    "handler",
    [
        Handling(),
        HandlingLater(),
        Handling().__call__,
        HandlingLater().__call__,
        functools.partial(with_more, 1),
        functools.partial(lambda more, letter: "result", 1),
    ],
)
def test_anything_callable_can_be_decorated(handler: Any, telemetry: Telemetry) -> None:
    letter = Letter()
    decorated = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)(handler)
    assert "result" == call(decorated, letter)
    assert [("ack", "1")] == letter.channel.sent


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (3, "it decorates a handler function, not a int"),
        (
            staticmethod(print),
            "put @staticmethod above @hopspan.consumer, not below it: a staticmethod object is no "
            "function yet",
        ),
        (
            classmethod(print),
            "put @classmethod above @hopspan.consumer, not below it: a classmethod object is no "
            "function yet",
        ),
    ],
)
def test_what_is_no_function_is_refused(thing: Any, said: str) -> None:
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.consumer(policy=hopspan.ack_always)(thing)
    assert f"consumer: {said}" == str(raised.value)


def test_a_wrong_setting_is_refused_when_decorating() -> None:
    settings: Any = {"nonsense": 1}
    with pytest.raises(ConfigurationError):
        hopspan.consumer(**settings)


# -- where the message is --------------------------------------------------------------------------


def test_the_message_is_found_among_the_arguments(telemetry: Telemetry) -> None:
    @hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    def decorated(*args: Any, **more: Any) -> Any:
        return args, more

    letter = Letter()
    assert ((1, letter, "x"), {"more": 2}) == decorated(1, letter, "x", more=2)
    assert [("ack", "1")] == letter.channel.sent


@pytest.mark.parametrize("via", [Letter().channel, lambda: Letter().channel])
def test_a_handler_may_be_told_what_its_messages_come_by(via: Any, telemetry: Telemetry) -> None:
    letter = Letter()
    hopspan.consumer(via=via, policy=hopspan.ack_always, **telemetry.settings)(plain)(letter)
    assert [("ack", "1")] == letter.channel.sent


@pytest.mark.parametrize(
    ("args", "kinds"),
    [
        ((), "nothing"),
        ((1, "x"), "int, str"),
        ((None,), "nothing"),
        ((Letter().channel,), "Channel"),
        ((0,), "int"),
        (("",), "str"),
    ],
)
def test_a_call_without_a_message_is_refused_and_told_how_to_test(args: Any, kinds: str) -> None:
    @hopspan.consumer
    def handler(*args: Any) -> None:
        raise AssertionError("unreachable")

    with pytest.raises(UnknownMessageError) as raised:
        handler(*args)
    assert (
        f"handler {handler.__qualname__}: no message of a client that hopspan knows in what it was "
        f"given ({kinds}); call the plain handler in unit tests: it is the __wrapped__ of this one"
    ) == str(raised.value)


def test_a_handler_without_a_name_is_told_as_it_prints() -> None:
    handler = functools.partial(print)
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.consumer(handler)()
    assert str(raised.value).startswith(f"handler {handler!r}: ")


@pytest.mark.parametrize("args", [("self", []), ([], "more")])
def test_an_empty_batch_may_be_among_other_arguments(args: Any, telemetry: Telemetry) -> None:
    decorated = hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    assert (args, []) == (decorated(lambda *args: args)(*args), telemetry.spans)


# -- spans -----------------------------------------------------------------------------------------


def test_what_is_current_around_a_handler_is_not_its_parent(telemetry: Telemetry) -> None:
    """A client calls it, from wherever it happens to."""
    for way in HANDLERS:
        with telemetry.tracer.start_as_current_span("around"):
            before = trace.get_current_span()
            quietly(way, way.letter(), raises(BAD), **telemetry.settings)
            assert before is trace.get_current_span()
    processes = [span for span in telemetry.seen if span.name == "process orders"]
    assert [None] * len(HANDLERS) == [span.parent for span in processes]


def test_handlers_at_the_same_time_are_told_apart(telemetry: Telemetry) -> None:
    @hopspan.consumer(policy=hopspan.ack_always, **telemetry.settings)
    async def on_letter(letter: AsyncLetter) -> tuple[str, str | None]:
        await asyncio.sleep(0)
        return letter.name, hopspan.current().delivery.message.id

    async def both() -> Any:
        return await asyncio.gather(*(on_letter(AsyncLetter(name)) for name in "12"))

    assert [("1", "1"), ("2", "2")] == asyncio.run(both())
