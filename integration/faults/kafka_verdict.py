"""Whether hopspan kept its promises on Kafka, judged from the records of a chaos.

**Words.** A *run* is one call of the handler, with one record or with a batch of them; it *returned*
or *failed* (raised, declared failed, or set the span's status), or was killed before it ended. A
record is *done* from the moment a run of it has returned, which is on the disk by then, or from the
moment the broker has taken its copy in the dead-letter topic. A *hole* is a published record below
the committed offset of its partition that was not done when the offset was committed.

**Promises.**

1. No record is lost: each is done.
2. There is no hole at any sample that the admin client took, nor in any commit that the broker
   wrote down.
3. Committed offsets never fall.
4. A record gets into the dead-letter topic only by the last attempt that the policy allows, once for
   each such run; the copy is the record, key, value and headers, in the record's own trace (a batch
   has a trace of its own), and says where it comes from, why it was refused and at which attempt.
5. No attempt is beyond those that the policy allows.
6. Each run that ended has one process span, which tells the same outcome, in its record's own trace
   and with its baggage, or, for a batch, in one trace with a link for each record. No other process
   span exists. For each SIGKILL one can be missing: the run that had ended last. With deferred work,
   those that were on their way from the pool's threads to the consumer's can be missing, and the
   span of a partition that was taken away may have ended before its run.
7. Neither hopspan nor a client complained.

Nothing is said of duplicates: at least once is the promise. The report counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import Any, NamedTuple

from integration.faults.kafka_ledger import (
    ERROR_TYPES,
    Commit,
    DeadLetter,
    Place,
    Records,
    Run,
    trace_of,
)

NEVER = float("inf")
BROKER_SECONDS = 0.002
"""How far the broker's clock, which counts milliseconds, can be behind ours."""
ON_THEIR_WAY = 20
"""How many runs of deferred work can have ended without their span, when their process dies."""


class Report(NamedTuple):
    """The figures of one go."""

    records: int
    runs: int
    duplicates: int
    """How often a record's run returned although the record was done."""
    dead_lettered: int
    copies: int
    """In the dead-letter topic: at least as many."""
    kills: int
    faults: int
    assignments: int
    samples: int
    commits: int
    spans_missing: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.records} records, {self.runs} runs, {self.duplicates} duplicates, "
            f"{self.dead_lettered} dead-lettered ({self.copies} copies), {self.faults} faults with "
            f"{self.kills} kills, {self.assignments} assignments, {self.samples} samples and "
            f"{self.commits} commits without a hole, {self.spans_missing} spans missing, "
            f"{self.seconds:.1f} s"
        )


class Verdict:
    """The records, put in order, and one method for each promise."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.plan = records.plan
        self.runs: dict[Place, list[Run]] = defaultdict(list)
        for run in sorted(records.runs, key=lambda run: run.started_at):
            for place in run.places:
                self.runs[place].append(run)
        self.skew = records.samples[0].wall - records.samples[0].at if records.samples else 0.0
        self.done = self._done()
        self.partitions = _by_partition(records.published, self.done)

    def report(self) -> Report:
        """Check everything; return the figures.

        Raises:
            AssertionError: a promise was broken; it says which, and by which record.
        """
        self.nothing_unexpected()
        self.none_is_lost()
        self.no_sample_shows_a_hole()
        self.no_commit_leaves_a_hole()
        self.commits_never_fall()
        self.dead_letters_are_the_last_attempts()
        self.attempts_are_bounded()
        self.spans_tell_the_truth()
        return Report(
            len(self.records.published),
            len(self.records.runs),
            self._duplicates(),
            len({letter.origin for letter in self.records.dead}),
            len(self.records.dead),
            len(self.records.killed),
            len(self.records.struck),
            self.records.assignments,
            len(self.records.samples),
            len(self.records.commits),
            len(self._without_span()),
            self.records.seconds,
        )

    def nothing_unexpected(self) -> None:
        """Promise 7; and what was planned has happened."""
        assert not self.records.troubles, self.records.troubles[:3]
        struck = self.records.struck
        assert sorted(self.plan.faults) == sorted(struck), f"these faults struck: {struck}"
        published = len(self.records.published)
        assert published == self.plan.records, f"{published} records were published"
        stray = [
            run for place, runs in self.runs.items() for run in runs if not self._is_ours(place)
        ]
        assert not stray, f"runs of records that nobody published: {stray[:3]}"

    def none_is_lost(self) -> None:
        """Promise 1."""
        lost = sorted(place for place in self.records.published if self.done[place] == NEVER)
        described = [(place, self.runs[place][-2:]) for place in lost[:3]]
        assert not lost, f"{len(lost)} records are lost: {described}"

    def no_sample_shows_a_hole(self) -> None:
        """Promise 2, for what the admin client saw."""
        assert self.records.samples, "nobody looked"
        for sample in self.records.samples:
            for partition, committed in sample.committed.items():
                holes = self._holes(partition, committed, sample.at)
                assert not holes, f"{committed} was committed: {holes}, {sample}"

    def no_commit_leaves_a_hole(self) -> None:
        """Promise 2, for what the broker wrote down."""
        for commit in self.records.commits:
            at = commit.wall - self.skew + BROKER_SECONDS
            holes = self._holes(commit.partition, commit.offset, at)
            assert not holes, f"{commit}: {holes}"

    def commits_never_fall(self) -> None:
        """Promise 3."""
        seen = [
            Commit(partition, offset, sample.wall)
            for sample in self.records.samples
            for partition, offset in sample.committed.items()
        ]
        for history in (seen, self.records.commits):
            last: dict[int, Commit] = {}
            for commit in history:
                before = last.get(commit.partition, commit)
                assert before.offset <= commit.offset, f"committed {before}, then {commit}"
                last[commit.partition] = commit

    def dead_letters_are_the_last_attempts(self) -> None:
        """Promise 4."""
        copies: Counter[Place] = Counter()
        for letter in self.records.dead:
            topic, *rest = letter.origin
            place = (rest[0], rest[1])
            assert topic == self.records.topic, letter
            assert self._is_ours(place), f"nobody published {letter}"
            self._expect_same(letter, self.records.published[place])
            self._expect_refused(letter, place)
            copies[place] += 1
        for place, count in copies.items():
            assert count <= len(self._last_attempts(place)), f"{count} copies: {self.runs[place]}"

    def attempts_are_bounded(self) -> None:
        """Promise 5."""
        for run in self.records.runs:
            for attempt in run.attempts:
                assert attempt is not None, f"not counted: {run}"
                assert 1 <= attempt <= self.plan.requeues + 1, f"one attempt too many: {run}"

    def spans_tell_the_truth(self) -> None:
        """Promise 6."""
        runs = {run.id: run for run in self.records.runs}
        several = Counter(span["run"] for span in self.records.spans).most_common(1)
        assert not several or several[0][1] == 1, f"a span was exported twice: {several}"
        for span in self.records.spans:
            run = runs.get(span["run"])
            assert run is not None, f"a span of no run: {span}"
            assert span["trace"] == run.trace, f"{span} {run}"
            if not self._was_taken_away(span, run):
                assert run.how, f"a span of a run that has not ended: {span} {run}"
                assert span["error"] == (run.how != "returned"), f"{span} {run}"
                assert span["type"] == ERROR_TYPES[run.how], f"{span} {run}"
            self._expect_related(span, run)
        self._spans_are_missing_only_where_killed()

    # What is known

    def _done(self) -> dict[Place, float]:
        """Since when each record is done."""
        done: dict[Place, float] = defaultdict(lambda: NEVER)
        for run in self.records.runs:
            if run.how == "returned":
                for place in run.places:
                    done[place] = min(done[place], run.ended_at)
        for letter in self.records.dead:
            place = letter.origin[1:]
            done[place] = min(done[place], letter.wall - self.skew)
        return done

    def _holes(self, partition: int, committed: int, at: float) -> list[Any]:
        """Records below a committed offset that were not done, with all their runs."""
        offsets, latest = self.partitions[partition]
        below = bisect_left(offsets, committed)
        if not below or latest[below - 1] <= at:
            return []
        places = [(partition, offset) for offset in offsets[:below]]
        holes = [place for place in places if self.done[place] > at]
        return [(place, self.done[place], self.runs[place]) for place in holes[:3]]

    def _is_ours(self, place: Place) -> bool:
        return place in self.records.published

    def _is_batch(self, run: Run) -> bool:
        return self.records.ways[run.life].startswith("batch")

    def _is_deferred(self, life: int) -> bool:
        return self.records.ways[life].startswith("deferred")

    def _duplicates(self) -> int:
        returned = Counter(
            place for run in self.records.runs if run.how == "returned" for place in run.places
        )
        return sum(count - 1 for count in returned.values())

    # Dead letters

    def _last_attempts(self, place: Place) -> list[Run]:
        last = self.plan.requeues + 1
        return [
            run
            for run in self.runs[place]
            if run.how not in {None, "returned"} and run.attempts[run.places.index(place)] == last
        ]

    def _expect_same(self, letter: DeadLetter, number: int) -> None:
        expected = (str(number).encode(), str(number).encode(), str(number))
        assert expected == (letter.key, letter.value, letter.kept), letter

    def _expect_refused(self, letter: DeadLetter, place: Place) -> None:
        assert letter.attempt == self.plan.requeues + 1, letter
        told = {(ERROR_TYPES[run.how or ""], run.trace) for run in self._last_attempts(place)}
        assert (letter.error, letter.trace) in told, f"{letter} {told}"

    # Spans

    def _expect_related(self, span: dict[str, Any], run: Run) -> None:
        numbers = [self.records.published[place] for place in run.places]
        if self._is_batch(run):
            assert sorted(span["links"]) == sorted(map(trace_of, numbers)), f"{span} {run}"
            return
        (number,) = numbers
        assert span["trace"] == trace_of(number), f"{span} {run}"
        assert span["parent"] == f"{1:016x}", span
        assert run.baggage == str(number), run

    def _was_taken_away(self, span: dict[str, Any], run: Run) -> bool:
        return self._is_deferred(run.life) and (not run.how or span["at"] < run.ended_at)

    def _without_span(self) -> list[Run]:
        told = {span["run"] for span in self.records.spans}
        return [
            run
            for run in self.records.runs
            if run.how and run.id not in told and not self.records.ways[run.life].startswith("bare")
        ]

    def _spans_are_missing_only_where_killed(self) -> None:
        missing = self._without_span()
        assert {run.life for run in missing} <= self.records.killed, missing[:3]
        for life, count in Counter(run.life for run in missing).items():
            assert count <= (ON_THEIR_WAY if self._is_deferred(life) else 1), missing[:3]


def _by_partition(
    published: dict[Place, int], done: dict[Place, float]
) -> dict[int, tuple[list[int], list[float]]]:
    """For each partition its offsets, and for each of them, since when all up to it are done."""
    offsets: dict[int, list[int]] = defaultdict(list)
    for partition, offset in sorted(published):
        offsets[partition].append(offset)
    return {
        partition: (known, list(accumulate((done[partition, each] for each in known), max)))
        for partition, known in offsets.items()
    }
