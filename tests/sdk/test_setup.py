"""What `setup` sets up: presets, variables, arguments, in this order of weakness; and when it does not.

Providers are global and set once, so each program runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from tests.sdk.processes import DEADLINE, PRELUDE, clean, run
from tests.sdk.receivers import grpc_receiver, http_receiver

NAMED = "service_name='orders', service_version='1', environment='test'"
NO_EXPORTER = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}

KEEPS = """
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
"""

SHOWS = """
import json
def show(**values):
    print(json.dumps(values), flush=True)

def batches():
    processor, = trace.get_tracer_provider()._active_span_processor._span_processors
    batch = processor._batch_processor
    return [batch._max_queue_size, batch._max_export_batch_size, batch._schedule_delay_millis / 1000]
"""


def shown(program: str, environment: Mapping[str, str] | None = None) -> Any:
    """What a program shows, which says nothing else."""
    done = run(
        SHOWS + KEEPS + textwrap.dedent(program),
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", **(environment or {})},
    )
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


def complaint(program: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What hopspan logs, of a program that ends well."""
    done = run(SHOWS + KEEPS + textwrap.dedent(program), {**NO_EXPORTER, **(environment or {})})
    assert 0 == done.returncode, done.stderr
    return [line for line in done.stderr.splitlines() if " hopspan: " in line]


# -- presets, variables, arguments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "argument", "expected"),
    [
        ({}, "None", ["production", 2048, 512, 5.0]),
        ({"HOPSPAN_PRESET": "development"}, "None", ["development", 512, 128, 1.0]),
        ({"HOPSPAN_PRESET": "development"}, "'production'", ["production", 2048, 512, 5.0]),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "9000", "OTEL_BSP_SCHEDULE_DELAY": "250"},
            "'production'",
            ["production", 9000, 512, 0.25],
        ),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "'production'", ["production", 100, 100, 5.0]),
        (
            {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1000"},
            "'development'",
            ["development", 1000, 1000, 1.0],
        ),
    ],
    ids=["default", "variable", "argument", "sizes", "small queue", "large batch"],
)
def test_presets(variables: dict[str, str], argument: str, expected: list[object]) -> None:
    program = f"""
    telemetry = hopspan.sdk.setup({argument}, {NAMED}, span_exporter=exporter)
    show(seen=[telemetry.preset, *batches()])
    """
    assert {"seen": expected} == shown(program, variables)


def test_a_size_that_is_no_number_is_reported_and_ignored() -> None:
    program = f"""
    hopspan.sdk.setup({NAMED}, span_exporter=exporter)
    assert batches() == [2048, 512, 5.0]
    """
    assert [
        "WARNING hopspan: OTEL_BSP_MAX_QUEUE_SIZE='many' is no positive integer, and is ignored"
    ] == complaint(program, {"OTEL_BSP_MAX_QUEUE_SIZE": "many"})


@pytest.mark.parametrize(
    ("preset", "variables", "argument", "expected"),
    [
        ("development", {}, "", "AlwaysOnSampler"),
        ("production", {}, "", "ParentBased{root:TraceIdRatioBased{1.0}"),
        (
            "production",
            {"OTEL_TRACES_SAMPLER_ARG": "0.25"},
            "",
            "ParentBased{root:TraceIdRatioBased{0.25}",
        ),
        ("development", {"OTEL_TRACES_SAMPLER": "always_off"}, "", "AlwaysOffSampler"),
        (
            "production",
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
            "",
            "TraceIdRatioBased{0.5}",
        ),
        (
            "production",
            {"OTEL_TRACES_SAMPLER": "always_off"},
            "sampler=hopspan.sdk.keep(ratio=0.1)",
            "ParentBased{root:Keep{else 0.1}",
        ),
    ],
    ids=["development", "production", "ratio", "variable", "both", "argument"],
)
def test_samplers(preset: str, variables: dict[str, str], argument: str, expected: str) -> None:
    program = f"""
    hopspan.sdk.setup("{preset}", {NAMED}, span_exporter=exporter, {argument})
    show(seen=trace.get_tracer_provider().sampler.get_description().partition(",remote")[0])
    """
    assert {"seen": expected} == shown(program, variables)


def test_a_ratio_that_is_none_keeps_everything_and_says_so() -> None:
    program = f"""
    hopspan.sdk.setup({NAMED}, span_exporter=exporter)
    spans(5)
    trace.get_tracer_provider().force_flush()
    assert len(exporter.get_finished_spans()) == 5
    """
    assert [
        "WARNING hopspan: OTEL_TRACES_SAMPLER_ARG='5%' is no ratio from 0 to 1; every trace is kept"
    ] == complaint(program, {"OTEL_TRACES_SAMPLER_ARG": "5%"})


# -- the resource ----------------------------------------------------------------------------------

RESOURCE = """
names = ("service.name", "service.version", "deployment.environment.name", "team")
attributes = trace.get_tracer_provider().resource.attributes
show(seen=[attributes.get(name) for name in names], has_id=bool(attributes["service.instance.id"]))
"""


def test_arguments_beat_variables_in_the_resource() -> None:
    program = f"""
hopspan.sdk.setup(
    service_name="orders", environment="test", resource_attributes={{"team": "a"}},
    span_exporter=exporter,
)
{RESOURCE}
"""
    variables = {
        "OTEL_SERVICE_NAME": "other",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=2,deployment.environment.name=other,team=b",
    }
    assert {"seen": ["orders", "2", "test", "a"], "has_id": True} == shown(program, variables)


def test_production_reports_what_the_resource_lacks() -> None:
    assert [
        "WARNING hopspan: the resource lacks what production needs. Set "
        "service.name: service_name=... or OTEL_SERVICE_NAME; "
        "service.version: service_version=... or service.version in OTEL_RESOURCE_ATTRIBUTES; "
        "deployment.environment.name: environment=... or deployment.environment.name in "
        "OTEL_RESOURCE_ATTRIBUTES"
    ] == complaint("hopspan.sdk.setup(span_exporter=exporter)")
    assert [] == complaint("hopspan.sdk.setup('development', span_exporter=exporter)")
    old = {
        "OTEL_SERVICE_NAME": "orders",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=1,deployment.environment=test",
    }
    assert [] == complaint("hopspan.sdk.setup(span_exporter=exporter)", old)


# -- exporters -------------------------------------------------------------------------------------


def test_exporters_are_those_that_the_variables_name() -> None:
    program = f"""
    hopspan.sdk.setup({NAMED})
    spans(1, "on the console")
    """
    variables = {**NO_EXPORTER, "OTEL_TRACES_EXPORTER": "console"}
    done = run(program, variables)
    assert (0, "") == (done.returncode, done.stderr)
    assert "on the console" == json.loads(done.stdout)["name"]


def test_none_of_all_signals() -> None:
    program = f"""
    from opentelemetry import metrics
    before = type(metrics.get_meter_provider())
    telemetry = hopspan.sdk.setup({NAMED})
    assert type(metrics.get_meter_provider()) is before
    spans(1)
    assert telemetry.flush() and telemetry.shutdown()
    assert telemetry.dropped_spans == 0
    """
    assert [] == complaint(program)


def test_each_of_two_exporters_gets_everything() -> None:
    with http_receiver() as receiver:
        program = f"""
        telemetry = hopspan.sdk.setup({NAMED})
        spans(3)
        """
        variables = {**receiver.environment(), "OTEL_METRICS_EXPORTER": "none"}
        done = run(program, {**variables, "OTEL_TRACES_EXPORTER": "console, otlp"})
        assert (0, "") == (done.returncode, done.stderr)
        assert 3 == done.stdout.count('"name": "work"')
        assert {"work": 3} == receiver.received.names()


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkinn"},
            "OTEL_TRACES_EXPORTER: the exporter 'zipkinn' is not installed",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not valid: it takes grpc or http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"},
            "OTEL_TRACES_EXPORTER: the exporter 'otlp_proto_grpc' cannot be made: "
            "InvalidCompressionValueException: ",
        ),
        (
            {"HOPSPAN_PRESET": "prod"},
            "HOPSPAN_PRESET='prod' is not valid: it takes development or production",
        ),
    ],
    ids=["exporter", "protocol", "compression", "preset"],
)
def test_what_cannot_be_is_an_error_that_names_it(variables: dict[str, str], error: str) -> None:
    others = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    done = run(f"hopspan.sdk.setup({NAMED})", {**others, **variables})
    assert 1 == done.returncode
    assert f"hopspan.model.ConfigurationError: {error}" in done.stderr


def test_plain_text_to_another_host_is_reported_in_production() -> None:
    variables = {**NO_EXPORTER, "OTEL_TRACES_EXPORTER": "otlp"}
    said = ["WARNING hopspan: telemetry leaves this host in plain text: {}; https:// encrypts"]
    for endpoint, expected in {
        "http://collector.example:4317": [said[0].format("http://collector.example:4317")],
        "http://localhost:4317": [],
        "https://collector.example:4317": [],
    }.items():
        program = f"hopspan.sdk.setup({NAMED}, shutdown_seconds=0)"
        assert expected == complaint(
            program, {**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        )


def test_metric_readers_and_exporters_of_ones_own() -> None:
    program = f"""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    reader = InMemoryMetricReader()
    telemetry = hopspan.sdk.setup({NAMED}, span_exporter=exporter, metric_readers=[reader])
    metrics.get_meter("test").create_counter("orders").add(2)
    spans(3)
    assert telemetry.flush()
    data = reader.get_metrics_data()
    point, = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    show(seen=[point.value, len(exporter.get_finished_spans())])
    """
    assert {"seen": [2, 3]} == shown(program)


# -- once, and not at all --------------------------------------------------------------------------


def test_a_second_call_returns_the_same_and_says_what_has_no_effect() -> None:
    program = f"""
    first = hopspan.sdk.setup({NAMED}, span_exporter=exporter, sampler=hopspan.sdk.keep(ratio=0.1))
    assert hopspan.sdk.current() is first
    second = hopspan.sdk.setup({NAMED}, span_exporter=exporter, sampler=hopspan.sdk.keep(ratio=0.1))
    assert second is first
    assert hopspan.sdk.setup(service_name="other", shutdown_seconds=1.0) is first
    """
    assert [
        "WARNING hopspan: hopspan.sdk.setup() was called before; now without effect: "
        "service_name, shutdown_seconds"
    ] == complaint(program)


def test_a_program_that_the_launcher_has_set_up_is_left_alone(tmp_path: Path) -> None:
    """Said once; the handle flushes what is there, and shuts none of it down."""
    script = tmp_path / "program.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent(f"""
        logging.getLogger("hopspan").setLevel(logging.INFO)
        before = trace.get_tracer_provider()
        handler = signal.getsignal(signal.SIGTERM)
        telemetry = hopspan.sdk.setup({NAMED}, sampler=hopspan.sdk.keep(ratio=0))
        assert trace.get_tracer_provider() is before
        assert signal.getsignal(signal.SIGTERM) is handler
        assert hopspan.sdk.setup({NAMED}, sampler=hopspan.sdk.keep(ratio=0)) is telemetry
        assert not telemetry.is_ours
        spans(5)
        assert telemetry.flush()
        say("flushed")
        sys.stdin.readline()
        assert telemetry.shutdown()
        spans(5)
        """)
    )
    with grpc_receiver() as receiver:
        environment = {
            **receiver.environment(),
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_SERVICE_NAME": "launched",
        }
        # What the launcher's configurator does, before it runs the program.
        launch = (
            "from opentelemetry.sdk._configuration import _OTelSDKConfigurator as Configurator; "
            "Configurator().configure(); "
            f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        )
        command = [sys.executable, "-Wignore", "-c", launch]
        with subprocess.Popen(
            command,
            env=clean(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert "flushed\n" == process.stdout.readline()
            assert {"work": 5} == receiver.received.names()
            _, said = process.communicate("\n", timeout=DEADLINE)
        assert 0 == process.returncode
        assert {"work": 10} == receiver.received.names()
        assert {"launched"} == {each.resource["service.name"] for each in receiver.received.spans}
    assert [
        "INFO hopspan: the OpenTelemetry SDK is set up already; hopspan.sdk.setup() leaves it alone"
    ] == said.splitlines()


def test_a_meter_provider_of_ones_own_is_left_alone() -> None:
    program = f"""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    mine = MeterProvider()
    metrics.set_meter_provider(mine)
    telemetry = hopspan.sdk.setup({NAMED}, span_exporter=exporter)
    show(same=metrics.get_meter_provider() is mine, ours=telemetry.providers.meter is None)
    """
    assert {"same": True, "ours": True} == shown(program)


def test_a_disabled_sdk_is_not_set_up() -> None:
    program = f"""
    before = trace.get_tracer_provider()
    with hopspan.sdk.setup({NAMED}) as telemetry:
        assert trace.get_tracer_provider() is before
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        spans(5)
        assert telemetry.flush()
    assert telemetry.shutdown()
    """
    assert [] == complaint(program, {"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"})


def test_as_a_context_manager_it_shuts_down_and_later_spans_are_counted() -> None:
    program = f"""
    with hopspan.sdk.setup({NAMED}, span_exporter=exporter) as telemetry:
        spans(5)
    assert len(exporter.get_finished_spans()) == 5
    spans(2)
    assert telemetry.dropped_by_reason == {{"shut_down": 2}}
    assert telemetry.dropped_spans == 2
    """
    assert [
        "WARNING hopspan: spans are lost: they ended after telemetry was shut down"
    ] == complaint(program)


def test_signals_can_be_left_alone() -> None:
    program = f"""
    hopspan.sdk.setup({NAMED}, span_exporter=exporter, signals=False)
    show(seen=signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    """
    assert {"seen": True} == shown(program)


# -- without the SDK -------------------------------------------------------------------------------


def bare(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=clean(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_importing_hopspan_imports_no_sdk() -> None:
    done = bare("""
    import sys, hopspan
    found = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "hopspan.sdk", "grpc"))]
    assert found == [], found
    """)
    assert (0, "") == (done.returncode, done.stderr)


def test_importing_it_without_the_sdk_says_what_to_install() -> None:
    done = bare("""
    import sys
    sys.modules["opentelemetry.sdk"] = None
    import hopspan.sdk
    """)
    assert 1 == done.returncode
    assert (
        "ImportError: hopspan.sdk needs the OpenTelemetry SDK, which is not installed: "
        "pip install 'hopspan[sdk]'" == done.stderr.splitlines()[-1]
    )


def test_an_sdk_without_exporters_says_what_to_install() -> None:
    program = """
    import importlib.metadata
    everything = importlib.metadata.entry_points
    def fewer(**asked):
        return [each for each in everything(**asked) if "otlp" not in each.name]
    import hopspan.sdk.otlp
    hopspan.sdk.otlp.entry_points = fewer
    hopspan.sdk.setup(service_name="orders")
    """
    done = bare(program)
    assert 1 == done.returncode
    assert done.stderr.splitlines()[-1].endswith(
        "the exporter 'otlp_proto_grpc' is not installed: pip install 'hopspan[sdk]'"
    )
