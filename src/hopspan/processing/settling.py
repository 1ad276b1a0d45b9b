"""What becomes of deliveries on the wire: which are settled already, and how ours are sent.

One for each processing. A settlement that fails is recorded and logged: the broker hands the
message out again. What a client says when it loses its channel over one is kept in `lost`.
"""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.model import SUCCESS, Delivery, Outcome, Settlement, Verdict
from hopspan.processing.adapting import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context

    from hopspan.processing.adapting import Adapter
    from hopspan.telemetry import Instrumenter

Timing = tuple[int, float]

_PLAIN = {verdict: Settlement(verdict) for verdict in Verdict}


def refused(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """A verdict by which the handler itself said that it has failed."""
    for each in verdicts:
        if each is Verdict.REQUEUE or each is Verdict.REJECT:
            return each
    return None


def summary(
    verdicts: Sequence[Verdict | None], sent: Mapping[int, Settlement]
) -> tuple[bool, Settlement | None]:
    """Whether every delivery is settled, and the settlement that they all have in common."""
    if len(verdicts) == 1 and not sent:
        (verdict,) = verdicts
        return (False, None) if verdict is None else (True, _PLAIN[verdict])
    if not sent and not any(verdicts):
        return False, None
    known = [
        sent.get(index) or (None if verdict is None else _PLAIN[verdict])
        for index, verdict in enumerate(verdicts)
    ]
    common = known[0] if len({each and each.verdict for each in known}) == 1 else None
    return all(known), common


class Settling:
    """The settlements of the deliveries that are handled as one."""

    __slots__ = (
        "_adapter", "_context", "_deliveries", "_instrumenter", "_natives", "is_ours", "lost",
        "verdicts",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        adapter: Adapter,
        natives: Sequence[Any],
        deliveries: Sequence[Delivery],
        instrumenter: Instrumenter,
        context: Context,
        verdicts: list[Verdict | None],
    ) -> None:
        self._adapter = adapter
        self._natives = natives
        self._deliveries = deliveries
        self._instrumenter = instrumenter
        self._context = context
        self.verdicts: list[Verdict | None] = verdicts
        """What went out on the wire for each delivery, whoever sent it."""
        self.is_ours: bool = False
        """Whether what goes out just now is our own."""
        self.lost: Exception | None = None
        """The client's error, where its channel went away while we settled."""

    def note(self, native: Any, verdict: Verdict) -> None:
        """A settlement went out."""
        self._enter(native, verdict)

    def take_back(self, native: Any) -> None:
        """A settlement that was on its way did not go out."""
        self._enter(native, None)

    def _enter(self, native: Any, verdict: Verdict | None) -> None:
        for index, mine in enumerate(self._natives):
            if mine is native or self._adapter.same(mine, native):
                self.verdicts[index] = verdict

    def hop(self) -> Callable[[Callable[[], None]], None] | None:
        """How to get to the client's own thread; None where we are on it."""
        try:
            return self._adapter.hop(self._natives[0])
        except Exception:  # noqa: BLE001
            faults.report("looking for the client's thread")
            return None

    def send(self, index: int, settlement: Settlement) -> bool:
        """Perform a verdict; whether it went out."""
        if self.verdicts[index] is not None:  # the user did, while we were on the way
            return False
        native = self._natives[index]
        was_open = self._is_open(native)
        began, clock = time_ns(), perf_counter()
        self.is_ours = True
        try:
            self._adapter.settle(native, settlement)
        except Exception as error:  # noqa: BLE001
            self.failed(index, settlement, error, (began, perf_counter() - clock))
            self.lost = error if was_open and not self._is_open(native) else None
            return False
        finally:
            self.is_ours = False
        self.verdicts[index] = settlement.verdict
        self._record(index, settlement, (began, perf_counter() - clock))
        return True

    def _is_open(self, native: Any) -> bool:
        try:
            return self._adapter.is_open(native)
        except Exception:  # noqa: BLE001
            faults.report("looking whether a channel is open")
            return False

    async def send_async(self, index: int, settlement: Settlement) -> bool:
        """`send` for clients whose settlement is awaited."""
        if self.verdicts[index] is not None:
            return False
        began, clock = time_ns(), perf_counter()
        self.is_ours = True
        try:
            waiting = self._adapter.settle(self._natives[index], settlement)
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001
            self.failed(index, settlement, error, (began, perf_counter() - clock))
            return False
        finally:
            self.is_ours = False
        self._record(index, settlement, (began, perf_counter() - clock))
        return True

    def failed(self, index: int, settlement: Settlement, error: Exception, timing: Timing) -> None:
        """Say that a verdict did not reach the broker, or that nobody knows whether it did."""
        self.verdicts[index] = None
        self._record(index, settlement, timing, failure(self._adapter, error))
        faults.logger.warning(
            "could not %s a message of %s; the broker will hand it out again",
            self._name(settlement.verdict),
            self._deliveries[index].endpoint.destination,
            exc_info=error,
        )

    def _record(
        self, index: int, settlement: Settlement, timing: Timing, outcome: Outcome = SUCCESS
    ) -> None:
        verdict = settlement.verdict
        if verdict not in self._adapter.SETTLE_NAMES and not outcome.failed:
            return
        try:
            self._instrumenter.record_settle(
                self._name(verdict),
                settlement,
                [self._deliveries[index]],
                outcome,
                timing,
                inside=self._context,
            )
        except Exception:  # noqa: BLE001
            faults.report("recording a settlement")

    def _name(self, verdict: Verdict) -> str:
        return self._adapter.SETTLE_NAMES.get(verdict, verdict.value)
