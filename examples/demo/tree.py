"""Draws traces as trees, across processes, for readers who have not seen one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hopspan import conventions as names

from .traces import COMMIT, COPY, DEAD_LETTERED, OFFSET, SEEK, WORDS, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from hopspan.terminal import Terminal

    from .spans import FinishedSpan
    from .traces import Node, Trace

TENANT = "tenant.id"
ORDER = "order.id"

_SERVICE_STYLES = ("cyan", "magenta", "blue")
_VERDICT_STYLES = {
    WORDS["ack"]: "green",
    WORDS["requeue"]: "yellow",
    WORDS["reject"]: "red",
    DEAD_LETTERED: "red",
}
_GAP = "  "
_KIND_WIDTH = len("producer")
_TIME_WIDTH = len("duration")

Text = tuple[str, str]
"""A piece of text and its style."""


class _Row(NamedTuple):
    span: FinishedSpan
    guide: str
    """What is drawn before the name."""
    below: str
    """What is drawn before a second line of the same span."""
    remarks: Sequence[Text]


def draw(traces: Sequence[Trace], terminal: Terminal) -> Iterator[str]:
    """The lines of all traces, in the same columns."""
    tables = [list(_rows(trace, terminal)) for trace in traces]
    layout = _layout([row for table in tables for row in table], terminal)
    yield ""
    yield layout.titles(terminal)
    for trace, table in zip(traces, tables, strict=True):
        yield ""
        yield from _heading(trace, terminal)
        before = None
        for row in table:
            # A name where the process changes: that is where the trace went through the broker.
            yield from layout.lines(row, terminal, named=row.span.service != before)
            before = row.span.service


class _Layout(NamedTuple):
    """Where things are. What does not fit beside a span goes below it."""

    styles: dict[str, str]
    service_width: int
    name_width: int
    kinds_beside: bool
    remarks_beside: bool

    def titles(self, terminal: Terminal) -> str:
        """What is in which column."""
        cells = ["service".ljust(self.service_width), "span".ljust(self.name_width), "duration"]
        cells += ["kind".ljust(_KIND_WIDTH)] * self.kinds_beside + [
            "what happened"
        ] * self.remarks_beside
        return terminal.paint(_GAP.join(cells).rstrip(), "dim")

    def lines(self, row: _Row, terminal: Terminal, *, named: bool) -> Iterator[str]:
        """One span: a line, and what did not fit."""
        paint, span = terminal.paint, row.span
        nowhere = " " * self.service_width
        service = paint(span.service.ljust(self.service_width), self.styles[span.service])
        padding = " " * (self.name_width - len(row.guide + span.name))
        name = paint(row.guide, "dim") + paint(span.name, "red" if span.failed else "") + padding
        cells = [
            service if named else nowhere,
            name,
            paint(_duration_of(span).rjust(_TIME_WIDTH), "dim"),
        ]
        rest = list(row.remarks)
        if self.kinds_beside:
            cells.append(paint(span.kind.ljust(_KIND_WIDTH), "dim"))
        elif span.kind != "internal":
            rest.insert(0, (span.kind, "dim"))
        if self.remarks_beside:
            cells.append(_joined(rest, terminal))
            rest = []
        yield _GAP.join(cells).rstrip()
        indent = nowhere + _GAP + paint(row.below, "dim")
        room = terminal.columns - self.service_width - len(_GAP + row.below)
        yield from (indent + _joined(line, terminal) for line in _packed(rest, room, terminal))


def _layout(rows: Sequence[_Row], terminal: Terminal) -> _Layout:
    services = list(dict.fromkeys(row.span.service for row in rows))
    styles = {
        name: _SERVICE_STYLES[index % len(_SERVICE_STYLES)] for index, name in enumerate(services)
    }
    service = max(len(name) for name in ["service", *services])
    name = max(len(text) for text in ["span", *(row.guide + row.span.name for row in rows)])
    with_kinds = service + name + _TIME_WIDTH + _KIND_WIDTH + 3 * len(_GAP)
    remarks = max((_width(row.remarks, terminal) for row in rows), default=0)
    unlimited = not terminal.columns
    return _Layout(
        styles,
        service,
        name,
        kinds_beside=unlimited or with_kinds <= terminal.columns,
        remarks_beside=unlimited or with_kinds + len(_GAP) + remarks <= terminal.columns,
    )


def _joined(remarks: Sequence[Text], terminal: Terminal) -> str:
    separator = terminal.paint(terminal.signs.separator, "dim")
    return separator.join(terminal.paint(text, style) for text, style in remarks)


def _width(remarks: Sequence[Text], terminal: Terminal) -> int:
    return len(terminal.signs.separator.join(text for text, _ in remarks))


def _packed(remarks: Sequence[Text], room: int, terminal: Terminal) -> Iterator[list[Text]]:
    """Remarks in as few lines as they fit in."""
    line: list[Text] = []
    for remark in remarks:
        if line and _width([*line, remark], terminal) > room:
            yield line
            line = []
        line.append(remark)
    if line:
        yield line


def _heading(trace: Trace, terminal: Terminal) -> Iterator[str]:
    """Whose order, what became of it, and how to find it in a tracing UI."""
    found, paint = trace.spans[0].attributes, terminal.paint
    label = f"ORDER {found[ORDER]}" if ORDER in found else trace.spans[0].name
    label += f" of {found[TENANT]}" if TENANT in found else ""
    arrow = f" {terminal.signs.arrow} "
    facts = f"(trace {trace.spans[0].trace}, {duration(trace.nanoseconds)})"
    width = len(f"{label}: {arrow.join(trace.path)}  {facts}")
    heading = paint(label, "bold")
    if trace.path:
        heading += ": " + arrow.join(
            paint(step, _VERDICT_STYLES.get(step, ""), "bold") for step in trace.path
        )
    if 0 < terminal.columns < width:
        yield heading
        yield paint(facts, "dim")
    else:
        yield f"{heading}  {paint(facts, 'dim')}"


def _rows(trace: Trace, terminal: Terminal) -> Iterator[_Row]:
    dead = trace.dead
    for root in trace.roots:
        yield from _rows_of(root, "", "", terminal, dead)


def _rows_of(
    node: Node, guide: str, stem: str, terminal: Terminal, dead: AbstractSet[str]
) -> Iterator[_Row]:
    signs = terminal.signs
    below = stem + (signs.pipe if node.children else " " * len(signs.pipe))
    yield _Row(node.span, guide, below, list(_remarks(node.span, terminal, dead)))
    for child in node.children:
        is_last = child is node.children[-1]
        branch = signs.last if is_last else signs.branch
        rest = " " * len(signs.pipe) if is_last else signs.pipe
        yield from _rows_of(child, stem + branch, stem + rest, terminal, dead)


def _remarks(span: FinishedSpan, terminal: Terminal, dead: AbstractSet[str]) -> Iterator[Text]:
    """What is worth knowing of a span: how it ended, what the message died of, whose it is."""
    found = span.attributes
    if verdict(span):
        yield _outcome(span, terminal, dead), _VERDICT_STYLES.get(verdict(span), "")
        if names.ERROR_TYPE in found:
            yield str(found[names.ERROR_TYPE]).rpartition(".")[2], "red"
    elif span.failed:
        error = span.description or found.get(names.ERROR_TYPE, "failed")
        yield f"{terminal.signs.error} {error}", "red"
    elif names.SETTLEMENT in found:
        yield _settled(found), ""
    if names.DEATH_REASON in found:
        yield f"death reason: {found[names.DEATH_REASON]}", "red"
    if span.kind == "consumer" and TENANT in found:
        yield f"tenant {found[TENANT]}", ""


def _settled(found: Mapping[str, Any]) -> str:
    """What the settling of a message was. Kafka has no word for it: the consumer does it itself."""
    record = f"offset {found.get(OFFSET)} of partition {found.get(names.PARTITION_ID)}"
    return {
        SEEK: f"sets the consumer back to {record}",
        COPY: "done when Kafka has the copy",
        COMMIT: f"tells Kafka that {record} is done",
    }.get(str(found.get(names.OPERATION_NAME)), f"tells the broker to {found[names.SETTLEMENT]}")


def _outcome(span: FinishedSpan, terminal: Terminal, dead: AbstractSet[str]) -> str:
    """For example `attempt 2 rejected -> dead-lettered`. A dead message is not attempted."""
    signs, outcome = terminal.signs, verdict(span)
    sign = {WORDS["ack"]: signs.ok, WORDS["requeue"]: signs.again}.get(outcome, signs.error)
    first = None if names.REDELIVERED in span.attributes else 1  # which a span need not say
    number = span.attributes.get(names.ATTEMPT, first)
    attempt = f"attempt {number} " if number is not None and span.id not in dead else ""
    onward = f" {signs.arrow} {DEAD_LETTERED}" if outcome == WORDS["reject"] and dead else ""
    return f"{sign} {attempt}{outcome}{onward}"


def _duration_of(span: FinishedSpan) -> str:
    return duration(span.end - span.start)


def duration(nanoseconds: int) -> str:
    """A duration for people: `0.02 ms`, `4.1 ms`, `184 ms`, `1.2 s`."""
    milliseconds = nanoseconds / 1e6
    if milliseconds < 0.01:  # noqa: PLR2004 - as little as it is, it is not nothing
        return "<0.01 ms"
    for limit, digits in ((1, 2), (100, 1), (1000, 0)):
        if milliseconds < limit:
            return f"{milliseconds:.{digits}f} ms"
    return f"{milliseconds / 1000:.1f} s"
