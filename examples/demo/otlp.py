"""Export to a tracing UI, where the standard OTEL_EXPORTER_OTLP_* variables ask for it.

Rules of this module: it imports the exporter only when asked for, because the demo works without.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from .spans import Exported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_GRPC_PORT = ":4317"
SECONDS = "2"
"""For an export, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise: the demo waits for no UI."""


class CountingExporter(SpanExporter):
    """Another exporter, and how many spans it took."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.count: Exported = Exported()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export and count."""
        result = self._exporter.export(spans)
        sent, lost = self.count
        if result is SpanExportResult.SUCCESS:
            self.count = Exported(sent + len(spans), lost)
        else:
            self.count = Exported(sent, lost + len(spans))
        return result

    def shutdown(self) -> None:
        """Shut the other exporter down."""
        self._exporter.shutdown()


def endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where spans are to be exported to, or None."""
    return (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or None
    )


def shown(environ: Mapping[str, str] = os.environ) -> str | None:
    """The endpoint without the password that may be in it, or None."""
    url = endpoint(environ)
    if url is None:
        return None
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_installed() -> bool:
    """Whether the exporter that the environment asks for can be imported."""
    try:
        importlib.import_module(_module())
    except ImportError:
        return False
    return True


def exporter() -> CountingExporter | None:
    """The exporter that the environment asks for; None for none, or for one not installed."""
    if endpoint() is None or not is_installed():
        return None
    return CountingExporter(importlib.import_module(_module()).OTLPSpanExporter())


def protocol(environ: Mapping[str, str] = os.environ) -> str:
    """How to export: as asked for, or by gRPC to its usual port, or else by HTTP."""
    asked = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    netloc = urlsplit(endpoint(environ) or "").netloc
    return asked or ("grpc" if netloc.endswith(_GRPC_PORT) else "http/protobuf")


def _module() -> str:
    package = {"grpc": "grpc", "http/protobuf": "http"}.get(protocol(), "unknown")
    return f"opentelemetry.exporter.otlp.proto.{package}.trace_exporter"
