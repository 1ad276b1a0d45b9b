"""Policies, as tables from how the handling went to what becomes of the message."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from hopspan import settlement
from hopspan.delivery import Delivery
from hopspan.model import SUCCESS, Outcome, PolicyError, Settlement, Verdict
from hopspan.settlement import Policy, as_policy
from tests.unit.support import delivery

ACK, REQUEUE, REJECT, LEAVE = Verdict.ACK, Verdict.REQUEUE, Verdict.REJECT, Verdict.LEAVE

FAILED = Outcome(failed=True, error=ValueError("bad"), error_type="ValueError")
FAILED_QUIETLY = Outcome(failed=True, error_type="invalid_order", description="no customer")
FAILED_SOMEHOW = Outcome(failed=True)
CONTROLLED = Outcome(error=ValueError("control flow"))

FIRST = delivery(attempt=1)
SECOND = delivery(attempt=2, redelivered=True)
THIRD = delivery(attempt=3, redelivered=True)
FOURTH = delivery(attempt=4, redelivered=True)
RETURNED = delivery(attempt=None, redelivered=True)
UNCOUNTED = delivery(attempt=None)
RETURNED_UNSEEN = delivery(attempt=1, redelivered=True)

VALUE = "failed: ValueError"
ORDER = "failed: invalid_order"

TABLE: list[tuple[Policy, Outcome, Delivery, Settlement]] = [
    (hopspan.manual, SUCCESS, FIRST, Settlement(LEAVE)),
    (hopspan.manual, FAILED, FIRST, Settlement(LEAVE)),
    (hopspan.ack_always, SUCCESS, FIRST, Settlement(ACK)),
    (hopspan.ack_always, FAILED, FOURTH, Settlement(ACK)),
    (hopspan.reject_on_error, SUCCESS, FIRST, Settlement(ACK)),
    (hopspan.reject_on_error, CONTROLLED, FIRST, Settlement(ACK)),
    (hopspan.reject_on_error, FAILED, FIRST, Settlement(REJECT, VALUE)),
    (hopspan.reject_on_error, FAILED_QUIETLY, FIRST, Settlement(REJECT, ORDER)),
    (hopspan.reject_on_error, FAILED_SOMEHOW, FIRST, Settlement(REJECT, "failed")),
    (hopspan.requeue_once, SUCCESS, RETURNED, Settlement(ACK)),
    (hopspan.requeue_once, CONTROLLED, SECOND, Settlement(ACK)),
    (hopspan.requeue_once, FAILED, FIRST, Settlement(REQUEUE, VALUE)),
    (hopspan.requeue_once, FAILED, UNCOUNTED, Settlement(REQUEUE, VALUE)),
    (hopspan.requeue_once, FAILED, RETURNED_UNSEEN, Settlement(REQUEUE, VALUE)),
    (
        hopspan.requeue_once,
        FAILED,
        SECOND,
        Settlement(REJECT, "failed after 1 requeue: ValueError"),
    ),
    (
        hopspan.requeue_once,
        FAILED,
        RETURNED,
        Settlement(REJECT, "failed after 1 requeue: ValueError"),
    ),
    (hopspan.requeue_once, FAILED_SOMEHOW, FIRST, Settlement(REQUEUE, "failed")),
    (
        hopspan.requeue_times(2),
        FAILED,
        THIRD,
        Settlement(REJECT, "failed after 2 requeues: ValueError"),
    ),
    (hopspan.requeue_times(3), SUCCESS, FOURTH, Settlement(ACK)),
    (hopspan.requeue_times(3), FAILED, FIRST, Settlement(REQUEUE, VALUE)),
    (hopspan.requeue_times(3), FAILED, THIRD, Settlement(REQUEUE, VALUE)),
    (
        hopspan.requeue_times(3),
        FAILED,
        FOURTH,
        Settlement(REJECT, "failed after 3 requeues: ValueError"),
    ),
    (hopspan.requeue_times(3), FAILED, UNCOUNTED, Settlement(REQUEUE, VALUE)),
    (
        hopspan.requeue_times(3),
        FAILED,
        RETURNED,
        Settlement(REJECT, "failed after 1 requeue: ValueError"),
    ),
    (hopspan.dead_letter("dlt", producer=None), SUCCESS, FIRST, Settlement(ACK)),
    (
        hopspan.dead_letter("dlt", producer="p"),
        FAILED,
        FIRST,
        Settlement(REJECT, VALUE, ("dlt", "p")),
    ),
]


@pytest.mark.parametrize(("policy", "outcome", "of", "decided"), TABLE)
def test_a_policy_decides(
    policy: Policy, outcome: Outcome, of: Delivery, decided: Settlement
) -> None:
    assert policy.decide(outcome, of) == decided


@pytest.mark.parametrize(
    ("policy", "verdicts", "settles"),
    [
        (hopspan.manual, {LEAVE}, False),
        (hopspan.ack_always, {ACK}, True),
        (hopspan.reject_on_error, {ACK, REJECT}, True),
        (hopspan.requeue_once, {ACK, REQUEUE, REJECT}, True),
        (hopspan.requeue_times(2), {ACK, REQUEUE, REJECT}, True),
        (hopspan.dead_letter("dlt", producer=None), {ACK, REJECT}, True),
        (Policy("all", lambda outcome, of: ACK), set(Verdict), True),
        (Policy("leaving", lambda outcome, of: LEAVE, [LEAVE]), {LEAVE}, False),
    ],
)
def test_a_policy_declares_its_verdicts(
    policy: Policy, verdicts: set[Verdict], settles: bool
) -> None:
    assert (policy.verdicts, policy.settles) == (verdicts, settles)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (hopspan.manual, "manual"),
        (hopspan.ack_always, "ack_always"),
        (hopspan.reject_on_error, "reject_on_error"),
        (hopspan.requeue_once, "requeue_once"),
        (hopspan.requeue_times(2), "requeue_times(2)"),
        (hopspan.dead_letter("dlt", producer=None), "dead_letter('dlt')"),
    ],
)
def test_a_policy_has_a_name_for_people(policy: Policy, name: str) -> None:
    assert (policy.name, repr(policy)) == (name, f"<policy {name}>")


def test_the_shipped_policies_without_arguments_can_be_named_in_settings() -> None:
    assert [policy.name for policy in settlement.SHIPPED] == [
        "manual",
        "ack_always",
        "reject_on_error",
        "requeue_once",
    ]


def test_a_dead_letter_policy_says_where_to() -> None:
    assert hopspan.dead_letter("dlt", producer="p").target == ("dlt", "p")


# -- requeue_times on a queue that does not count --------------------------------------------------


def test_a_queue_that_cannot_count_is_remarked_once(logged: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        hopspan.requeue_times(3).decide(FAILED, UNCOUNTED)
    assert [record.message for record in logged.records] == [
        "requeue_times(3) on orders: this queue does not count its deliveries, so a message is "
        "requeued once and then rejected. Use a quorum queue to have it counted"
    ]


def test_two_requeues_are_more_than_such_a_queue_can_count(
    logged: pytest.LogCaptureFixture,
) -> None:
    hopspan.requeue_times(2).decide(FAILED, UNCOUNTED)
    assert len(logged.records) == 1


@pytest.mark.parametrize(
    ("policy", "outcome", "of"),
    [
        (hopspan.requeue_times(3), SUCCESS, UNCOUNTED),
        (hopspan.requeue_times(3), FAILED, FIRST),
        (hopspan.requeue_times(1), FAILED, UNCOUNTED),
        (hopspan.requeue_once, FAILED, RETURNED),
    ],
)
def test_nothing_is_remarked_where_counting_makes_no_difference(
    policy: Policy, outcome: Outcome, of: Delivery, logged: pytest.LogCaptureFixture
) -> None:
    policy.decide(outcome, of)
    assert logged.records == []


@pytest.mark.parametrize("times", [0, -1, True, 1.5, "3", None])
def test_requeue_times_takes_a_positive_whole_number(times: Any) -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.requeue_times(times)
    assert str(raised.value) == (
        f"requeue_times({times!r}): how often to requeue must be a whole number of 1 or more"
    )


# -- what comes after the last requeue -------------------------------------------------------------

DEAD = hopspan.dead_letter("dlt", producer="p")


@pytest.mark.parametrize(
    ("then", "decided"),
    [
        (REJECT, Settlement(REJECT, "failed after 1 requeue: ValueError")),
        (ACK, Settlement(ACK, "failed after 1 requeue: ValueError")),
        (LEAVE, Settlement(LEAVE, "failed after 1 requeue: ValueError")),
        (DEAD, Settlement(REJECT, VALUE, ("dlt", "p"))),
        (hopspan.ack_always, Settlement(ACK)),
        (lambda outcome, of: LEAVE, Settlement(LEAVE)),
    ],
)
def test_after_the_last_requeue_comes_what_was_said(then: Any, decided: Settlement) -> None:
    policy = hopspan.requeue_times(1, then=then)
    assert policy.decide(FAILED, FIRST) == Settlement(REQUEUE, VALUE)
    assert policy.decide(FAILED, SECOND) == decided
    assert policy.decide(SUCCESS, SECOND) == Settlement(ACK)


@pytest.mark.parametrize(
    ("then", "verdicts", "target"),
    [
        (REJECT, {ACK, REQUEUE, REJECT}, None),
        (LEAVE, {ACK, REQUEUE, LEAVE}, None),
        (ACK, {ACK, REQUEUE}, None),
        (DEAD, {ACK, REQUEUE, REJECT}, ("dlt", "p")),
        (hopspan.manual, {ACK, REQUEUE, LEAVE}, None),
    ],
)
def test_what_comes_after_is_declared(then: Any, verdicts: set[Verdict], target: Any) -> None:
    policy = hopspan.requeue_times(2, then=then)
    assert (policy.verdicts, policy.target) == (verdicts, target)
    assert policy.name == "requeue_times(2)"


@pytest.mark.parametrize("then", ["reject", None, 3, Verdict])
def test_what_comes_after_is_a_verdict_or_a_policy(then: Any) -> None:
    with pytest.raises(PolicyError):
        hopspan.requeue_times(2, then=then)


@pytest.mark.parametrize(("pause", "pauses"), [(0, False), (0.0, False), (0.5, True), (3, True)])
def test_a_pause_is_for_requeues_alone(pause: float, pauses: bool) -> None:
    policy = hopspan.requeue_times(1, pause=pause)
    assert policy.pauses is pauses
    assert policy.decide(FAILED, FIRST) == Settlement(REQUEUE, VALUE, pause=pause)
    assert [policy.decide(*each).pause for each in ((FAILED, SECOND), (SUCCESS, FIRST))] == [0, 0]


def test_other_policies_do_not_pause() -> None:
    policies = (*settlement.SHIPPED, DEAD, Policy("mine", lambda *_: ACK))
    assert [policy.pauses for policy in policies] == [False] * len(policies)


@pytest.mark.parametrize("pause", [-1, -0.1, float("inf"), float("nan"), "1", None, True])
def test_a_pause_is_a_duration(pause: Any) -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.requeue_times(2, pause=pause)
    assert str(raised.value) == f"requeue_times(pause={pause!r}): a pause is a number of seconds"


# -- when to commit --------------------------------------------------------------------------------


def test_by_default_commits_are_asynchronous_and_a_second_apart() -> None:
    assert hopspan.Commits() == (None, 1.0, False)


@pytest.mark.parametrize(
    "commits",
    [
        hopspan.Commits(),
        hopspan.Commits(every=1, wait=True),
        hopspan.Commits(every=1_000, seconds=None),
        hopspan.Commits(seconds=0),
        hopspan.Commits(seconds=0.5),
    ],
)
def test_commits_that_can_be_are_themselves(commits: hopspan.Commits) -> None:
    assert commits.checked() is commits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({"every": every}, f"Commits(every={every!r}): a whole number of 1 or more, or None")
            for every in (0, -1, 1.5, True, "1")
        ),
        *(
            ({"seconds": seconds}, f"Commits(seconds={seconds!r}): a number of seconds, or None")
            for seconds in (-1, float("inf"), float("nan"), "1", False)
        ),
        ({"seconds": None}, "Commits(every=None, seconds=None): nothing would be committed"),
    ],
)
def test_commits_that_can_never_be_say_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.Commits(**fields).checked()
    assert str(raised.value) == message


# -- by_exception ----------------------------------------------------------------------------------


class TransientError(TimeoutError):
    pass


NEAREST = hopspan.by_exception(
    {
        Exception: REJECT,
        OSError: hopspan.requeue_times(2),
        TimeoutError: REQUEUE,
        KeyboardInterrupt: LEAVE,
    },
    default=hopspan.ack_always,
)


@pytest.mark.parametrize(
    ("outcome", "decided"),
    [
        (SUCCESS, Settlement(ACK)),
        (FAILED_QUIETLY, Settlement(ACK)),
        (Outcome(error=ValueError("control flow")), Settlement(ACK)),
        (Outcome(True, ValueError(), "ValueError"), Settlement(REJECT, VALUE)),
        (
            Outcome(True, TimeoutError(), "TimeoutError"),
            Settlement(REQUEUE, "failed: TimeoutError"),
        ),
        (
            Outcome(True, TransientError(), "t.Transient"),
            Settlement(REQUEUE, "failed: t.Transient"),
        ),
        (
            Outcome(True, ConnectionError(), "ConnectionError"),
            Settlement(REQUEUE, "failed: ConnectionError"),
        ),
        (Outcome(True, KeyboardInterrupt(), "K"), Settlement(LEAVE, "failed: K")),
        (Outcome(True, GeneratorExit(), "G"), Settlement(ACK)),
    ],
)
def test_by_exception_takes_the_nearest_class(outcome: Outcome, decided: Settlement) -> None:
    """The order in which they were written does not matter, their ancestry does."""
    assert NEAREST.decide(outcome, FIRST) == decided


def test_by_exception_asks_the_chosen_policy_about_the_delivery() -> None:
    outcome = Outcome(True, OSError(), "OSError")
    verdicts = [NEAREST.decide(outcome, of).verdict for of in (FIRST, SECOND, THIRD)]
    assert verdicts == [REQUEUE, REQUEUE, REJECT]


def test_by_exception_declares_what_any_of_its_choices_can_give() -> None:
    policy = hopspan.by_exception({ValueError: REJECT}, default=hopspan.manual)
    assert policy.verdicts == {REJECT, LEAVE}


def test_by_exception_takes_functions() -> None:
    policy = hopspan.by_exception({ValueError: lambda outcome, of: REQUEUE}, default=lambda *_: ACK)
    assert policy.decide(FAILED, FIRST) == Settlement(REQUEUE)


@pytest.mark.parametrize(
    ("choice", "default", "target"),
    [
        (REJECT, hopspan.manual, None),
        (hopspan.dead_letter("a", producer=1), hopspan.manual, ("a", 1)),
        (REJECT, hopspan.dead_letter("b", producer=2), ("b", 2)),
        (hopspan.dead_letter("a", producer=1), hopspan.dead_letter("b", producer=2), ("b", 2)),
    ],
)
def test_by_exception_has_the_target_of_a_choice(choice: Any, default: Policy, target: Any) -> None:
    """So that a client which needs a dead-letter topic finds it, and one which has none refuses."""
    assert hopspan.by_exception({ValueError: choice}, default=default).target == target


@pytest.mark.parametrize(
    ("choice", "default", "pauses"),
    [
        (REJECT, hopspan.manual, False),
        (hopspan.requeue_times(1, pause=1), hopspan.manual, True),
        (REJECT, hopspan.requeue_times(1, pause=1), True),
    ],
)
def test_by_exception_pauses_where_a_choice_does(
    choice: Any, default: Policy, pauses: bool
) -> None:
    """So that a client which cannot wait refuses it."""
    assert hopspan.by_exception({ValueError: choice}, default=default).pauses is pauses


@pytest.mark.parametrize("kind", ["ValueError", int, ValueError("an instance"), None])
def test_by_exception_refuses_what_is_no_exception_class(kind: Any) -> None:
    with pytest.raises(PolicyError) as raised:
        hopspan.by_exception({kind: REJECT}, default=hopspan.manual)
    assert str(raised.value) == f"by_exception: {kind!r} is no exception class"


@pytest.mark.parametrize(
    ("choice", "default"), [("reject", hopspan.manual), (REJECT, "manual"), (REJECT, None)]
)
def test_by_exception_refuses_what_is_no_policy(choice: Any, default: Any) -> None:
    with pytest.raises(PolicyError):
        hopspan.by_exception({ValueError: choice}, default=default)


# -- a user's own policy ---------------------------------------------------------------------------


def test_a_verdict_will_do_as_a_decision() -> None:
    assert Policy("mine", lambda outcome, of: REQUEUE).decide(FAILED, FIRST) == Settlement(REQUEUE)


def test_a_settlement_is_taken_as_it_is() -> None:
    decided = Settlement(REJECT, "because", "there")
    assert Policy("mine", lambda outcome, of: decided).decide(FAILED, FIRST) is decided


@pytest.mark.parametrize("decision", [None, "ack", True, LEAVE, Settlement(REJECT), (ACK, None)])
def test_an_undeclared_decision_is_an_error(decision: Any) -> None:
    policy = Policy("mine", lambda outcome, of: decision, [ACK, REQUEUE])
    with pytest.raises(PolicyError) as raised:
        policy.decide(FAILED, FIRST)
    assert str(raised.value) == (
        f"policy mine decided {decision!r}, which is none of its verdicts: ACK, REQUEUE"
    )


def decide_it(outcome: Outcome, of: Delivery) -> Verdict:
    return ACK


class Deciding:
    def __call__(self, outcome: Outcome, of: Delivery) -> Verdict:
        return REQUEUE

    def __repr__(self) -> str:
        return "<deciding>"


def test_a_policy_is_taken_as_it_is() -> None:
    assert as_policy(hopspan.manual) is hopspan.manual


@pytest.mark.parametrize(("given", "name"), [(decide_it, "decide_it"), (Deciding(), "<deciding>")])
def test_a_callable_is_a_policy_that_may_give_any_verdict(given: Any, name: str) -> None:
    policy = as_policy(given)
    assert (policy.name, policy.verdicts) == (name, set(Verdict))


@pytest.mark.parametrize("given", ["requeue_once", None, ACK, 3, Deciding, hopspan.Policy])
def test_what_cannot_decide_is_no_policy(given: Any) -> None:
    with pytest.raises(PolicyError) as raised:
        as_policy(given)
    assert str(raised.value) == (
        f"policy={given!r} is no policy: give one of hopspan's (hopspan.requeue_once, ...) or a "
        "function of (outcome, delivery) that returns a hopspan.Verdict"
    )


async def decide_later(outcome: Outcome, of: Delivery) -> Verdict:
    return ACK


def test_a_coroutine_function_is_no_policy() -> None:
    with pytest.raises(PolicyError) as raised:
        as_policy(decide_later)
    assert str(raised.value) == (
        "policy decide_later is a coroutine function; a policy decides without waiting"
    )


def test_a_factory_that_was_not_called_is_told_at_the_first_decision() -> None:
    """`policy=requeue_times` for `requeue_times(3)`: it cannot decide, and says so."""
    with pytest.raises(TypeError):
        as_policy(hopspan.requeue_times).decide(FAILED, FIRST)
