"""What receives telemetry: OTLP over gRPC and over HTTP, as real servers; and a wire to cut.

The wire is a TCP proxy between the two, which counts what passes and can be cut, held, and mended.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

DEADLINE = 30


class Span(NamedTuple):
    """What matters of a span."""

    name: str
    id: bytes
    trace: bytes
    attributes: dict[str, Any]
    resource: dict[str, Any]


def _values(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }


class Received:
    """All that has arrived, from any number of processes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.spans: list[Span] = []
        self.metrics: dict[str, dict[tuple[tuple[str, Any], ...], float]] = {}
        """By name and attributes, the last value of each sum."""
        self.headers: list[dict[str, str]] = []
        self.hold = threading.Event()
        """Cleared: no answer is given until it is set."""
        self.hold.set()
        self.waiting = 0
        """Requests that have come, answered or not."""

    def take_spans(self, request: Any, headers: dict[str, str]) -> None:
        self.waiting += 1
        assert self.hold.wait(DEADLINE)
        with self._changed:
            self.headers.append(headers)
            self.spans.extend(
                Span(
                    span.name,
                    span.span_id,
                    span.trace_id,
                    _values(span.attributes),
                    _values(each.resource.attributes),
                )
                for each in request.resource_spans
                for scope in each.scope_spans
                for span in scope.spans
            )
            self._changed.notify_all()

    def take_metrics(self, request: Any) -> None:
        assert self.hold.wait(DEADLINE)
        with self._changed:
            for each in request.resource_metrics:
                for scope in each.scope_metrics:
                    for metric in scope.metrics:
                        cells = self.metrics.setdefault(metric.name, {})
                        for point in metric.sum.data_points:
                            key = tuple(sorted(_values(point.attributes).items()))
                            cells[key] = point.as_int or point.as_double
            self._changed.notify_all()

    def until(self, condition: Callable[[Received], bool], seconds: float = DEADLINE) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), seconds)

    def names(self) -> dict[str, int]:
        """How many different spans of each name there are; a span that came twice counts once."""
        found: dict[str, int] = {}
        for name, _ in {(span.name, span.id) for span in self.spans}:
            found[name] = found.get(name, 0) + 1
        return found


class Receiver(NamedTuple):
    port: int
    received: Received
    protocol: str
    is_secure: bool

    @property
    def endpoint(self) -> str:
        return self.endpoint_at(self.port)

    def endpoint_at(self, port: int) -> str:
        return f"http{'s' if self.is_secure else ''}://localhost:{port}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint_at(port or self.port),
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_LOGS_EXPORTER": "none",
        }


class _Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, received: Received) -> None:
        self.received = received

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.received.take_spans(request, dict(context.invocation_metadata()))
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, received: Received) -> None:
        self.received = received

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.received.take_metrics(request)
        return metrics_pb.ExportMetricsServiceResponse()


@contextlib.contextmanager
def grpc_receiver(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[Receiver]:
    received = Received()
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    trace_grpc.add_TraceServiceServicer_to_server(_Traces(received), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(received), server)
    address = f"localhost:{port}"
    bound = (
        server.add_secure_port(address, credentials)
        if credentials
        else server.add_insecure_port(address)
    )
    server.start()
    try:
        yield Receiver(bound, received, "grpc", credentials is not None)
    finally:
        received.hold.set()
        server.stop(None).wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    received: Received

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or shows no certificate, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = DEADLINE
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        received = self.server.received
        if self.path == "/v1/traces":
            request = trace_pb.ExportTraceServiceRequest.FromString(body)
            received.take_spans(request, {k.lower(): v for k, v in self.headers.items()})
        else:
            received.take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nobody wants to read it."""


@contextlib.contextmanager
def http_receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    server = _Server(("localhost", 0), _Handler, bind_and_activate=True)
    server.received = Received()
    if context:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        port = server.server_address[1]
        yield Receiver(port, server.received, "http/protobuf", context is not None)
    finally:
        server.received.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(DEADLINE)


class Wire:
    """A TCP proxy on a port of its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.sent = 0
        """Bytes that went to the receiver."""
        self.tries = 0
        """Connections, also those refused."""
        self.is_cut = False
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break what is connected, and refuse what comes."""
        with self._lock:
            self.is_cut = True
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                _hang_up(each)

    def mend(self) -> None:
        with self._lock:
            self.is_cut = False

    def close(self) -> None:
        self.cut()
        _hang_up(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.tries += 1
                if self.is_cut:
                    _hang_up(client)
                    continue
                server = socket.create_connection(("localhost", self._target))
                self._pairs.append((client, server))
            for source, sink, counts in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, counts), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.sent += len(data) if counts else 0
                sink.sendall(data)
        _hang_up(source)
        _hang_up(sink)


def _hang_up(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextlib.contextmanager
def wire_to(receiver: Receiver) -> Iterator[Wire]:
    wire = Wire(receiver.port)
    try:
        yield wire
    finally:
        wire.close()


def eventually(condition: Callable[[], bool], seconds: float = DEADLINE) -> bool:
    """Look again and again, without a fixed wait, until a deadline."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > until:
            return False
        pause.wait(0.01)
    return True
