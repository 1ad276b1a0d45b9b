"""What it costs when exported spans are encoded too, as OTLP's protobuf. The bytes are discarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks.attributes import with_as_few
from benchmarks.checks import WrongRowError, check_rows, watched
from benchmarks.clients import pika
from benchmarks.floors import floor
from benchmarks.groups import HOPSPAN, SDK, Group, MakePath, shape_of
from benchmarks.modes import SAMPLED, Telemetry


def encoded(path: str, make: MakePath) -> Iterator[Group]:
    """Bare, the floor, contrib and hopspan, with all and with as few attributes as contrib's."""
    shape, _ = shape_of(make)
    telemetry, made = Telemetry(SAMPLED, encodes=True), make(SAMPLED)
    rows = [
        made.bare(),
        made.floor(floor(SDK, telemetry, shape), telemetry),
        made.contrib(telemetry),
        made.hopspan(HOPSPAN, telemetry, metrics=False),
    ]
    check_rows(rows, telemetry, shape)
    few = with_as_few(made, telemetry, rows[2])
    rows += [few] if few is not None else []
    for row in rows[1:]:
        before = telemetry.encoded
        watched(row, telemetry)
        if telemetry.encoded == before:
            raise WrongRowError(f"{row.name}: its span is not encoded")
    yield Group(f"{path}, encoded", SAMPLED, rows)
    telemetry.close()


def encoded_groups() -> Mapping[str, Callable[[], Iterator[Group]]]:
    """By name, each made when its turn has come."""
    return {
        "pika publish, encoded, sampled": lambda: encoded(
            "pika publish", lambda _mode: pika.Publish()
        ),
        "pika consume, encoded, sampled": lambda: encoded("pika consume", pika.Consume),
    }
