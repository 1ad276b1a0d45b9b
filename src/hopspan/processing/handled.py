"""What a handler sees of its delivery: the process span, the delivery, a way to say that it failed.

And what is kept of it until it is concluded, for which see `hopspan.processing.delivery`.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from hopspan.model import SUCCESS, Delivery, Outcome
from hopspan.processing.ownership import Ownership
from hopspan.processing.settling import Settling
from hopspan.telemetry.spans import OTHER_ERROR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from hopspan.model import Verdict
    from hopspan.processing.adapting import Adapter
    from hopspan.settlement import Commits, Policy
    from hopspan.telemetry import Instrumenter, Operation

CURRENT = otel.create_key("hopspan-processing")
_NOTHING_TOLD: Mapping[str, Any] = {}


class Handled:
    """One delivery, or several handled as one, and how the handling goes."""

    __slots__ = (
        "__weakref__", "_failure", "_inner_error", "_natives", "_once", "_operation", "_verdicts",
        "_wire", "about", "adapter", "commits", "context", "deliveries", "instrumenter", "outcome",
        "ownership", "policy", "policy_rank", "reraise", "settled", "settled_by_policy",
    )  # fmt: skip

    def __init__(
        self,
        adapter: Adapter,
        natives: Sequence[Any],
        deliveries: Sequence[Delivery],
        instrumenter: Instrumenter,
        operation: Operation,
    ) -> None:
        self.adapter: Adapter = adapter
        self._natives = natives
        self.instrumenter: Instrumenter = instrumenter
        self._operation = operation
        self._once = threading.Lock()  # acquired by whoever finishes, and never released
        self.ownership: Ownership = Ownership()
        """Who concludes."""
        self._failure = SUCCESS
        self._inner_error: Exception | None = None
        self.policy_rank: int = 0
        """Which face the policy is of; see `Face.rank`."""
        self.settled_by_policy: bool = False
        """Whether it was hopspan that settled."""
        self.deliveries: Sequence[Delivery] = deliveries
        """The deliveries handled here: one, or those of a batch."""
        config = instrumenter.config
        self.policy: Policy = config.policy
        self.commits: Commits = config.commits
        self.reraise: bool = config.reraise
        self.outcome: Outcome | None = None
        """How the handling went; None while it goes on."""
        self.settled: bool = False
        """Whether every delivery has been settled, by the policy or by the user."""
        # Weak, or every message would leave a cycle for the garbage collector.
        self.context: Context = operation.keep_in_context(CURRENT, weakref.ref(self))
        self.about: Mapping[str, Any] = _NOTHING_TOLD
        """What the client says of the handling when it is over: attributes."""
        self._verdicts: list[Verdict | None] = [None] * len(natives)
        self._wire: Settling | None = None

    def __bool__(self) -> bool:
        """True; outside a delivery `current()` is a falsy one."""
        return True

    def __repr__(self) -> str:
        where = self.delivery.endpoint.destination if self.deliveries else ""
        return f"<hopspan processing of {where}: {'over' if self.outcome else 'open'}>"

    # -- for handlers ----------------------------------------------------------------------------

    @property
    def span(self) -> Span:
        """The process span. Its status decides as well: ERROR is a failure without raising."""
        return self._operation.span

    @property
    def delivery(self) -> Delivery:
        """The (first) delivery."""
        return self.deliveries[0]

    def fail(self, reason: str, *, type: str | None = None) -> None:  # noqa: A002 - as error.type
        """Declare the handling failed without raising; the policy treats it like an exception.

        Args:
            reason: For people; becomes the span's status description.
            type: `error.type`, low-cardinality; `_OTHER` when not given.

        An exception that the handler raises afterwards takes precedence. Calling it after the
        handling is over changes nothing.
        """
        kind = OTHER_ERROR if type is None else str(type)
        self._failure = Outcome(failed=True, error_type=kind, description=reason)

    @property
    def wire(self) -> Settling:
        """What becomes of the deliveries on the wire; made when it is first asked for."""
        if self._wire is None:
            self._wire = Settling(
                self.adapter,
                self._natives,
                self.deliveries,
                self.instrumenter,
                self.context,
                self._verdicts,
            )
        return self._wire

    def note(self, native: Any, verdict: Verdict) -> None:
        """A settlement of one of the deliveries went out."""
        if native is self._natives[0]:
            self._verdicts[0] = verdict
        else:
            self.wire.note(native, verdict)

    @property
    def lost(self) -> Exception | None:
        """The client's error, where its channel went away while we settled."""
        return None if self._wire is None else self._wire.lost
