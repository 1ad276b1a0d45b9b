"""Spans as values: what they say, in the tree of who is whose parent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from typing_extensions import Self


class Span(NamedTuple):
    """A finished span, as a process wrote it down."""

    name: str
    kind: str
    role: str
    """Of the process: worker, web or beat."""
    process: int
    id: str
    """Of its trace and of itself."""
    parent: str | None
    links: tuple[str, ...]
    status: str
    attributes: dict[str, Any]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """Read a line of the journal."""
        found = {field: entry[field] for field in cls._fields}
        return cls(**{**found, "links": tuple(entry["links"])})

    @property
    def trace(self) -> str:
        """The id of its trace."""
        return self.id.partition("-")[0]

    def told(self, attribute: str) -> Any:
        """An attribute, None where there is none."""
        return self.attributes.get(attribute)


class Told(NamedTuple):
    """What a span says about a task."""

    name: str
    kind: str
    state: str | None = None
    """Celery's word for how a run ended; None for a success."""
    settlement: str | None = None
    error: str | None = None
    """`error.type`, of a span whose status is ERROR."""
    cancelled: bool = False


class Node(NamedTuple):
    """A span and what is below it."""

    told: Told
    children: tuple[Node, ...] = ()


def told(span: Span) -> Told:
    """What a span says."""
    error = span.told("error.type")
    assert (span.status == "ERROR") is (error is not None), span
    return Told(
        span.name,
        span.kind,
        span.told("hopspan.celery.state"),
        span.told("hopspan.settlement"),
        error,
        bool(span.told("hopspan.cancelled")),
    )


def trees(spans: Iterable[Span]) -> tuple[Node, ...]:
    """All spans, each below its parent; in an order that depends only on what they say.

    Raises:
        AssertionError: a parent is missing.
    """
    known = list(spans)
    children: dict[str | None, list[Span]] = defaultdict(list)
    for span in known:
        children[span.parent].append(span)
    orphans = [span for span in known if span.parent and span.parent not in {s.id for s in known}]
    assert not orphans, orphans

    def below(parent: str | None) -> tuple[Node, ...]:
        return ordered(Node(told(span), below(span.id)) for span in children[parent])

    return below(None)


def ordered(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Siblings, in an order that depends only on what they say."""
    return tuple(sorted(nodes, key=repr))


# -- what is expected -----------------------------------------------------------------------------


def published(task: str, *children: Node, error: str | None = None) -> Node:
    """A publish, and what came of it."""
    return Node(Told(f"publish {task}", "PRODUCER", error=error), ordered(children))


def processed(
    task: str,
    *children: Node,
    state: str | None = None,
    settlement: str | None = "ack",
    error: str | None = None,
) -> Node:
    """A run, and what was published in it."""
    return Node(Told(f"process {task}", "CONSUMER", state, settlement, error), ordered(children))
