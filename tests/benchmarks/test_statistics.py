"""The harness's own arithmetic, and what it makes of a gate."""

from __future__ import annotations

import json

import pytest

from benchmarks.statistics import Quartiles, Ratio, Term, overhead, quartiles, relative

ROUNDS = {
    "bare": (10.0, 20.0, 10.0),
    "floor": (20.0, 40.0, 30.0),
    "ours": (15.0, 40.0, 30.0),
}


def test_overhead_is_what_a_row_costs_more_than_bare_in_the_same_round() -> None:
    assert overhead("floor").of(ROUNDS) == [10.0, 20.0, 20.0]


def test_a_ratio_is_paired_by_round_so_that_a_slow_phase_cancels_out() -> None:
    assert relative("ours", "floor").of(ROUNDS) == [0.5, 1.0, 1.0]


def test_a_term_without_anything_to_subtract_is_the_row_itself() -> None:
    assert Term(("floor",)).of(ROUNDS) == [20.0, 40.0, 30.0]


def test_terms_add_up() -> None:
    both = Term(("floor", "bare"), ("ours", "bare"))
    assert both.of(ROUNDS) == [5.0, 0.0, 0.0]


def test_a_round_with_nothing_to_divide_by_is_left_out() -> None:
    assert Ratio(Term(("bare",)), Term(("floor",), ("ours",))).of(ROUNDS) == [2.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3.0, 3.0, 3.0)),
        ([1.0, 2.0, 3.0, 4.0, 5.0], (2.0, 3.0, 4.0)),
        ([5.0, 1.0, 3.0], (2.0, 3.0, 4.0)),
    ],
)
def test_quartiles(values: list[float], expected: tuple[float, float, float]) -> None:
    assert quartiles(values) == Quartiles(*expected)


def test_quartiles_are_plain_numbers_for_json() -> None:
    assert json.loads(json.dumps(quartiles([1.0, 2.0, 3.0]))) == [1.5, 2.0, 2.5]
