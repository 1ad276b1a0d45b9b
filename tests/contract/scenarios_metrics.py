"""The four metrics: what they are, each message counted once, and agreeing with the spans."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import hopspan
from tests.contract.client import Client, Message, raises, succeeds
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Instrument, Measured, silence

OPERATIONS = "messaging.client.operation.duration"
PROCESSES = "messaging.process.duration"
SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
METRICS = (OPERATIONS, PROCESSES, SENT, CONSUMED)
BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def _total(client: Client, metric: str) -> int:
    return sum(each.count for each in client.telemetry.measured() if each.metric == metric)


def _measured(client: Client, *metrics: str) -> set[Measured]:
    """What these metrics say; nothing without an SDK."""
    return {each for each in client.telemetry.measured() if each.metric in metrics}


def _publish(client: Client) -> str:
    return client.publishes.split()[0]


def _settle(client: Client, settlement: str = "reject") -> str:
    return client.settle_name(settlement)


def _sent(client: Client, count: int = 1, error: str | None = None) -> set[Measured]:
    """What is measured of so many messages that were sent."""
    return {
        Measured(OPERATIONS, _publish(client), error, count),
        Measured(SENT, _publish(client), error, count),
    }


def _processed(count: int = 1, error: str | None = None) -> set[Measured]:
    """What is measured of so many messages that were handled."""
    return {
        Measured(PROCESSES, "process", error, count),
        Measured(CONSUMED, "process", error, count),
    }


def _handled(client: Client, count: int = 1, error: str | None = None) -> set[Measured]:
    """What is measured of so many messages that a subscribed handler had, one by one.

    Where every message is asked for, and hopspan sees that, it was counted then.
    """
    if not client.is_asking_seen:
        return _processed(count, error)
    return {Measured(PROCESSES, "process", error, count)}


def _asked(client: Client, count: int = 1) -> set[Measured]:
    """What is measured of asking for so many messages, one by one, where hopspan sees that."""
    return _received(client, count) if client.is_asking_seen else set()


def _received(client: Client, count: int = 1) -> set[Measured]:
    """What is measured of so many messages that were asked for, one by one."""
    receive = client.receives.split()[0]
    return {Measured(OPERATIONS, receive, None, count), Measured(CONSUMED, receive, None, count)}


def _settled(client: Client, settlement: str = "reject", count: int = 1) -> set[Measured]:
    """What is measured of so many messages that were given back or rejected."""
    return {Measured(OPERATIONS, _settle(client, settlement), None, count)}


# -- what they are ---------------------------------------------------------------------------------


def the_instruments_are_those_of_the_conventions(client: Client) -> None:
    client.send()
    client.handle(succeeds)
    assert {
        OPERATIONS: Instrument("Histogram", "s", BOUNDARIES),
        PROCESSES: Instrument("Histogram", "s", BOUNDARIES),
        SENT: Instrument("Sum", "{message}"),
        CONSUMED: Instrument("Sum", "{message}"),
    } == client.telemetry.instruments()


@needs("settles")
def each_point_says_of_what_it_is_and_nothing_of_the_single_message(client: Client) -> None:
    client.send()
    client.handle(raises(ValueError("no stock")), policy=client.reject_on_error)
    publish, settle = _publish(client), _settle(client)
    failed = {"error.type": "ValueError"}
    sent, consumed = client.metric_attributes, client.consumer_metric_attributes
    sending = {"messaging.operation.type": "send", "messaging.operation.name": publish}
    settling = {"messaging.operation.type": "settle", "messaging.operation.name": settle}
    expected = [
        (OPERATIONS, {**sent, **sending}),
        (OPERATIONS, {**consumed, **settling}),
        (PROCESSES, {**consumed, "messaging.operation.name": "process", **failed}),
        (SENT, {**sent, "messaging.operation.name": publish}),
    ]
    if client.is_asking_seen:
        receive = {"messaging.operation.name": client.receives.split()[0]}
        receiving = {"messaging.operation.type": "receive", **receive}
        expected += [(OPERATIONS, {**consumed, **receiving}), (CONSUMED, {**consumed, **receive})]
    else:
        counted = {"messaging.operation.name": "process", **failed}
        expected.append((CONSUMED, {**consumed, **counted}))
    whole = {(metric, frozenset(attributes.items())) for metric, attributes in expected}
    assert whole == {
        (metric, frozenset(attributes.items()))
        for metric, attributes, _ in client.telemetry.points()
    }


def a_counter_only_ever_rises(client: Client) -> None:
    for metric in (SENT, CONSUMED):
        assert 0 == _total(client, metric)
    client.send()
    client.handle(succeeds, policy=hopspan.ack_always)
    assert (1, 1) == (_total(client, SENT), _total(client, CONSUMED))
    client.send()
    client.send()
    assert (3, 1) == (_total(client, SENT), _total(client, CONSUMED))
    for metric, _, point in client.telemetry.points():
        assert metric in {OPERATIONS, PROCESSES} or point.value > 0
    monotonic = {metric.name: metric.data.is_monotonic for metric in _sums(client)}
    assert {SENT: True, CONSUMED: True} == monotonic


def _sums(client: Client) -> list[Any]:
    return [metric for metric in client.telemetry.exported() if metric.name in {SENT, CONSUMED}]


@over(face=FACES)
def a_duration_is_that_of_the_span(client: Client) -> None:
    took: list[float] = []

    def work(_message: Message) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.01:  # a stretch of work that can be measured
            pass
        took.append(time.perf_counter() - began)

    client.send()
    client.handle(work)
    (span,) = client.telemetry.named(client.processes)
    (measured,) = (
        point.sum for metric, _, point in client.telemetry.points() if metric == PROCESSES
    )
    assert took[0] <= measured <= ((span.end_time or 0) - (span.start_time or 0)) / 1e9 + 0.001


# -- each message once -----------------------------------------------------------------------------


@over(style="styles", face=("wrapped", "instrumented"))
def a_message_is_counted_once_in_every_style(client: Client, style: str) -> None:
    client.send()
    client.consume_by(style, succeeds)
    assert (1, 1) == (_total(client, SENT), _total(client, CONSUMED))
    assert {Measured(PROCESSES, "process", None, 1)} == _measured(client, PROCESSES)


@over(face=FACES)
def a_message_that_is_pushed_is_counted_where_it_is_processed(client: Client) -> None:
    client.send()
    client.handle(succeeds)
    expected = {*_sent(client), *_asked(client), *_handled(client)}
    assert expected == client.telemetry.measured()


def a_message_that_is_asked_for_is_counted_where_it_is_received(client: Client) -> None:
    client.send()
    client.wrap_consumer()
    message = client.fetch()
    received = _received(client)
    assert {*_sent(client), *received} == client.telemetry.measured()
    with client.block(message):
        pass
    processed = {Measured(PROCESSES, "process", None, 1)}
    assert {*_sent(client), *received, *processed} == client.telemetry.measured()


def a_message_that_was_asked_for_untraced_is_counted_in_its_block(client: Client) -> None:
    client.send()
    message = client.fetch()
    with client.block(message):
        pass
    assert {*_sent(client), *_processed()} == client.telemetry.measured()


def an_answer_without_a_message_is_not_measured(client: Client) -> None:
    client.wrap_consumer()
    client.ask_in_vain()
    assert set() == client.telemetry.measured()
    client.expect_spans()


@needs("batches")
def a_batch_counts_each_of_its_messages(client: Client) -> None:
    for _ in range(3):
        client.send()
    with client.block([client.fetch() for _ in range(3)]):
        pass
    batch = {Measured(PROCESSES, "process", None, 1), Measured(CONSUMED, "process", None, 3)}
    assert {*_sent(client, 3), *batch} == client.telemetry.measured()


@needs("batches")
def a_batch_counts_only_those_that_were_not_counted_before(client: Client) -> None:
    for _ in range(3):
        client.send()
    untraced = client.fetch()
    client.wrap_consumer()
    with client.block([untraced, client.fetch(), client.fetch()]):
        pass
    assert {
        Measured(CONSUMED, client.receives.split()[0], None, 2),
        Measured(CONSUMED, "process", None, 1),
    } == _measured(client, CONSUMED)


@over(face=FACES)
def a_block_in_a_handler_counts_nothing_more(client: Client) -> None:
    def handler(message: Message) -> None:
        with client.block(message), client.block(message):
            pass

    client.send()
    client.handle(handler)
    expected = {*_sent(client), *_asked(client), *_handled(client)}
    assert expected == client.telemetry.measured()


@over(face=FACES)
def a_deferred_message_is_counted_when_it_is_done(client: Client) -> None:
    deferred: list[Any] = []
    client.send()
    client.handle(lambda _: deferred.append(hopspan.current().defer()))
    before = {*_sent(client), *_asked(client)}
    assert before == client.telemetry.measured()
    with deferred.pop():
        pass
    assert {*before, *_handled(client)} == client.telemetry.measured()


@over(face=FACES)
@needs("redelivers")
def a_message_that_comes_again_is_counted_again(client: Client) -> None:
    outcomes = [raises(ValueError("no stock")), succeeds]
    client.send()
    client.handle(lambda message: outcomes.pop(0)(message), runs=2, policy=client.requeue_once)
    assert {
        *_sent(client),
        *_asked(client, 2),
        *_handled(client, 1, "ValueError"),
        *_handled(client),
        *_settled(client, "requeue"),
    } == client.telemetry.measured()


# -- the same as on the span -----------------------------------------------------------------------


def _raise(_message: Message) -> None:
    raise ValueError("no stock")


def _fail(_message: Message) -> None:
    hopspan.current().fail("no stock", type="no_stock")


def _fail_somehow(_message: Message) -> None:
    hopspan.current().fail("no stock")


class StockError(Exception):
    """An application's own."""


def _raise_own(_message: Message) -> None:
    raise StockError


WAYS_TO_FAIL = {
    _raise: "ValueError",
    _fail: "no_stock",
    _fail_somehow: "_OTHER",
    _raise_own: f"{__name__}.StockError",
    succeeds: None,
}


@over(way=WAYS_TO_FAIL, face=FACES, sampling=SAMPLINGS)
@needs("settles")
def the_error_is_the_same_on_metric_and_span(client: Client, way: Any) -> None:
    error = WAYS_TO_FAIL[way]
    client.send()
    client.handle(way, policy=client.reject_on_error)
    settled = _settled(client) if error else set()
    expected = {*_sent(client), *_asked(client), *_handled(client, 1, error), *settled}
    assert (expected if client.telemetry.providers else set()) == client.telemetry.measured()
    if client.telemetry.records:
        assert error == client.telemetry.attributes(client.processes).get("error.type")


@over(outcome="outcomes", style="senders")
@needs("reports_completion")
def a_message_that_was_not_taken_is_counted_as_sent_with_its_error(
    client: Client, outcome: str, style: str
) -> None:
    sent = client.send_so_that(outcome, style)
    assert _sent(client, 1, sent.error) == client.telemetry.measured()
    assert sent.error == client.telemetry.attributes(sent.name).get("error.type")


@over(face=FACES, sampling=("sampled", "unsampled"))
@needs("settles")
def what_is_not_sampled_is_measured_all_the_same(client: Client) -> None:
    client.send()
    client.send()
    turns = iter((raises(ValueError("no stock")), succeeds))
    client.handle(lambda message: next(turns)(message), runs=2, policy=client.reject_on_error)
    assert {
        *_sent(client, 2),
        *_asked(client, 2),
        *_handled(client, 1, "ValueError"),
        *_handled(client),
        *_settled(client),
    } == client.telemetry.measured()


# -- names that a broker or a client invents -------------------------------------------------------

GENERATED = {
    "by the broker": "",
    "by a client": "reply-0b7c6b1e-9a5e-4c1d-8d0f-6f1f2b3c4d5e",
}


@over(name=GENERATED, face=FACES)
@needs("generated_names", "settles")
def a_generated_name_is_on_no_metric_and_in_no_span_name(client: Client, name: str) -> None:
    client.use_generated_queue(GENERATED[name])
    client.send()
    client.handle(raises(ValueError("no stock")), policy=client.reject_on_error)
    publish, settle = _publish(client), _settle(client)
    names = [span.name for span in client.telemetry.spans()]
    assert [publish, "process", settle] == names
    queue = client.metric_attributes["messaging.destination.name"]
    assert [queue] == [client.telemetry.attributes(publish)["messaging.destination.name"]]
    assert client.telemetry.attributes("process")["messaging.destination.anonymous"] is True
    for _, attributes, _point in client.telemetry.points():
        assert not [value for value in attributes.values() if queue in str(value)]


# -- what can be switched off ----------------------------------------------------------------------


@over(metric=METRICS, face=FACES)
def each_instrument_can_be_had_alone(client: Client, metric: str) -> None:
    client.configure_sender(metrics=[metric])
    _send_and_handle(client, metrics=[metric])
    assert {metric} == {each.metric for each in client.telemetry.measured()}


@over(metric=METRICS, face=FACES)
def each_instrument_can_be_left_out(client: Client, metric: str) -> None:
    others = [each for each in METRICS if each != metric]
    client.configure_sender(metrics=others)
    _send_and_handle(client, metrics=others)
    assert set(others) == {each.metric for each in client.telemetry.measured()}


@over(face=FACES)
def all_instruments_can_be_switched_off_and_the_spans_stay(client: Client) -> None:
    client.configure_sender(metrics=False)
    _send_and_handle(client, metrics=False)
    assert set() == client.telemetry.measured()
    client.expect_spans(client.a_publish(), client.a_process())


def _send_and_handle(client: Client, **settings: Any) -> None:
    client.send()
    client.handle(succeeds, **settings)


SETTLED = {"notable": {"ValueError"}, "all": {"ValueError", None}, "none": set()}
"""After which outcomes of a handler its settlement is measured."""


@over(settle_spans=SETTLED, face=FACES)
@needs("settles")
def the_duration_of_settling_follows_the_setting_for_settle_spans(
    client: Client, settle_spans: str
) -> None:
    turns = iter((raises(ValueError("no stock")), succeeds))
    client.send()
    client.send()
    client.handle(
        lambda message: next(turns)(message),
        runs=2,
        policy=client.reject_on_error,
        settle_spans=settle_spans,
    )
    settles = [span for span in client.telemetry.finished() if _type(span) == "settle"]
    wanted = SETTLED[settle_spans]
    if not client.features.acks_on_the_wire:
        wanted = wanted - {None}
    assert len(wanted) == len(settles)
    measured = Counter(
        {
            each.operation: each.count
            for each in _measured(client, OPERATIONS)
            if each.operation not in {_publish(client), client.receives.split()[0]}
        }
    )
    assert Counter(span.name.split()[0] for span in settles) == measured
    assert ["reject", "ack"] == client.settlements()


def _type(span: Any) -> str:
    return str(span.attributes["messaging.operation.type"])


@over(face=FACES)
@needs("settles")
def nothing_is_measured_where_instrumentation_is_suppressed(client: Client) -> None:
    with silence():
        client.send()
        with client.block(client.fetch(), policy=hopspan.ack_always):
            pass
        client.send()
        client.handle(succeeds, policy=hopspan.ack_always)
    assert set() == client.telemetry.measured()
    assert ["ack", "ack"] == client.settlements()
