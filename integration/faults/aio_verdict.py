"""Whether hopspan kept its promises over a robust connection, judged from the records of the cuts.

**Words.** A *run* is one call of the handler; it *returned*, *failed* (raised, declared failed, or
set the span's status), or was *cancelled*: on demand while its channel was open, or by the client
because its connection was lost. Runs of a message are in the order of its deliveries.

**Promises.**

1. No message is lost: each was run, none is left in the queue, and its last run returned or failed.
   It is dead-lettered, once, if that run failed, and else it is acked.
2. A run that was cancelled while its channel was open was requeued, the broker had that, and the
   message's next run was on the same connection: it came back before the next cut.
3. Any other run that is followed by another one was on a connection that was cut.
4. Each run has one process span, which tells its outcome, in its message's own trace, under its
   message's own producer span, with its message's own baggage. No other process span exists.
5. On the wire each settlement is of a run on that very connection, comes after its end, says what
   its outcome and its span say, and comes once. What was cancelled because the connection was lost
   is never settled. The broker never closes a channel.
6. A handler is called through as many layers after every reconnect as before.
7. Nobody has logged a context that could not be detached, or anything else that is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

from integration.faults.aio_chaos import CANCELLED, CUTS, Records
from integration.faults.chaos import trace_of
from integration.faults.journal import Run
from integration.faults.proxy import Link

FAILURE = "integration.faults.worker.FailureError"
OUTCOMES: dict[str | None, tuple[bool, str | None, bool, str]] = {
    "returned": (False, None, False, "ack"),
    "raised": (True, FAILURE, False, "reject"),
    "failed": (True, "declared", False, "reject"),
    "status": (True, "_OTHER", False, "reject"),
    "cancelled": (False, None, True, "requeue"),
}
"""From how a run ended to its span's error, `error.type` and cancellation, and to its verdict."""


class Report(NamedTuple):
    """The figures of one go."""

    messages: int
    runs: int
    acked: int
    dead_lettered: int
    cancelled: int
    """While their channel was open."""
    lost: int
    """Cancelled because their connection was lost, or settled when nobody heard it any more."""
    cuts: int
    layers: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.messages} messages, {self.runs} runs with a span each, {self.acked} acked, "
            f"{self.dead_lettered} dead-lettered, {self.cancelled} cancelled and back, "
            f"{self.lost} lost and handed out again, {self.cuts} cuts, {self.layers} layers, "
            f"{self.seconds:.1f} s"
        )


class Verdict:
    """The records, put in order, and one method for each promise."""

    def __init__(self, records: Records) -> None:
        self.records = records
        names = (f"1.{number}" for number in range(1, len(records.links) + 1))
        self.links: dict[str, Link] = dict(zip(names, records.links, strict=True))
        self.spans = {span["run"]: span for span in records.spans}
        self.runs: dict[int, list[Run]] = defaultdict(list)
        for run in sorted(records.runs, key=_delivered):
            self.runs[run.message].append(run)

    def report(self) -> Report:
        """Check everything; return the figures.

        Raises:
            AssertionError: a promise was broken; it says which, and by which message.
        """
        self.nothing_is_logged()
        self.none_is_lost()
        self.cancelled_ones_come_back()
        self.only_lost_runs_are_repeated()
        self.spans_tell_the_truth()
        self.wire_agrees()
        self.layers_do_not_grow()
        again = len(self.records.runs) - len(self.runs) - len(self.records.cancelled)
        return Report(
            self.records.plan.messages,
            len(self.records.runs),
            self.records.plan.messages - len(self.records.dead),
            len(self.records.dead),
            len(self.records.cancelled),
            again,
            sum(link.cut for link in self.records.links),
            self.records.layers[0],
            self.records.seconds,
        )

    def none_is_lost(self) -> None:
        """Promise 1."""
        missing = set(range(self.records.plan.messages)) - set(self.runs)
        assert not missing, f"never run: {sorted(missing)[:10]}"
        assert self.records.left == 0, f"{self.records.left} messages are still in the queue"
        last = {message: runs[-1] for message, runs in self.runs.items()}
        lost = [run for run in last.values() if run.ended in {None, "cancelled"}]
        assert not lost, lost
        failed = {message for message, run in last.items() if OUTCOMES[run.ended][3] == "reject"}
        dead = sorted(int(each.message_id or -1) for each in self.records.dead)
        assert sorted(failed) == dead, (
            f"failed and dead-lettered: {failed.symmetric_difference(dead)}"
        )

    def cancelled_ones_come_back(self) -> None:
        """Promise 2."""
        assert CANCELLED * len(CUTS) == len(self.records.cancelled), self.records.cancelled
        for runs in self.runs.values():
            following = {run.id: then for run, then in pairwise(runs)}
            for run in runs:
                if run.id not in self.records.cancelled:
                    continue
                assert self._settled(run) == ["requeue"], run
                assert self.spans[run.id]["settlement"] == "requeue", run
                assert run.id in following, run
                assert following[run.id].connection == run.connection, (run, following[run.id])

    def only_lost_runs_are_repeated(self) -> None:
        """Promise 3."""
        for runs in self.runs.values():
            for run in runs[:-1]:
                is_lost = self.links[run.connection].cut
                assert is_lost or run.id in self.records.cancelled, runs
                assert is_lost or run.ended == "cancelled", runs

    def spans_tell_the_truth(self) -> None:
        """Promise 4."""
        runs = Counter(run.id for run in self.records.runs)
        spans = Counter(span["run"] for span in self.records.spans)
        assert runs == spans, f"without a span: {runs - spans}; without a run: {spans - runs}"
        for run in self.records.runs:
            span = self.spans[run.id]
            failed, kind, cancelled, verdict = OUTCOMES[run.ended]
            expected = {
                "run": run.id,
                "trace": trace_of(run.message),
                "parent": f"{1:016x}",
                "message": str(run.message),
                "error": failed,
                "type": kind,
                "cancelled": cancelled,
            }
            told = {name: span[name] for name in expected}
            assert expected == told, f"{expected} {told} {run}"
            assert run.baggage == str(run.message), run
            untold = {None} if self.links[run.connection].cut else set()
            assert span["settlement"] in {verdict} | untold, (run, span)

    def wire_agrees(self) -> None:
        """Promise 5."""
        runs = {(run.connection, run.tag): run for run in self.records.runs}
        refusals = [refusal for link in self.links.values() for refusal in link.refusals]
        assert not refusals, refusals
        for name, link in self.links.items():
            several = Counter(settled.tag for settled in link.settled).most_common(1)
            assert several[0][1] == 1, f"settled twice on {name}: {several}"
            for settled in link.settled:
                run = runs.get((name, settled.tag))
                assert run is not None, f"nobody handled this on {name}: {settled}"
                assert not settled.multiple, settled
                assert run.ended_at <= settled.at, (run, settled)
                assert OUTCOMES[run.ended][3] == settled.verdict, (run, settled)
                assert self.spans[run.id]["settlement"] == settled.verdict, (run, settled)
                assert (run.ended == "cancelled") == (run.id in self.records.cancelled), run

    def layers_do_not_grow(self) -> None:
        """Promise 6."""
        connections = len(CUTS) + 1
        layers, cut = self.records.layers, [link.cut for link in self.links.values()]
        assert [layers[0]] * connections == layers, layers
        assert [True] * len(CUTS) + [False] == cut, cut

    def nothing_is_logged(self) -> None:
        """Promise 7."""
        assert self.records.troubles == [], "\n".join(self.records.troubles[:3])

    def _settled(self, run: Run) -> list[Any]:
        """What the broker was told of a run."""
        return [
            settled.verdict
            for settled in self.links[run.connection].settled
            if settled.tag == run.tag and settled.forwarded
        ]


def _delivered(run: Run) -> tuple[int, int]:
    return int(run.connection.partition(".")[2]), run.tag
