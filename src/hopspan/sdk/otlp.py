"""Which exporters: those that `OTEL_*_EXPORTER` names, found where packages declare them.

OTLP where nothing is named. Endpoint, headers, certificates and timeouts are the exporters' own to
read; a preset only says what nobody said.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.model import ConfigurationError
from hopspan.propagation.baggage import without_passwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hopspan.sdk.presets import Preset

__all__ = ["factories"]

_GRPC, _HTTP = "otlp_proto_grpc", "otlp_proto_http"
_BY_PROTOCOL = {"grpc": _GRPC, "http/protobuf": _HTTP}
_OTLP = "OTEL_EXPORTER_OTLP"
_SAFE_FORKS = "GRPC_ENABLE_FORK_SUPPORT"


def factories(signal: str, preset: Preset) -> Iterator[Callable[[], Any]]:
    """What makes each exporter of a signal: `traces`, `metrics` or `logs`.

    Raises:
        ConfigurationError: an exporter or a protocol is unknown or not installed.
    """
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    for name in names or ["otlp"]:
        if name.lower() != "none":
            yield _factory(signal, variable, name, preset)


def _factory(signal: str, variable: str, name: str, preset: Preset) -> Callable[[], Any]:
    name = _protocol(signal) if name == "otlp" else name
    if name == _GRPC:
        _make_forks_safe()
    found = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=name)), None)
    if found is None:
        hint = ": pip install 'hopspan[sdk]'" if name in {_GRPC, _HTTP} else ""
        raise ConfigurationError(f"{variable}: the exporter {name!r} is not installed{hint}")
    exporter = found.load()
    options: dict[str, Any] = {}
    if name in {_GRPC, _HTTP}:
        options = _options(signal, name, preset)
        _look_for_mistakes(signal, name, preset)
    return partial(_made, partial(exporter, **options), f"{variable}: the exporter {name!r}")


def _made(make: Callable[[], Any], what: str) -> Any:
    try:
        return make()
    except Exception as error:
        message = f"{what} cannot be made: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error


def _set(signal: str, name: str) -> str:
    """An OTLP variable of one signal, or else of all; empty when neither is set."""
    of_all = os.environ.get(f"{_OTLP}_{name}", "")
    return (os.environ.get(f"{_OTLP}_{signal.upper()}_{name}", "") or of_all).strip()


def _protocol(signal: str) -> str:
    protocol = _set(signal, "PROTOCOL") or "grpc"
    if protocol not in _BY_PROTOCOL:
        raise ConfigurationError(
            f"{_OTLP}_PROTOCOL={protocol!r} is not valid: it takes {' or '.join(_BY_PROTOCOL)}"
        )
    return _BY_PROTOCOL[protocol]


def _make_forks_safe() -> None:
    """Ask gRPC to work in forked children. It reads the variable when it is first imported."""
    if not hasattr(os, "fork") or os.environ.get(_SAFE_FORKS):
        return
    if "grpc" in sys.modules:
        faults.once(
            "grpc was imported before hopspan.sdk.setup() and %s is not set: in a forked child "
            "no export would come to an end. Set %s=1, or OTEL_EXPORTER_OTLP_PROTOCOL="
            "http/protobuf, if this process forks",
            _SAFE_FORKS,
            _SAFE_FORKS,
        )
        return
    os.environ[_SAFE_FORKS] = "1"


def _options(signal: str, name: str, preset: Preset) -> dict[str, Any]:
    options: dict[str, Any] = {}
    compression = _compression(name, _set(signal, "COMPRESSION"), preset)
    if compression is not None:
        options["compression"] = compression
    endpoint = _set(signal, "ENDPOINT")
    is_said = "://" in endpoint or not endpoint or _set(signal, "INSECURE")
    if name == _GRPC and not is_said:
        options["insecure"] = not preset.tls
    return options


def _compression(name: str, said: str, preset: Preset) -> Any:
    """The preset's, where no variable says it; None leaves it to the exporter."""
    if name == _GRPC:
        import grpc  # type: ignore[import-untyped]  # noqa: PLC0415 - only now are forks safe

        if said == "none":  # a value of the specification that the exporter takes for an error
            return grpc.Compression.NoCompression
        return grpc.Compression.Gzip if preset.compression and not said else None
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415

    return Compression.Gzip if preset.compression and not said else None


_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LOCAL = ("localhost", "127.", "[::1]")


def _look_for_mistakes(signal: str, name: str, preset: Preset) -> None:
    """Say what would be silently wrong."""
    endpoint = _set(signal, "ENDPOINT")
    if preset.tls and endpoint.startswith("http://"):
        host = endpoint.removeprefix("http://")
        if not host.startswith(_LOCAL):
            faults.once(
                "telemetry leaves this host in plain text: %s; https:// encrypts",
                without_passwords(endpoint),
            )
    bundles = [each for each in _BUNDLES if os.environ.get(each)]
    if name == _HTTP and bundles and _set(signal, "CERTIFICATE"):
        faults.once("%s is set, and requests prefers it to %s_CERTIFICATE", bundles[0], _OTLP)
    if name == _GRPC and _set(signal, "CLIENT_CERTIFICATE") and not _set(signal, "CERTIFICATE"):
        faults.once(
            "%s_CLIENT_CERTIFICATE has no effect on the gRPC exporter without %s_CERTIFICATE",
            _OTLP,
            _OTLP,
        )
