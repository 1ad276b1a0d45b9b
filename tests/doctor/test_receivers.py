"""Receivers that answer, and all the ways in which one does not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping

import pytest

from hopspan.doctor import Environment
from tests.doctor.programs import Doctor, Row
from tests.doctor.test_variables import an_environment, looked

PREFIX = "OTEL_EXPORTER_OTLP_"
FILES = {"authority": "CERTIFICATE", "client": "CLIENT_CERTIFICATE", "client-key": "CLIENT_KEY"}


class Listener:
    """A server that accepts connections, and does nothing else; with TLS, shakes hands."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with contextlib.suppress(OSError), connection:
                    self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        if self._context is None:
            return
        with self._context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    def close(self) -> None:
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@contextlib.contextmanager
def listening(
    certificates: Mapping[str, str] | None = None, *, mutual: bool = False
) -> Iterator[int]:
    context = None
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates["server"], certificates["server-key"])
        if mutual:
            context.load_verify_locations(certificates["authority"])
            context.verify_mode = ssl.CERT_REQUIRED
    listener = Listener(context)
    try:
        yield listener.port
    finally:
        listener.close()


def to(endpoint: str, **more: str) -> Environment:
    return an_environment(
        {f"{PREFIX}{name}": text for name, text in {"ENDPOINT": endpoint, **more}.items()}
    )


def with_files(certificates: Mapping[str, str], **chosen: str) -> dict[str, str]:
    """Variables that name these files."""
    return {name: certificates[file] for name, file in chosen.items()}


def test_one_that_answers_is_no_fault() -> None:
    with listening() as port:
        found = looked("exporter", to(f"http://127.0.0.1:{port}"))
    assert found == [("ok", f"http://127.0.0.1:{port} answers", "")]


def test_the_address_of_traces_goes_first() -> None:
    with listening() as port:
        found = looked(
            "exporter",
            to("http://127.0.0.1:9", TRACES_ENDPOINT=f"http://127.0.0.1:{port}/v1/traces"),
        )
    assert found == [("ok", f"http://127.0.0.1:{port}/v1/traces answers", "")]


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
def test_one_with_certificates_answers_who_has_the_right_ones(
    certificates: Mapping[str, str], mutual: bool
) -> None:
    files = {"CERTIFICATE": "authority"}
    if mutual:
        files |= {"CLIENT_CERTIFICATE": "client", "CLIENT_KEY": "client-key"}
    with listening(certificates, mutual=mutual) as port:
        url = f"https://localhost:{port}"
        found = looked("exporter", to(url, **with_files(certificates, **files)))
    assert found == [("ok", f"{url} answers", "")]


def one(found: list[Row]) -> Row:
    (row,) = found
    return row


def test_nobody_listens() -> None:
    with socket.socket() as nobody:  # has the port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        found = looked("exporter", to(f"http://127.0.0.1:{port}"))
    assert found == [
        (
            "error",
            f"127.0.0.1:{port} cannot be reached: Connection refused",
            f"start a collector there, or {PREFIX}ENDPOINT=https://HOST:PORT",
        )
    ]


def test_a_host_that_nobody_knows() -> None:
    level, what, _ = one(looked("exporter", to("http://collector.invalid:4317")))
    assert (level, what.partition(" (")[0]) == ("error", "the host collector.invalid is not known")


def test_one_that_takes_too_long() -> None:
    """The queue of connections is full, so that the next one waits."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        environment = to(f"http://127.0.0.1:{port}")._replace(seconds=0.3)
        found = looked("exporter", environment)
    assert one(found)[:2] == ("error", f"127.0.0.1:{port} does not answer within 0.3 s")


def test_an_authority_that_nobody_knows(certificates: Mapping[str, str]) -> None:
    for files in ({}, {"CERTIFICATE": "stranger"}):
        with listening(certificates) as port:
            found = looked(
                "exporter", to(f"https://localhost:{port}", **with_files(certificates, **files))
            )
        level, what, mend = one(found)
        assert (level, mend) == (
            "error",
            f"{PREFIX}CERTIFICATE=the file of the authority that has signed it",
        )
        assert what.startswith(f"the certificate of localhost:{port} is not trusted: ")


def test_a_certificate_for_another_host(certificates: Mapping[str, str]) -> None:
    with listening(certificates) as port:
        environment = to(
            f"https://127.0.0.1:{port}", **with_files(certificates, CERTIFICATE="authority")
        )
        _, what, _ = one(looked("exporter", environment))
    assert what.startswith(f"the certificate of 127.0.0.1:{port} is not trusted: ")
    assert "127.0.0.1" in what.partition("not trusted: ")[2]


def test_a_client_certificate_is_asked_for(certificates: Mapping[str, str]) -> None:
    with listening(certificates, mutual=True) as port:
        environment = to(
            f"https://localhost:{port}", **with_files(certificates, CERTIFICATE="authority")
        )
        found = looked("exporter", environment)
    assert found == [
        (
            "error",
            f"localhost:{port} asks for a client certificate",
            f"{PREFIX}CLIENT_CERTIFICATE=FILE and {PREFIX}CLIENT_KEY=FILE",
        )
    ]


def test_a_client_certificate_that_is_not_accepted(certificates: Mapping[str, str]) -> None:
    files = {
        "CERTIFICATE": "authority",
        "CLIENT_CERTIFICATE": "impostor",
        "CLIENT_KEY": "impostor-key",
    }
    with listening(certificates, mutual=True) as port:
        found = looked(
            "exporter", to(f"https://localhost:{port}", **with_files(certificates, **files))
        )
    level, what, mend = one(found)
    assert (level, mend) == ("error", f"{PREFIX}CLIENT_CERTIFICATE=one that it trusts")
    assert what.startswith(f"localhost:{port} does not accept the client certificate")


def test_one_that_does_not_speak_tls() -> None:
    with contextlib.closing(Shouting()) as listener:
        port = listener.port
        found = looked("exporter", to(f"https://127.0.0.1:{port}"))
    assert found == [
        (
            "error",
            f"127.0.0.1:{port} does not speak TLS",
            f"a port of it that does, or http://127.0.0.1:{port}",
        )
    ]


class Shouting(Listener):
    """Answers whatever it is sent in plain HTTP."""

    def _greet(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (
            {"CERTIFICATE": "/nowhere/ca.pem"},
            (
                "error",
                "/nowhere/ca.pem cannot be read",
                f"{PREFIX}CERTIFICATE=the file, readable by this user",
            ),
        ),
        (
            {"CLIENT_CERTIFICATE": __file__},
            (
                "error",
                "a client certificate and its key go together, and one is missing",
                f"{PREFIX}CLIENT_KEY=its file",
            ),
        ),
        (
            {"CLIENT_KEY": __file__},
            (
                "error",
                "a client certificate and its key go together, and one is missing",
                f"{PREFIX}CLIENT_CERTIFICATE=its file",
            ),
        ),
        (
            {"CERTIFICATE": __file__},
            (
                "error",
                f"{__file__} is no certificate or key that can be used",
                f"{PREFIX}CERTIFICATE, ..._CLIENT_CERTIFICATE and ..._CLIENT_KEY: PEM files",
            ),
        ),
    ],
    ids=["no file", "no key", "no certificate", "no PEM"],
)
def test_files_that_cannot_be_used(variables: dict[str, str], found: Row) -> None:
    with listening() as port:
        assert looked("exporter", to(f"https://127.0.0.1:{port}", **variables)) == [found]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_exporter_that_an_application_has_made_is_what_counts(
    doctor: Doctor, protocol: str
) -> None:
    """Over both protocols: whatever the variables say, it is asked where it sends to."""
    receivers = pytest.importorskip("tests.sdk.receivers")
    opened = receivers.grpc_receiver if protocol == "grpc" else receivers.http_receiver
    with opened() as receiver:
        path = "" if protocol == "grpc" else "/v1/traces"
        report = doctor.on(
            f"""
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.{protocol}.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            def set_up():
                provider = TracerProvider()
                exporter = OTLPSpanExporter(endpoint="http://localhost:{receiver.port}{path}")
                provider.add_span_processor(BatchSpanProcessor(exporter))
                trace.set_tracer_provider(provider)
            """,
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        )
    shown = (
        f"localhost:{receiver.port}"
        if protocol == "grpc"
        else f"http://localhost:{receiver.port}{path}"
    )
    assert report.of("exporter") == [("ok", f"{shown} answers", "")]
    # Older exporters do not say whether they compress.
    assert report.of("transport") in (
        [("ok", "plain, on this machine, compression none", "")],
        [("ok", "plain, on this machine, compression unknown", "")],
    )
