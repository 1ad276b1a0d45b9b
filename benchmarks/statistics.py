"""Ratios that are paired by round, and their quartiles: what is compared was measured at the same time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Rounds = Sequence[float]
"""Seconds per message, one for each round."""


class Quartiles(NamedTuple):
    lower: float
    median: float
    upper: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """The quartiles of at least one value."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


class Term(NamedTuple):
    """One side of a ratio: what these rows cost together, minus what those cost."""

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it is made of."""
        return (*self.plus, *self.minus)

    def of(self, rounds: Mapping[str, Rounds]) -> list[float]:
        """Its value in each round."""
        columns = [rounds[name] for name in self.plus]
        taken = [rounds[name] for name in self.minus]
        return [
            sum(each) - sum(less)
            for each, less in zip(
                zip(*columns, strict=True),
                zip(*taken, strict=True) if taken else ((),) * len(columns[0]),
                strict=True,
            )
        ]


class Ratio(NamedTuple):
    """What one term is of another."""

    over: Term
    under: Term

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it is made of."""
        return (*self.over.rows, *self.under.rows)

    def of(self, rounds: Mapping[str, Rounds]) -> list[float]:
        """Its value in each round; a round in which there was nothing to divide by is left out."""
        pairs = zip(self.over.of(rounds), self.under.of(rounds), strict=True)
        return [over / under for over, under in pairs if under > 0]


def overhead(name: str, bare: str = "bare") -> Term:
    """What a row costs on top of the bare client."""
    return Term((name,), (bare,))


def relative(name: str, reference: str, bare: str = "bare") -> Ratio:
    """A row's overhead as a part of another row's."""
    return Ratio(overhead(name, bare), overhead(reference, bare))
