"""The commit frontier of a partition: never past an open record, whatever happens in between."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from opentelemetry.trace import SpanContext

from hopspan.offsets.frontier import Done, Frontier


class Record(NamedTuple):
    """What a frontier asks of a record; equal ones are still others."""

    offset: int


def records(*offsets: int) -> list[Record]:
    return [Record(offset) for offset in offsets]


def done(number: int) -> Done:
    return Done(number, False, SpanContext(1, number, is_remote=False))


def handed(*offsets: int, settles: bool = True) -> Frontier:
    """A partition of which these have been handed out."""
    frontier = Frontier()
    frontier.handed_out(records(*offsets), settles=settles)
    return frontier


def conclude(frontier: Frontier, *offsets: int) -> None:
    for offset in offsets:
        frontier.conclude(offset, None, None)


def handle(frontier: Frontier, *offsets: int) -> None:
    """Somebody is about these."""
    for offset in offsets:
        frontier.handling[offset] = []


# -- what may be committed -------------------------------------------------------------------------


def test_at_first_nobody_knows() -> None:
    frontier = Frontier()
    assert (frontier.frontier(), frontier.committable(), frontier.blocking_offset()) == (
        None,
        None,
        None,
    )
    assert (frontier.alive, frontier.counted_by_poll, frontier.is_dirty) == (True, set(), False)
    assert (frontier.epoch, frontier.position) == (-1, None)


@pytest.mark.parametrize(
    ("concluded", "at"),
    [
        ((), 10),
        ((10,), 11),
        ((11,), 10),
        ((11, 12), 10),
        ((11, 10), 12),
        ((12, 10), 11),
        ((10, 11, 12), 13),
        ((12, 11, 10), 13),
    ],
)
def test_it_is_the_lowest_record_that_is_open(concluded: tuple[int, ...], at: int) -> None:
    frontier = handed(10, 11, 12)
    conclude(frontier, *concluded)
    assert frontier.frontier() == at


@pytest.mark.parametrize(
    ("concluded", "at"), [((), 3), ((3,), 7), ((7,), 3), ((3, 7), 20), ((3, 7, 20), 21)]
)
def test_offsets_that_no_record_has_are_passed_over(concluded: tuple[int, ...], at: int) -> None:
    """Compaction and transactions leave gaps."""
    frontier = handed(3, 7, 20)
    conclude(frontier, *concluded)
    assert frontier.frontier() == at


def test_a_record_at_offset_0_is_one_like_any_other() -> None:
    frontier = handed(0, 1)
    conclude(frontier, 1)
    assert (frontier.frontier(), frontier.blocking_offset()) == (0, 0)
    conclude(frontier, 0)
    assert (frontier.frontier(), frontier.committable()) == (2, 2)


def test_later_records_join_the_open_ones() -> None:
    frontier = handed(10, 11)
    frontier.handed_out(records(12, 13), settles=True)
    conclude(frontier, 11, 12)
    assert frontier.frontier() == 10
    conclude(frontier, 10)
    assert frontier.frontier() == 13


@pytest.fixture
def two_unsettled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frontier, "MOST_UNSETTLED", 2)


@pytest.mark.usefixtures("two_unsettled")
def test_where_nobody_settles_the_oldest_are_forgotten() -> None:
    frontier = handed(10, settles=False)
    frontier.handed_out(records(11), settles=False)
    assert frontier.frontier() == 10
    frontier.handed_out(records(12), settles=False)
    assert frontier.frontier() == 12


@pytest.mark.usefixtures("two_unsettled")
def test_where_hopspan_settles_nothing_is_forgotten() -> None:
    frontier = handed(10, 11)
    frontier.handed_out(records(12), settles=True)
    assert frontier.frontier() == 10


@pytest.mark.usefixtures("two_unsettled")
def test_what_is_handled_is_kept_where_nobody_settles() -> None:
    frontier = handed(10, 11, settles=False)
    handle(frontier, 11)
    frontier.handed_out(records(12, 13), settles=False)
    assert frontier.frontier() == 11


@pytest.mark.usefixtures("two_unsettled")
def test_what_is_handled_and_concluded_is_not_kept_again() -> None:
    """A handling outlasts its conclusion by a moment."""
    frontier = handed(10, 11, 12, settles=False)
    handle(frontier, 10)
    conclude(frontier, 10)
    frontier.handed_out(records(13), settles=False)
    assert frontier.frontier() == 13


# -- what a poll has counted -----------------------------------------------------------------------


@pytest.fixture
def counted() -> Frontier:
    """Three records, which a poll has counted."""
    frontier = handed(10, 11, 12)
    frontier.counted_by_poll = {10, 11, 12}
    return frontier


def test_a_record_is_counted_until_it_is_done(counted: Frontier) -> None:
    conclude(counted, 11)
    assert counted.counted_by_poll == {10, 12}


def test_a_requeued_record_is_counted_again(counted: Frontier) -> None:
    """When it is handed out again, by whoever does that."""
    counted.requeue(11)
    assert counted.counted_by_poll == {10, 12}


def test_what_the_application_settled_is_forgotten(counted: Frontier) -> None:
    counted.settle_below(12)
    assert counted.counted_by_poll == {12}


def test_what_is_left_by_seeking_is_forgotten(counted: Frontier) -> None:
    handle(counted, 11)
    counted.on_seek(50)
    assert counted.counted_by_poll == {11}


# -- what is due -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("committed", "due"), [(None, 12), (0, 12), (11, 12), (12, None), (13, None)]
)
def test_due_is_what_is_further_than_the_last_commit(
    committed: int | None, due: int | None
) -> None:
    frontier = handed(10, 11, 12)
    conclude(frontier, 10, 11)
    frontier.committed = committed
    assert frontier.committable() == due


def test_where_the_first_record_was_read_from_is_no_progress() -> None:
    """A commit that says what the broker knows is not sent."""
    frontier = handed(10, 11)
    conclude(frontier, 11)
    assert (frontier.frontier(), frontier.committable()) == (10, None)


def test_a_conclusion_is_to_be_told() -> None:
    frontier = handed(10)
    assert frontier.is_dirty is False
    conclude(frontier, 10)
    assert frontier.is_dirty is True


@pytest.mark.parametrize(
    ("epochs", "highest"), [((None,), -1), ((0,), 0), ((4, None, 3), 4), ((3, 4), 4)]
)
def test_the_highest_epoch_is_told_with_it(epochs: tuple[int | None, ...], highest: int) -> None:
    """KIP-320: who starts from the commit is to notice a log that was cut."""
    frontier = handed(*range(len(epochs)))
    for offset, epoch in enumerate(epochs):
        frontier.conclude(offset, epoch, None)
    assert frontier.epoch == highest


# -- whose a record is -----------------------------------------------------------------------------


def test_only_the_very_record_is_held() -> None:
    (first,) = records(10)
    frontier = Frontier()
    frontier.handed_out([first], settles=True)
    assert (frontier.holds(first), frontier.holds(Record(10))) == (True, False)
    conclude(frontier, 10)
    assert frontier.holds(first) is False


def test_a_record_that_is_handed_out_again_takes_the_place_of_the_first() -> None:
    first, second = Record(10), Record(10)
    frontier = Frontier()
    frontier.handed_out([first], settles=True)
    frontier.handed_out([second], settles=True)
    assert (frontier.holds(first), frontier.holds(second)) == (False, True)


# -- records whose handing out was not seen --------------------------------------------------------


def test_where_no_handing_out_was_seen_what_is_handled_is_open() -> None:
    frontier = Frontier()
    frontier.infer(Record(10))
    assert (frontier.frontier(), frontier.position, frontier.committable()) == (10, 11, None)
    conclude(frontier, 10)
    assert (frontier.frontier(), frontier.committable()) == (11, 11)


def test_seeing_one_does_not_go_back() -> None:
    frontier = Frontier()
    frontier.infer(Record(12))
    frontier.infer(Record(5))
    assert (frontier.position, frontier.frontier()) == (13, 5)


@pytest.mark.parametrize("offset", [5, 10, 50])
def test_what_was_not_handed_out_does_not_count(offset: int) -> None:
    """It is done, or of a batch from before, and comes again."""
    frontier = handed(10, 11)
    conclude(frontier, 10)
    frontier.infer(Record(offset))
    assert (frontier.frontier(), frontier.position) == (11, 12)


def test_what_the_application_settled_is_not_open_again() -> None:
    frontier = Frontier()
    frontier.infer(Record(10))
    frontier.settle_below(12)
    frontier.infer(Record(11))
    conclude(frontier, 11)
    frontier.infer(Record(12))
    conclude(frontier, 12)
    assert (frontier.frontier(), frontier.committable()) == (13, 13)


# -- handing out again -----------------------------------------------------------------------------


def test_a_requeued_record_is_open_until_it_is_done() -> None:
    frontier = handed(10, 11)
    frontier.requeue(10)
    conclude(frontier, 11)
    assert (frontier.frontier(), frontier.committable()) == (10, None)
    frontier.handed_out(records(10, 11), settles=True)
    conclude(frontier, 10)
    assert frontier.frontier() == 11


def test_a_record_that_is_done_cannot_be_requeued() -> None:
    frontier = handed(10, 11)
    conclude(frontier, 10)
    frontier.requeue(10)
    assert frontier.frontier() == 11


def test_requeueing_keeps_the_record_itself() -> None:
    (first,) = records(10)
    frontier = Frontier()
    frontier.handed_out([first], settles=True)
    frontier.requeue(10)
    assert frontier.holds(first)


def test_attempts_are_counted_for_each_record() -> None:
    frontier = handed(10, 11)
    assert (frontier.attempt(10), frontier.attempt(11)) == (1, 1)
    frontier.requeue(10)
    frontier.requeue(10)
    assert (frontier.attempt(10), frontier.attempt(11)) == (3, 1)


def test_two_that_fail_at_the_same_attempt_are_one_attempt() -> None:
    frontier = handed(10)
    frontier.requeue(10, 1)
    frontier.requeue(10, 1)
    assert frontier.attempt(10) == 2
    frontier.requeue(10, 2)
    frontier.requeue(10, 1)
    assert frontier.attempt(10) == 3


def test_attempts_are_forgotten_when_a_record_is_done() -> None:
    frontier = handed(10)
    frontier.requeue(10)
    conclude(frontier, 10)
    assert frontier.attempt(10) == 1


# -- seeking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "at"), [(5, 5), (11, 11), (100, 100), (0, 0), (None, None)])
def test_what_was_not_begun_is_left_by_seeking(to: int | None, at: int | None) -> None:
    frontier = handed(10, 11, 12)
    frontier.on_seek(to)
    assert (frontier.position, frontier.frontier()) == (to, at)


@pytest.mark.parametrize(("to", "at"), [(5, 5), (100, 11), (None, None)])
def test_what_is_handled_stays_open_wherever_one_seeks(to: int | None, at: int | None) -> None:
    frontier = handed(10, 11, 12)
    handle(frontier, 11)
    frontier.on_seek(to)
    assert frontier.frontier() == at


def test_seeking_by_itself_is_nothing_to_commit() -> None:
    frontier = handed(10)
    conclude(frontier, 10)
    frontier.on_seek(50)
    assert frontier.committable() is None
    frontier.handed_out(records(50), settles=True)
    conclude(frontier, 50)
    assert frontier.committable() == 51


def test_what_is_handled_and_concluded_does_not_come_back_by_seeking() -> None:
    frontier = handed(10, 11)
    handle(frontier, 10)
    conclude(frontier, 10)
    frontier.on_seek(50)
    assert frontier.frontier() == 50


def test_seeking_begins_to_count_anew() -> None:
    frontier = handed(10)
    frontier.requeue(10)
    frontier.on_seek(10)
    assert frontier.attempt(10) == 1


def test_seeking_back_takes_commits_back_as_well() -> None:
    """What the application wants to read again is not done."""
    frontier = handed(10, 11)
    conclude(frontier, 10, 11)
    frontier.committed = 12
    frontier.on_seek(5)
    frontier.handed_out(records(5, 6), settles=True)
    conclude(frontier, 5)
    assert frontier.committable() == 6


@pytest.mark.parametrize(("to", "below"), [(5, 5), (12, 12), (13, 12), (None, 0)])
def test_seeking_back_opens_what_the_application_had_settled(to: int | None, below: int) -> None:
    frontier = handed(10, 11, 12)
    frontier.settle_below(12)
    frontier.on_seek(to)
    assert frontier.settled_below == below


# -- the application's own commits -----------------------------------------------------------------


def test_a_commit_settles_what_lies_below_it() -> None:
    frontier = handed(10, 11, 12)
    frontier.settle_below(12)
    assert (frontier.frontier(), frontier.committed, frontier.settled_below) == (12, 12, 12)
    assert frontier.committable() is None


def test_a_commit_below_everything_settles_nothing() -> None:
    frontier = handed(10, 11)
    frontier.settle_below(10)
    assert frontier.frontier() == 10


def test_a_commit_ends_the_attempts_below_it() -> None:
    frontier = handed(10, 11)
    for offset in (10, 11):
        frontier.requeue(offset)
    frontier.settle_below(11)
    assert (frontier.attempt(10), frontier.attempt(11)) == (1, 2)


def test_a_commit_covers_what_was_not_told_yet() -> None:
    frontier = handed(10, 11, 12)
    for offset in (10, 11, 12):
        frontier.conclude(offset, None, done(offset))
    assert frontier.settle_below(12) == [done(10), done(11)]
    assert frontier.take_done(100) == [done(12)]


@pytest.mark.parametrize(("offset", "is_dirty"), [(11, True), (12, False), (13, False)])
def test_a_commit_that_covers_everything_leaves_nothing_to_tell(
    offset: int, is_dirty: bool
) -> None:
    frontier = handed(10, 11, 12)
    for each in (10, 11):
        frontier.conclude(each, None, done(each))
    frontier.settle_below(offset)
    assert frontier.is_dirty is is_dirty


def test_what_is_handed_out_again_is_not_settled_any_more() -> None:
    frontier = handed(10, 11)
    frontier.settle_below(12)
    frontier.handed_out(records(10, 11), settles=True)
    assert (frontier.settled_below, frontier.frontier()) == (10, 10)
    frontier.handed_out(records(12), settles=True)
    assert frontier.settled_below == 10


class Handled:
    """A handling that notes what it is told."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.is_committed = False

    def revoke(self, reason: str) -> None: ...

    def committed(self) -> None:
        self.is_committed = True

    def as_done(self) -> Done:
        return done(self.offset)


def test_those_that_are_handled_below_a_commit_are_told_and_covered() -> None:
    frontier = handed(9, 10, 11, 12)
    frontier.conclude(9, None, done(9))
    first, second, third, beyond = Handled(10), Handled(10), Handled(11), Handled(12)
    frontier.handling = {10: [first, second], 11: third, 12: beyond}
    assert frontier.committed_below(12) == [done(9), done(10), done(10), done(11)]
    told = [each.is_committed for each in (first, second, third, beyond)]
    assert told == [True, True, True, False]
    assert frontier.frontier() == 12


# -- what is left open -----------------------------------------------------------------------------


def left(*offsets: int) -> Frontier:
    """A partition of which these are open still though their handling is over."""
    frontier = handed(*offsets)
    for offset in offsets:
        frontier.handling[offset] = each = Handled(offset)
        frontier.leave(each, f"turn {offset}")
    return frontier


def test_a_turn_that_leaves_its_record_open_is_kept_until_that_is_done() -> None:
    frontier = left(10, 11, 12, 13)
    assert frontier.left == {each: f"turn {each}" for each in (10, 11, 12, 13)}
    conclude(frontier, 10)
    frontier.settle_below(12)
    assert frontier.left == {12: "turn 12", 13: "turn 13"}
    frontier.requeue(12)
    assert frontier.left == {13: "turn 13"}
    frontier.on_seek(50)
    assert frontier.left == {}


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_record_that_is_handed_out_again_has_had_no_turn(one_by_one: bool) -> None:
    """It is another delivery, also where nobody has asked for it: what lies before it was."""
    frontier = left(10, 11, 12)
    if one_by_one:
        for each in records(10, 11):
            frontier.handed_out_one(each, settles=True)
    else:
        frontier.handed_out(records(10, 11), settles=True)
    assert frontier.left == {12: "turn 12"}


def test_of_a_record_that_is_done_nothing_is_kept() -> None:
    frontier = handed(10)
    frontier.handling[10] = each = Handled(10)
    conclude(frontier, 10)
    frontier.leave(each, "turn")
    assert frontier.left == {}


def test_the_newest_turns_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frontier, "MOST_LEFT", 4)
    assert [*left(*range(9)).left] == [6, 7, 8]


def test_what_was_handled_or_polled_before_is_counted_already() -> None:
    frontier = left(10, 11)
    frontier.handed_out(records(12, 13), settles=True)
    assert frontier.count_counted(records(10, 11, 12, 13)) == 2
    frontier.counted_by_poll = {11, 12}
    assert frontier.count_counted(records(10, 11, 12, 13)) == 3
    assert handed(10).count_counted(records(10)) == 0


@pytest.mark.parametrize("offsets", [(10, 11), (10, 20), (10, 10), (10, 5)])
def test_one_at_a_time_is_like_all_at_once(offsets: tuple[int, ...]) -> None:
    together, single = handed(7), handed(7)
    for frontier in (together, single):
        frontier.settle_below(6)
    for each in records(*offsets):
        together.handed_out([each], settles=True)
        single.handed_out_one(each, settles=True)
    for name in ("position", "committed", "settled_below", "is_guess"):
        assert getattr(single, name) == getattr(together, name)
    assert (single.frontier(), single.is_open(10)) == (together.frontier(), True)


# -- what commits cover ----------------------------------------------------------------------------


def test_what_a_commit_covers_is_told_once() -> None:
    frontier = handed(10, 11, 12)
    for offset in (11, 10, 12):
        frontier.conclude(offset, None, done(offset))
    assert frontier.take_done(12) == [done(11), done(10)]
    assert frontier.take_done(12) == []
    assert frontier.take_done(13) == [done(12)]


def test_what_a_failed_commit_covered_is_told_by_the_next() -> None:
    """In the order in which it was done, and once."""
    frontier = handed(10, 11, 12)
    for offset in (10, 11):
        frontier.conclude(offset, None, done(offset))
    covered = frontier.take_done(12)
    frontier.is_dirty = False
    frontier.conclude(12, None, done(12))
    frontier.is_dirty = False
    frontier.give_back(covered)
    assert frontier.is_dirty is True
    assert frontier.take_done(13) == [done(10), done(11), done(12)]


def test_of_what_is_given_back_the_newest_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Frontier, "MOST_DONE", 2)
    frontier = handed(12)
    frontier.conclude(12, None, done(12))
    frontier.give_back([done(10), done(11)])
    assert frontier.take_done(13) == [done(11), done(12)]


def test_a_record_nobody_wants_to_tell_of_is_done_all_the_same() -> None:
    frontier = handed(10)
    conclude(frontier, 10)
    assert (frontier.frontier(), frontier.take_done(11)) == (11, [])


def test_of_what_is_done_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frontier, "MOST_DONE", 2)
    frontier = handed(10, 11, 12)
    for offset in (10, 11, 12):
        frontier.conclude(offset, None, done(offset))
    assert frontier.take_done(100) == [done(11), done(12)]


# -- more than can be kept apart -------------------------------------------------------------------


@pytest.fixture
def two_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frontier, "MOST", 2)


@pytest.mark.usefixtures("two_at_most")
@pytest.mark.parametrize("first", [0, 10])
def test_commits_stop_below_what_cannot_be_kept_apart(first: int) -> None:
    frontier = handed(*range(first, first + 4))
    assert (frontier.frontier(), frontier.position) == (first, first + 4)
    conclude(frontier, first + 1)
    assert frontier.frontier() == first
    conclude(frontier, first)
    assert frontier.frontier() == first + 2
    conclude(frontier, first + 2, first + 3)
    assert frontier.frontier() == first + 2


@pytest.mark.usefixtures("two_at_most")
def test_they_stop_below_the_first_of_these() -> None:
    frontier = handed(10, 11, 12)
    frontier.handed_out(records(13, 14), settles=True)
    conclude(frontier, 10, 11)
    assert frontier.frontier() == 12


@pytest.mark.usefixtures("two_at_most")
def test_they_stop_lower_for_what_is_handed_out_again() -> None:
    frontier = handed(10, 11, 12)
    frontier.handed_out(records(5), settles=True)
    conclude(frontier, 10, 11)
    assert frontier.frontier() == 5


@pytest.mark.usefixtures("two_at_most")
def test_what_can_be_kept_again_goes_on_below_it() -> None:
    frontier = handed(10, 11, 12)
    conclude(frontier, 10, 11)
    frontier.handed_out(records(13), settles=True)
    conclude(frontier, 13)
    assert frontier.frontier() == 12


@pytest.mark.usefixtures("two_at_most")
@pytest.mark.parametrize("below", [12, 13, 14])
def test_a_commit_past_them_lifts_it_and_no_further(below: int) -> None:
    """What is handed out, not kept and not below the commit is still open."""
    frontier = handed(10, 11, 12, 13)
    frontier.settle_below(below)
    assert frontier.frontier() == below


@pytest.mark.usefixtures("two_at_most")
def test_a_commit_past_everything_frees_it() -> None:
    frontier = handed(10, 11, 12, 13)
    frontier.settle_below(14)
    frontier.handed_out(records(14), settles=True)
    conclude(frontier, 14)
    assert frontier.frontier() == 15


@pytest.mark.usefixtures("two_at_most")
def test_a_record_that_is_kept_can_be_handed_out_again() -> None:
    frontier = handed(10, 11)
    frontier.requeue(10)
    frontier.handed_out(records(10, 11), settles=True)
    conclude(frontier, 10, 11)
    assert frontier.frontier() == 12


@pytest.mark.usefixtures("two_at_most")
def test_seeking_frees_it() -> None:
    frontier = handed(10, 11, 12)
    frontier.on_seek(10)
    frontier.handed_out(records(10), settles=True)
    conclude(frontier, 10)
    assert frontier.frontier() == 11


@pytest.mark.usefixtures("two_at_most")
@pytest.mark.parametrize(
    ("counted", "left"), [({1, 2}, {1, 2}), ({1, 2, 10}, {10}), ({1, 2, 3}, set())]
)
def test_what_was_counted_and_never_handled_is_forgotten(counted: set[int], left: set[int]) -> None:
    frontier = Frontier()
    frontier.counted_by_poll = counted
    frontier.handed_out(records(10, 11), settles=False)
    assert frontier.counted_by_poll == left


# -- what holds commits back -----------------------------------------------------------------------


def test_an_open_record_that_nobody_handles_holds() -> None:
    frontier = handed(10, 11)
    conclude(frontier, 11)
    assert frontier.blocking_offset() == 10


def test_a_record_that_is_handled_is_not_forgotten() -> None:
    frontier = handed(10, 11)
    handle(frontier, 10)
    assert frontier.blocking_offset() is None


def test_a_record_that_comes_again_is_not_forgotten() -> None:
    frontier = handed(10, 11)
    frontier.requeue(10)
    assert frontier.blocking_offset() is None


def test_where_everything_is_done_nothing_holds() -> None:
    frontier = handed(10)
    conclude(frontier, 10)
    assert frontier.blocking_offset() is None
