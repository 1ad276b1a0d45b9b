"""A batch: several deliveries that are handled as one, with one span linked to each message."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Route, route
from hopspan.delivery.delivery import Delivery
from hopspan.model import Settlement, Verdict
from hopspan.telemetry import common_endpoint, messages_to_count, relate_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from hopspan.model import Outcome
    from hopspan.propagation import Codec
    from hopspan.settlement import Policy
    from hopspan.telemetry import Instrumenter


class Batch(Delivery):
    """Several deliveries handled as one: one outcome, and a settlement for each.

    A message is never the parent of a batch, be it a batch of one.
    """

    __slots__ = ("members",)
    is_batch = True

    members: Sequence[Any]
    """The deliveries; each is settled by itself."""

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = members

    @property
    def client(self) -> Any:  # type: ignore[override]
        """The client of the members."""
        return self.members[0].client

    @property
    def deliveries(self) -> Sequence[Delivery]:
        return self.members

    @property
    def delivery(self) -> Delivery:
        """The first delivery."""
        first: Delivery = self.members[0]
        return first

    @property
    def kind(self) -> type[Delivery]:
        return type(self.members[0])

    @property
    def native(self) -> Any:
        return [each.native for each in self.members]

    @property
    def source(self) -> Any:
        return self.members[0].source

    @property
    def endpoint(self) -> Any:
        return common_endpoint(self.members)

    @property
    def headers(self) -> Any:
        return None

    @property
    def settles(self) -> bool:
        return all(each.settles for each in self.members)

    def unfit(self, policy: Policy) -> str | None:
        return next(filter(None, (each.unfit(policy) for each in self.members)), None)

    @property
    def settled(self) -> bool:
        return None not in self.verdicts()

    def verdicts(self) -> Sequence[Verdict | None]:
        return [each.verdict for each in self.members]

    def read(self) -> tuple[Route, Any]:
        return route(names.PROCESS, self.endpoint), None

    def ongoing(self) -> Delivery | None:
        """The batch that goes on of these very messages."""
        current = self.members[0].ongoing()
        batch = None if current is None else getattr(current, "batch", None)
        if batch is None or len(batch.members) != len(self.members):
            return None
        is_same = all(
            mine is theirs or mine.ongoing() is theirs
            for mine, theirs in zip(self.members, batch.members, strict=True)
        )
        return batch if is_same else None

    def is_ignored(self, instrumenter: Instrumenter, route: Route) -> bool:  # noqa: ARG002
        return not instrumenter.not_ignored(self.members)

    def start_process(
        self,
        instrumenter: Instrumenter,
        route: Route,
        codec: Codec,
        headers: Any,  # noqa: ARG002 - each message has its own
        base: Context,
    ) -> None:
        members = instrumenter.not_ignored(self.members)
        about, relation = relate_batch(instrumenter.config, members, codec, base)
        attributes = instrumenter.describe_several(route.plan, about, relation[1])
        self.start(instrumenter, route.plan, relation, attributes)

    def opened(self) -> Verdict | None:
        """Open each member, which belongs to the batch from now on."""
        for member in self.members:
            member.join_batch(self)
            try:
                member.verdict = member.opened()
            except Exception:  # noqa: BLE001
                faults.report("opening a delivery")
        return next(filter(None, self.verdicts()), None)

    def closed(self) -> None:
        for member in self.members:
            try:
                member.closed()
            except Exception:  # noqa: BLE001, PERF203 - each by itself
                faults.report("closing a delivery")

    def is_open(self) -> bool:
        return bool(self.members[0].is_open())

    def is_here(self) -> bool:
        return all(each.is_here() for each in self.members)

    def post(self, errand: Any) -> None:
        self.members[0].post(errand)

    def perform(self, seconds: float, planned: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle each message on the thread of its own channel, and end."""
        here = []
        for member, settlement in planned:
            if member.is_here():
                here.append((member, settlement))
            else:
                member.post(partial(member.send, settlement, self))
        super().perform(seconds, here)

    def settle(self, settlement: Settlement) -> Any:
        """Never called: each member is settled by itself."""
        raise NotImplementedError

    def _settles_at_once(self, settlement: Settlement, seconds: float) -> bool:  # noqa: ARG002
        """No: each member is settled by itself."""
        return False

    def plan_settlement(self, outcome: Outcome) -> list[tuple[Delivery, Settlement]] | None:
        policy = self.policy
        planned = []
        for member in self.members:
            if member.settles and member.verdict is None:
                settlement = member.decide(outcome, policy)
                if settlement.verdict is not Verdict.LEAVE:
                    planned.append((member, settlement))
        return planned

    def messages_to_count(self) -> int:
        return messages_to_count(self.members)

    def end_attributes(self) -> dict[str, Any]:
        """The settlement that all members have in common, if they do."""
        verdicts = set(self.verdicts())
        common = next(iter(verdicts)) if len(verdicts) == 1 else None
        self.verdict: Verdict | None = common
        if self._rare is not None and self._rare.sent is not None:
            sent = self.members[0].sent
            self._rare.sent = sent if common is not None and sent is not None else self._rare.sent
        return dict(super().end_attributes() or ())


def given(kind: type[Delivery], message: Any, via: Any) -> Delivery | tuple[()] | None:
    """The delivery or the batch in what the user gave; `()` for no message, None for no such thing.

    Args:
        kind: The client's deliveries.
        message: A message, a list of them, or whatever else the client hands out.
        via: The channel or consumer that it came from, or None.
    """
    found: Any = kind.given(message, via)
    if found is not None or not isinstance(message, list | tuple):
        return found  # type: ignore[no-any-return]
    if not message:
        return ()
    members: list[Any] = [kind.of(each, via) for each in message]
    return Batch(members) if None not in members else None


def handed(kind: type[Delivery], args: tuple[Any, ...], via: Any) -> Delivery | tuple[()] | None:
    """The delivery or the batch among a handler's arguments."""
    found: Any = kind.handed(args, via)
    if found is not None:
        return found  # type: ignore[no-any-return]
    return next((found for found in (given(kind, each, via) for each in args) if found), None)


__all__ = ["Batch", "given", "handed"]
