"""Lost spans are counted exactly, whoever else is at it at the same time."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest

pytest.importorskip("grpc")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hopspan.sdk.exporting import CountedBatches, Spans
from hopspan.sdk.presets import Sizes
from hopspan.sdk.tally import Tally
from tests.sdk.processes import run
from tests.sdk.receivers import http_receiver

THREADS, EACH = 8, 2000


class Failing(InMemorySpanExporter):
    """Fails every third time, in one of the ways to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = 0
        self._turn = 0

    def export(self, spans: object) -> SpanExportResult:  # type: ignore[override]
        self._turn += 1
        if self._turn % 3:
            return super().export(spans)  # type: ignore[arg-type]
        self.failed += len(spans)  # type: ignore[arg-type]
        if self._turn % 2:
            raise ValueError("no")
        return SpanExportResult.FAILURE


def test_every_span_is_exported_or_counted() -> None:
    """Eight threads, a queue too small, an exporter that fails: nothing is missing, none twice."""
    exporter = Failing()
    tally = Tally(64)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(CountedBatches(Spans(lambda: exporter, tally), Sizes(64, 16, 0.01)))
    tracer = provider.get_tracer("test")

    def work() -> None:
        for _ in range(EACH):
            tracer.start_span("work").end()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    assert 0 == tally.give_up()
    arrived = len(exporter.get_finished_spans())
    assert exporter.failed == tally.lost["export_failed"] > 0
    assert THREADS * EACH == arrived + sum(tally.lost.values())


def test_what_waits_at_the_end_is_counted_once() -> None:
    tally = Tally(4)
    assert [True] * 3 == [tally.admit() for _ in range(3)]
    tally.hand_over(2)
    assert 3 == tally.give_up()
    tally.settle(2, is_lost=True)  # it fails after all, when it was given up already
    assert (False, 0) == (tally.admit(), tally.give_up())
    assert Counter(shut_down=4) == tally.lost


def test_an_unsampled_span_is_not_lost() -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: PLC0415

    tally = Tally(1)
    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    sizes = Sizes(1, 1, 60.0)
    provider.add_span_processor(CountedBatches(Spans(InMemorySpanExporter, tally), sizes))
    for _ in range(10):
        provider.get_tracer("test").start_span("work").end()
    provider.shutdown()
    assert Counter() == tally.lost


@pytest.mark.parametrize("sdk_counts", [True, False])
def test_the_sdks_own_metric_is_used_where_it_is_switched_on(sdk_counts: bool) -> None:
    """There is one metric for a loss, not two."""
    program = """
    import inspect, json, threading
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    class Slow(SpanExporter):
        go = threading.Event()
        begun = threading.Event()
        def export(self, spans):
            self.begun.set()
            self.go.wait()
            return SpanExportResult.SUCCESS
    telemetry = hopspan.sdk.setup("development", service_name="test", span_exporter=Slow())
    spans(128)
    assert Slow.begun.wait(30)
    spans(512 + 100)
    lost = telemetry.dropped_spans
    Slow.go.set()
    telemetry.shutdown()
    able = "meter_provider" in inspect.signature(BatchSpanProcessor.__init__).parameters
    say(json.dumps([lost, able]))
    """
    with http_receiver() as receiver:
        environment = {
            **receiver.environment(),
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": str(sdk_counts).lower(),
        }
        done = run(program, environment)
        assert 0 == done.returncode, done.stderr
        lost, able = json.loads(done.stdout)
        if sdk_counts and not able:
            pytest.skip("this SDK has no metrics of its own")
        metrics = receiver.received.metrics
        ours = metrics.get("hopspan.spans.dropped", {})
        theirs = {
            dict(attributes).get("error.type"): value
            for attributes, value in metrics.get("otel.sdk.processor.span.processed", {}).items()
        }
        assert 100 == lost
        if sdk_counts:
            assert ({}, 100) == (ours, theirs["queue_full"])
        else:
            assert ({(("error.type", "queue_full"),): 100}, {}) == (ours, theirs)
