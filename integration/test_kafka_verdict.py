"""The verdict over a Kafka chaos can fail: for each promise, records that break it. No broker."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from integration.faults.kafka_commit_log import commit_of
from integration.faults.kafka_ledger import (
    Commit,
    DeadLetter,
    Plan,
    Records,
    Run,
    Sample,
    runs_of,
    trace_of,
)
from integration.faults.kafka_verdict import Report, Verdict

WALL = 1_000_000.0
"""How far the system's clock is ahead of the monotonic one."""
PLAN = Plan(records=3, seed=1, ways=("iterator default",), faults=("kill",), partitions=1)
PUBLISHED = {(0, 0): 0, (0, 1): 1, (0, 3): 2}  # with the gap that a transaction leaves


def ran(
    number: int, at: float, how: str | None = "returned", attempt: int = 1, life: int = 1
) -> Run:
    """A run of the record, which ends at `at`."""
    place = next(place for place, each in PUBLISHED.items() if each == number)
    name = f"{life}/{number}/{at}"
    return Run(
        (place,), life, name, trace_of(number), str(number), (attempt,), at - 0.5, how, at if how else 0.0
    )  # fmt: skip


def spanned(run: Run, /, **changes: Any) -> dict[str, Any]:
    """The process span that such a run should have."""
    span = {
        "run": run.id,
        "trace": run.trace,
        "parent": f"{1:016x}",
        "links": [run.trace],
        "error": run.how != "returned",
        "type": {"returned": None, "raised": "FailureError"}.get(run.how or ""),
        "at": run.ended_at + 0.1,
        "life": run.life,
    }
    return span | changes


def sampled(at: float, committed: int) -> Sample:
    return Sample(at, WALL + at, {0: committed})


def committed(at: float, offset: int) -> Commit:
    return Commit(0, offset, WALL + at)


def buried(at: float, **changes: Any) -> DeadLetter:
    """The copy of record 1, as it should be."""
    letter = DeadLetter(
        ("orders", 0, 1), b"1", b"1", trace_of(1), "FailureError", 3, "1", WALL + at
    )
    return letter._replace(**changes)


# Record 0 returns; record 1 fails three times and is dead-lettered; record 2 returns.
RUNS = [
    ran(0, 1.0),
    ran(1, 2.0, "raised", 1),
    ran(1, 3.0, "raised", 2),
    ran(1, 4.0, "raised", 3),
    ran(2, 6.0),
]
GOOD = Records(
    plan=PLAN,
    topic="orders",
    published=PUBLISHED,
    ways={1: "iterator default", 2: "iterator default"},
    runs=RUNS,
    spans=[spanned(run) for run in RUNS],
    samples=[sampled(0.5, 0), sampled(1.5, 1), sampled(5.5, 2), sampled(7.0, 4)],
    commits=[committed(1.2, 1), committed(5.0, 2), committed(6.5, 4)],
    dead=[buried(4.5)],
    killed=frozenset({2}),
    struck=("kill",),
    assignments=2,
    lost=0,
    troubles=[],
    seconds=7.0,
)


def condemned(**changes: Any) -> str:
    """What the verdict says of records that differ from good ones in this."""
    with pytest.raises(AssertionError) as caught:
        Verdict(GOOD._replace(**changes)).report()
    return str(caught.value).partition("\n")[0]


def with_run(run: Run) -> dict[str, Any]:
    """One run more, with its span."""
    return {"runs": [*RUNS, run], "spans": [*GOOD.spans, spanned(run)]}


def test_good_records_pass_and_are_counted() -> None:
    expected = Report(
        records=3, runs=5, duplicates=0, dead_lettered=1, copies=1, kills=1, faults=1,
        assignments=2, samples=4, commits=3, spans_missing=0, seconds=7.0,
    )  # fmt: skip

    assert expected == Verdict(GOOD).report()


def test_a_record_that_runs_again_is_a_duplicate() -> None:
    assert Verdict(GOOD._replace(**with_run(ran(0, 8.0)))).report().duplicates == 1


# Promise 1


def test_a_record_that_never_ran_is_lost() -> None:
    assert "1 records are lost: [((0, 3), [])]" == condemned(runs=RUNS[:-1], spans=GOOD.spans[:-1])


def test_a_record_whose_run_was_cut_off_is_lost() -> None:
    cut_off = RUNS[-1]._replace(how=None)

    assert "1 records are lost" in condemned(runs=[*RUNS[:-1], cut_off], spans=GOOD.spans[:-1])


def test_a_record_that_failed_and_has_no_copy_is_lost() -> None:
    assert "1 records are lost: [((0, 1)" in condemned(dead=[])


# Promise 2


def test_a_commit_before_the_run_has_ended_is_a_hole() -> None:
    samples = [*GOOD.samples[:3], sampled(5.9, 4), GOOD.samples[3]]

    assert "4 was committed: [((0, 3), 6.0" in condemned(samples=samples)


def test_a_commit_before_the_copy_is_there_is_a_hole() -> None:
    samples = [*GOOD.samples[:2], sampled(4.4, 2), *GOOD.samples[2:]]

    assert "2 was committed: [((0, 1), 4.5" in condemned(samples=samples)


def test_a_hole_is_seen_under_records_that_are_done() -> None:
    late = [RUNS[0]._replace(ended_at=6.9), *RUNS[1:]]

    assert "1 was committed: [((0, 0), 6.9" in condemned(runs=late)


def test_a_hole_that_no_sample_caught_is_in_the_log_of_commits() -> None:
    log = [committed(0.9, 1), *GOOD.commits[1:]]

    assert f"Commit(partition=0, offset=1, wall={WALL + 0.9})" in condemned(commits=log)


def test_nobody_having_looked_is_no_proof() -> None:
    assert "nobody looked" == condemned(samples=[])


# Promise 3


def test_a_sample_that_falls_is_seen() -> None:
    samples = [*GOOD.samples, sampled(8.0, 2)]

    assert condemned(samples=samples).startswith("committed Commit(partition=0, offset=4")


def test_a_commit_that_falls_is_seen() -> None:
    log = [*GOOD.commits, committed(8.0, 2)]

    assert condemned(commits=log).startswith("committed Commit(partition=0, offset=4")


# Promise 4


@pytest.mark.parametrize(
    "change",
    [
        {"origin": ("other", 0, 1)},
        {"origin": ("orders", 0, 2)},
        {"key": None},
        {"value": b"2"},
        {"kept": None},
        {"trace": trace_of(2)},
        {"error": "declared"},
        {"attempt": 2},
    ],
)
def test_a_copy_that_is_not_the_record_is_seen(change: dict[str, Any]) -> None:
    assert "DeadLetter(" in condemned(dead=[buried(4.5), buried(4.6, **change)])


def test_a_copy_of_a_record_that_had_attempts_left_is_seen() -> None:
    early = buried(1.1, origin=("orders", 0, 0), key=b"0", value=b"0", kept="0")

    assert "DeadLetter(" in condemned(dead=[early, *GOOD.dead])


def test_a_copy_too_many_is_seen() -> None:
    assert condemned(dead=[buried(4.5), buried(4.6)]).startswith("2 copies: ")


# Promise 5


def test_an_attempt_too_many_is_seen() -> None:
    assert "one attempt too many" in condemned(**with_run(ran(1, 8.0, "raised", 4)))


def test_attempts_that_nobody_counted_are_seen() -> None:
    uncounted = RUNS[0]._replace(attempts=(None,))

    assert "not counted" in condemned(runs=[uncounted, *RUNS[1:]])


# Promise 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"run": "another"}, "a span of no run"),
        ({"trace": trace_of(2)}, "'run': '1/0/1.0'"),
        ({"parent": None}, "'parent': None"),
        ({"error": True}, "'error': True"),
        ({"type": "_OTHER"}, "'type': '_OTHER'"),
    ],
)
def test_a_span_that_tells_something_else_is_seen(change: dict[str, Any], complaint: str) -> None:
    spans = [spanned(RUNS[0], **change), *GOOD.spans[1:]]

    assert complaint in condemned(spans=spans)


def test_another_trace_in_the_handler_is_seen() -> None:
    elsewhere = RUNS[0]._replace(trace=trace_of(2))

    assert "'run': '1/0/1.0'" in condemned(
        runs=[elsewhere, *RUNS[1:]], spans=[spanned(elsewhere), *GOOD.spans[1:]]
    )


def test_lost_baggage_is_seen() -> None:
    bare = RUNS[0]._replace(baggage=None)

    assert "baggage=None" in condemned(runs=[bare, *RUNS[1:]])


def test_a_span_exported_twice_is_seen() -> None:
    assert "exported twice" in condemned(spans=[*GOOD.spans, GOOD.spans[0]])


def test_a_missing_span_is_seen() -> None:
    assert condemned(spans=GOOD.spans[1:]).startswith("[Run(")


def test_a_kill_excuses_one_missing_span() -> None:
    last, before = ran(0, 8.0, life=2), ran(2, 7.0, life=2)

    assert Verdict(GOOD._replace(runs=[*RUNS, last])).report().spans_missing == 1
    assert condemned(runs=[*RUNS, before, last]).startswith("[Run(")


def test_a_batch_has_a_span_with_a_link_for_each_record() -> None:
    batch = Run(((0, 0), (0, 3)), 2, "batch", f"{99:032x}", None, (1, 1), 7.5, "returned", 8.0)
    ways = GOOD.ways | {2: "batch default"}
    both = [trace_of(2), trace_of(0)]
    good = GOOD._replace(
        ways=ways,
        runs=[*RUNS, batch],
        spans=[*GOOD.spans, spanned(batch, links=both, parent=None)],
    )

    assert Verdict(good).report().runs == 6
    assert "'run': 'batch'" in condemned(
        ways=ways, runs=[*RUNS, batch], spans=[*GOOD.spans, spanned(batch, links=both[:1])]
    )


def test_in_a_batch_each_record_has_its_own_attempts() -> None:
    batch = Run(((0, 0), (0, 1)), 2, "batch", trace_of(99), None, (1, 3), 7.5, "raised", 8.0)
    good = GOOD._replace(
        ways=GOOD.ways | {2: "batch default"},
        runs=[*RUNS, batch],
        spans=[*GOOD.spans, spanned(batch, links=[trace_of(0), trace_of(1)], parent=None)],
        dead=[*GOOD.dead, buried(8.5, trace=trace_of(99))],
    )
    other = buried(8.6, origin=("orders", 0, 0), key=b"0", value=b"0", kept="0", trace=trace_of(99))

    assert Verdict(good).report().copies == 2
    with pytest.raises(AssertionError, match="DeadLetter"):
        Verdict(good._replace(dead=[*good.dead, other])).report()


def test_work_in_a_pool_may_lose_its_span_with_its_partition() -> None:
    late = ran(0, 9.0, life=2)
    span = spanned(late, error=True, type="revoked", at=8.0)
    ways = GOOD.ways | {2: "deferred default"}
    good = GOOD._replace(ways=ways, runs=[*RUNS, late], spans=[*GOOD.spans, span])

    assert Verdict(good).report().spans_missing == 0
    assert "'error': True" in condemned(runs=[*RUNS, late], spans=[*GOOD.spans, span])


# Promise 7, and that something happened at all


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"troubles": ["commits stop below 4"]}, "['commits stop below 4']"),
        ({"struck": ()}, "these faults struck: ()"),
        ({"struck": ("kill", "stuck")}, "these faults struck: ('kill', 'stuck')"),
        ({"published": {(0, 0): 0, (0, 1): 1}}, "2 records were published"),
    ],
)
def test_troubles_and_faults_that_did_not_strike_are_seen(
    change: dict[str, Any], complaint: str
) -> None:
    assert complaint in condemned(**change)


def test_a_run_of_a_record_that_nobody_published_is_seen() -> None:
    stray = RUNS[0]._replace(places=((0, 2),), id="stray")

    assert "nobody published" in condemned(runs=[*RUNS, stray])


# What the verdict is given


def test_a_run_is_read_from_its_two_lines() -> None:
    start = {
        "what": "start", "at": 1.0, "run": "a", "trace": "t", "baggage": "7", "attempts": [2, 1],
        "places": [[0, 7], [1, 8]],
    }  # fmt: skip
    end = {"what": "end", "at": 2.0, "run": "a", "how": "raised"}
    places = ((0, 7), (1, 8))

    assert [Run(places, 3, "a", "t", "7", (2, 1), 1.0, "raised", 2.0)] == runs_of(3, [start, end])
    assert [Run(places, 3, "a", "t", "7", (2, 1), 1.0, None, 0.0)] == runs_of(3, [start])


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


KEY = struct.pack(">h", 1) + text("group") + text("orders") + struct.pack(">i", 5)


@pytest.mark.parametrize(
    "value",
    [
        struct.pack(">hq", 1, 42) + text("note") + struct.pack(">qq", 1500, 0),
        struct.pack(">hqi", 3, 42, -1) + text("note") + struct.pack(">q", 1500),
        struct.pack(">hqi", 4, 42, -1) + b"\x05note" + struct.pack(">q", 1500) + b"\x00",
    ],
)
def test_commits_of_each_version_are_read(value: bytes) -> None:
    assert Commit(5, 42, 1.5) == commit_of("group", KEY, value)
    assert commit_of("other", KEY, value) is None


def test_what_is_no_commit_is_left_out() -> None:
    assert commit_of("group", struct.pack(">h", 2) + text("group"), b"members") is None
    assert commit_of("group", KEY, None) is None


def test_a_commit_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(AssertionError, match="a commit of version 9"):
        commit_of("group", KEY, struct.pack(">hq", 9, 42))
