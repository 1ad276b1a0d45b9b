"""`process`: a `with` block in which a message, or a batch as one, is handled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import StatusCode

import hopspan
from hopspan.model import (
    ConfigurationError,
    PolicyError,
    Settlement,
    UnknownMessageError,
    Verdict,
)
from hopspan.processing.opening import NOTHING
from hopspan.testing import Message, memory
from tests.unit.support import Adapting, Telemetry


async def settle_later(native: Message, settlement: Settlement) -> None:
    await asyncio.sleep(0)
    memory.settle(native, settlement)


AWAITED: Any = Adapting(ASYNCHRONOUS=True, settle=settle_later, NAME="test")


@pytest.fixture(autouse=True)
def context_is_restored() -> Iterator[None]:
    before = get_current()
    yield
    assert get_current() is before


def test_the_block_is_inside_the_process_span(telemetry: Telemetry) -> None:
    with hopspan.process(Message(), **telemetry.settings) as op:
        assert trace.get_current_span() is op.span
        assert hopspan.current() is op
    assert [span.name for span in telemetry.spans] == ["process test"]


def test_leaving_it_normally_is_success(telemetry: Telemetry) -> None:
    message = Message()
    with hopspan.process(message, policy=hopspan.reject_on_error, **telemetry.settings):
        pass
    assert message.verdict is Verdict.ACK


def test_an_exception_is_a_failure_and_always_raised_again(telemetry: Telemetry) -> None:
    message, error = Message(), ValueError("bad")
    with (
        pytest.raises(ValueError, match="bad") as raised,
        hopspan.process(message, policy=hopspan.reject_on_error, **telemetry.settings),
    ):
        raise error
    assert (message.verdict, raised.value) == (Verdict.REJECT, error)


@pytest.mark.parametrize("status", [StatusCode.ERROR, StatusCode.OK])
def test_the_spans_status_decides_as_well(status: StatusCode, telemetry: Telemetry) -> None:
    message = Message()
    with hopspan.process(message, policy=hopspan.reject_on_error, **telemetry.settings):
        trace.get_current_span().set_status(status)
    assert message.verdict is (Verdict.REJECT if status is StatusCode.ERROR else Verdict.ACK)


def test_a_status_of_a_nested_span_does_not(telemetry: Telemetry) -> None:
    message = Message()
    with (
        hopspan.process(message, policy=hopspan.reject_on_error, **telemetry.settings),
        telemetry.tracer.start_as_current_span("nested") as nested,
    ):
        nested.set_status(StatusCode.ERROR)
    assert message.verdict is Verdict.ACK


def test_what_is_current_is_the_parent(telemetry: Telemetry) -> None:
    """Where the code owns the loop, a span around it is meant."""
    with (
        telemetry.tracer.start_as_current_span("batch job") as job,
        hopspan.process(Message(), **telemetry.settings),
    ):
        pass
    assert telemetry.seen[0].parent == job.get_span_context().span_id


def test_a_list_is_one_span(telemetry: Telemetry) -> None:
    first, second = Message(), Message()
    with hopspan.process([first, second], policy=hopspan.ack_always, **telemetry.settings):
        pass
    assert (len(telemetry.spans), first.verdict, second.verdict) == (1, Verdict.ACK, Verdict.ACK)


@pytest.mark.parametrize("empty", [[], (), {}])
def test_nothing_happens_for_an_empty_batch(empty: Any, telemetry: Telemetry) -> None:
    with hopspan.process(empty, **telemetry.settings) as op:
        assert op is NOTHING
    assert telemetry.spans == []


def test_nothing_happens_for_an_empty_fetch(telemetry: Telemetry) -> None:
    adapter: Any = Adapting(given=lambda message, via: [])
    with hopspan.process((None, None, None), adapter=adapter, **telemetry.settings) as op:
        assert op is NOTHING
    assert telemetry.spans == []


@pytest.mark.parametrize("message", [None, 3, "text", object(), [object()], (1, 2)])
def test_an_unknown_message_is_an_error_before_the_block(message: Any) -> None:
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.process(message)
    kind = "nothing" if message is None else type(message).__name__
    assert str(raised.value) == (
        f"process: no message of a client that hopspan knows in what it was given ({kind}); "
        "give it what the client handed out, and the channel as via="
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"nonsense": 1}, ConfigurationError), ({"policy": 3}, PolicyError)],
)
def test_a_wrong_setting_is_an_error_before_the_block(
    settings: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        hopspan.process(Message(), **settings)


def test_a_policy_that_cannot_work_is_refused_on_entering(telemetry: Telemetry) -> None:
    block = hopspan.process(Message(auto_ack=True), policy=hopspan.ack_always, **telemetry.settings)
    with pytest.raises(PolicyError), block:
        raise AssertionError("unreachable")
    assert telemetry.spans == []


def test_via_is_given_to_the_adapter() -> None:
    given: list[Any] = []

    def take(message: Any, via: Any) -> Any:
        given.append(via)
        return []

    adapter: Any = Adapting(given=take)
    hopspan.process(object(), via="the channel", adapter=adapter)
    hopspan.process(object(), via=lambda: "another channel", adapter=adapter)
    assert given == ["the channel", "another channel"]


def test_a_via_that_is_a_clients_object_is_not_called() -> None:
    """Some clients' channels are callable."""

    class Callable(Message):
        def __call__(self) -> None:
            raise AssertionError("it was called")

    hopspan.process(Message(), via=Callable())


def test_via_decides_over_the_adapter() -> None:
    """A message that is a plain tuple does not tell its client."""
    hopspan.process(Message(), via=Message())


# -- deferring -------------------------------------------------------------------------------------


def test_a_deferred_block_does_not_conclude(telemetry: Telemetry) -> None:
    message = Message()
    with hopspan.process(message, policy=hopspan.ack_always, **telemetry.settings) as op:
        operation = op.defer()
    assert (message.verdict, telemetry.spans) == (None, [])
    with operation:
        pass
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


def test_a_deferred_async_block_does_not_conclude(telemetry: Telemetry) -> None:
    async def scenario() -> None:
        async with hopspan.process(
            message, adapter=AWAITED, policy=hopspan.ack_always, **telemetry.settings
        ) as op:
            operation = op.defer()
        assert message.verdict is None
        async with operation:
            pass

    message = Message()
    asyncio.run(scenario())
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


# -- awaited clients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "verdict"), [(None, Verdict.ACK), (ValueError("bad"), Verdict.REJECT)]
)
@pytest.mark.parametrize("adapter", [AWAITED, memory])
def test_async_with_settles_for_every_client(
    adapter: Any, error: Exception | None, verdict: Verdict, telemetry: Telemetry
) -> None:
    async def scenario() -> bool:
        before = get_current()
        with suppress(ValueError):
            async with hopspan.process(
                message, adapter=adapter, policy=hopspan.reject_on_error, **telemetry.settings
            ) as op:
                assert trace.get_current_span() is op.span
                if error is not None:
                    raise error
        return get_current() is before

    message = Message()
    assert asyncio.run(scenario()) is True
    assert message.verdict is verdict


def test_async_with_does_nothing_for_an_empty_batch() -> None:
    async def scenario() -> Any:
        async with hopspan.process([]) as op:
            return op

    assert asyncio.run(scenario()) is NOTHING


def test_a_plain_with_is_refused_where_settling_is_awaited(telemetry: Telemetry) -> None:
    """Before the block runs, and leaving nothing behind."""
    message = Message()
    block = hopspan.process(
        message, adapter=AWAITED, policy=hopspan.ack_always, **telemetry.settings
    )
    with pytest.raises(PolicyError) as raised, block:
        raise AssertionError("unreachable")
    assert str(raised.value) == (
        "`with hopspan.process(...)` cannot settle for test, whose settlement is awaited: "
        "write `async with hopspan.process(...)`"
    )
    assert (message.verdict, telemetry.spans) == (None, [])


def test_a_plain_with_will_do_where_nothing_is_settled(telemetry: Telemetry) -> None:
    with hopspan.process(Message(), adapter=AWAITED, **telemetry.settings):
        pass
    assert len(telemetry.spans) == 1


# -- hostile ---------------------------------------------------------------------------------------


def test_a_fault_of_ours_at_the_beginning_runs_the_block_unsettled(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr("hopspan.processing.blocks.begin", cannot)
    message, ran = Message(), []
    with hopspan.process(message, policy=hopspan.ack_always, **telemetry.settings) as op:
        ran.append(op)
    assert (ran, message.verdict, len(logged.records)) == ([NOTHING], None, 1)


def test_a_message_that_cannot_be_read_runs_the_block_unsettled(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(message: Any, via: Any) -> Any:
        raise RuntimeError("an adapter that cannot")

    adapter: Any = Adapting(given=cannot)
    with hopspan.process(Message(), adapter=adapter, **telemetry.settings) as op:
        assert op is NOTHING
    assert (telemetry.spans, len(logged.records)) == ([], 1)
