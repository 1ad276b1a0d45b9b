"""How hopspan reads and settles the letters of `client.py`: the only module here that knows its core.

`registered` makes the client known for as long as a test runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from opentelemetry.trace import SpanContext

from hopspan import conventions as names
from hopspan.conventions import Route, plan
from hopspan.delivery import Adapter, Client, Delivery, adapter
from hopspan.model import Endpoint, Settlement, Verdict
from hopspan.settlement import Policy
from tests.unit.delivery.client import AsyncLetter, Channel, Letter, SlipError, Stop

_ROUTE = Route(plan(names.PROCESS, Endpoint("letters", "orders")))


def _client(*, is_awaited: bool) -> Client:
    return Client(
        "letters",
        system="letters",
        is_awaited=is_awaited,
        settled_already="it forgets a letter when it hands it out. Open another channel",
        control_flow=(Stop,),
        error_type=lambda error: error.word if isinstance(error, SlipError) else None,
    )


class LetterDelivery(Delivery):
    """One letter."""

    __slots__ = ("letter",)
    client: ClassVar[Client] = _client(is_awaited=False)

    def __init__(self, letter: Letter) -> None:
        self.letter = letter

    @classmethod
    def of(cls, message: Any, via: Any) -> Delivery | None:
        return cls(message) if isinstance(message, Letter) else None

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:
        return "a letter cannot wait. Leave out pause=" if policy.pauses else None

    def unfit(self, policy: Policy) -> str | None:
        return "nobody knows its channel" if self.letter.name == "unknown" else None

    def read(self) -> tuple[Route, Any]:
        return _ROUTE, self.letter.headers

    def describe(self, attributes: dict[str, Any]) -> None:
        attributes[names.MESSAGE_ID] = self.letter.name
        if self.letter.attempt > 1:
            attributes[names.ATTEMPT] = self.letter.attempt
            attributes[names.REDELIVERED] = True

    @property
    def native(self) -> Letter:
        return self.letter

    @property
    def source(self) -> Channel:
        return self.letter.channel

    @property
    def attempt(self) -> int:
        return self.letter.attempt

    @property
    def redelivered(self) -> bool:
        return self.letter.attempt > 1

    @property
    def settles(self) -> bool:
        return not self.letter.acked

    def ongoing(self) -> Delivery | None:
        found = _kept(self.letter, "handled_by")
        return None if found is None else found()

    def finished_turn(self) -> SpanContext | None:
        turn: SpanContext | None = _kept(self.letter, "turn")
        return turn

    def opened(self) -> Verdict | None:
        vars(self.letter)["handled_by"] = weakref.ref(self)
        told = weakref.WeakMethod(self._told)

        def tell(verb: str) -> None:
            method = told()
            if method is not None:
                method(verb)

        self.letter.on_settled.append(tell)
        batch = self.batch
        self.letter.channel.on_taken_back[self.letter.name] = (batch or self).revoke
        return Verdict(self.letter.verb) if self.letter.verb else None

    def _told(self, verb: str) -> None:
        self.verdict = Verdict(verb)

    def closed(self) -> None:
        if self.is_turn and self.verdict is None:
            vars(self.letter)["turn"] = self.span.get_span_context()
        self.letter.on_settled.clear()
        self.letter.channel.on_taken_back.pop(self.letter.name, None)

    def is_open(self) -> bool:
        if self.letter.channel.is_open is None:
            raise LookupError("open or closed?")
        return self.letter.channel.is_open

    def is_here(self) -> bool:
        return self.letter.channel.is_here()

    def post(self, errand: Callable[[], None]) -> None:
        self.letter.channel.post(errand)

    def settle(self, settlement: Settlement) -> Any:
        return getattr(self.letter, settlement.verdict.value)()


class AsyncLetterDelivery(LetterDelivery):
    """One letter that is settled by awaiting."""

    __slots__ = ()
    client: ClassVar[Client] = _client(is_awaited=True)


def _kept(letter: Letter, name: str) -> Any:
    """What is kept of a letter beside the client's own."""
    return vars(letter).get(name)


PLAIN, AWAITED = Adapter(LetterDelivery), Adapter(AsyncLetterDelivery)


@contextmanager
def registered() -> Iterator[None]:
    """The client is known to hopspan."""
    (locate,), (running,) = adapter._locators, adapter._running

    def ours(kind: type) -> Adapter | None:
        if issubclass(kind, Letter | Channel):
            return AWAITED if issubclass(kind, AsyncLetter) else PLAIN
        return locate(kind)

    adapter.set_lookup(ours, running)
    try:
        yield
    finally:
        adapter.set_lookup(locate, running)
