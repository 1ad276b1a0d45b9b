"""What `development` and `production` mean, where no variable and no argument says otherwise.

An explicit argument beats a variable, and a variable beats the preset.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from hopspan import faults
from hopspan.model import ConfigurationError

__all__ = ["PRESETS", "VARIABLE", "Preset", "Sizes", "chosen", "sampler_of", "sizes_of"]

VARIABLE = "HOPSPAN_PRESET"


class Preset(NamedTuple):
    """The settings that people forget."""

    name: str
    queue: int
    """Finished spans that wait for their export, at most; more are dropped."""
    batch: int
    """Spans in one export, at most."""
    delay_seconds: float
    """The longest that a span waits before an export is tried."""
    compression: str | None
    """`"gzip"`, or None: as the exporter does by itself."""
    tls: bool
    """Whether a gRPC endpoint without a scheme is spoken to with TLS; `http://` and `https://` say
    it themselves."""
    keeps_all: bool
    """Whether every span is sampled; else the ratio of `OTEL_TRACES_SAMPLER_ARG`, parent based."""
    is_strict: bool
    """Whether a resource without service name, version or environment is reported."""


PRESETS: Mapping[str, Preset] = {
    each.name: each
    for each in (
        Preset("development", 512, 128, 1.0, None, tls=False, keeps_all=True, is_strict=False),
        Preset("production", 2048, 512, 5.0, "gzip", tls=True, keeps_all=False, is_strict=True),
    )
}
"""By name."""


class Sizes(NamedTuple):
    """A batch processor's settings."""

    queue: int
    batch: int
    delay_seconds: float


def chosen(name: str | None) -> Preset:
    """The preset of this name, else the one that `HOPSPAN_PRESET` names, else production.

    Raises:
        ConfigurationError: there is no such preset.
    """
    where, wanted = ("preset", name) if name else (VARIABLE, os.environ.get(VARIABLE, "").strip())
    if wanted and wanted not in PRESETS:
        raise ConfigurationError(
            f"{where}={wanted!r} is not valid: it takes {' or '.join(PRESETS)}"
        )
    return PRESETS[wanted or "production"]


def sizes_of(preset: Preset, prefix: str) -> Sizes:
    """The preset's sizes with `OTEL_BSP_*` or `OTEL_BLRP_*` in their place, where those are set.

    A queue holds at least a batch: of the two, the one that no variable sets gives way.
    """
    queue = _number(f"{prefix}_MAX_QUEUE_SIZE")
    batch = _number(f"{prefix}_MAX_EXPORT_BATCH_SIZE")
    delay = _number(f"{prefix}_SCHEDULE_DELAY")
    seconds = preset.delay_seconds if delay is None else delay / 1000
    if queue is None:
        return Sizes(max(preset.queue, batch or 0), batch or preset.batch, seconds)
    return Sizes(queue, min(batch or preset.batch, queue), seconds)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    faults.once("%s=%r is no positive integer, and is ignored", variable, text)
    return None


def sampler_of(preset: Preset) -> Sampler | None:
    """The preset's sampler; None where `OTEL_TRACES_SAMPLER` is set, which the SDK reads itself."""
    if os.environ.get(OTEL_TRACES_SAMPLER):
        return None
    if preset.keeps_all:
        return ALWAYS_ON
    return ParentBased(TraceIdRatioBased(_ratio()))


def _ratio() -> float:
    """Everything, if the variable does not say otherwise: a preset loses no data by itself."""
    text = os.environ.get(OTEL_TRACES_SAMPLER_ARG, "").strip()
    try:
        ratio = float(text or 1)
    except ValueError:
        ratio = -1
    if 0 <= ratio <= 1:
        return ratio
    faults.once("%s=%r is no ratio from 0 to 1; every trace is kept", OTEL_TRACES_SAMPLER_ARG, text)
    return 1.0
