"""What hopspan must show: a gate and a target for each row, as data.

A gate is missed only when the lower quartile of the ratio is over it, so that noise alone does not
fail a build. A gate that cannot be reached stays, and is listed in `unreached` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.attributes import FEWER
from benchmarks.groups import (
    API,
    BARE,
    CONTRIB,
    CONTRIB_METRICS,
    HOPSPAN,
    HOPSPAN_METRICS,
    SDK,
    SDK_METRICS,
)
from benchmarks.modes import MODES
from benchmarks.statistics import Quartiles, Ratio, Rounds, Term, overhead, quartiles, relative


class Gate(NamedTuple):
    """What a ratio may be at most, and what we want it to be."""

    group: str
    what: str
    ratio: Ratio
    limit: float | None
    """None: reported, not judged."""
    target: float | None = None

    @property
    def rows(self) -> set[str]:
        """What has to be measured for it."""
        over, under = self.ratio
        return {*over.plus, *over.minus, *under.plus, *under.minus}


class Verdict(NamedTuple):
    """What came of a gate."""

    gate: Gate
    found: Quartiles

    @property
    def word(self) -> str:
        """`target`, `ok`, `noise` (over the gate, and maybe not), `over`, or nothing."""
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


Limits = tuple[tuple[float, float], ...]
"""Gate and target for sampled, unsampled, no SDK."""

_API: dict[str, Limits] = {
    "pika publish": ((1.05, 0.99), (1.05, 0.98), (0.70, 0.57)),
    "pika consume": ((0.95, 0.88), (0.85, 0.77), (0.75, 0.66)),
}
_SDK: dict[str, Limits] = {
    "pika publish": ((1.30, 1.20), (2.2, 1.8), (1.3, 1.0)),
    "pika consume": ((1.25, 1.16), (1.75, 1.5), (2.7, 2.4)),
}
_CONTRIB: dict[str, Limits] = {
    "pika publish": ((0.85, 0.78), (0.72, 0.62), (0.30, 0.23)),
    "pika consume": ((0.80, 0.71), (0.65, 0.57), (0.50, 0.43)),
    "aio-pika publish": ((0.70, 0.65), (0.42, 0.35), (0.28, 0.22)),
    "aio-pika consume": ((0.72, 0.66), (0.48, 0.43), (0.38, 0.34)),
    "kafka-python send": ((0.72, 0.67), (0.50, 0.45), (0.25, 0.19)),
    "kafka-python next": ((0.68, 0.63), (0.48, 0.43), (0.32, 0.27)),
    "Celery run": ((0.60, 0.55), (0.66, 0.61), (0.60, 0.54)),
}
_METRICS = (0.90, 0.78)
EVERY = (*_CONTRIB, "Celery apply_async")


def _of(table: Mapping[str, Limits], path: str, index: int) -> tuple[float | None, float | None]:
    return table[path][index] if path in table else (None, None)


def gates() -> Iterator[Gate]:
    """Every gate, in the order of the table. Those of pika alone hold for floors."""
    for what, table, reference in (
        ("API floor", _API, API),
        ("SDK floor", _SDK, SDK),
        ("contrib", _CONTRIB, CONTRIB),
    ):
        for path in EVERY:
            for index, mode in enumerate(MODES):
                limit, target = _of(table, path, index)
                ratio = relative(HOPSPAN, reference)
                yield Gate(f"{path}, {mode}", f"of {what}", ratio, limit, target)
    for path in EVERY:
        for mode in MODES[:2]:
            limit, target = _METRICS if path.startswith("pika") else (None, None)
            ratio = relative(HOPSPAN_METRICS, SDK_METRICS)
            yield Gate(f"{path}, {mode}", "of SDK floor, both with metrics", ratio, limit, target)

    for path in EVERY:
        ratio = relative(FEWER, CONTRIB)
        yield Gate(f"{path}, sampled", "of contrib, with as few attributes", ratio, None)
    for mode in MODES[:2]:
        ratio = relative(HOPSPAN_METRICS, CONTRIB_METRICS)
        yield Gate(f"Celery run, {mode}", "of contrib, both with metrics", ratio, None)
    yield from _encoded()
    yield from _baggage()
    yield from _batches()
    failing = relative(HOPSPAN, SDK)
    yield Gate("pika consume, failing, sampled", "of SDK floor", failing, 1.10)
    yield Gate("pika consume, failing, unsampled", "of SDK floor", failing, None)
    yield Gate("Celery run, ignored, sampled", "of SDK floor", failing, None)


def _encoded() -> Iterator[Gate]:
    """Where what is exported is paid for too."""
    for path in ("pika publish", "pika consume"):
        for what, row, reference in (
            ("of SDK floor", HOPSPAN, SDK),
            ("of contrib", HOPSPAN, CONTRIB),
            ("of contrib, with as few attributes", FEWER, CONTRIB),
        ):
            yield Gate(f"{path}, encoded, sampled", what, relative(row, reference), None)


def _baggage() -> Iterator[Gate]:
    """What repeated baggage adds, beyond what its bytes cost the bare client."""
    for path in ("pika publish", "pika consume"):
        for row in (HOPSPAN, API, CONTRIB):
            for count in (3, 10):
                added = Term((f"{row}, {count} entries", BARE), (f"bare, {count} entries", row))
                limit = 0.12 if (row, count) == (HOPSPAN, 3) else None
                what = f"{row}: what {count} entries add, of SDK floor"
                ratio = Ratio(added, overhead(SDK))
                yield Gate(f"{path}, baggage, sampled", what, ratio, limit)


def _batches() -> Iterator[Gate]:
    """A batch as one span, beside extraction by the API and a link for every record."""
    for count, limit in ((1, None), (10, None), (100, 0.50), (500, 0.15)):
        for row in (HOPSPAN, "hopspan with a consumer"):
            ratio = Ratio(Term((row,)), Term((API,)))
            judged = limit if row == HOPSPAN else None
            yield Gate(f"batch of {count}, sampled", f"{row}, of API extraction", ratio, judged)


def judge(measured: Mapping[str, Mapping[str, Rounds]]) -> list[Verdict]:
    """A verdict for each gate whose group was measured."""
    verdicts = []
    for gate in gates():
        rounds = measured.get(gate.group)
        if rounds is not None and gate.rows <= rounds.keys():
            values = gate.ratio.of(rounds)
            if values:  # no round in which there was nothing to compare with
                verdicts.append(Verdict(gate, quartiles(values)))
    return verdicts
