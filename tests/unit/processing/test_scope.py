"""Making a context current, and undoing it only where it was done; nothing is ever logged about it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from opentelemetry.context import Context, attach, detach, get_current, set_value

from hopspan.processing.scope import Attachment, whereabouts
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
