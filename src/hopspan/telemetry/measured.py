"""Durations with the same attributes, as a value: what a cell hands over to the SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from opentelemetry.trace import SpanContext

if TYPE_CHECKING:
    from hopspan.conventions import MetricAttributes

Exemplar: TypeAlias = tuple[float, int, SpanContext]
"""Seconds that were measured in a sampled span; when, in nanoseconds since the epoch; that span."""


class Measured(NamedTuple):
    """The content of a cell since it was last asked."""

    attributes: MetricAttributes
    since: int
    """Time of the first duration, in nanoseconds since the epoch."""
    buckets: list[int]
    total: float
    least: float
    most: float
    exemplars: list[Exemplar]
    """The last one of each bucket, which is what the SDK keeps."""
