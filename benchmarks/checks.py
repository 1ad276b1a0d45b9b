"""Before anything is timed: each row emits the span that it claims, and what it sends can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, get_current_span

from benchmarks.floors import SPAN, TRACE, Shape
from benchmarks.modes import NO_SDK, SAMPLED, Telemetry
from benchmarks.sampling import Row

Points = Mapping[str, list[dict[str, Any]]]
"""The attributes of all points, by metric."""


class WrongRowError(AssertionError):
    """A row does not do what its name says, so that its time says nothing."""


def _demand(holds: bool, row: Row, telemetry: Telemetry, what: str) -> None:
    if not holds:
        raise WrongRowError(f"{row.name}, {telemetry.mode}: {what}")


def watched(row: Row, telemetry: Telemetry) -> list[ReadableSpan]:
    """The spans of one message, and none of what a row does before it."""
    row.enter()
    try:
        given = row.prepare(1)
        telemetry.watch()
        row.run(given)
        return telemetry.seen()
    finally:
        row.leave()


def check_rows(rows: Sequence[Row], telemetry: Telemetry, shape: Shape) -> None:
    """Bare emits nothing, contrib one span, and the floors the same one as hopspan."""
    for row in rows:
        spans = watched(row, telemetry)
        _demand(
            len(spans) == (telemetry.mode == SAMPLED and row.name != "bare"),
            row,
            telemetry,
            f"it has emitted {[span.name for span in spans]}",
        )
        for span in spans:
            _check_span(span, row, telemetry, shape)


def _check_span(span: ReadableSpan, row: Row, telemetry: Telemetry, shape: Shape) -> None:
    if shape.kind is SpanKind.CONSUMER:
        _demand(
            span.parent is not None
            and (span.parent.trace_id, span.parent.span_id) == (TRACE, SPAN),
            row,
            telemetry,
            "its span is no child of the message",
        )
    if row.name.startswith("contrib"):
        return
    mine = Shape.of(span)
    _demand(mine.name == shape.name, row, telemetry, f"its span is {mine.name}, not {shape.name}")
    _demand(mine.kind == shape.kind, row, telemetry, f"its span is a {mine.kind}")
    _demand(
        mine.attributes.keys() == shape.attributes.keys(),
        row,
        telemetry,
        f"its span differs in {sorted(mine.attributes.keys() ^ shape.attributes.keys())}",
    )
    _demand(mine.is_linked == shape.is_linked, row, telemetry, "its span has other links")


def check_publish(path: Any, rows: Sequence[Row], telemetry: Telemetry) -> None:
    """What a message carries is the span that was started for it."""
    for row in rows:
        telemetry.watch()
        row.enter()
        try:
            headers = path.carried(row)
        finally:
            row.leave()
        spans = telemetry.seen()
        carried = get_current_span(propagate.extract(headers, Context())).get_span_context()
        if row.name == "bare" or (telemetry.mode == NO_SDK and not row.name.startswith("SDK")):
            _demand(not carried.is_valid, row, telemetry, f"it has sent {dict(headers)}")
            continue
        _demand(carried.is_valid, row, telemetry, f"nobody can read {dict(headers)}")
        if row.name.startswith("SDK"):
            continue
        _demand(
            carried.trace_flags.sampled == telemetry.records, row, telemetry, "wrong sampled flag"
        )
        own = [span.context for span in spans if span.context is not None]
        _demand(
            [each.span_id for each in own] == ([carried.span_id] if telemetry.records else []),
            row,
            telemetry,
            "the message carries another span than its own",
        )


def check_metrics(row: str, found: Points, wanted: Points) -> None:
    """Metrics are those of a floor that records as much: the same names, and attributes of the same keys."""
    told, asked = (
        {name: sorted(map(sorted, points)) for name, points in each.items()}
        for each in (found, wanted)
    )
    if told != asked:
        raise WrongRowError(f"{row}: it measures {told}, and the floor {asked}")


def check_settled(path: Any, rows: Sequence[Row], telemetry: Telemetry) -> None:
    """The settlement that the broker, or the worker, hears of a message: an ack, and once."""
    for row in rows:
        _demand(path.is_settled(row), row, telemetry, "its message is not settled by one ack")


class Look:
    """Tells what is current where a handler runs."""

    def __init__(self) -> None:
        self.spans: list[int] = []

    def __call__(self) -> None:
        self.spans.append(get_current_span().get_span_context().span_id)


def check_current(rows: Sequence[Row], look: Look, telemetry: Telemetry) -> None:
    """A handler runs in the span that is said to be of it."""
    for row in rows:
        spans = [span.context.span_id for span in watched(row, telemetry) if span.context]
        _demand(look.spans[-1:] == spans, row, telemetry, "the handler runs outside its span")
