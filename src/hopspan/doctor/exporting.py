"""The way out: exporters, their receiver, encryption and compression, and the queue before it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from hopspan.doctor.findings import Finding, error, hint, ok, warning
from hopspan.doctor.reaching import problem_with
from hopspan.doctor.receivers import (
    GRPC,
    PREFIX,
    PROTOCOLS,
    UNKNOWN,
    UnclearAddressError,
    exporters,
    is_of_the_sdk,
    processors,
    receiver_of,
    set_for_traces,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment
    from hopspan.doctor.receivers import Receiver
    from hopspan.sdk import Preset

_EXPORTER = "OTEL_TRACES_EXPORTER"
_GROUP = "opentelemetry_traces_exporter"
_GZIP = f"{PREFIX}COMPRESSION=gzip"
_COMPRESSIONS = {"", "gzip", "none", "deflate", UNKNOWN}
_ENTRY_POINTS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def reachable(environment: Environment) -> Iterable[Finding]:
    """Spans leave, and their receiver answers."""
    unusable = list(_unusable(environment))
    if unusable or not _is_otlp(environment):
        yield from unusable or _elsewhere(environment)
        return
    try:
        receiver = receiver_of(environment)
    except UnclearAddressError as why:
        variable = set_for_traces(environment, "ENDPOINT")[0]
        yield error(f"{variable}: {why}", f"{variable}=https://HOST:PORT")
        return
    problem = problem_with(receiver, environment.seconds)
    yield error(*problem) if problem else ok(f"{receiver.url} answers")


def encrypted(environment: Environment) -> Iterable[Finding]:
    """What leaves this machine is encrypted and compressed."""
    if not _is_otlp(environment):
        return
    try:
        receiver = receiver_of(environment)
    except UnclearAddressError:  # said already
        return
    findings = [*_plain(receiver), *_large(environment, receiver)]
    yield from findings or [ok(_transport(receiver))]


def _unusable(environment: Environment) -> Iterator[Finding]:
    known = environment.entry_points_of(_GROUP)
    protocol = set_for_traces(environment, "PROTOCOL")[1] or GRPC
    if protocol not in PROTOCOLS:
        yield error(
            f"{PREFIX}PROTOCOL={protocol} is not valid",
            f"{PREFIX}PROTOCOL={' or '.join(PROTOCOLS)}",
        )
        return
    for name in _names(environment):
        needed = _ENTRY_POINTS[protocol] if name == "otlp" else name
        if name != "none" and needed not in known:
            yield error(
                f"the exporter {needed} is misspelt or not installed",
                "pip install 'hopspan[sdk]'"
                if needed in _ENTRY_POINTS.values()
                else f"{_EXPORTER}=otlp",
            )


def _names(environment: Environment) -> list[str]:
    return [each.strip() for each in (environment.text(_EXPORTER) or "otlp").split(",")]


def _is_otlp(environment: Environment) -> bool:
    """Whether spans go over OTLP, as far as one can know."""
    if environment.provider is not None:
        return any(hasattr(each, "_endpoint") for each in exporters(environment.provider))
    return any(name.startswith("otlp") for name in _names(environment))


def _elsewhere(environment: Environment) -> Iterator[Finding]:
    provider = environment.provider
    made = [type(each).__qualname__ for each in exporters(provider)]
    if provider is None:
        said = f"{_EXPORTER}={environment.text(_EXPORTER)}"
        yield warning(f"{said}: no span leaves", f"{_EXPORTER}=otlp")
    elif made:
        yield hint(f"spans go to {', '.join(made)}, not over OTLP", "nothing, if that is meant")
    elif is_of_the_sdk(provider):
        yield error(
            "the tracer provider has no exporter, so no span leaves",
            "hopspan.sdk.setup(), or provider.add_span_processor(BatchSpanProcessor(...))",
        )


def _plain(receiver: Receiver) -> Iterator[Finding]:
    if not receiver.tls and not receiver.is_local:
        yield warning(
            f"telemetry leaves this machine in plain text, to {receiver.host}",
            receiver.set_to(f"https://{receiver.host}:{receiver.port}"),
        )


def _large(environment: Environment, receiver: Receiver) -> Iterator[Finding]:
    """Without compression the network carries about ten times as much."""
    if receiver.compression not in _COMPRESSIONS:
        yield error(f"{PREFIX}COMPRESSION={receiver.compression} is not valid", _GZIP)
    elif receiver.compression in {"", "none"} and not receiver.is_local:
        is_known = environment.provider is not None or receiver.compression
        said = "telemetry is sent without compression"
        unless = "" if is_known else ", unless hopspan.sdk.setup() compresses it"
        yield (warning if is_known else hint)(f"{said}{unless}", _GZIP)


def _transport(receiver: Receiver) -> str:
    how = "TLS" if receiver.tls else "plain, on this machine"
    return f"{how}, compression {receiver.compression or 'none'}"


# -- queues ----------------------------------------------------------------------------------------

_QUEUE = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
_LIVE = {
    _QUEUE: "_max_queue_size",
    _BATCH: "_max_export_batch_size",
    _DELAY: "_schedule_delay_millis",
}
"""What the SDK's processor keeps each of them as."""
_LONGEST_DELAY = 30_000


def queued(environment: Environment) -> Iterable[Finding]:
    """Spans are exported in batches, out of a queue that holds a burst."""
    if importlib.util.find_spec("opentelemetry.sdk") is None:  # which is said elsewhere
        return
    preset = _preset(environment)
    sizes = _sizes(environment, preset)
    wrong = [*_unbatched(environment), *_invalid(environment, sizes)]
    findings = wrong or [*_small(preset, sizes), *_unfit(sizes)]
    yield from findings or [ok(f"as the preset {preset.name} has them, or better")]


def _preset(environment: Environment) -> Preset:
    from hopspan.sdk import PRESETS  # noqa: PLC0415 - needs the SDK

    named = getattr(environment.telemetry, "preset", None) or environment.text("HOPSPAN_PRESET")
    return PRESETS.get(named, PRESETS["production"])


def _unbatched(environment: Environment) -> Iterator[Finding]:
    kinds = [type(each).__name__ for each in processors(environment.provider)]
    if "SimpleSpanProcessor" in kinds:
        yield warning(
            "a SimpleSpanProcessor exports each span by itself, while the handler waits",
            "BatchSpanProcessor(exporter), or hopspan.sdk.setup()",
        )


def _sizes(environment: Environment, preset: Preset) -> dict[str, float | None]:
    """What holds: of the application's processor, else of the variables; None where invalid."""
    usual = {_QUEUE: preset.queue, _BATCH: preset.batch, _DELAY: preset.delay_seconds * 1000}
    set_here = {name: environment.text(name) for name in usual if environment.text(name)}
    by_variables = {name: _number(text) for name, text in set_here.items()}
    return {**usual, **_live(environment), **by_variables}


def _invalid(environment: Environment, sizes: dict[str, float | None]) -> Iterator[Finding]:
    for variable, size in sizes.items():
        if not size:
            text = environment.text(variable)
            yield error(f"{variable}={text} is no positive number", f"unset {variable}")


def _small(preset: Preset, sizes: dict[str, float | None]) -> Iterator[Finding]:
    queue, batch = sizes[_QUEUE] or 0, sizes[_BATCH] or 0
    if queue < preset.queue:
        yield warning(
            f"the queue holds {queue:g} spans, the preset {preset.name} {preset.queue}: a burst "
            "is dropped",
            f"{_QUEUE}={preset.queue} or more",
        )
    if batch < min(preset.batch, queue):
        yield hint(
            f"{batch:g} spans are exported at once, {preset.batch} with the preset {preset.name}",
            f"{_BATCH}={preset.batch}",
        )


def _unfit(sizes: dict[str, float | None]) -> Iterator[Finding]:
    queue, batch, delay = sizes[_QUEUE], sizes[_BATCH], sizes[_DELAY]
    if queue and batch and batch > queue:
        yield error(
            f"a batch of {batch:g} spans does not fit into a queue of {queue:g}",
            f"{_BATCH}={queue:g} or less",
        )
    if delay and delay > _LONGEST_DELAY:
        yield warning(
            f"spans wait for up to {delay / 1000:g} s, and are lost if the process is killed",
            f"{_DELAY}=5000",
        )


def _live(environment: Environment) -> dict[str, Any]:
    """The sizes of the first batch processor that the application has made."""
    for each in processors(environment.provider):
        batches = getattr(each, "_batch_processor", None)
        if batches is not None:
            found = {name: getattr(batches, kept, None) for name, kept in _LIVE.items()}
            return {name: size for name, size in found.items() if size is not None}
    return {}


def _number(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
