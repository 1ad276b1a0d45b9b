"""How hopspan reads and settles the letters of `client.py`: the only module here that knows its core.

`registered` makes the client known for as long as a test runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from hopspan.model import Delivery, Endpoint, MessageInfo, Settlement, Verdict
from hopspan.processing import Processing, adapting
from hopspan.propagation import MAPPING
from hopspan.settlement import Policy
from tests.unit.delivery.client import AsyncLetter, Channel, Letter, SlipError, Stop


class _Adapter:
    NAME = "letters"
    SYSTEM = "letters"
    CODEC = MAPPING
    SETTLE_NAMES = MappingProxyType(
        {each: each.value for each in (Verdict.ACK, Verdict.REQUEUE, Verdict.REJECT)}
    )
    SETTLED_ALREADY = "it forgets a letter when it hands it out. Open another channel"
    POINTS = INSTANCE_POINTS = RIVALS = ()
    CONTROL_FLOW = (Stop,)
    RAISES = SIGNALS = None

    def __init__(self, *, awaited: bool) -> None:
        self.ASYNCHRONOUS = awaited

    def handed(self, args: tuple[Any, ...], via: Any) -> Any:
        return next(filter(None, (self.given(each, via) for each in args)), None)

    def given(self, message: Any, via: Any) -> Any:
        if isinstance(message, list):
            return message if all(isinstance(each, Letter) for each in message) else None
        return [message] if isinstance(message, Letter) else None

    def delivery(self, letter: Letter) -> Delivery:
        return Delivery(
            Endpoint(self.SYSTEM, "orders"),
            MessageInfo(letter.name),
            letter.headers,
            letter,
            letter.attempt > 1,
            letter.attempt,
            not letter.acked,
        )

    def owner(self, letter: Letter) -> Any:
        return letter.channel

    def same(self, letter: Letter, other: Letter) -> bool:
        return letter is other

    def opened(self, letter: Letter, processing: Processing) -> Verdict | None:
        settled = Verdict(letter.verb) if letter.verb else None

        letter.on_settled.append(lambda verb: processing.note(letter, Verdict(verb)))
        letter.channel.on_taken_back[letter.name] = processing.lose
        return settled

    def closed(self, letter: Letter, processing: Processing) -> None:
        letter.on_settled.clear()
        letter.channel.on_taken_back.pop(letter.name, None)

    def is_open(self, letter: Letter) -> bool:
        if letter.channel.is_open is None:
            raise LookupError("open or closed?")
        return letter.channel.is_open

    def settle(self, letter: Letter, settlement: Settlement) -> Awaitable[None] | None:
        done: Any = getattr(letter, settlement.verdict.value)()
        return done  # type: ignore[no-any-return]

    def hop(self, letter: Letter) -> Callable[[Callable[[], None]], None] | None:
        return None if letter.channel.is_here() else letter.channel.post

    def refusal(self, policy: Policy, letter: Letter | None = None) -> str | None:
        if policy.pauses:
            return "a letter cannot wait. Leave out pause="
        if letter is not None and letter.name == "unknown":
            return "nobody knows its channel"
        return None

    def prepare(self, instance: Any) -> None: ...

    def settles_by_itself(self, instance: Any) -> bool:
        return False

    def error_type(self, error: BaseException) -> str | None:
        return error.word if isinstance(error, SlipError) else None


PLAIN: Any = _Adapter(awaited=False)
AWAITED: Any = _Adapter(awaited=True)


@contextmanager
def registered() -> Iterator[None]:
    """The client is known to hopspan."""
    (locate,), (serving,) = adapting._locators, adapting._serving

    def ours(kind: type) -> Any:
        if issubclass(kind, Letter | Channel):
            return AWAITED if issubclass(kind, AsyncLetter) else PLAIN
        return locate(kind)

    adapting.use_locator(ours, serving)
    try:
        yield
    finally:
        adapting.use_locator(locate, serving)
