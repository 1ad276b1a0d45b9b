"""Where telemetry is sent: from variables, or from the exporters that the application has made.

A receiver is a value; `reaching` says whether it answers. Variables are those of the OTLP exporters
of OpenTelemetry, a signal's own before the common one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from hopspan.propagation.baggage import without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hopspan.doctor.environment import Environment

PREFIX = "OTEL_EXPORTER_OTLP_"
GRPC, HTTP = "grpc", "http/protobuf"
PROTOCOLS = (GRPC, HTTP)
_PORTS = {GRPC: 4317, HTTP: 4318}
UNKNOWN = "unknown"
"""The compression of an exporter that does not keep it, as gRPC's of older releases."""
_LOOPBACK = ("localhost", "127.", "::1", "0.0.0.0")  # noqa: S104 - nothing listens here


class Receiver(NamedTuple):
    """One address that telemetry is sent to, and how."""

    url: str
    """As it was given, without a password."""
    variable: str
    """What to change for another one; empty where the application's code says it."""
    protocol: str
    host: str
    port: int
    tls: bool
    compression: str
    """Empty: none that is known of."""
    certificate: str = ""
    """The file of the authority that signs the receiver's certificate."""
    client_certificate: str = ""
    client_key: str = ""

    def set_to(self, url: str) -> str:
        """How to send telemetry to another address."""
        return f"{self.variable}={url}" if self.variable else f"endpoint={url!r} of the exporter"

    @property
    def is_local(self) -> bool:
        """Whether nothing leaves this machine."""
        return self.host.startswith(_LOOPBACK)


class UnclearAddressError(Exception):
    """An address that no exporter could use; the text says why."""


def receiver_of(environment: Environment) -> Receiver:
    """Where spans go.

    Raises:
        UnclearAddressError: what is configured is no address.
    """
    exporter = next(exporters(environment.provider), None)
    variables = _from_variables(environment)
    live = getattr(exporter, "_endpoint", None)
    if exporter is None or not isinstance(live, str):
        return variables
    return _from_exporter(exporter, live, variables)


def set_for_traces(environment: Environment, name: str) -> tuple[str, str]:
    """The variable of an OTLP setting that counts for traces, and its text."""
    return environment.first(f"{PREFIX}TRACES_{name}", f"{PREFIX}{name}")


def _from_variables(environment: Environment) -> Receiver:
    protocol = set_for_traces(environment, "PROTOCOL")[1] or GRPC
    variable, url = set_for_traces(environment, "ENDPOINT")
    default = f"http://localhost:{_PORTS.get(protocol, 4317)}"
    insecure = set_for_traces(environment, "INSECURE")[1].lower() == "true"
    return Receiver(
        without_passwords(url or default),
        variable,
        protocol,
        *_address(url or default, protocol, tls=not insecure),
        set_for_traces(environment, "COMPRESSION")[1],
        set_for_traces(environment, "CERTIFICATE")[1],
        set_for_traces(environment, "CLIENT_CERTIFICATE")[1],
        set_for_traces(environment, "CLIENT_KEY")[1],
    )


def _address(url: str, protocol: str, *, tls: bool) -> tuple[str, int, bool]:
    """Host, port, and whether TLS is spoken; a scheme says that, else the settings."""
    if "://" not in url and protocol != GRPC:
        raise UnclearAddressError(
            f"{without_passwords(url)!r} does not begin with http:// or https://"
        )
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        tls = parts.scheme == "https" if parts.scheme else tls
        port = parts.port
    except ValueError as wrong:
        raise UnclearAddressError(f"{without_passwords(url)!r}: {wrong}") from wrong
    if not parts.hostname or parts.scheme not in {"", "http", "https"}:
        raise UnclearAddressError(f"{without_passwords(url)!r} is no http:// or https:// address")
    usual = 443 if tls and protocol != GRPC else 80
    return parts.hostname, port or (_PORTS[GRPC] if protocol == GRPC else usual), tls


def _from_exporter(exporter: Any, endpoint: str, variables: Receiver) -> Receiver:
    """The application's own; OTLP exporters keep what they were given in the same attributes."""
    protocol = HTTP if "http" in type(exporter).__module__ else GRPC
    host, port, tls = _address(endpoint, protocol, tls=_is_secure(exporter))
    same = (host, port) == (variables.host, variables.port)
    compression = getattr(exporter, "_compression", variables.compression or UNKNOWN)
    return variables._replace(
        url=without_passwords(endpoint),
        variable=variables.variable if same else "",
        protocol=protocol,
        host=host,
        port=port,
        tls=tls,
        compression=_word(compression),
    )


def _is_secure(exporter: Any) -> bool:
    """Whether a gRPC exporter speaks TLS; older ones keep credentials only."""
    insecure = getattr(exporter, "_insecure", None)
    return getattr(exporter, "_credentials", None) is not None if insecure is None else not insecure


def _word(compression: Any) -> str:
    """What an exporter's compression is called: it has an enumeration of its own."""
    named = str(getattr(compression, "name", compression) or "").lower()
    return {"nocompression": "none"}.get(named, named)


def is_of_the_sdk(provider: Any) -> bool:
    """Whether a provider is one of which the doctor knows where its spans go."""
    return hasattr(provider, "_active_span_processor")


def processors(provider: Any) -> Iterator[Any]:
    """What a provider hands its finished spans to."""
    pending = [getattr(provider, "_active_span_processor", None)]
    while pending:
        each = pending.pop(0)
        inner = getattr(each, "_span_processors", None)
        if inner is not None:
            pending.extend(inner)
        elif each is not None:
            yield each


def exporters(provider: Any) -> Iterator[Any]:
    """The exporters of a provider; those of hopspan's own set-up are looked into."""
    for each in processors(provider):
        exporter = getattr(each, "span_exporter", None)
        exporter = getattr(getattr(exporter, "_exporter", None), "native", exporter)
        if exporter is not None:
            yield exporter
