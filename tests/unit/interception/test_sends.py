"""Calls that publish: called once, with the user's arguments and other headers, inside a span."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach, get_current, set_value
from opentelemetry.trace import SpanKind

from hopspan.interception import sends
from hopspan.telemetry import Operation
from tests.unit.interception import client
from tests.unit.interception.client import PUBLISH, Channel
from tests.unit.interception.conftest import Intercept
from tests.unit.support import Seen, Telemetry

ATTRIBUTES = {
    "messaging.system": "memory",
    "messaging.operation.name": "publish",
    "messaging.operation.type": "send",
    "messaging.destination.name": "orders",
}
SENT = Seen("publish orders", SpanKind.PRODUCER, ATTRIBUTES)
PUBLISHES = sends(PUBLISH, client.publish)


def traceparent(telemetry: Telemetry) -> dict[str, str]:
    context = telemetry.spans[0].context
    assert context is not None
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(trace.NonRecordingSpan(context)))
    return carrier


def test_a_publish_has_a_span_and_carries_its_context(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    assert channel.publish("orders", b"body") == "published"
    assert telemetry.only == SENT
    assert channel.calls == [("publish", "orders", b"body", traceparent(telemetry), False)]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("orders", b"body", {"color": "red"}, True), {}),
        (("orders", b"body"), {"headers": {"color": "red"}, "mandatory": True}),
        ((), {"queue": "orders", "body": b"body", "headers": {"color": "red"}, "mandatory": True}),
    ],
)
def test_every_way_to_give_arguments_is_the_same(
    args: Any, kwargs: Any, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    channel.publish(*args, **kwargs)
    headers = {"color": "red", **traceparent(telemetry)}
    assert channel.calls == [("publish", "orders", b"body", headers, True)]


def test_the_callers_headers_are_not_touched(intercept: Intercept) -> None:
    headers = {"color": "red"}
    intercept("publish", PUBLISHES)[0].publish("orders", b"body", headers)
    assert headers == {"color": "red"}


def test_arguments_that_carry_nothing_are_passed_as_they_are(intercept: Intercept) -> None:
    """Nothing to propagate: the client gets the caller's own objects."""
    channel, _ = intercept("publish", PUBLISHES, tracer_provider=trace.NoOpTracerProvider())
    headers = {"color": "red"}
    channel.publish("orders", b"body", headers=headers)
    assert channel.calls[0][3] is headers


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_what_the_client_raises_is_raised_and_a_failure(
    error: BaseException, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    channel.error = error
    with pytest.raises(type(error)) as raised:
        channel.publish("orders", b"body")
    assert raised.value is error
    assert telemetry.only == SENT._replace(
        attributes={**ATTRIBUTES, "error.type": type(error).__name__},
        status=("ERROR", str(error)),
        events=("exception",),
    )
    assert len(channel.calls) == 1


def test_what_the_client_calls_of_itself_is_no_operation(
    intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, binding = intercept("publish", PUBLISHES)

    def many(original: Any, binding: Any) -> Any:
        return sends(PUBLISH, lambda channel, bodies: client.publish(channel, "batch", bodies))(
            lambda self, *args: Channel.publish_many(self, ["a", "b"]), binding
        )

    many(Channel.publish_many, binding)(channel, ["a", "b"])
    assert [span.name for span in telemetry.spans] == ["publish batch"]
    assert len(channel.calls) == 2


@pytest.mark.parametrize("error", [None, ValueError("bad")])
def test_afterwards_the_next_call_is_one_again(
    error: Exception | None, intercept: Intercept, telemetry: Telemetry
) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    for _ in range(2):
        channel.error = error
        with suppress(ValueError):
            channel.publish("orders", b"body")
    assert len(telemetry.spans) == 2


def test_the_context_is_the_callers_all_the_time(intercept: Intercept) -> None:
    """A send does not make its span current: what the client starts is not ours to parent."""
    before = get_current()
    channel, _ = intercept("publish", PUBLISHES)
    seen: list[Any] = []
    channel.calls = type(
        "Noting", (list,), {"append": lambda self, call: seen.append(get_current())}
    )()
    channel.publish("orders", b"body")
    assert seen == [before]


def test_switched_off_it_calls_straight_through(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, binding = intercept("publish", PUBLISHES)
    binding.instrumenter.switch.on = False
    channel.publish("orders", b"body")
    assert (telemetry.spans, channel.calls) == ([], [("publish", "orders", b"body", None, False)])


def test_suppressed_it_calls_straight_through(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    token = attach(set_value("suppress_instrumentation", True))
    channel.publish("orders", b"body")
    detach(token)
    assert (telemetry.spans, channel.calls) == ([], [("publish", "orders", b"body", None, False)])


def test_the_users_wrong_arguments_are_refused_by_the_client(
    intercept: Intercept, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel: Any = intercept("publish", PUBLISHES)[0]
    with pytest.raises(TypeError, match="publish"):
        channel.publish()
    assert (telemetry.spans, logged.records) == ([], [])


def test_hooks_are_told_of_the_client(intercept: Intercept) -> None:
    told: list[Any] = []
    channel, _ = intercept(
        "publish",
        PUBLISHES,
        on_start=lambda operation, native: told.append(("start", native)),
        on_end=lambda operation, native: told.append(("end", native)),
    )
    channel.publish("orders", b"body")
    assert told == [("start", channel), ("end", channel)]


def test_the_replacement_looks_like_the_method(intercept: Intercept) -> None:
    channel, _ = intercept("publish", PUBLISHES)
    assert channel.publish.__name__ == "publish"


# -- outcomes that are known later -----------------------------------------------------------------


@pytest.mark.parametrize(("later", "spans"), [(True, 0), (False, 1)])
def test_an_outcome_may_be_known_later(
    later: bool, spans: int, intercept: Intercept, telemetry: Telemetry
) -> None:
    told: list[Any] = []

    def completes(channel: Any, operation: Operation, result: Any) -> bool:
        told.append((channel, operation, result))
        return later

    channel, _ = intercept("publish", sends(PUBLISH, client.publish, completes))
    channel.publish("orders", b"body")
    assert len(telemetry.spans) == spans
    ((told_channel, operation, result),) = told
    assert (told_channel, result) == (channel, "published")
    operation.end()
    assert len(telemetry.spans) == 1


def test_a_failed_call_is_not_waited_for(intercept: Intercept, telemetry: Telemetry) -> None:
    channel, _ = intercept("publish", sends(PUBLISH, client.publish, lambda *args: True))
    channel.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        channel.publish("orders", b"body")
    assert len(telemetry.spans) == 1


@pytest.mark.parametrize("place", ["is_observed", "completes"])
def test_a_fault_after_the_message_has_left_is_not_the_callers(
    place: str,
    intercept: Intercept,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who is told that a publish has failed sends its message again."""
    completes: Any = cannot if place == "completes" else lambda *_: True
    if place == "is_observed":
        monkeypatch.setattr(Operation, "is_observed", property(cannot))
    channel, _ = intercept("publish", sends(PUBLISH, client.publish, completes))
    assert channel.publish("orders", b"body") == "published"
    assert (len(channel.calls), len(telemetry.spans), len(logged.records)) == (1, 1, 1)


# -- hostile ---------------------------------------------------------------------------------------


def cannot(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("ours")


def test_a_reader_that_fails_lets_the_call_go_ahead(
    intercept: Intercept, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("publish", sends(PUBLISH, cannot))
    for _ in range(2):
        assert channel.publish("orders", b"body") == "published"
    assert (len(channel.calls), telemetry.spans, len(logged.records)) == (2, [], 1)


@pytest.mark.parametrize("error", [RuntimeError, TypeError])
def test_a_fault_after_the_start_ends_the_span_and_lets_the_call_go_ahead(
    error: type[Exception],
    intercept: Intercept,
    telemetry: Telemetry,
    logged: pytest.LogCaptureFixture,
) -> None:
    def refuse(headers: Any) -> Any:
        raise error("ours")

    def reader(channel: Any, queue: str, body: Any) -> Any:
        return client.publish(channel, queue, body)._replace(call=refuse)

    channel, _ = intercept("publish", sends(PUBLISH, reader))
    channel.publish("orders", b"body")
    assert channel.calls == [("publish", "orders", b"body", None, False)]
    assert (telemetry.only, len(logged.records)) == (SENT, 1)


def test_a_fault_while_waiting_for_the_outcome_ends_the_span(
    intercept: Intercept, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("publish", sends(PUBLISH, client.publish, cannot))
    assert channel.publish("orders", b"body") == "published"
    assert (telemetry.only, len(logged.records)) == (SENT, 1)


def test_a_fault_while_ending_a_publish_does_not_reach_the_caller(
    intercept: Intercept, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Operation, "end", cannot)
    channel, _ = intercept("publish", PUBLISHES)
    assert [channel.publish("orders", b"body") for _ in range(2)] == ["published"] * 2
    assert len(logged.records) == 1


def test_a_call_that_is_not_an_applications_is_left_alone(
    intercept: Intercept, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel, _ = intercept("publish", sends(PUBLISH, lambda *args, **kwargs: None))
    channel.publish("orders", b"body")
    assert (telemetry.spans, logged.records) == ([], [])
    assert channel.calls == [("publish", "orders", b"body", None, False)]
