"""`process`: a `with` block in which a message, or several as one, are handled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace

import hopspan
from hopspan import ConfigurationError, UnknownMessageError
from hopspan.testing import Message
from tests.unit.delivery.client import AsyncLetter, Channel, Letter
from tests.unit.delivery.ways import WAYS, Way, handle, raises
from tests.unit.support import Telemetry

BLOCKS = [way for way in WAYS if "block" in way.name]
BAD = ValueError("bad")
EACH = pytest.mark.parametrize("way", BLOCKS, ids=lambda way: way.name)


@EACH
def test_a_failure_always_comes_out_whatever_the_settings(way: Way, telemetry: Telemetry) -> None:
    letter = way.letter()
    settings = {"policy": hopspan.reject_on_error, "reraise": False, **telemetry.settings}
    assert BAD is handle(way, letter, raises(BAD), **settings)
    assert [("reject", "1")] == letter.channel.sent


@EACH
def test_what_is_current_around_a_block_is_its_parent(way: Way, telemetry: Telemetry) -> None:
    """Where the code owns the loop, a span around it is meant."""
    with telemetry.tracer.start_as_current_span("batch job") as job:
        way.run(way.letter(), lambda _: None, **telemetry.settings)
    assert job.get_span_context().span_id == telemetry.seen[0].parent


@EACH
def test_a_block_gives_the_operation(way: Way, telemetry: Telemetry) -> None:
    async def awaited(block: Any) -> bool:
        async with block as operation:
            return operation is hopspan.current() and operation.span is trace.get_current_span()

    def plain(block: Any) -> bool:
        with block as operation:
            return operation is hopspan.current() and operation.span is trace.get_current_span()

    block = hopspan.process(way.letter(), **telemetry.settings)
    assert asyncio.run(awaited(block)) if way.name.startswith("awaited") else plain(block)


def test_a_status_of_a_nested_span_does_not_count(telemetry: Telemetry) -> None:
    letter = Letter()
    with (
        hopspan.process(letter, policy=hopspan.reject_on_error, **telemetry.settings),
        telemetry.tracer.start_as_current_span("nested") as nested,
    ):
        nested.set_status(trace.StatusCode.ERROR)
    assert [("ack", "1")] == letter.channel.sent


@EACH
def test_a_block_of_nothing_gives_a_falsy_operation(way: Way, telemetry: Telemetry) -> None:
    async def awaited() -> bool:
        async with hopspan.process([], **telemetry.settings) as operation:
            return bool(operation)

    with hopspan.process([], **telemetry.settings) as operation:
        assert (False, False) == (bool(operation), asyncio.run(awaited()))
    assert [] == telemetry.spans


@pytest.mark.parametrize("message", [None, 3, "text", object(), [object()], (1, 2)])
def test_an_unknown_message_is_refused_before_the_block(message: Any) -> None:
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.process(message)
    kind = "nothing" if message is None else type(message).__name__
    assert (
        f"process: no message of a client that hopspan knows in what it was given ({kind}); "
        "give it what the client handed out, and the channel as via="
    ) == str(raised.value)


def test_a_wrong_setting_is_refused_before_the_block() -> None:
    settings: Any = {"nonsense": 1}
    with pytest.raises(ConfigurationError):
        hopspan.process(Letter(), **settings)


# -- what a message came by ------------------------------------------------------------------------


class CallableChannel(Channel):
    """Some clients' channels can be called."""

    def __call__(self) -> None:
        raise AssertionError("it was called")


@pytest.mark.parametrize("via", [Channel(), Channel, CallableChannel()])
def test_a_block_may_be_told_what_its_message_came_by(via: Any, telemetry: Telemetry) -> None:
    letter = Letter()
    with hopspan.process(letter, via=via, policy=hopspan.ack_always, **telemetry.settings):
        pass
    assert [("ack", "1")] == letter.channel.sent


def test_what_a_message_came_by_decides_whose_it_is() -> None:
    """A message that is a plain tuple does not tell its client."""
    with pytest.raises(UnknownMessageError):
        hopspan.process(Message(), via=Channel())


def test_an_awaited_block_may_be_left_by_a_cancellation(telemetry: Telemetry) -> None:
    async def work() -> None:
        async with hopspan.process(letter, policy=hopspan.ack_always, **telemetry.settings):
            await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    letter = AsyncLetter()
    asyncio.run(cancelled())
    assert [("requeue", "1")] == letter.channel.sent


def test_a_policy_of_an_awaited_block_further_in_does_not_claim_what_a_plain_one_cannot_do(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter = AsyncLetter()

    async def handle() -> None:
        with hopspan.process(letter, **telemetry.settings) as delivery:
            async with hopspan.process(letter, policy=hopspan.ack_always):
                pass
        assert delivery.verdict is None

    asyncio.run(handle())
    assert letter.verb is None
    assert "write `async with`" in logged.text
