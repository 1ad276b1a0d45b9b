"""Hopspan with no more attributes than contrib sets: what is left of a difference when spans say the same amount."""

from __future__ import annotations

from itertools import islice
from typing import Any

from opentelemetry import trace

from benchmarks.checks import WrongRowError, watched
from benchmarks.modes import Telemetry
from benchmarks.sampling import Row

FEWER = "hopspan, as few attributes as contrib"


class _Sparing(trace.Tracer):
    """A tracer that starts spans with the first few of the attributes it is given."""

    def __init__(self, tracer: trace.Tracer, most: int) -> None:
        self._start, self._most = tracer.start_span, most

    def start_span(
        self,
        name: str,
        context: Any = None,
        kind: Any = trace.SpanKind.INTERNAL,
        attributes: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> trace.Span:
        few = dict(islice((attributes or {}).items(), self._most))
        return self._start(name, context, kind, few, *args, **kwargs)

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class _SparingProvider(trace.TracerProvider):
    def __init__(self, provider: trace.TracerProvider, most: int) -> None:
        self._provider, self._most = provider, most

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return _Sparing(self._provider.get_tracer(*args, **kwargs), self._most)


def with_as_few(made: Any, telemetry: Telemetry, contrib: Row) -> Row | None:
    """Hopspan's row with as many attributes as contrib's spans have; None if it has no more anyway."""
    provider = telemetry.tracer_provider
    count = wanted = _attributes(contrib, telemetry)
    if provider is None or _attributes(_row(made, telemetry, provider), telemetry) <= count:
        return None
    for _ in range(2):  # what is set after the start comes on top
        row = _row(made, telemetry, _SparingProvider(provider, wanted))
        wanted += count - (found := _attributes(row, telemetry))
        if found == count:
            return row
    raise WrongRowError(f"{FEWER}: it has {found} attributes, contrib {count}")


def _row(made: Any, telemetry: Telemetry, provider: trace.TracerProvider) -> Row:
    settings: dict[str, Any] = {"tracer_provider": provider, "metrics": False}
    row: Row = made.hopspan(FEWER, telemetry, **settings)
    return row


def _attributes(row: Row, telemetry: Telemetry) -> int:
    (span,) = watched(row, telemetry)
    return len(span.attributes or {})
