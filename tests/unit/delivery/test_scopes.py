"""What is current while a message is handled, and how several scopes around one are one handling."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current

import hopspan
from hopspan import Outcome, PolicyError
from hopspan.testing import Message
from tests.unit.delivery.client import AsyncLetter, Channel, Letter
from tests.unit.delivery.ways import WAYS, Way, handle, quietly, raises, run, succeeds
from tests.unit.support import Telemetry, in_thread

BAD = ValueError("bad")


# -- outside of a delivery -------------------------------------------------------------------------


def test_outside_of_a_delivery_current_is_falsy_and_can_be_asked_everything() -> None:
    """A function that is called inside and outside of handlers needs no `if`."""
    nothing = hopspan.current()
    nothing.fail("of no consequence", type="x")
    assert (False, trace.INVALID_SPAN, Outcome()) == (bool(nothing), nothing.span, nothing.outcome)
    assert ("", None) == (nothing.delivery.endpoint.destination, nothing.delivery.headers)


def test_outside_of_a_delivery_deferring_is_a_block_in_which_nothing_happens() -> None:
    async def awaited() -> bool:
        async with hopspan.current().defer() as operation:
            return bool(operation)

    with hopspan.current().defer() as operation:
        assert not operation
    assert asyncio.run(awaited()) is False


def test_outside_of_a_delivery_deferred_work_raises_what_it_raises() -> None:
    async def awaited() -> None:
        async with hopspan.current().defer():
            raise BAD

    with pytest.raises(ValueError, match="bad"), hopspan.current().defer():
        raise BAD
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(awaited())


# -- inside ----------------------------------------------------------------------------------------


def test_the_handling_is_current_inside_and_nothing_is_left(way: Way, telemetry: Telemetry) -> None:
    def body(letter: Letter) -> None:
        operation = hopspan.current()
        assert (True, operation.span) == (bool(operation), trace.get_current_span())
        assert (letter.name, letter.headers) == (
            operation.delivery.message.id,
            operation.delivery.headers,
        )
        with telemetry.tracer.start_as_current_span("nested"):
            assert operation is hopspan.current()

    before = get_current()
    way.run(way.letter(), body, **telemetry.settings)
    assert before is get_current()
    nested, process = telemetry.spans
    assert (nested.parent and nested.parent.span_id) == (
        process.context and process.context.span_id
    )


def test_it_is_found_in_another_thread_that_has_the_context(way: Way, telemetry: Telemetry) -> None:
    def body(_letter: Letter) -> None:
        operation, context = hopspan.current(), get_current()

        def work() -> bool:
            token = attach(context)
            try:
                return hopspan.current() is operation
            finally:
                detach(token)

        assert not in_thread(hopspan.current)
        assert in_thread(work)

    way.run(way.letter(), body, **telemetry.settings)


@pytest.mark.parametrize("error", [None, BAD])
def test_a_message_is_freed_as_soon_as_it_is_handled(
    error: Exception | None, plain_way: Way, telemetry: Telemetry
) -> None:
    """It leaves no cycle to the garbage collector, and a context that is kept does not keep it."""
    kept: list[Any] = []

    def body(_letter: Letter) -> None:
        kept.append(get_current())
        if error is not None:
            raise error

    def freed() -> bool:
        letter = plain_way.letter()
        gone = weakref.ref(letter)
        policy = hopspan.ack_always if error is None else hopspan.manual  # which logs nothing
        quietly(plain_way, letter, body, policy=policy, **telemetry.settings)
        if error is not None:
            error.__traceback__ = None
        del letter
        return gone() is None

    gc.collect()
    gc.disable()
    try:
        assert freed()
    finally:
        gc.enable()
    token = attach(kept.pop())
    assert not hopspan.current() or hopspan.current().outcome is not None
    detach(token)


def test_hooks_are_told_the_operation_and_its_messages(
    plain_way: Way, telemetry: Telemetry
) -> None:
    told: list[Any] = []
    hooks: Any = {
        "on_start": lambda operation, native: told.append(("start", native)),
        "on_end": lambda operation, native: told.append(("end", native)),
    }
    letter = plain_way.letter()
    plain_way.run(letter, lambda _: told.append("body"), **hooks, **telemetry.settings)
    assert [("start", letter), "body", ("end", letter)] == told


# -- several scopes around one message -------------------------------------------------------------


def within(
    outer: Way, inner: Way, letter: Letter, body: Any, how: tuple[Any, Any], **settings: Any
) -> Any:
    """Handle a letter in one way, and inside of that in another; what escapes is returned."""
    of_outer, of_inner = how
    return handle(
        outer,
        letter,
        lambda letter: inner.run(letter, body, **of_inner),
        **settings,
        **of_outer,
    )


HANDLER, BLOCK = range(2)
SCOPES = [(HANDLER, BLOCK), (BLOCK, HANDLER), (HANDLER, HANDLER), (BLOCK, BLOCK)]


@pytest.fixture(params=SCOPES, ids=["block in handler", "handler in block", "handlers", "blocks"])
def scopes(request: pytest.FixtureRequest) -> tuple[Way, Way]:
    outer, inner = request.param
    return WAYS[outer], WAYS[inner]


Scopes = tuple[Way, Way]


def test_scopes_around_one_message_are_one_span_and_the_outer_one_concludes(
    scopes: Scopes, telemetry: Telemetry
) -> None:
    """What comes after the inner one belongs to the handling as well."""

    def body(letter: Letter) -> None:
        operation = hopspan.current()

        def inside(letter: Letter) -> None:
            assert operation is hopspan.current()

        inner.run(letter, inside)
        assert ([], []) == (letter.channel.sent, telemetry.spans)
        assert operation is hopspan.current()

    outer, inner = scopes
    letter = Letter()
    outer.run(letter, body, policy=hopspan.ack_always, **telemetry.settings)
    assert ([("ack", "1")], 1) == (letter.channel.sent, len(telemetry.spans))


@pytest.mark.parametrize(("error", "sent"), [(BAD, "reject"), (GeneratorExit(), "ack")])
def test_a_failure_further_in_counts_though_it_was_caught(
    error: BaseException, sent: str, scopes: Scopes, telemetry: Telemetry
) -> None:
    """The inner scope said that this message failed; that the outer goes on does not unsay it."""

    def body(letter: Letter) -> None:
        assert error is handle(inner, letter, raises(error))

    outer, inner = scopes
    letter = Letter()
    quietly(outer, letter, body, policy=hopspan.reject_on_error, **telemetry.settings)
    assert [(sent, "1")] == letter.channel.sent


def test_what_leaves_the_outer_scope_goes_before_what_left_the_inner(
    scopes: Scopes, telemetry: Telemetry
) -> None:
    error = OSError("gone")

    def body(letter: Letter) -> None:
        with suppress(ValueError):
            inner.run(letter, raises(BAD))
        raise error

    outer, inner = scopes
    assert error is handle(outer, Letter(), body, **telemetry.settings)
    assert ("ERROR", "gone") == telemetry.only.status


ACK, REJECT, REQUEUE = hopspan.ack_always, hopspan.reject_on_error, hopspan.requeue_once
ORDER: list[Any] = [
    # (outer scope, its policy), (inner scope, its policy), what is sent for a failure
    ((HANDLER, ACK), (BLOCK, REJECT), "reject"),
    ((BLOCK, REQUEUE), (HANDLER, REJECT), "requeue"),
    ((BLOCK, ACK), (BLOCK, REJECT), "reject"),
    ((HANDLER, ACK), (HANDLER, REJECT), "reject"),
    ((HANDLER, REJECT), (BLOCK, None), "reject"),
    ((BLOCK, REJECT), (HANDLER, None), "reject"),
    ((BLOCK, None), (HANDLER, REJECT), "reject"),
    ((HANDLER, None), (BLOCK, REJECT), "reject"),
    ((HANDLER, REJECT), (BLOCK, hopspan.manual), None),
]


@pytest.mark.parametrize(("outer", "inner", "sent"), ORDER)
def test_a_blocks_policy_goes_before_a_handlers_and_an_inner_one_before_an_outer_one(
    outer: Any, inner: Any, sent: str | None, telemetry: Telemetry
) -> None:
    def settings(policy: Any) -> dict[str, Any]:
        return {} if policy is None else {"policy": policy}

    letter = Letter()
    within(
        WAYS[outer[0]],
        WAYS[inner[0]],
        letter,
        raises(BAD),
        (settings(outer[1]), settings(inner[1])),
        **telemetry.settings,
    )
    assert ([(sent, "1")] if sent else []) == letter.channel.sent


@pytest.mark.parametrize("reraise", [True, False])
def test_a_block_inside_of_a_handler_says_whether_its_failure_escapes(
    reraise: bool, telemetry: Telemetry
) -> None:
    @hopspan.consumer(policy=REJECT, reraise=not reraise, **telemetry.settings)
    def on_letter(letter: Letter) -> None:
        with hopspan.process(letter, reraise=reraise):
            raise BAD

    escaped = []
    try:
        on_letter(Letter())
    except ValueError as error:
        escaped.append(error)
    assert [BAD] * reraise == escaped


def test_a_policy_that_is_refused_further_in_changes_nothing(
    scopes: Scopes, telemetry: Telemetry
) -> None:
    def body(letter: Letter) -> None:
        refused = hopspan.requeue_times(3, pause=1.0)
        error = handle(inner, letter, succeeds, policy=refused)
        assert isinstance(error, PolicyError)

    outer, inner = scopes
    letter = Letter()
    outer.run(letter, body, **telemetry.settings)
    assert ([], {"UNSET"}) == (letter.channel.sent, {span.status[0] for span in telemetry.seen})


LATE = "of an inner handler or block had no effect: the handling had begun with the settings of the outer one. Set them there"


@pytest.mark.parametrize(
    ("settings", "late"),
    [
        ({}, None),
        ({"policy": ACK, "reraise": True}, None),
        ({"correlation": "auto", "metrics": True}, None),
        ({"correlation": "link"}, "correlation"),
        ({"metrics": False, "correlation": "link", "policy": ACK}, "correlation, metrics"),
    ],
)
def test_settings_that_come_too_late_are_said_to_have_no_effect_once(
    settings: dict[str, Any],
    late: str | None,
    scopes: Scopes,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    """Those that are as they were, in whatever spelling, and those that hold all the same are not."""
    outer, inner = scopes
    for _ in range(2):
        within(outer, inner, Letter(), succeeds, ({}, settings), **telemetry.settings)
    assert ([] if late is None else [f"{late} {LATE}"]) == [
        record.message for record in logged.records
    ]


# -- handlings that are not one --------------------------------------------------------------------


@pytest.mark.parametrize("make", [Letter, Message])
def test_another_message_inside_is_a_handling_of_its_own(
    make: Callable[[], Any], scopes: Scopes, telemetry: Telemetry
) -> None:
    """Also one of another client."""

    def body(_letter: Letter) -> None:
        operation = hopspan.current()

        def inside(_other: Any) -> None:
            assert operation is not hopspan.current()

        inner.run(make(), inside, **telemetry.settings)
        assert operation is hopspan.current()

    outer, inner = scopes
    letter = Letter()
    outer.run(letter, body, policy=ACK, **telemetry.settings)
    assert ([("ack", "1")], 2) == (letter.channel.sent, len(telemetry.spans))


def test_a_message_inside_of_a_batch_that_it_is_in_is_a_handling_of_its_own(
    telemetry: Telemetry,
) -> None:
    letters = [Letter("1"), Letter("2")]
    with hopspan.process(letters, **telemetry.settings) as batch:
        with hopspan.process(letters[0], **telemetry.settings) as one:
            assert one is not batch
    assert 2 == len(telemetry.spans)


def test_handlings_in_different_tasks_are_told_apart(telemetry: Telemetry) -> None:
    async def consume(name: str) -> list[Any]:
        async with hopspan.process(AsyncLetter(name), **telemetry.settings) as operation:
            await asyncio.sleep(0)
            return [operation is hopspan.current(), operation.delivery.message.id]

    async def both() -> list[list[Any]]:
        return [*await asyncio.gather(consume("1"), consume("2"))]

    assert [[True, "1"], [True, "2"]] == run(both())


# -- whose settings --------------------------------------------------------------------------------


def test_a_scope_without_settings_of_its_own_goes_by_those_of_the_process(
    plain_way: Way, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOPSPAN_POLICY", "ack_always")
    letter = plain_way.letter()
    plain_way.run(letter, succeeds, **telemetry.settings)
    assert [("ack", "1")] == letter.channel.sent


# -- contexts that cannot be undone ----------------------------------------------------------------


def test_a_block_that_is_left_in_another_context_says_nothing(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry would log that it cannot detach there."""
    letter = Letter(channel=Channel())
    block = hopspan.process(letter, policy=ACK, **telemetry.settings)
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert ([("ack", "1")], 1) == (letter.channel.sent, len(telemetry.spans))
    assert [] == logged.records
