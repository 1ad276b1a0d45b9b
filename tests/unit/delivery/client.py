"""A client library that exists only here: letters that come through a channel.

It knows nothing of hopspan, and it is a difficult one: it can settle on its own thread only, lose
its channel, fail to settle, and take letters back that somebody handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any


class ClosedError(Exception):
    """The channel is closed."""


class SlipError(Exception):
    """An error for which the client has a word of its own."""

    word = "misdelivered"


class Stop(Exception):  # noqa: N818 - it is no error
    """Raised by a handler to end its consumer: nothing has failed."""


class Channel:
    """What letters come by, and are settled through.

    Args:
        fails: What a settlement raises instead of being made, by the letter's name; `""` is for all.
        closes: Whether it closes the channel as well.
        half_way: Whether the settlement is written down before it fails.
        own_thread: Settlements are made on the thread that calls `run`, and `post` gets there.
    """

    def __init__(
        self,
        *,
        fails: Mapping[str, BaseException] | None = None,
        closes: bool = False,
        half_way: bool = False,
        own_thread: bool = False,
    ) -> None:
        self.fails, self.closes, self.half_way = dict(fails or {}), closes, half_way
        self.own_thread = own_thread
        self.is_open: bool | None = True
        """None where the client cannot tell."""
        self.is_reachable: bool | None = True
        """Whether callbacks are taken; None where the client cannot tell its thread."""
        self.sent: list[tuple[str, str]] = []
        """What was settled, by verb and name of the letter, in order."""
        self.callbacks: list[Callable[[], None]] = []
        self.on_taken_back: dict[str, Callable[[str], None]] = {}
        """Called with the reason when a letter of this name is somebody else's by now."""
        self._running = False

    def settle(self, verb: str, letter: Letter) -> None:
        """Ack, requeue or reject; a second time is an error."""
        error = self.fails.get(letter.name, self.fails.get(""))
        if error is not None:
            self.is_open = self.is_open and not self.closes
            if self.half_way:
                letter.tell(verb)
            raise error
        assert self.is_here(), "settled on another thread than the channel's"
        assert letter.verb is None, "settled twice: the broker would close the channel"
        letter.settled(verb)
        self.sent.append((verb, letter.name))

    def is_here(self) -> bool:
        """Whether this is the thread that may settle."""
        if self.is_reachable is None:
            raise LookupError("which thread?")
        return not self.own_thread or self._running

    def post(self, callback: Callable[[], None]) -> None:
        """Have something done on the channel's own thread."""
        if not self.is_reachable:
            raise ClosedError("the connection is gone")
        self.callbacks.append(callback)

    def run(self) -> None:
        """Do what was posted, as the channel's own thread."""
        self._running = True
        try:
            while self.callbacks:
                self.callbacks.pop(0)()
        finally:
            self._running = False

    def take_back(self, name: str, reason: str = "revoked") -> None:
        """Give a letter to somebody else, as in a rebalance; who handles it is told."""
        told = self.on_taken_back.pop(name, None)
        if told is not None:
            told(reason)


class Letter:
    """A message. Settled by `ack`, `requeue` or `reject`, once."""

    def __init__(
        self,
        name: str = "1",
        channel: Channel | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        attempt: int = 1,
        acked: bool = False,
    ) -> None:
        self.name = name
        self.channel = Channel() if channel is None else channel
        self.headers = dict(headers or {})
        self.attempt = attempt
        self.acked = acked
        """The broker has forgotten it when it handed it out."""
        self.verb: str | None = None
        """How it was settled."""
        self.on_settled: list[Callable[[str], None]] = []

    def settled(self, verb: str) -> None:
        """It was settled."""
        self.verb = verb
        self.tell(verb)

    def tell(self, verb: str) -> None:
        """Tell everybody who wants to know."""
        for told in list(self.on_settled):
            told(verb)

    def ack(self) -> None:
        self.channel.settle("ack", self)

    def requeue(self) -> None:
        self.channel.settle("requeue", self)

    def reject(self) -> None:
        self.channel.settle("reject", self)


class AsyncLetter(Letter):
    """The same, settled by awaiting."""

    async def ack(self) -> None:  # type: ignore[override]
        await self._later("ack")

    async def requeue(self) -> None:  # type: ignore[override]
        await self._later("requeue")

    async def reject(self) -> None:  # type: ignore[override]
        await self._later("reject")

    async def _later(self, verb: str) -> None:
        await asyncio.sleep(0)
        self.channel.settle(verb, self)


class Illegible(Letter):
    """A letter of which nothing but its name can be read."""

    @property
    def headers(self) -> dict[str, Any]:
        raise ValueError("illegible")

    @headers.setter
    def headers(self, headers: dict[str, Any]) -> None: ...


class Sealed(Letter):
    """A letter that nobody may attend to."""

    @property
    def on_settled(self) -> list[Callable[[str], None]]:
        raise ValueError("sealed")

    @on_settled.setter
    def on_settled(self, on_settled: list[Callable[[str], None]]) -> None: ...

    def tell(self, verb: str) -> None: ...
