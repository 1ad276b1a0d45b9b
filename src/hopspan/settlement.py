"""Settlement policies: from how the handling went to what becomes of the message.

A policy only decides; performing the verdict is the adapter's work, and when to ask is the core's.
A policy declares the verdicts it can give, so that one that cannot work on a client or a consumer
is refused before the first message.

Rules of this module: pure functions of `(Outcome, Delivery)`; no client, no span, no I/O.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hopspan import faults
from hopspan.model import PolicyError, Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hopspan.model import Outcome

    Decision = Callable[[Outcome, Any], "Settlement | Verdict"]
    """From an outcome and a `hopspan.Delivery` to what becomes of the message."""

ALL_VERDICTS = frozenset(Verdict)


class Policy:
    """A named decision with the verdicts it can give.

    Your own policy is any function of `(outcome, delivery)` that returns a `Verdict` or a
    `Settlement`; wrap it in `Policy` to declare fewer verdicts than all, which lets hopspan refuse
    it only where it really cannot work::

        ack_or_leave = Policy("ack_or_leave", decide, verdicts={Verdict.ACK, Verdict.LEAVE})

    Immutable, and shared by every thread and task: `decide` must be safe to call concurrently. It
    runs on the message path, once per handled delivery.
    """

    __slots__ = ("decision", "name", "pauses", "settles", "success", "target", "verdicts")

    def __init__(
        self,
        name: str,
        decide: Decision,
        verdicts: Iterable[Verdict] = ALL_VERDICTS,
        target: Any = None,
        *,
        pauses: bool = False,
        success: Settlement | None = None,
    ) -> None:
        self.name: str = name
        self.verdicts: frozenset[Verdict] = frozenset(verdicts)
        self.settles: bool = bool(self.verdicts - {Verdict.LEAVE})
        self.target: Any = target
        """Where it dead-letters to, where the broker does not do that by itself."""
        self.pauses: bool = pauses
        """Whether it wants a pause before a message is handed out again."""
        self.success: Settlement | None = success
        """The settlement of every success, where that is known without asking; else None."""
        self.decision: Decision = decide
        """The function itself, without the check of what it returns."""

    def decide(self, outcome: Outcome, delivery: Any) -> Settlement:
        """The settlement of one delivery.

        Raises:
            PolicyError: the decision was no verdict, or one that the policy did not declare.
        """
        decision: object = self.decision(outcome, delivery)
        settlement = Settlement(decision) if isinstance(decision, Verdict) else decision
        if not isinstance(settlement, Settlement) or settlement.verdict not in self.verdicts:
            declared = ", ".join(sorted(verdict.name for verdict in self.verdicts))
            raise PolicyError(
                f"policy {self.name} decided {decision!r}, which is none of its verdicts: "
                f"{declared}"
            )
        return settlement

    def __repr__(self) -> str:
        return f"<policy {self.name}>"


if TYPE_CHECKING:
    PolicyLike = Policy | Decision


def as_policy(policy: object) -> Policy:
    """A policy as given, or a user's function made into one that may give any verdict.

    Raises:
        PolicyError: it is neither.
    """
    if isinstance(policy, Policy):
        return policy
    if not callable(policy) or isinstance(policy, type):
        raise PolicyError(
            f"policy={policy!r} is no policy: give one of hopspan's (hopspan.requeue_once, ...) or "
            "a function of (outcome, delivery) that returns a hopspan.Verdict"
        )
    name = getattr(policy, "__name__", repr(policy))
    if inspect.iscoroutinefunction(policy):
        raise PolicyError(
            f"policy {name} is a coroutine function; a policy decides without waiting"
        )
    return Policy(name, cast("Decision", policy))


_ACKED = Settlement(Verdict.ACK)
_LEFT = Settlement(Verdict.LEAVE)


def _because(verdict: Verdict, outcome: Outcome, why: str = "failed") -> Settlement:
    return Settlement(verdict, f"{why}: {outcome.error_type}" if outcome.error_type else why)


def _always(settlement: Settlement) -> Decision:
    return lambda outcome, delivery: settlement  # noqa: ARG005


def _reject_on_error(outcome: Outcome, delivery: Any) -> Settlement:  # noqa: ARG001
    return _because(Verdict.REJECT, outcome) if outcome.failed else _ACKED


manual: Policy = Policy("manual", _always(_LEFT), {Verdict.LEAVE})
"""hopspan settles nothing: the handler does, as without hopspan. The default on every face."""

ack_always: Policy = Policy("ack_always", _always(_ACKED), {Verdict.ACK}, success=_ACKED)
"""Ack whatever happened. For messages that are not worth a second try. (A cancelled handler's
message is requeued all the same: it was not handled.)"""

reject_on_error: Policy = Policy(
    "reject_on_error", _reject_on_error, {Verdict.ACK, Verdict.REJECT}, success=_ACKED
)
"""Ack on success, reject on failure: dead-lettered where the queue has a dead-letter exchange,
dropped where it has none."""


def _seen_before(delivery: Any, times: int) -> bool:
    if delivery.attempt is not None:
        return bool(delivery.attempt > times)
    return bool(delivery.redelivered)


def _is_positive(times: object) -> bool:
    return isinstance(times, int) and not isinstance(times, bool) and times >= 1


def _is_duration(seconds: object) -> bool:
    return (
        isinstance(seconds, int | float)
        and not isinstance(seconds, bool)
        and 0 <= seconds < float("inf")
    )


def requeue_times(
    times: int, *, then: Verdict | PolicyLike = Verdict.REJECT, pause: float = 0.0
) -> Policy:
    """Ack on success; on failure requeue up to `times` times, then reject.

    Needs somebody who counts: a RabbitMQ quorum queue does (`x-delivery-count`), and on Kafka
    hopspan does, for as long as this process has the partition. A classic queue only says
    *redelivered*, so there the policy behaves as `requeue_once` and says so once in the log. Where
    an application republishes messages from a quorum queue to a classic one, it has to leave out
    the count: there it never changes, and cannot be told from a real one.

    Kafka cannot reject by itself, so there `then` says where to::

        requeue_times(3, then=dead_letter("orders.dead", producer=producer), pause=0.5)

    Args:
        times: How often a message is given back; 1 or more.
        then: What becomes of it afterwards: a verdict, or a policy that is asked for one.
        pause: Seconds before it is handed out again. Only where the client can wait: on Kafka,
            where the partition is paused and the consumer stays in its group.

    Raises:
        PolicyError: `times` is no positive whole number, `pause` no duration, or `then` neither
            verdict nor policy.
    """
    if not _is_positive(times):
        message = (
            f"requeue_times({times!r}): how often to requeue must be a whole number of 1 or more"
        )
        raise PolicyError(message)
    if not _is_duration(pause):
        raise PolicyError(f"requeue_times(pause={pause!r}): a pause is a number of seconds")
    last = then if isinstance(then, Verdict) else as_policy(then)

    def decide(outcome: Outcome, delivery: Any) -> Settlement:
        if not outcome.failed:
            return _ACKED
        if delivery.attempt is None and times > 1:
            faults.once(
                "requeue_times(%s) on %s: this queue does not count its deliveries, so a message "
                "is requeued once and then rejected. Use a quorum queue to have it counted",
                times,
                delivery.endpoint.destination,
            )
        if not _seen_before(delivery, times):
            return _because(Verdict.REQUEUE, outcome)._replace(pause=pause)
        if isinstance(last, Policy):
            return last.decide(outcome, delivery)
        requeues = 1 if delivery.attempt is None else times
        return _because(last, outcome, f"failed after {requeues} requeue{'s' * (requeues > 1)}")

    final, target = ({last}, None) if isinstance(last, Verdict) else (last.verdicts, last.target)
    verdicts = {Verdict.ACK, Verdict.REQUEUE, *final}
    return Policy(
        f"requeue_times({times})", decide, verdicts, target, pauses=pause > 0, success=_ACKED
    )


_once = requeue_times(1)
requeue_once: Policy = Policy("requeue_once", _once.decision, _once.verdicts, success=_ACKED)
"""Ack on success; on failure requeue the first time, reject the second.

On a classic queue "the second time" is the broker's `redelivered` flag, and RabbitMQ also sets it
on messages that were prefetched by a consumer which went away before any handler saw them: such a
message may be rejected at its first real attempt. Quorum queues count deliveries and are exact
about returns. (RabbitMQ, *Consumers: delivery metadata*; *Quorum queues: poison message handling*.)
"""


SHIPPED = (manual, ack_always, reject_on_error, requeue_once)
"""The shipped policies that take no argument, for settings given as text."""


def dead_letter(topic: str, *, producer: Any) -> Policy:
    """Ack on success; on failure publish to `topic`, and be done when that is acknowledged.

    For clients whose broker has no dead-lettering of its own (Kafka). On RabbitMQ the queue's
    dead-letter exchange does this: use `reject_on_error` there.

    Args:
        topic: Where failed messages go.
        producer: The native producer that publishes them.
    """

    def decide(outcome: Outcome, delivery: Any) -> Settlement:
        settlement = _reject_on_error(outcome, delivery)
        return settlement._replace(target=(topic, producer)) if outcome.failed else settlement

    name = f"dead_letter({topic!r})"
    return Policy(
        name, decide, {Verdict.ACK, Verdict.REJECT}, target=(topic, producer), success=_ACKED
    )


class Commits(NamedTuple):
    """When what is done is committed, on Kafka. Raises nothing; `checked` does.

    A commit never goes past a record that is not done. The default is asynchronous and at most once
    a second; what was done since the last commit is done again after a crash. ::

        hopspan.wrap(consumer, policy=policy, commits=hopspan.Commits(every=1, wait=True))

    Closing the consumer commits in any case, and so does giving up a partition where the client
    allows it.
    """

    every: int | None = None
    """Commit after so many records are done."""
    seconds: float | None = 1.0
    """Commit when this long has gone since the last time; looked at whenever a record is done and
    whenever the consumer is asked for more. None: never for this reason."""
    wait: bool = False
    """Wait for the broker's answer, on the consumer's thread."""

    def checked(self) -> Commits:
        """Itself.

        Raises:
            PolicyError: a number makes no sense, or nothing would ever be committed.
        """
        if self.every is not None and not _is_positive(self.every):
            raise PolicyError(
                f"Commits(every={self.every!r}): a whole number of 1 or more, or None"
            )
        if self.seconds is not None and not _is_duration(self.seconds):
            raise PolicyError(f"Commits(seconds={self.seconds!r}): a number of seconds, or None")
        if self.every is None and self.seconds is None:
            raise PolicyError("Commits(every=None, seconds=None): nothing would be committed")
        return self


def by_exception(verdicts: Mapping[Any, Verdict | PolicyLike], *, default: PolicyLike) -> Policy:
    """Choose by what the handler raised; the nearest class in the exception's ancestry decides.

    ::

        verdicts = {ValueError: Verdict.REJECT, TimeoutError: requeue_times(5)}
        by_exception(verdicts, default=requeue_once)

    Args:
        verdicts: From exception class to a verdict or to another policy.
        default: The policy for success, for other exceptions, and for failures without an
            exception.

    Raises:
        PolicyError: a key is no exception class, or a value neither verdict nor policy.
    """
    fallback = as_policy(default)
    chosen: dict[type[BaseException], Policy] = {}
    for kind, choice in verdicts.items():
        if not _is_exception_class(kind):
            raise PolicyError(f"by_exception: {kind!r} is no exception class")
        chosen[kind] = (
            _always_on_error(choice) if isinstance(choice, Verdict) else as_policy(choice)
        )

    def decide(outcome: Outcome, delivery: Any) -> Settlement:
        if outcome.failed and outcome.error is not None:
            for kind in type(outcome.error).__mro__:
                if kind in chosen:
                    return chosen[kind].decide(outcome, delivery)
        return fallback.decide(outcome, delivery)

    possible = fallback.verdicts.union(*(policy.verdicts for policy in chosen.values()))
    policies = (fallback, *chosen.values())
    targets = [policy.target for policy in policies if policy.target is not None]
    return Policy(
        "by_exception",
        decide,
        possible,
        target=targets[0] if targets else None,
        pauses=any(policy.pauses for policy in policies),
        success=fallback.success,
    )


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _always_on_error(verdict: Verdict) -> Policy:
    def decide(outcome: Outcome, delivery: Any) -> Settlement:  # noqa: ARG001
        return _because(verdict, outcome)

    return Policy(verdict.value, decide, {verdict})
