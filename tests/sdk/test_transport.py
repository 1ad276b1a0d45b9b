"""Spans on their way to a real receiver: gzip, TLS, mutual TLS, and what goes wrong with each."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

grpc = pytest.importorskip("grpc")
trustme = pytest.importorskip("trustme")

from tests.sdk.processes import DEADLINE, run, start  # noqa: E402 - needs both
from tests.sdk.receivers import (  # noqa: E402
    Receiver,
    Wire,
    eventually,
    grpc_receiver,
    http_receiver,
    wire_to,
)

PROTOCOLS = ["grpc", "http"]
MANY = 1000


class Certificates(NamedTuple):
    """Files, as the variables of the exporters name them."""

    authority: Path
    client: Path
    client_key: Path
    server: Path
    server_key: Path
    stranger: Path
    """An authority that has signed none of it."""

    def credentials(self, *, mutual: bool) -> Any:
        pair = (self.server_key.read_bytes(), self.server.read_bytes())
        authority = self.authority.read_bytes() if mutual else None
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=mutual)

    def context(self, *, mutual: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server, self.server_key)
        if mutual:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    files = Certificates(*(folder / f"{field}.pem" for field in Certificates._fields))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files.authority))
    trustme.CA().cert_pem.write_to_path(str(files.stranger))
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    for issued, certificate, key in (
        (server, files.server, files.server_key),
        (client, files.client, files.client_key),
    ):
        issued.private_key_pem.write_to_path(str(key))
        for each in issued.cert_chain_pems:
            each.write_to_path(str(certificate), append=True)
    return files


@contextlib.contextmanager
def a_receiver(
    protocol: str, certificates: Certificates | None = None, *, mutual: bool = False
) -> Iterator[Receiver]:
    if protocol == "grpc":
        secrets = certificates.credentials(mutual=mutual) if certificates else None
        with grpc_receiver(secrets) as receiver:
            yield receiver
    else:
        context = certificates.context(mutual=mutual) if certificates else None
        with http_receiver(context) as receiver:
            yield receiver


SETUP = "telemetry = hopspan.sdk.setup(service_name='test', service_version='1', environment='t'); "
ONLY_SPANS = {"OTEL_METRICS_EXPORTER": "none"}


# -- compression -----------------------------------------------------------------------------------


def sent(protocol: str, preset: str, **variables: str) -> int:
    """How many bytes 1,000 like spans take on their way."""
    with a_receiver(protocol) as receiver, wire_to(receiver) as wire:
        environment = {
            **receiver.environment(wire.port),
            **ONLY_SPANS,
            **variables,
            "HOPSPAN_PRESET": preset,
            "OTEL_BSP_MAX_QUEUE_SIZE": "2048",
        }
        done = run(f"{SETUP}spans({MANY})", environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"work": MANY} == receiver.received.names()
        return wire.sent


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_production_compresses_and_development_does_not(protocol: str) -> None:
    assert sent(protocol, "production") * 1.5 < sent(protocol, "development")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_variable_decides_over_compression(protocol: str) -> None:
    """`none` as well, which the gRPC exporter by itself takes for an error."""
    plain = sent(protocol, "production", OTEL_EXPORTER_OTLP_COMPRESSION="none")
    gzip = sent(protocol, "development", OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip")
    assert gzip * 1.5 < plain


def test_a_compressed_body_says_that_it_is_gzip() -> None:
    with a_receiver("http") as receiver:
        run(f"{SETUP}spans(1)", {**receiver.environment(), **ONLY_SPANS})
        assert ["gzip"] == [each["content-encoding"] for each in receiver.received.headers]


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_and_headers_for_authentication(protocol: str, certificates: Certificates) -> None:
    with a_receiver(protocol, certificates) as receiver:
        environment = {
            **receiver.environment(),
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret",
        }
        done = run(f"{SETUP}spans({MANY})", environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"work": MANY} == receiver.received.names()
        assert {"Bearer secret"} == {each["authorization"] for each in receiver.received.headers}


def test_an_endpoint_without_scheme_is_secure_in_production(certificates: Certificates) -> None:
    with a_receiver("grpc", certificates) as receiver:
        environment = {
            **receiver.environment(),
            **ONLY_SPANS,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"localhost:{receiver.port}",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
        }
        done = run(f"{SETUP}spans({MANY})", environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"work": MANY} == receiver.received.names()


def test_an_endpoint_without_scheme_is_plain_in_development() -> None:
    with a_receiver("grpc") as receiver:
        environment = {
            **receiver.environment(),
            **ONLY_SPANS,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"localhost:{receiver.port}",
            "HOPSPAN_PRESET": "development",
        }
        done = run(f"{SETUP}spans(100)", environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"work": 100} == receiver.received.names()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls(protocol: str, certificates: Certificates) -> None:
    with a_receiver(protocol, certificates, mutual=True) as receiver:
        environment = {
            **receiver.environment(),
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificates.client),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates.client_key),
        }
        done = run(f"{SETUP}spans({MANY})", environment)
        assert (0, "") == (done.returncode, done.stderr)
        assert {"work": MANY} == receiver.received.names()


def ours(said: str) -> list[str]:
    return [line for line in said.splitlines() if " hopspan: " in line]


FAILS = f"""
{SETUP}
spans(10)
assert telemetry.flush(30) is False
spans(10)
assert telemetry.flush(30) is False
assert telemetry.dropped_by_reason == {{"export_failed": 20}}, telemetry.dropped_by_reason
say("the application goes on")
"""
SOON = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("lacking", ["trust", "a client certificate"])
def test_a_wrong_certificate_is_one_clear_error(
    protocol: str, lacking: str, certificates: Certificates
) -> None:
    mutual = lacking == "a client certificate"
    with a_receiver(protocol, certificates, mutual=mutual) as receiver:
        trusted = certificates.authority if mutual else certificates.stranger
        environment = {
            **receiver.environment(),
            **ONLY_SPANS,
            **SOON,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(trusted),
        }
        done = run(FAILS, environment)
        assert (0, "the application goes on\n") == (done.returncode, done.stdout)
        error, summary = ours(done.stderr)
        assert error.startswith("ERROR hopspan: exporting spans fails, and they are lost: ")
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE names the file of the receiver's authority" in error
        assert "WARNING hopspan: this process lost 20 spans (export_failed 20)" == summary
        assert [] == receiver.received.spans


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificates_that_would_not_be_used_are_reported(
    protocol: str, certificates: Certificates
) -> None:
    """The library requests prefers its own variable; the gRPC exporter ignores a client's without one."""
    variables, said = {
        "grpc": (
            {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificates.client)},
            "WARNING hopspan: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE has no effect on the gRPC "
            "exporter without OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        "http": (
            {
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
                "REQUESTS_CA_BUNDLE": str(certificates.stranger),
            },
            "WARNING hopspan: REQUESTS_CA_BUNDLE is set, and requests prefers it to "
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
    }[protocol]
    with a_receiver(protocol) as receiver:
        done = run(f"{SETUP}spans(1)", {**receiver.environment(), **variables})
        assert [said] == ours(done.stderr)


# -- down, slow, and back --------------------------------------------------------------------------

STEPS = f"""
{SETUP}
def step(name):
    assert sys.stdin.readline() == name + "\\n"
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_is_down_and_comes_back(protocol: str) -> None:
    """What was exported in vain is lost and counted, once; what comes after it is back is there."""
    program = f"""
{STEPS}
spans({MANY}, "up"); assert telemetry.flush()
say("up"); step("down")
spans(100, "down"); assert not telemetry.flush(30)
spans(100, "down"); assert not telemetry.flush(30)
say(telemetry.dropped_spans); step("back")
while True:
    lost = telemetry.dropped_spans
    spans(1, "probe")
    if telemetry.flush(30):
        break
spans({MANY}, "back"); assert telemetry.flush(30)
say("back")
"""
    with a_receiver(protocol) as receiver, wire_to(receiver) as wire:
        environment = {**receiver.environment(wire.port), **ONLY_SPANS, **SOON}
        with start(program, environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert "up\n" == process.stdout.readline()
            wire.cut()
            tell(process.stdin, "down")
            assert "200\n" == process.stdout.readline()
            wire.mend()
            tell(process.stdin, "back")
            assert "back\n" == process.stdout.readline()
            _, said = process.communicate(timeout=DEADLINE)
        assert 0 == process.returncode
        names = receiver.received.names()
        assert {"up": MANY, "back": MANY} == {name: names[name] for name in ("up", "back")}
        assert "down" not in names
    fails, works, summary = ours(said)
    assert fails.startswith("ERROR hopspan: exporting spans fails, and they are lost: ")
    assert "WARNING hopspan: exporting spans works again" == works
    assert summary.startswith("WARNING hopspan: this process lost 2")


def tell(to: object, step: str) -> None:
    to.write(f"{step}\n")  # type: ignore[attr-defined]
    to.flush()  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_short_outage_loses_nothing(protocol: str) -> None:
    """The exporter tries again within its timeout."""
    if protocol == "http" and find_spec("opentelemetry.exporter.otlp.common") is None:
        pytest.skip("this exporter for HTTP does not try again when it was refused")
    program = f"""
{STEPS}
spans({MANY}, "up"); assert telemetry.flush()
say("up"); step("down")
spans({MANY}, "down"); assert telemetry.flush(30)
"""
    with a_receiver(protocol) as receiver, wire_to(receiver) as wire:
        environment = {**receiver.environment(wire.port), **ONLY_SPANS}
        with start(program, environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert "up\n" == process.stdout.readline()
            wire.cut()
            before = wire.tries
            tell(process.stdin, "down")
            assert eventually(lambda: wire.tries > before)
            wire.mend()
            _, said = process.communicate(timeout=DEADLINE)
        assert 0 == process.returncode
        assert [] == ours(said)
        assert {"up": MANY, "down": MANY} == receiver.received.names()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_receiver_fills_the_queue_and_that_is_seen(protocol: str) -> None:
    """The application is not held up; what finds no room is counted, in the metric as well."""
    program = f"""
{STEPS}
spans(512, "first")                       # a full batch is exported at once
say("exporting"); step("slow")
started = time.monotonic()
spans(5000, "more")
assert time.monotonic() - started < 10    # the receiver answers when we have said "done"
assert telemetry.dropped_by_reason == {{"queue_full": 5000 - 2048}}, telemetry.dropped_by_reason
say("done")
telemetry.shutdown()
"""
    with a_receiver(protocol) as receiver:
        receiver.received.hold.clear()
        environment = {**receiver.environment(), "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with start(program, environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert "exporting\n" == process.stdout.readline()
            assert eventually(lambda: receiver.received.waiting > 0)
            tell(process.stdin, "slow")
            assert "done\n" == process.stdout.readline()
            receiver.received.hold.set()
            _, said = process.communicate(timeout=DEADLINE)
        assert 0 == process.returncode
        assert {"first": 512, "more": 2048} == receiver.received.names()
        lost = receiver.received.metrics["hopspan.spans.dropped"]
        assert {(("error.type", "queue_full"),): 2952} == lost
    full, summary = ours(said)
    assert full.startswith("WARNING hopspan: spans are lost: 2048 wait for their export already")
    assert "WARNING hopspan: this process lost 2952 spans (queue_full 2952)" == summary


def test_a_wire_counts_what_it_carries() -> None:
    """The measure of the tests above can tell."""
    with a_receiver("http") as receiver, wire_to(receiver) as wire:
        assert isinstance(wire, Wire)
        assert 0 == wire.sent
        run(f"{SETUP}spans(10)", {**receiver.environment(wire.port), **ONLY_SPANS})
        assert wire.sent > 100
