"""The ways in which one message is handled, which are all one to hopspan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import hopspan
from tests.unit.delivery.client import AsyncLetter, Letter

Body = Callable[[Any], Any]


class Way(NamedTuple):
    """One way to handle, and the kind of letter that it goes with."""

    name: str
    letter: type[Letter]
    run: Callable[..., Any]
    """`run(letter, body, **settings)`: returns what the body returned, raises what comes out."""
    swallows: bool
    """Whether a failure that was settled ends here."""


def _handler(letter: Any, body: Body, **settings: Any) -> Any:
    return hopspan.consumer(**settings)(lambda letter: body(letter))(letter)


def _block(letter: Any, body: Body, **settings: Any) -> Any:
    with hopspan.process(letter, **settings):
        return body(letter)


async def _awaited_handler(letter: Any, body: Body, **settings: Any) -> Any:
    @hopspan.consumer(**settings)
    async def handle(letter: Any) -> Any:
        await asyncio.sleep(0)
        return body(letter)

    return await handle(letter)


async def _awaited_block(letter: Any, body: Body, **settings: Any) -> Any:
    async with hopspan.process(letter, **settings):
        await asyncio.sleep(0)
        return body(letter)


def run(work: Awaitable[Any]) -> Any:
    """The result of awaiting; what is raised gets past the event loop unharmed."""
    result, error = asyncio.run(_caught(work))
    if error is not None:
        raise error
    return result


async def _caught(work: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001 - raised again outside of the event loop
        return None, error


def _in_a_loop(awaited: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    return lambda letter, body, **settings: run(awaited(letter, body, **settings))


WAYS = (
    Way("handler", Letter, _handler, swallows=True),
    Way("block", Letter, _block, swallows=False),
    Way("awaited handler", AsyncLetter, _in_a_loop(_awaited_handler), swallows=True),
    Way("awaited block", AsyncLetter, _in_a_loop(_awaited_block), swallows=False),
    Way("awaited handler of a plain client", Letter, _in_a_loop(_awaited_handler), swallows=True),
    Way("awaited block of a plain client", Letter, _in_a_loop(_awaited_block), swallows=False),
)
PLAIN = tuple(way for way in WAYS if way.letter is Letter)
"""Those in which settling is not awaited."""


def handle(way: Way, letter: Any, body: Body, **settings: Any) -> BaseException | None:
    """Handle; return what came out as an exception."""
    try:
        way.run(letter, body, **settings)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    return None


def raises(error: BaseException) -> Body:
    """A body that fails."""

    def body(_letter: Any) -> None:
        raise error

    return body


def succeeds(_letter: Any) -> str:
    """A body that does not."""
    return "result"


def quietly(way: Way, letter: Any, body: Body, **settings: Any) -> None:
    """Handle; what comes out is beside the point."""
    with suppress(BaseException):
        way.run(letter, body, **settings)
