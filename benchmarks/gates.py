"""The goals of hopspan, as data: a gate and a target for each ratio, and the most calls of ours.

A gate is missed only when the lower quartile of the ratio is over it, so that noise alone does not
fail a build. The target is what we want the median to be. A gate that is missed and known to be is
listed in `unreached`, with the reason; the gate stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.attributes import FEWER
from benchmarks.groups import (
    API,
    BARE,
    CONTRIB,
    CONTRIB_METRICS,
    DECORATED,
    DECORATED_METRICS,
    HOPSPAN,
    HOPSPAN_METRICS,
    SDK,
    SDK_METRICS,
    WRAPPED,
)
from benchmarks.modes import MODES, NO_SDK, UNSAMPLED
from benchmarks.special import WITH_CONSUMER
from benchmarks.statistics import Quartiles, Ratio, Rounds, Term, overhead, quartiles, relative

EVERY = (
    "pika publish",
    "pika consume",
    "aio-pika publish",
    "aio-pika consume",
    "kafka-python send",
    "kafka-python next",
    "Celery apply_async",
    "Celery run",
)


class Gate(NamedTuple):
    """The most that a figure may be, and the value that we want."""

    group: str
    what: str
    """Which figure: together with the group a sentence for people."""
    figure: Ratio | Term
    limit: float | None
    """None: reported, not judged."""
    target: float | None = None

    @property
    def rows(self) -> set[str]:
        """What has to be measured for it."""
        return set(self.figure.rows)


class Verdict(NamedTuple):
    """What came of a gate."""

    gate: Gate
    found: Quartiles

    @property
    def word(self) -> str:
        """`target`, `ok`, `noise` (over the gate, and maybe not), `OVER`, or nothing."""
        if self.gate.limit is None:
            return ""
        if self.gate.target is not None and self.found.median <= self.gate.target:
            return "target"
        if self.found.median <= self.gate.limit:
            return "ok"
        return "OVER" if self.is_over else "noise"

    @property
    def is_over(self) -> bool:
        """Whether this fails a build."""
        return self.gate.limit is not None and self.found.lower > self.gate.limit


# -- overhead, as a part of contrib's ---------------------------------------------------------------

Limit = tuple[float, float | None] | None
"""A gate and its target, or None where a figure is only reported."""


def named(way: str, what: str) -> str:
    """A gate's name: which figure, of messages that are settled in which way."""
    return f"{way}, {what}" if way else what


class Line(NamedTuple):
    """One thing that a client does, in one way, in the three modes."""

    path: str
    way: str
    """How a message is settled; empty for a publish."""
    row: str
    limits: tuple[Limit, ...] = (None, None, None)
    """Sampled, unsampled, no SDK."""
    without: str = BARE
    """The row whose cost is taken off: bare for an overhead."""

    @property
    def label(self) -> str:
        """For a table of paths."""
        return f"{self.path}, {self.way}" if self.way else self.path

    def gates(self, reference: str, what: str) -> Iterator[Gate]:
        """One for each mode."""
        for mode, limit in zip(MODES, self.limits, strict=True):
            ratio = Ratio(overhead(self.row, self.without), overhead(reference))
            said = named(self.way, what)
            yield Gate(f"{self.path}, {mode}", said, ratio, *(limit or (None, None)))


OF_CONTRIB = "as a part of contrib's overhead"
ACKS, BY_LOOP, EARLY = "the handler acks", "a loop without a policy", "acked early"
REQUEUES = "decorated with requeue_once"
REQUEUES_WRAPPED = "wrap(policy=requeue_once)"
DEAD_LETTERS = "decorated with requeue_times"
DEAD_LETTERS_WRAPPED = "a block in the loop, wrap(policy=requeue_times)"
LATE, LATE_WRAPPED = f"acks_late, {REQUEUES}", f"acks_late, {REQUEUES_WRAPPED}"

_ADDS: tuple[Limit, ...] = ((0.05, None),) * 3
"""The most that a policy may add to the same client's overhead without one."""

LINES = (
    Line("pika publish", "", HOPSPAN, ((0.82, 0.76), (0.70, 0.62), (0.23, 0.16))),
    Line("pika consume", ACKS, HOPSPAN, ((1.05, 0.91), (0.60, 0.38), (0.58, 0.51))),
    Line("pika consume", REQUEUES, DECORATED, ((1.08, 0.95), (0.65, 0.42), (0.62, 0.53))),
    Line("pika consume", REQUEUES_WRAPPED, WRAPPED),
    Line("aio-pika publish", "", HOPSPAN, ((0.80, 0.74), (0.50, 0.27), (0.18, 0.10))),
    Line("aio-pika consume", ACKS, HOPSPAN, ((1.02, 0.94), (0.55, 0.36), (0.54, 0.45))),
    Line("aio-pika consume", REQUEUES, DECORATED),
    Line("aio-pika consume", REQUEUES_WRAPPED, WRAPPED),
    Line("kafka-python send", "", HOPSPAN, ((0.80, 0.74), (0.40, 0.22), (0.15, 0.09))),
    Line("kafka-python next", BY_LOOP, HOPSPAN, ((1.07, 1.00), (0.60, 0.41), (0.54, 0.47))),
    Line("kafka-python next", DEAD_LETTERS, DECORATED),
    Line("kafka-python next", DEAD_LETTERS_WRAPPED, WRAPPED),
    Line("Celery apply_async", "", HOPSPAN, ((0.88, 0.76), (0.80, 0.66), (0.32, 0.22))),
    Line("Celery run", EARLY, HOPSPAN, ((0.80, 0.66), (0.62, 0.48), (0.64, 0.57))),
    Line("Celery run", LATE, DECORATED),
    Line("Celery run", LATE_WRAPPED, WRAPPED),
)
"""Hopspan's overhead as a part of contrib's, where nothing settles but the handler."""

ADDED = "more than without, as a part of contrib's overhead"
ADDING = (
    Line("aio-pika consume", REQUEUES, DECORATED, _ADDS, without=HOPSPAN),
    Line("kafka-python next", DEAD_LETTERS, DECORATED, _ADDS, without=HOPSPAN),
    Line("Celery run", LATE, DECORATED, _ADDS, without=HOPSPAN),
)
"""The cost that a settling policy adds on the other clients than pika, which has gates of its own."""

_OWN_METRICS: tuple[Limit, ...] = ((0.78, 0.70), (0.63, 0.55), None)
OF_SDK_METRICS = "with metrics, as a part of the SDK floor's overhead with the same"
WITH_METRICS = tuple(
    line._replace(
        row={HOPSPAN: HOPSPAN_METRICS, DECORATED: DECORATED_METRICS}[line.row],
        limits=_OWN_METRICS if line.path.startswith("pika") else (None, None, None),
    )
    for line in LINES
    if line.row != WRAPPED
)

OF_FLOOR = {floor: f"as a part of the {floor}'s overhead" for floor in (API, SDK)}
BESIDE_FLOORS = tuple(
    line._replace(limits=(None, None, None)) for line in LINES if line.row == HOPSPAN
)
"""Shown without a judgement: floors do not have to settle, to be joined or to be deferred."""
ALONE = "without a consumer"
OF_API_LINKS = "as a part of extraction by the API and links"


def gates() -> Iterator[Gate]:
    """Every gate on time, and what is reported beside them, in the order of the table."""
    for line in LINES:
        yield from line.gates(CONTRIB, OF_CONTRIB)
    for line in ADDING:
        yield from line.gates(CONTRIB, ADDED)
    for line in WITH_METRICS:
        several = line.gates(SDK_METRICS, OF_SDK_METRICS)
        yield from (each for each in several if not each.group.endswith(NO_SDK))
    for floor, what in OF_FLOOR.items():
        for line in BESIDE_FLOORS:
            yield from line.gates(floor, what)
    yield from _batches()
    yield from _others()


def _batches() -> Iterator[Gate]:
    """A batch as one span, beside extraction by the API and a link for every record."""
    limits: dict[int, tuple[float, float]] = {100: (0.50, 0.46), 500: (0.15, 0.13)}
    for count in (1, 10, 100, 500):
        for row, way in ((HOPSPAN, ALONE), (WITH_CONSUMER, "with a consumer")):
            limit = limits.get(count) if row == HOPSPAN else None
            ratio = Ratio(Term((row,)), Term((API,)))
            what = named(way, OF_API_LINKS)
            yield Gate(f"batch of {count}, sampled", what, ratio, *(limit or (None, None)))


def _others() -> Iterator[Gate]:
    """Where spans say as little as contrib's, where they are encoded, baggage, failures."""
    for path in EVERY:
        fewer = relative(FEWER, CONTRIB)
        yield Gate(f"{path}, sampled", f"with as few attributes, {OF_CONTRIB}", fewer, None)
    for mode in MODES[:2]:
        ratio = relative(HOPSPAN_METRICS, CONTRIB_METRICS)
        what = "with metrics, as a part of contrib's overhead with metrics"
        yield Gate(f"Celery run, {mode}", what, ratio, None)
    for path in ("pika publish", "pika consume"):
        for what, row, reference in (
            (OF_FLOOR[SDK], HOPSPAN, SDK),
            (OF_CONTRIB, HOPSPAN, CONTRIB),
            (f"with as few attributes, {OF_CONTRIB}", FEWER, CONTRIB),
        ):
            yield Gate(f"{path}, encoded, sampled", what, relative(row, reference), None)
    yield from _baggage()
    failing = relative(HOPSPAN, SDK)
    yield Gate("pika consume, failing, sampled", OF_FLOOR[SDK], failing, 1.10)
    yield Gate("pika consume, failing, unsampled", OF_FLOOR[SDK], failing, None)
    yield Gate("Celery run, ignored, sampled", OF_FLOOR[SDK], failing, None)


def _baggage() -> Iterator[Gate]:
    """What repeated baggage adds, beyond what its bytes cost the bare client."""
    for path in ("pika publish", "pika consume"):
        for row in (HOPSPAN, API, CONTRIB):
            for count in (3, 10):
                added = Term((f"{row}, {count} entries", BARE), (f"bare, {count} entries", row))
                limit = 0.12 if (row, count) == (HOPSPAN, 3) else None
                what = f"{row}, {count} entries more, {OF_FLOOR[SDK]}"
                ratio = Ratio(added, overhead(SDK))
                yield Gate(f"{path}, baggage, sampled", what, ratio, limit)


# -- calls, without noise ---------------------------------------------------------------------------

CALLS = "calls beyond the SDK floor's"
_MOST_CALLS = {
    "pika publish": None,
    "pika consume": 18,
    "aio-pika publish": 8,
    "aio-pika consume": 20,
    "kafka-python send": 6,
    "kafka-python next": 35,
    "Celery apply_async": 21,
    "Celery run": 28,
}


def call_gates() -> Iterator[Gate]:
    """Python functions that one message enters, unsampled and without metrics."""
    for path in EVERY:
        beyond = Term((HOPSPAN,), (SDK,))
        yield Gate(f"{path}, {UNSAMPLED}", CALLS, beyond, _MOST_CALLS[path])
    for line in LINES:
        if line.row == DECORATED:
            beyond = Term((DECORATED,), (SDK,))
            yield Gate(f"{line.path}, {UNSAMPLED}", named(line.way, CALLS), beyond, None)


# -- judging ----------------------------------------------------------------------------------------


def judge(
    measured: Mapping[str, Mapping[str, Rounds]], by: Iterable[Gate] | None = None
) -> list[Verdict]:
    """A verdict for each gate whose group was measured; of the gates on time when omitted."""
    verdicts = []
    for gate in gates() if by is None else by:
        rounds = measured.get(gate.group)
        if rounds is not None and gate.rows <= rounds.keys():
            values = gate.figure.of(rounds)
            if values:  # no round in which there was nothing to compare with
                verdicts.append(Verdict(gate, quartiles(values)))
    return verdicts
