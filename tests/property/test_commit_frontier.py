"""Whatever happens to a partition, and in whatever order: no commit goes past an open record.

The model keeps the application's side of it: which records it has in hands and has not concluded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hopspan.offsets.frontier import Frontier

GAPS = st.lists(st.sampled_from([1, 1, 1, 2, 5]), min_size=1, max_size=4)
"""From each record to the next: transactions and compaction leave holes."""
CHOICE = st.integers(min_value=0, max_value=1_000)


class Record(NamedTuple):
    offset: int


class Small(Frontier):
    """One that cannot keep much apart."""

    __slots__ = ()
    MOST = 8


class Partition(RuleBasedStateMachine):
    """One partition, its records handed out, handled, concluded, sought and committed."""

    def __init__(self) -> None:
        super().__init__()
        self.frontier: Frontier = Small()
        self.next: int | None = None
        """What the client hands out next."""
        self.owed: set[int] = set()
        """In the application's hands, and not concluded."""
        self.handled: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.settled = 0
        """Below which the application has committed."""
        self.told: int | None = None
        """What the broker knows."""
        self.is_known = False
        """Whether the frontier can know what comes next."""
        self.is_exact = True
        """Whether there were never more open records than can be kept apart."""

    def chosen(self, among: set[int], choice: int) -> int:
        return sorted(among)[choice % len(among)]

    @initialize(at=st.integers(min_value=0, max_value=3))
    def begins(self, at: int) -> None:
        self.next = at

    # -- handing out -------------------------------------------------------------------------------

    @rule(gaps=GAPS)
    def poll(self, gaps: list[int]) -> None:
        at = self.next if self.next is not None else 20
        offsets = [at + sum(gaps[:number]) for number in range(len(gaps))]
        self.frontier.handed_out([Record(each) for each in offsets], settles=True)
        if self.told is None:
            self.told = offsets[0]
        self.settled = min(self.settled, offsets[0])
        self.owed |= set(offsets)
        self.next, self.is_known = offsets[-1] + 1, True
        self.is_exact = self.is_exact and len(self.owed) <= Small.MOST

    @rule(offset=st.integers(min_value=0, max_value=30))
    def see(self, offset: int) -> None:
        """A record is handled: it counts only where no handing out was seen at all."""
        counts = self.frontier.is_guess and offset >= self.settled
        self.frontier.infer(Record(offset))
        if counts:
            self.told = offset if self.told is None else self.told
            self.owed.add(offset)
            self.next = max(self.next or 0, offset + 1) if self.is_known else offset + 1
            self.is_known = True
            self.is_exact = self.is_exact and len(self.owed) <= Small.MOST

    # -- handling ----------------------------------------------------------------------------------

    @precondition(lambda self: self.owed and self.is_exact)
    @rule(choice=CHOICE)
    def begin(self, choice: int) -> None:
        offset = self.chosen(self.owed, choice)
        self.see(offset)
        self.frontier.handling[offset] = []
        self.handled.add(offset)

    @precondition(lambda self: self.handled)
    @rule(choice=CHOICE)
    def end(self, choice: int) -> None:
        """Without a conclusion: the record is left."""
        offset = self.chosen(self.handled, choice)
        self.handled.discard(offset)
        del self.frontier.handling[offset]

    @precondition(lambda self: self.owed)
    @rule(choice=CHOICE)
    def conclude(self, choice: int) -> None:
        offset = self.chosen(self.owed, choice)
        self.frontier.conclude(offset, None, None)
        self.owed.discard(offset)
        self.attempts.pop(offset, None)

    @precondition(lambda self: self.owed and self.is_known)
    @rule(choice=CHOICE)
    def requeue(self, choice: int) -> None:
        """The consumer goes back to it, and hands out again what comes after it."""
        offset = self.chosen(self.owed, choice)
        self.frontier.requeue(offset)
        self.attempts[offset] = self.attempts.get(offset, 0) + 1
        assert self.next is not None
        self.next = self.frontier.position = min(self.next, offset)

    # -- what the application does by itself -------------------------------------------------------

    @rule(offset=st.none() | st.integers(min_value=0, max_value=30))
    def seek(self, offset: int | None) -> None:
        self.frontier.on_seek(offset)
        self.owed &= self.handled
        self.attempts.clear()
        self.settled = 0 if offset is None else min(self.settled, offset)
        self.next = self.told = offset
        self.is_known, self.is_exact = offset is not None, True

    @precondition(lambda self: self.next and self.is_known)
    @rule(choice=CHOICE)
    def commit_oneself(self, choice: int) -> None:
        assert self.next is not None
        offset = choice % (self.next + 1)
        self.frontier.settle_below(offset)
        self.attempts = {each: n for each, n in self.attempts.items() if each >= offset}
        self.owed = {each for each in self.owed if each >= offset}
        self.settled = self.told = offset

    @rule()
    def commit(self) -> None:
        offset = self.frontier.committable()
        if offset is not None:
            assert all(offset <= each for each in self.owed)
            assert self.told is None or offset > self.told
            self.frontier.committed = self.told = offset

    # -- always ------------------------------------------------------------------------------------

    @invariant()
    def it_is_never_past_an_open_record(self) -> None:
        at = self.frontier.frontier()
        assert at is None or not self.owed or at <= min(self.owed)

    @invariant()
    def it_is_never_past_what_comes_next(self) -> None:
        at = self.frontier.frontier()
        if not self.owed and at is not None:
            assert self.next is not None
            assert at <= self.next

    @invariant()
    def it_goes_as_far_as_it_may(self) -> None:
        """Or nothing would ever be committed."""
        if self.is_known and self.is_exact:
            assert self.frontier.frontier() == min({self.next, *self.owed})

    @invariant()
    def attempts_are_counted(self) -> None:
        found = {each: self.frontier.attempt(each) - 1 for each in self.owed}
        assert found == {each: self.attempts.get(each, 0) for each in self.owed}

    @invariant()
    def what_holds_it_is_an_open_record_that_nobody_is_about(self) -> None:
        held = self.frontier.blocking_offset()
        assert held is None or held in self.owed - self.handled - set(self.attempts)


TestPartition: Any = Partition.TestCase
TestPartition.settings = settings(
    deadline=None,
    max_examples=150,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
