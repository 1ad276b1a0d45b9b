"""Whether hopspan kept its promises, judged from the records of a chaos.

**Words.** A *run* is one call of the handler; it *returned* or *failed* (raised, declared failed,
or set the span's status), or was killed before it ended. Runs of a message are in the order of its
deliveries; its *last* run is that of its last delivery. A message is *dead-lettered* when it is in
the dead-letter queue, and *acked* when it is neither there nor in its queue. A run is *lost* when
its connection ended by a fault before the broker had its settlement: the broker, which cannot know
of the run, hands the message out again. That is the only window there is: killed or cut after the
handler ended, before the settlement arrived. (RabbitMQ has one more of its own: settlements for a
quorum queue that are on their way inside it when a connection is closed, even in good order, can be
lost there. So on such a queue the end of an undisturbed connection counts as well.)

**Promises.**

1. No message is lost: each was run, and its last run ended.
2. A message is acked if its last run returned, and dead-lettered, once, if its last run failed;
   nothing is both, and nothing stays in the queue.
3. So a message is acked if and only if some run of it returned, except for lost runs: a run that
   returned and was followed by another one was on a connection that a fault ended. (A handler that
   settles on its own thread: among the last there, fewer than the prefetch.)
4. A failed run that was not the last was requeued by the policy, or lost. Nothing is requeued more
   often than the policy allows.
5. Each run that ended has one process span, which tells the same outcome, in its message's own
   trace, with its message's own baggage. No other process span exists. A handler that settles on
   its own thread can miss one for each SIGKILL: the run that had ended last. With deferred work it
   can miss those that were on their way from the pool's threads to the connection's.
6. On the wire, no delivery is settled twice, no settlement comes before its run has ended or
   contradicts it, and the broker never closes a channel.
7. Once a connection is lost, what was prefetched through it is not handled any more: one run at
   most, the one that was on when the connection was lost, ends without its settlement being sent.
   (A handler that settles on its own thread; deferred work that goes on then cannot be called
   back.)
8. Where the handler acks by itself with `multiple=True`, that counts, for all that it covers,
   whatever their runs do; and 1 to 3 hold with "the first settlement of its last delivery on the
   wire" for "its last run".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

from integration.faults.chaos import Records, trace_of
from integration.faults.journal import Run
from integration.faults.proxy import Link, Settled


class Report(NamedTuple):
    """The figures of one go."""

    messages: int
    runs: int
    acked: int
    dead_lettered: int
    duplicates: int
    """Runs of messages whose run before had ended, and was lost."""
    kills: int
    cuts: int
    seconds: float
    spans_missing: int

    def __str__(self) -> str:
        return (
            f"{self.messages} messages, {self.runs} runs, {self.acked} acked, "
            f"{self.dead_lettered} dead-lettered, {self.duplicates} duplicates, "
            f"{self.kills} kills, {self.cuts} cuts, {self.seconds:.1f} s, "
            f"{self.spans_missing} spans missing"
        )


class Verdict:
    """The records, put in order, and one method for each promise."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.plan = records.plan
        self.links = {link.name: link for link in records.links if link.name}
        self.spans = {span["run"]: span for span in records.spans}
        self.first = {name: _first_settlements(link) for name, link in self.links.items()}
        self.dead = Counter(int(properties.message_id or -1) for properties in records.dead)
        self.runs: dict[int, list[Run]] = defaultdict(list)
        for run in sorted(records.runs, key=_delivered):
            self.runs[run.message].append(run)

    def report(self) -> Report:
        """Check everything; return the figures.

        Raises:
            AssertionError: a promise was broken; it says which, and by which message.
        """
        self.nothing_unexpected()
        self.none_is_lost()
        self.last_run_decides()
        self.only_lost_runs_are_repeated()
        self.policy_is_kept()
        self.spans_tell_the_truth()
        self.wire_agrees()
        self.nothing_runs_on_a_lost_connection()
        return Report(
            self.plan.messages,
            len(self.records.runs),
            self.plan.messages - len(self.dead),
            len(self.dead),
            sum(
                self._is_lost(run) for runs in self.runs.values() for run in runs[:-1] if run.ended
            ),
            len(self.records.killed),
            sum(link.cut for link in self.records.links),
            self.records.seconds,
            len(self._without_span()),
        )

    def nothing_unexpected(self) -> None:
        """Neither hopspan nor the broker complained, and the faults really happened."""
        assert not self.records.troubles, self.records.troubles[:3]
        refusals = [refusal for link in self.records.links for refusal in link.refusals]
        assert not refusals, refusals
        assert len(self.records.killed) == sum(each.startswith("kill") for each in self.plan.faults)
        cuts = sum(link.cut and not self._is_of_killed(link) for link in self.links.values())
        assert cuts >= sum(each.startswith("cut") for each in self.plan.faults)

    def none_is_lost(self) -> None:
        """Promise 1."""
        missing = set(range(self.plan.messages)) - set(self.runs)
        assert not missing, f"never run: {sorted(missing)[:10]}"
        assert not self.records.left, f"{self.records.left} messages are still in the queue"
        for message, runs in self.runs.items():
            settled = self._settled_by(runs[-1])
            assert runs[-1].ended or (settled and settled.multiple), f"{message}: {runs}"

    def last_run_decides(self) -> None:
        """Promise 2."""
        assert set(self.dead) <= set(self.runs), "dead letters that nobody published"
        assert set(self.dead.values()) <= {1}, f"dead-lettered twice: {self.dead.most_common(3)}"
        for message, runs in self.runs.items():
            assert (message in self.dead) == self._is_refused(runs[-1]), f"{message}: {runs}"

    def only_lost_runs_are_repeated(self) -> None:
        """Promise 3."""
        ended: dict[str, list[Run]] = defaultdict(list)
        for run in self.records.runs:
            if run.ended:
                ended[run.connection].append(run)
        for message, runs in self.runs.items():
            for run, following in pairwise(runs):
                if run.ended != "returned":
                    continue
                assert following.connection != run.connection, f"{message} was acked: {runs}"
                after = sum(each.ended_at > run.ended_at for each in ended[run.connection])
                assert self._is_lost(run), f"{message} was acked and came back: {runs}"
                assert self._told(run) in {None, "ack"}, f"{message}: {runs}"
                if self.plan.style == "callback":  # threads overtake each other
                    assert after < self.plan.prefetch, f"{message}: {after} {runs}"

    def policy_is_kept(self) -> None:
        """Promise 4."""
        for message, runs in self.runs.items():
            requeued = [run for run in runs if self._told(run) == "requeue"]
            assert len(requeued) <= self.plan.requeues + self._faults(runs), f"{message}: {runs}"
            for run in runs:
                if run.ended in {None, "returned"} or self._told(run) in {None, "ack"}:
                    continue
                seen = run.redelivered if run.attempt is None else run.attempt > self.plan.requeues
                assert self._told(run) == ("reject" if seen else "requeue"), f"{message}: {run}"
            for run in runs[:-1]:
                assert self._told(run) == "requeue" or self._is_lost(run), f"{message}: {runs}"
            if self.plan.queue_type == "quorum":
                attempts = [run.attempt or 0 for run in runs]
                assert attempts == sorted(set(attempts)), f"{message}: {attempts}"

    def spans_tell_the_truth(self) -> None:
        """Promise 5."""
        runs = {run.id: run for run in self.records.runs}
        several = Counter(span["run"] for span in self.records.spans).most_common(1)
        assert several[0][1] == 1, f"a span was exported twice: {several}"
        for span in self.records.spans:
            run = runs.get(span["run"])
            assert run is not None, f"a span of no run: {span}"
            assert run.ended, f"a span of a run that has not ended: {span} {run}"
            assert span["error"] == (run.ended != "returned"), f"{span} {run}"
            assert span["message"] == str(run.message), f"{span} {run}"
            assert span["trace"] == run.trace == trace_of(run.message), f"{span} {run}"
            assert span["parent"] == f"{1:016x}", span
            assert run.baggage == str(run.message), run
            assert span["type"] == _ERROR_TYPES[run.ended], f"{span} {run}"
        self._spans_are_missing_only_where_killed()

    def _spans_are_missing_only_where_killed(self) -> None:
        missing = self._without_span()
        assert {run.life for run in missing} <= self.records.killed, missing
        for life in self.records.killed:
            here = [run for run in missing if run.life == life]
            if self.plan.style == "callback":
                assert len(here) <= 1, here
                last = max((run for run in self.records.runs if run.life == life), key=_delivered)
                before = [run for run in self.records.runs if run.life == life and run.ended][-1:]
                assert here in ([], before), f"{here} is neither of {last}, {before}"
            if (
                self.plan.style != "mixed"
            ):  # there, what is acked by the handler makes room for more
                assert len(here) <= self.plan.prefetch, here

    def wire_agrees(self) -> None:
        """Promise 6."""
        runs = {(run.connection, run.tag): run for run in self.records.runs}
        for link in self.links.values():
            _expect_settled_once(link)
            for settled in link.settled:
                run = runs.get((link.name, settled.tag))
                if settled.multiple or run is None:  # pika gives back itself what nobody was shown
                    assert settled.multiple or settled.verdict == "requeue", (
                        f"{link.name}: {settled}"
                    )
                    continue
                assert run.ended, f"settled before it ended: {settled} {run}"
                assert run.ended_at <= settled.at, f"settled before it ended: {settled} {run}"
                assert (settled.verdict == "ack") == (run.ended == "returned"), f"{settled} {run}"
                told = self._told(run)
                missed = told is None and self._ended_by_fault(run)
                assert missed or told == settled.verdict, f"{settled} {run} {told}"

    def nothing_runs_on_a_lost_connection(self) -> None:
        """Promise 7."""
        if self.plan.style != "callback":
            return
        unsettled = Counter(
            run.connection
            for run in self.records.runs
            if run.id in self.spans and self._told(run) is None
        )
        assert all(self.links[name].cut for name in unsettled), unsettled
        assert all(number == 1 for number in unsettled.values()), unsettled

    # What is known of a run

    def _told(self, run: Run) -> str | None:
        """The verdict that its span tells."""
        return self.spans.get(run.id, {}).get("settlement")

    def _settled_by(self, run: Run) -> Settled | None:
        """The first settlement of its delivery on the wire, if the broker had it."""
        found = self.first[run.connection].get(run.tag) if run.connection in self.first else None
        return found if found is not None and found.forwarded else None

    def _is_refused(self, run: Run) -> bool:
        """Whether its message is to be dead-lettered."""
        if self.plan.style != "mixed":
            return run.ended != "returned"
        settled = self._settled_by(run)
        assert settled is not None, f"never settled, and yet the last run: {run}"
        return settled.verdict == "reject"

    def _ended_by_fault(self, run: Run) -> bool:
        link = self.links[run.connection]
        return link.cut or self._is_of_killed(link)

    def _is_of_killed(self, link: Link) -> bool:
        life, _, number = link.name.partition(".")
        later = f"{life}.{int(number) + 1}"
        return int(life) in self.records.killed and later not in self.links

    def _is_lost(self, run: Run) -> bool:
        ended = self._ended_by_fault(run) or self.plan.queue_type == "quorum"
        return ended and self._told(run) != "requeue"

    def _faults(self, runs: list[Run]) -> int:
        """How many requeues of these runs a fault may have undone."""
        return sum(self._ended_by_fault(run) for run in runs if self._told(run) == "requeue")

    def _without_span(self) -> list[Run]:
        return [run for run in self.records.runs if run.ended and run.id not in self.spans]


_ERROR_TYPES = {
    "returned": None,
    "raised": "FailureError",
    "failed": "declared",
    "status": "_OTHER",
    "disconnected": "LostError",
}


def _delivered(run: Run) -> tuple[int, int, int]:
    life, _, number = run.connection.partition(".")
    return int(life), int(number), run.tag


def _first_settlements(link: Link) -> dict[int, Settled]:
    """For each delivery, the first settlement that covers it."""
    first: dict[int, Settled] = {}
    upto = 0
    for settled in link.settled:
        tags: Any = range(upto + 1, settled.tag + 1) if settled.multiple else (settled.tag,)
        for tag in tags:
            first.setdefault(tag, settled)
        if settled.multiple:
            upto = max(upto, settled.tag)
    return first


def _expect_settled_once(link: Link) -> None:
    done: set[int] = set()
    upto = 0
    for settled in link.settled:
        again = settled.tag in done or settled.tag <= upto
        assert not again, f"settled twice on {link.name}: {settled}"
        done.add(settled.tag)
        if settled.multiple:
            upto = settled.tag
