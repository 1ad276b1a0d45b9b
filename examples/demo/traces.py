"""From finished spans to traces: who is whose child, and what became of the message in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hopspan import conventions as names
from hopspan.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .spans import FinishedSpan

WORDS = {
    Verdict.ACK.value: "acked",
    Verdict.REQUEUE.value: "requeued",
    Verdict.REJECT.value: "rejected",
    Verdict.LEAVE.value: "left unsettled",
}
DEAD_LETTERED = "dead-lettered"
KAFKA = "kafka"
"""Of `messaging.system`; what follows is what spans say of Kafka only."""
OFFSET = "messaging.kafka.offset"
COMMIT, SEEK, COPY = "commit", "seek", "dead_letter"
"""Names of the operations that settle."""
REJECT = Verdict.REJECT.value
_DONE = (WORDS["ack"], WORDS["reject"])


class Node(NamedTuple):
    """A span with its children, oldest first."""

    span: FinishedSpan
    children: Sequence[Node]


class Trace(NamedTuple):
    """All spans of one trace, oldest first, and as trees: one tree, where nothing is missing."""

    spans: Sequence[FinishedSpan]
    roots: Sequence[Node]

    @property
    def path(self) -> list[str]:
        """What became of the message, step by step: `["requeued", "rejected", "dead-lettered"]`."""
        dead = self.dead
        return [
            DEAD_LETTERED if span.id in dead else verdict(span)
            for span in self.spans
            if verdict(span)
        ]

    @property
    def dead(self) -> frozenset[str]:
        """The ids of the spans that handled the message after it was dead-lettered.

        RabbitMQ writes into the message what it died of. On Kafka the dead letter is a copy, which
        was sent while the message was rejected.
        """
        known = {span.id: span for span in self.spans}

        def is_dead(span: FinishedSpan) -> bool:
            sender = known.get(span.parent or "")
            sent_by = known.get(sender.parent or "") if sender is not None else None
            is_copy = sent_by is not None and sent_by.attributes.get(names.SETTLEMENT) == REJECT
            return names.DEATH_REASON in span.attributes or is_copy

        return frozenset(
            span.id for span in self.spans if span.kind == "consumer" and is_dead(span)
        )

    @property
    def is_over(self) -> bool:
        """Whether a message was sent, and somebody has acked it. On Kafka: and committed it all."""
        sent = any(span.kind == "producer" for span in self.spans)
        acked = any(verdict(span) == WORDS["ack"] for span in self.spans)
        return not sent or (acked and not self._uncommitted)

    @property
    def _uncommitted(self) -> set[str]:
        """The ids of the spans of records that are done, and that Kafka does not know of yet."""
        done = {
            span.id
            for span in self.spans
            if span.attributes.get(names.SYSTEM) == KAFKA and verdict(span) in _DONE
        }
        return done - {
            span.parent or ""
            for span in self.spans
            if span.attributes.get(names.OPERATION_NAME) == COMMIT
        }

    @property
    def nanoseconds(self) -> int:
        """From the first start to the last end, in whichever process."""
        return max(span.end for span in self.spans) - min(span.start for span in self.spans)


def traces_of(spans: Iterable[FinishedSpan]) -> list[Trace]:
    """The traces among spans, oldest first. A span whose parent is not there is a root."""
    found: dict[str, list[FinishedSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        found.setdefault(span.trace, []).append(span)
    return [Trace(members, _roots(members)) for members in found.values()]


def _roots(spans: Sequence[FinishedSpan]) -> list[Node]:
    known = {span.id for span in spans}
    children: dict[str | None, list[FinishedSpan]] = {}
    for span in spans:
        children.setdefault(span.parent if span.parent in known else None, []).append(span)

    def node(span: FinishedSpan) -> Node:
        return Node(span, [node(child) for child in children.get(span.id, ())])

    return [node(span) for span in children.get(None, ())]


def verdict(span: FinishedSpan) -> str:
    """What became of the message that a process span handled; empty for other spans."""
    settlement = str(span.attributes.get(names.SETTLEMENT, ""))
    return WORDS.get(settlement, settlement) if span.kind == "consumer" else ""
