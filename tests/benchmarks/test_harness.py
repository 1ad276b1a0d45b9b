"""Measuring, judging and drawing, where the packages that are measured are installed."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from aio_pika import Exchange, Message
from celery.exceptions import Reject
from kombu.messaging import Producer
from pamqp.commands import Basic

from benchmarks import running, special
from benchmarks.attributes import FEWER, with_as_few
from benchmarks.checks import WrongRowError, check_metrics, check_rows, check_settled, watched
from benchmarks.clients import aio_pika, celery, kafka, pika
from benchmarks.encoding import encoded_groups
from benchmarks.floors import floor, traceparent
from benchmarks.gates import OF_CONTRIB, Gate, Verdict, call_gates, gates, judge
from benchmarks.groups import (
    DECORATED,
    DECORATED_METRICS,
    SDK,
    WRAPPED,
    shape_of,
    standard,
    standard_groups,
)
from benchmarks.modes import MODES, SAMPLED, Telemetry
from benchmarks.report import gates_table, rows_table
from benchmarks.sampling import Effort, Row, measure, take
from benchmarks.statistics import Quartiles, relative


def verdict(lower: float, median: float, upper: float) -> Verdict:
    gate = Gate("pika publish, sampled", "what", relative("a", "b"), 0.85, 0.78)
    return Verdict(gate, Quartiles(lower, median, upper))


@pytest.mark.parametrize(
    ("found", "word", "is_over"),
    [
        ((0.6, 0.7, 0.8), "target", False),
        ((0.7, 0.8, 0.9), "ok", False),
        ((0.8, 0.9, 1.0), "noise", False),
        ((0.86, 0.9, 1.0), "OVER", True),
    ],
)
def test_a_gate_fails_when_the_lower_quartile_is_over_it(
    found: tuple[float, float, float], word: str, is_over: bool
) -> None:
    judged = verdict(*found)
    assert (judged.word, judged.is_over) == (word, is_over)


def test_what_is_only_reported_is_not_judged() -> None:
    gate = Gate("group", "what", relative("a", "b"), None)
    judged = Verdict(gate, Quartiles(9.0, 9.0, 9.0))
    assert (judged.word, judged.is_over) == ("", False)


def test_gates_are_told_apart() -> None:
    names = [(gate.group, gate.what) for gate in (*gates(), *call_gates())]
    assert len(names) == len(set(names))


def test_a_target_is_below_its_gate() -> None:
    judged = [gate for gate in gates() if gate.limit is not None and gate.target is not None]
    assert judged
    assert [gate for gate in judged if gate.target >= gate.limit] == []


def test_every_row_has_a_sample_in_each_round_in_random_order() -> None:
    ran: list[str] = []

    def row(name: str) -> Row:
        return Row(name, lambda batch: (ran.append(name), sum(range(200 * len(batch))))[0], warm=1)

    measured = measure([row("a"), row("b")], Effort(rounds=8, seconds=1e-4))
    assert {name: len(values) for name, values in measured.items()} == {"a": 8, "b": 8}
    rounds = [tuple(ran[-16:][at : at + 2]) for at in range(0, 16, 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_what_is_the_whole_processs_is_switched_off_even_when_a_row_fails() -> None:
    switched: list[str] = []
    row = Row(
        "fails",
        lambda batch: batch[99],
        enter=lambda: switched.append("on"),
        leave=lambda: switched.append("off"),
    )
    with pytest.raises(IndexError):
        take(row, 1)
    assert switched == ["on", "off"]


@pytest.mark.parametrize("mode", MODES)
def test_pikas_rows_are_what_they_claim(mode: str) -> None:
    for path, make in (("pika publish", lambda _mode: pika.Publish()), ("c", pika.Consume)):
        (group,) = standard(path, make, mode)
        assert group.rows[0].name == "bare"


def test_aio_pika_waits_for_the_confirm_of_each_message() -> None:
    channel, _ = aio_pika.open_channel(confirms=True)
    exchange = Exchange(channel, "orders")

    async def publish() -> list[Any]:
        return [await exchange.publish(Message(b""), "created") for _ in range(300)]

    confirms = aio_pika.run(publish())
    assert {type(each) for each in confirms} == {Basic.Ack}
    assert [each.delivery_tag for each in confirms] == [*range(1, 301)]


@pytest.mark.parametrize("make", [lambda _mode: pika.Publish(), pika.Consume, kafka.Next])
def test_spans_may_be_made_to_say_no_more_than_contribs(make: Any) -> None:
    telemetry, made = Telemetry(SAMPLED), make(SAMPLED)
    contrib = made.contrib(telemetry)
    few = with_as_few(made, telemetry, contrib)
    assert few is not None
    (theirs,), (ours,) = watched(contrib, telemetry), watched(few, telemetry)
    (full,) = watched(made.hopspan("full", telemetry, metrics=False), telemetry)
    assert len(ours.attributes or {}) == len(theirs.attributes or {}) < len(full.attributes or {})
    assert (ours.name, ours.kind) == (full.name, full.kind)
    telemetry.close()


@pytest.mark.parametrize("name", encoded_groups())
def test_what_is_exported_may_be_encoded(name: str) -> None:
    (group,) = encoded_groups()[name]()
    assert group.name == name
    assert {"bare", "contrib", "hopspan", FEWER} <= {row.name for row in group.rows}


def test_a_floor_that_emits_another_span_is_refused() -> None:
    shape, _ = shape_of(pika.Consume)
    telemetry, made = Telemetry(SAMPLED), pika.Consume(SAMPLED)
    poorer = shape._replace(attributes={"messaging.system": "rabbitmq"})
    rows = [made.floor(floor(SDK, telemetry, poorer), telemetry)]
    with pytest.raises(WrongRowError, match="differs in"):
        check_rows(rows, telemetry, shape)
    telemetry.close()


# -- rows in which a policy settles ----------------------------------------------------------------


def late(mode: str) -> celery.Run:
    return celery.Run(mode, acks_late=True)


HANDLING = [pika.Consume, aio_pika.Consume, kafka.Next, late]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", HANDLING)
def test_a_policy_settles_each_message_once(make: Any, mode: str) -> None:
    telemetry, made = Telemetry(mode), make(mode)
    rows = [made.decorated("decorated", telemetry), made.wrapped("wrapped", telemetry)]
    check_settled(made, [*rows, *rows], telemetry)
    telemetry.close()


def nothing(*_: Any) -> None:
    pass


async def nothing_async(_message: Any) -> None:
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda mode: pika.Consume(mode, nothing),
        lambda mode: aio_pika.Consume(mode, nothing_async),
        kafka.Next,
    ],
)
def test_a_row_that_leaves_its_message_unsettled_is_refused(make: Any) -> None:
    telemetry, made = Telemetry(SAMPLED), make(SAMPLED)
    with pytest.raises(WrongRowError, match="not settled"):
        check_settled(made, [made.hopspan("hopspan", telemetry)], telemetry)
    telemetry.close()


def rejected(_order: int) -> None:
    raise Reject(requeue=False)


def test_a_task_whose_message_is_rejected_is_refused() -> None:
    telemetry, made = Telemetry(SAMPLED), celery.Run(SAMPLED, rejected, acks_late=True)
    with pytest.raises(WrongRowError, match="not settled"):
        check_settled(made, [made.decorated("decorated", telemetry)], telemetry)
    telemetry.close()


@pytest.mark.parametrize(
    "path", ["pika consume", "aio-pika consume", "kafka-python next", "Celery run"]
)
def test_every_client_has_rows_with_a_policy(path: str) -> None:
    (group,) = standard_groups()[f"{path}, sampled"]()
    assert {DECORATED, WRAPPED, DECORATED_METRICS} <= {row.name for row in group.rows}


def test_metrics_that_the_floor_does_not_record_are_refused() -> None:
    _, points = shape_of(pika.Consume)
    check_metrics("row", points, points)
    with pytest.raises(WrongRowError, match="it measures"):
        check_metrics("row", {**points, "another": [{}]}, points)


# -- what one row leaves to another ----------------------------------------------------------------


def test_a_row_of_kafkas_has_its_own_settings_and_nothing_of_the_one_before() -> None:
    telemetry, made = Telemetry(SAMPLED), kafka.Next(SAMPLED)
    policied, plain = made.decorated("decorated", telemetry), made.hopspan("plain", telemetry)
    for _ in range(2):
        (settled,), (left,) = watched(policied, telemetry), watched(plain, telemetry)
        assert (settled.attributes or {})["hopspan.settlement"] == "ack"
        assert "hopspan.settlement" not in (left.attributes or {})
    telemetry.close()


def test_all_rows_of_kafkas_have_one_consumer_that_is_tracked() -> None:
    telemetry = Telemetry(SAMPLED)
    before = kafka.tracked().consumer
    for make in (kafka.Next(SAMPLED).hopspan, kafka.Next(SAMPLED).wrapped):
        watched(make("row", telemetry), telemetry)
    assert kafka.tracked().consumer is before
    telemetry.close()


def test_what_hopspan_weaves_into_kombu_is_there_in_its_own_rows_alone() -> None:
    telemetry, made = Telemetry(SAMPLED), celery.ApplyAsync()
    native = Producer.publish
    ours, bare = made.hopspan("hopspan", telemetry), made.bare()
    again = celery.ApplyAsync().hopspan("again", telemetry)
    assert Producer.publish is native
    found = []
    for row in (ours, bare, again):
        row.enter()
        found.append(Producer.publish)
        row.leave()
    assert (
        found[0] is not native
    )  # what kombu publishes with is silenced for other instrumentations
    assert found[1:] == [native, found[0]]
    assert Producer.publish is native
    telemetry.close()


def test_a_batch_has_records_of_traces_and_of_its_own() -> None:
    one, other = special.records(100), special.records(100)
    assert len({dict(each.headers)["traceparent"] for each in one}) == 100
    assert not {*map(id, one)} & {*map(id, other)}


def test_a_batch_is_measured_with_a_consumer_and_without_one() -> None:
    (group,) = special.batches(10)
    assert [row.name for row in group.rows] == ["API floor", "hopspan", special.WITH_CONSUMER]


def test_a_path_may_ask_for_longer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    (group,) = standard_groups()["Celery apply_async, no SDK"]()
    asked: list[float] = []

    def measure(_rows: Any, effort: Effort) -> dict[str, Any]:
        asked.append(effort.seconds)
        return {}

    monkeypatch.setattr(running, "measure", measure)
    running.measure_groups(["Celery apply_async, no SDK", "pika publish, no SDK"], Effort())
    assert asked == [group.seconds, Effort().seconds]
    assert group.seconds == 0.02


@pytest.mark.parametrize("mode", MODES)
def test_a_sender_in_the_same_mode_says_so(mode: str) -> None:
    assert traceparent(mode).endswith("00" if mode == "unsampled" else "01")


def measured() -> dict[str, Any]:
    noise = random.Random(1)  # noqa: S311 - no secret
    costs = {"bare": 10, "SDK floor": 20, "API floor": 22, "contrib": 30, "hopspan": 24}
    return {
        f"pika publish, {mode}": {
            name: [cost + noise.random() for _ in range(9)] for name, cost in costs.items()
        }
        for mode in MODES
    }


def test_the_tables_hold_every_row_and_every_gate_that_was_measured() -> None:
    found = measured()
    verdicts = judge(found)
    assert {each.gate.group for each in verdicts} == set(found)
    assert rows_table(found).count("API floor") == 3
    assert gates_table(verdicts).count(OF_CONTRIB) == 3
