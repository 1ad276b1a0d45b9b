"""`hopspan demo`: drawing traces, what a terminal is given, and all of it on the fake broker."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

import hopspan
from hopspan import cli, demo
from hopspan.demo import otlp
from hopspan.demo.broker import PREFIXES
from hopspan.demo.spans import Exported, FinishedSpan, finished, from_line, to_line
from hopspan.demo.terminal import ASCII, BOX, Terminal, terminal_of
from hopspan.demo.traces import traces
from hopspan.demo.tree import draw, duration
from tests.demo_story import STEPS, SUMMARY, TREES, steps_in, trees_in
from tests.fakes.amqp import FakeRabbit

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
    attributes = {
        "hopspan.settlement": settlement,
        "hopspan.attempt": attempt,
        **given.pop("attributes", {}),
    }
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
    return "\n".join(draw(traces(spans), terminal))


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
    uncounted = span("b process", kind="consumer", attributes={"hopspan.settlement": "leave"})
    lines = drawn([settled_by_hand, uncounted], Terminal(ASCII)).splitlines()
    assert [line.partition("consumer")[2] for line in lines[4:]] == ["", "  x left unsettled"]


def test_traces_come_in_the_order_in_which_they_began() -> None:
    other = ORDER._replace(trace="f" * 32, start=ORDER.start - 1)
    assert [trace.spans for trace in traces([SENT, ORDER, other])] == [[other], [ORDER, SENT]]


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
        return [trace.is_over for trace in traces(spans)]

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
    assert trees_in(output) == TREES
    assert SUMMARY in output
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in output
    assert output.isascii()
    assert broker.until(lambda: not broker._connections)
    assert broker._state.queues == {}
    assert [name for name in broker._state.exchanges if not name.startswith("amq.")] == []
    assert logging.getLogger("pika").level == logging.NOTSET


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
    assert [trees_in(output) for output in outputs] == [TREES, TREES]
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
    with demo.connected(broker.url) as connected:
        assert connected.prefix == "demo2."
    assert list(broker._state.queues) == ["demo.dead-letters"]


def test_with_all_names_taken_the_demo_says_so(
    broker: FakeRabbit, channel: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for prefix in PREFIXES:
        channel.queue_declare(f"{prefix}fulfilment")
    assert cli.main(["demo", "--broker", broker.url]) == 1
    assert "nine other demos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [(["--broker", "amqp://me:secret@127.0.0.1:1/%2F"], None), ([], "amqp://127.0.0.1:1")],
)
def test_a_broker_that_cannot_be_reached_is_told_with_the_remedy(
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
        "  In a checkout of hopspan, this starts one, and the demo with it:  scripts/demo\n"
        "  With a broker of your own:  hopspan demo --broker amqp://user:password@host:5672/%2F\n"
        "  or set TEST_RABBITMQ_URL to its URL.\n"
    )


@pytest.mark.parametrize("url", ["rabbit", "http://localhost:5672", "amqp://localhost:port/"])
def test_a_broker_s_url_that_is_none_is_told(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert cli.main(["demo", "--broker", url]) == 1
    assert "must be like amqp://user:password@host:5672/%2F: " in capsys.readouterr().err


def test_missing_packages_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("hopspan.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(hopspan, "demo")
    monkeypatch.setitem(sys.modules, "pika", None)
    assert cli.main(["demo"]) == 1
    assert "pip install 'hopspan[demo]'" in capsys.readouterr().err


def scripts(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """Other services in place of the example's; they say that they are ready, and wait."""
    for name in ("fulfilment", "dead_letters", "order_service"):
        ready = "import os, threading\nprint('ready', flush=True)\n"
        (folder / f"{name}.py").write_text(
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
    command = [sys.executable, "-m", "hopspan.demo.launch", str(script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        service.stdin.close()
        assert service.wait(10) == 1
