"""Making a context current, and undoing it only where it was done; nothing is ever logged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from opentelemetry.context import Context, attach, detach, get_current, set_value

from hopspan.processing.scope import Attachment, innermost, undo_leftovers, whereabouts
from tests.unit.support import in_thread

ONE = set_value("turn", 1, Context())
TWO = set_value("turn", 2, Context())


@pytest.fixture(autouse=True)
def nothing_is_logged(logged: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert logged.records == []


def test_it_is_current_until_it_is_detached() -> None:
    before = get_current()
    attached = Attachment(ONE)
    assert get_current() == ONE
    assert attached.detach() is True
    assert get_current() == before


def test_it_knows_its_context() -> None:
    attached = Attachment(ONE)
    assert attached.context is ONE
    attached.detach()


def test_attachments_nest() -> None:
    outer, inner = Attachment(ONE), Attachment(TWO)
    inner.detach()
    assert get_current() == ONE
    outer.detach()


def test_the_second_time_does_nothing() -> None:
    attached = Attachment(ONE)
    attached.detach()
    token = attach(TWO)
    assert attached.detach() is False
    assert get_current() == TWO
    detach(token)


def test_in_another_context_it_does_nothing() -> None:
    attached = Attachment(ONE)
    assert copy_context().run(attached.detach) is False
    assert get_current() == ONE
    assert attached.detach() is True


def test_in_another_thread_it_does_nothing() -> None:
    attached = Attachment(ONE)
    assert in_thread(attached.detach) is False
    assert attached.detach() is True


def test_in_another_task_it_does_nothing() -> None:
    async def scenario() -> tuple[bool, bool]:
        async def elsewhere() -> bool:
            return attached.detach()

        attached = Attachment(ONE)
        there = await asyncio.create_task(elsewhere())
        return there, attached.detach()

    assert asyncio.run(scenario()) == (False, True)


def test_made_in_another_context_it_does_nothing_here() -> None:
    attached = copy_context().run(Attachment, ONE)
    assert attached.detach() is False


# -- leftovers -------------------------------------------------------------------------------------


def test_what_is_over_is_undone_by_whoever_comes_by() -> None:
    before, left = get_current(), Attachment(ONE)
    left.is_over = True
    undo_leftovers()
    assert (get_current() == before, left.is_done) == (True, True)


def test_what_is_not_over_is_left_alone() -> None:
    attached = Attachment(ONE)
    undo_leftovers()
    assert (get_current(), attached.is_done) == (ONE, False)
    attached.detach()


def test_what_is_covered_by_the_users_own_context_is_left_alone() -> None:
    left = Attachment(ONE)
    left.is_over = True
    token = attach(TWO)
    undo_leftovers()
    assert get_current() == TWO
    detach(token)
    undo_leftovers()
    assert left.is_done is True


def test_what_is_uncovered_and_over_is_undone_as_well() -> None:
    before, left = get_current(), Attachment(ONE)
    inner = Attachment(TWO)
    left.is_over = True
    inner.detach()
    assert (get_current() == before, left.is_done) == (True, True)


def test_the_innermost_is_the_last_that_is_not_undone() -> None:
    assert innermost() is None
    outer = Attachment(ONE)
    inner = Attachment(TWO)
    assert innermost() is inner
    inner.detach()
    assert innermost() is outer
    outer.detach()


# -- whereabouts -----------------------------------------------------------------------------------


def test_one_place_is_one_place() -> None:
    assert whereabouts() == whereabouts() == (threading.get_ident(), None)


def test_another_thread_is_another_place() -> None:
    assert in_thread(whereabouts) != whereabouts()


def test_another_task_is_another_place() -> None:
    async def where() -> tuple[int, object]:
        return whereabouts()

    async def scenario() -> tuple[bool, bool]:
        here = whereabouts()
        return await where() == here, await asyncio.create_task(where()) == here

    assert asyncio.run(scenario()) == (True, False)
