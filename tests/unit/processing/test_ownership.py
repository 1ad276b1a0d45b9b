"""Who concludes: the outermost face that can, or whoever it was deferred to."""

from __future__ import annotations

import gc
from contextlib import suppress

from hopspan.processing.ownership import Ownership
from tests.unit.processing.conftest import Open


def test_the_first_to_claim_concludes() -> None:
    ownership = Ownership()
    assert (ownership.is_claimed, ownership.claim(), ownership.claim(), ownership.is_claimed) == (
        False,
        True,
        False,
        True,
    )


def test_a_face_that_deferred_nothing_leaves_nothing() -> None:
    ownership = Ownership()
    assert (ownership.left_by(None), ownership.left_by(ValueError())) == (False, False)


def test_a_face_that_deferred_leaves_returning_to_the_deferred_operation(opened: Open) -> None:
    processing = opened()
    with processing.defer():
        assert processing.ownership.left_by(None) is True


def test_a_face_that_raises_before_the_work_began_concludes_after_all(opened: Open) -> None:
    """Nobody will do the work then: the handler did not get as far as to hand it over."""
    processing = opened()
    operation = processing.defer()
    assert processing.ownership.left_by(ValueError()) is False
    processing.finish(ValueError())
    del operation


def test_a_face_that_raises_after_the_work_began_leaves_it(opened: Open) -> None:
    processing = opened()
    with processing.defer():
        assert processing.ownership.left_by(ValueError()) is True


def test_deferring_again_before_the_work_began_is_the_same_operation(opened: Open) -> None:
    processing = opened()
    operation = processing.defer()
    assert processing.defer() is operation
    with operation:
        pass


def test_deferring_again_from_within_the_work_hands_it_on(opened: Open) -> None:
    processing = opened()
    with processing.defer() as entered:
        further = entered.defer()
    assert processing.is_over is False
    with further:
        pass
    assert processing.is_over is True


def test_work_that_fails_before_it_was_handed_on_concludes(opened: Open) -> None:
    processing = opened()
    kept = []
    with suppress(ValueError), processing.defer() as entered:
        kept.append(entered.defer())
        raise ValueError("bad")
    assert processing.is_over is True


def test_work_that_fails_after_it_was_handed_on_leaves_it(opened: Open) -> None:
    processing = opened()
    with suppress(ValueError), processing.defer() as entered:
        with entered.defer():
            pass
        raise ValueError("bad")
    assert processing.outcome is not None
    assert processing.outcome.failed is False


def test_an_operation_that_was_dropped_unused_is_lost(opened: Open) -> None:
    processing = opened()
    operation = processing.defer()
    assert processing.ownership.is_lost_with(operation) is True
    with operation:
        assert processing.ownership.is_lost_with(operation) is False


def test_an_operation_that_was_handed_on_is_not_lost_with_the_one_before(opened: Open) -> None:
    processing = opened()
    first = processing.defer()
    with first as entered:
        second = entered.defer()
    assert processing.ownership.is_lost_with(first) is False
    del first
    gc.collect()
    assert processing.is_over is False
    with second:
        pass
