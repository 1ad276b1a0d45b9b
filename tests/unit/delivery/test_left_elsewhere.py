"""Blocks in generators that another thread or task closes: what is current is put back at home."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest
from opentelemetry import trace

import hopspan
from hopspan.testing import Message, Queue
from tests.unit.support import Telemetry, in_thread


def _block(telemetry: Telemetry) -> Any:
    return hopspan.process(Message(), **telemetry.settings)


def _inner_block(telemetry: Telemetry) -> Any:
    return hopspan.process(hopspan.current().native)


def _deferred(telemetry: Telemetry) -> Any:
    return hopspan.current().defer()


@pytest.mark.parametrize("make", [_block, _inner_block, _deferred])
def test_a_block_in_a_generator_closed_elsewhere_leaves_the_span_around_it_current(
    make: Callable[[Telemetry], Any], telemetry: Telemetry
) -> None:
    def within(block: Any) -> Generator[None]:
        with block:
            yield

    @hopspan.consumer(**telemetry.settings)
    def handle(_message: Message) -> None:
        with telemetry.tracer.start_as_current_span("around") as around:
            generator = within(make(telemetry))
            next(generator)
            assert trace.get_current_span() is not around
            in_thread(generator.close)
            assert trace.get_current_span() is around

    handle(Message())


def test_an_async_generator_that_is_left_leaves_the_span_around_it_current(
    telemetry: Telemetry,
) -> None:
    """The event loop closes it in a task of its own."""

    async def within() -> AsyncIterator[None]:
        async with _block(telemetry):
            yield

    async def run() -> None:
        with telemetry.tracer.start_as_current_span("around") as around:
            async for _ in within():
                break
            for _ in range(5):
                gc.collect()
                await asyncio.sleep(0)
            assert trace.get_current_span() is around

    asyncio.run(run())


def test_work_deferred_in_a_block_that_is_left_elsewhere_is_current_all_the_same(
    telemetry: Telemetry,
) -> None:
    def within(deferred: list[Any]) -> Generator[None]:
        with _block(telemetry) as delivery:
            deferred.append(delivery.defer())
            yield

    def run() -> None:
        deferred: list[Any] = []
        generator = within(deferred)
        next(generator)
        in_thread(lambda: next(generator, None))
        assert not hopspan.current()
        with deferred.pop() as delivery:
            assert (hopspan.current(), trace.get_current_span()) == (delivery, delivery.span)

    contextvars.Context().run(run)  # where what is left is empty, but another object than before


def test_work_deferred_in_a_loop_that_is_left_elsewhere_is_current_all_the_same(
    telemetry: Telemetry,
) -> None:
    def run() -> None:
        queue = Queue()
        queue.publish()
        loop = hopspan.each(queue, **telemetry.settings)
        next(loop)
        deferred = hopspan.current().defer()
        in_thread(loop.close)
        assert not hopspan.current()
        with deferred as delivery:
            assert (hopspan.current(), trace.get_current_span()) == (delivery, delivery.span)

    contextvars.Context().run(run)  # as above
