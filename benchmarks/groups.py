"""What is compared with what: the rows of a group are measured together, each in every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from benchmarks.attributes import with_as_few
from benchmarks.checks import (
    Look,
    Points,
    check_current,
    check_metrics,
    check_publish,
    check_rows,
    check_settled,
    watched,
)
from benchmarks.clients import aio_pika, celery, kafka, pika
from benchmarks.floors import Floor, Shape, floor, recorder
from benchmarks.modes import MODES, NO_SDK, SAMPLED, Telemetry
from benchmarks.sampling import Row

BARE, SDK, API, CONTRIB, HOPSPAN = "bare", "SDK floor", "API floor", "contrib", "hopspan"
SDK_METRICS, HOPSPAN_METRICS = "SDK floor + metrics", "hopspan + metrics"
CONTRIB_METRICS = "contrib + metrics"
DECORATED, WRAPPED = "hopspan, decorated with a policy", "hopspan, wrapped with a policy"
DECORATED_METRICS = f"{DECORATED} + metrics"


class Group(NamedTuple):
    """Rows that are measured together."""

    path: str
    """Client and what it does: `pika publish`."""
    mode: str
    rows: list[Row]
    seconds: float = 0.0
    """Of a sample, where the usual ones are too short."""

    @property
    def name(self) -> str:
        return f"{self.path}, {self.mode}"


class Path(Protocol):
    """One thing that a client does, in all the ways in which it is measured."""

    def bare(self) -> Row: ...
    def contrib(self, telemetry: Telemetry) -> Row: ...
    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row: ...
    def floor(self, by: Floor, telemetry: Telemetry) -> Row: ...


class Handling(Path, Protocol):
    """A path on which messages are handled, and may be settled by a policy."""

    acks: bool
    """Whether each row settles its message, not only those with a policy."""
    encloses: bool
    """Whether contrib's span is current in the handler."""

    def policied(self) -> Handling: ...
    def looking(self, look: Look) -> Handling: ...
    def decorated(self, name: str, telemetry: Telemetry, **settings: Any) -> Row: ...
    def wrapped(self, name: str, telemetry: Telemetry, **settings: Any) -> Row: ...
    def is_settled(self, row: Row) -> bool: ...


MakePath = Callable[[str], Any]
"""A path, made for a mode."""


def shape_of(make: MakePath, made_by: str = "hopspan") -> tuple[Shape, Points]:
    """The span and the metrics that hopspan emits of one message.

    Args:
        make: The path.
        made_by: The method that makes the row: `hopspan`, or one of those with a policy.
    """
    telemetry = Telemetry(SAMPLED)
    row = getattr(make(SAMPLED), made_by)("shape", telemetry)
    watched(row, telemetry)  # what a row does to begin with is not of a message
    telemetry.points()
    (span,) = watched(row, telemetry)
    points = telemetry.points()
    telemetry.close()
    return Shape.of(span), points


def standard(path: str, make: MakePath, mode: str) -> Iterator[Group]:
    """Bare, the floors, contrib and hopspan, in one mode. The telemetry is closed afterwards."""
    shape, points = shape_of(make)
    telemetry, made = Telemetry(mode), make(mode)
    off = {} if mode == NO_SDK else {"metrics": False}
    try:
        rows = [
            made.bare(),
            made.floor(floor(SDK, telemetry, shape), telemetry),
            made.floor(floor(API, telemetry, shape, propagates=True), telemetry),
            made.contrib(telemetry),
            made.hopspan(HOPSPAN, telemetry, **off),
        ]
        if mode != NO_SDK:
            by_hand = floor(SDK_METRICS, telemetry, shape, measure=recorder(telemetry, points))
            rows += [made.floor(by_hand, telemetry), made.hopspan(HOPSPAN_METRICS, telemetry)]
        rows += list(getattr(made, "more", lambda _: ())(telemetry))
        check_rows(rows, telemetry, shape)
        several = [*rows]
        if mode == SAMPLED and (few := with_as_few(made, telemetry, rows[3])) is not None:
            several.append(few)
        if hasattr(made, "carried"):
            check_publish(made, rows, telemetry)
        if hasattr(made, "decorated"):
            several += policy_rows(make, made, telemetry, off)
            check_settled(made, [row for row in rows if made.acks], telemetry)
            if mode == SAMPLED:
                _check_current(made, telemetry, shape)
        yield Group(path, mode, several, getattr(made, "seconds", 0.0))
    finally:
        telemetry.close()


def policy_rows(
    make: MakePath, made: Handling, telemetry: Telemetry, off: Mapping[str, Any]
) -> list[Row]:
    """The advertised way: a policy settles. Their spans are as without it, and say what it did."""
    policied = made.policied()
    rows = [
        policied.decorated(DECORATED, telemetry, **off),
        policied.wrapped(WRAPPED, telemetry, **off),
    ]
    if off:
        rows.append(policied.decorated(DECORATED_METRICS, telemetry))
    shape, points = shape_of(lambda mode: make(mode).policied())
    _, decided = shape_of(lambda mode: make(mode).policied(), "decorated")
    check_metrics(DECORATED_METRICS, decided, points)
    check_rows(rows, telemetry, shape._replace(attributes={**shape.attributes, **_ACKED}))
    check_settled(policied, rows, telemetry)
    return rows


_ACKED = {"hopspan.settlement": "ack"}


def _check_current(made: Handling, telemetry: Telemetry, shape: Shape) -> None:
    look = Look()
    looking = made.looking(look)
    policied = looking.policied()
    rows = [
        looking.floor(floor(SDK, telemetry, shape), telemetry),
        looking.hopspan(HOPSPAN, telemetry),
        policied.decorated(DECORATED, telemetry),
        policied.wrapped(WRAPPED, telemetry),
    ]
    if made.encloses:
        rows.append(looking.contrib(telemetry))
    check_current(rows, look, telemetry)


def paths() -> dict[str, MakePath]:
    """Everything that is measured in the standard way. Made anew for each mode."""
    return {
        "pika publish": lambda _mode: pika.Publish(),
        "pika consume": pika.Consume,
        "aio-pika publish": lambda _mode: aio_pika.Publish(),
        "aio-pika consume": aio_pika.Consume,
        "kafka-python send": lambda _mode: kafka.Send(),
        "kafka-python next": kafka.Next,
        "Celery apply_async": lambda _mode: celery.ApplyAsync(),
        "Celery run": celery.Run,
    }


def standard_groups() -> dict[str, Callable[[], Iterator[Group]]]:
    """By name, each made when its turn has come."""
    return {
        f"{path}, {mode}": lambda path=path, make=make, mode=mode: standard(path, make, mode)  # type: ignore[misc]
        for path, make in paths().items()
        for mode in MODES
    }
