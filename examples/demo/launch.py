"""Runs a module with an OpenTelemetry SDK around it: `python -m demo.launch FOLDER MODULE`.

The example's services only use the API, as an application should. Which SDK and exporters there are
is decided from outside: in production by `opentelemetry-instrument` or some lines in `main`, here
by this module.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from . import otlp
from .spans import Exported, FinishedSpan, finished, to_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan


class LineExporter(SpanExporter):
    """Writes finished spans to standard output, where the runner reads them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write at once, so that the runner knows at any time what is over."""
        for span in spans:
            _tell(finished(span))
        return SpanExportResult.SUCCESS


def _tell(what: FinishedSpan | Exported) -> None:
    sys.stdout.write(to_line(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the module as `python -m MODULE` in the folder would, and export its spans."""
    _, folder, module = sys.argv
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    provider = TracerProvider()  # the service's name is in OTEL_SERVICE_NAME
    # One span, one line, at once: a batch would tell the runner too late.
    provider.add_span_processor(SimpleSpanProcessor(LineExporter()))
    exporter = otlp.exporter()
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    sys.argv, sys.path[0] = [module], folder
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        provider.shutdown()
        if exporter is not None:
            _tell(exporter.count)


def _end_with_the_runner() -> None:
    """A service does not outlive its runner, however that ended: our input ends when it does."""
    os.read(
        0, 1
    )  # not through sys.stdin, whose lock we would hold when the interpreter wants to end
    os._exit(1)


if __name__ == "__main__":
    main()
