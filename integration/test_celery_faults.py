"""Tasks that end badly, on real workers: a span says so each time, and the broker agrees with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.brokers.processes import closed_port
from integration.celery_story.brokers import BACK, DEAD, DONE, Fate, Redis, broker_at
from integration.celery_story.fates import Case, Ended, run
from integration.celery_story.stage import set_up
from integration.celery_story.trees import Node, Told, processed, published, trees
from integration.conftest import endpoint

FAILURE = "integration.celery_story.shop.FailureError"
LOST = "billiard.exceptions.WorkerLostError"
LIMIT = "billiard.exceptions.TimeLimitExceeded"

PUBLISHES = 1000
BLOCKS = PUBLISHES // 4
"""How many more pieces of memory Python may hold after all of them: a span alone has more."""
RESIDENT = 4 * 2**20
"""How many bytes the process may grow by, the allocator's own pages included."""


class Refusal(NamedTuple):
    """A broker that takes no task."""

    broker: str
    """Its URL; {port} is one on which nobody listens."""
    failure: str
    """What kombu raises, and from what."""
    error: str
    """`error.type`."""
    told: dict[str, Any]


AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
REFUSALS = {
    "rabbitmq-that-is-not-there": Refusal(
        "amqp://guest:guest@127.0.0.1:{port}//",
        "OperationalError from ConnectionRefusedError",
        "kombu.exceptions.OperationalError",
        {"transport_options": AT_ONCE},
    ),
    "redis-that-is-not-there": Refusal(
        "redis://127.0.0.1:{port}/0",
        "OperationalError from ConnectionError",
        "kombu.exceptions.OperationalError",
        {"transport_options": AT_ONCE},
    ),
    "rabbitmq-whose-queue-is-full": Refusal(
        "",
        "OperationalError from MessageNacked",
        "nack",
        {
            "transport_options": {"confirm_publish": True},
            "queue_arguments": {"x-max-length": 0, "x-overflow": "reject-publish"},
        },
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_thousand_refused_publishes_are_a_thousand_errors_and_leave_nothing_behind(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = REFUSALS[name]
    rabbitmq, backend = broker_at(endpoint("rabbitmq")), Redis(endpoint("redis"))
    url = refusal.broker.format(port=closed_port()) or rabbitmq.url
    with set_up(rabbitmq, backend, tmp_path, delay=0.5) as stage:
        web = stage.web(**{**refusal.told, "broker": url})

        found = web.ask("refused", count=PUBLISHES, rehearsals=100)
        web.stop()
        spans = stage.spans()

    with capsys.disabled():
        print(f"\n{name}: {found}")  # noqa: T201 - figures for the log of CI
    assert (0, refusal.failure) == (found["left"], found["failure"])
    assert (published("work", error=refusal.error),) * (PUBLISHES + 100) == trees(spans)
    assert found["blocks"] < BLOCKS
    assert found["resident"] < RESIDENT


class Expected(NamedTuple):
    """What is to become of a task."""

    case: Case
    fate: Fate
    told: tuple[Node, ...]
    """By the worker, below the publish."""


def settled(task: str, verdict: str) -> Node:
    """What the main process did with the message."""
    return Node(Told(f"reject {task}", "CLIENT", settlement=verdict))


def report(what: str, task: str, error: str | None = None, settlement: str | None = None) -> Node:
    """What the main process tells of a run."""
    return Node(Told(f"{what} {task}", "INTERNAL", None, settlement, error))


def cut_short(task: str, settlement: str | None) -> Node:
    """A run that did not end by itself."""
    return Node(Told(f"process {task}", "CONSUMER", None, settlement, None, cancelled=True))


EXPECTED: dict[str, Expected] = {}


def expect(name: str, case: Case, fate: Fate, *told: Node) -> None:
    """Add a case to the table."""
    EXPECTED[name] = Expected(case, fate, told)


for how in ("early", "late"):
    early = "ack" if how == "early" else None
    expect(f"{how}-killed", Case(how, fault="kill"), DONE, report("lost", how, LOST))
    expect(
        f"{how}-time-limit",
        Case(how, fault="time_limit"),
        DONE,
        cut_short(how, early),
        report("time_limit", how, LIMIT),
    )
    expect(
        f"{how}-terminated",
        Case(how, fault="SIGTERM"),
        DONE,
        cut_short(how, early),
        report("terminate", how, settlement="ack"),
    )
    expect(
        f"{how}-terminated-by-force",
        Case(how, fault="SIGKILL"),
        DONE,
        report("terminate", how, settlement="ack"),
    )
    expect(
        f"{how}-revoked", Case(how, fault="revoke"), DONE, report("revoke", how, settlement="ack")
    )
    expect(
        f"{how}-expired", Case(how, fault="expire"), DONE, report("expire", how, settlement="ack")
    )
    expect(
        f"{how}-ignored",
        Case(how, "ignore"),
        DONE,
        processed(how, state="IGNORED", settlement=early),
    )
    expect(
        f"{how}-failed",
        Case(how, "fail"),
        DONE,
        processed(how, state="FAILURE", settlement=early, error=FAILURE),
    )

# Celery has acked an early one before its body says so: the span says what has become of it.
expect(
    "early-rejected", Case("early", "reject"), DONE,
    processed("early", state="REJECTED", settlement="ack"),
)  # fmt: skip
expect(
    "early-requeued", Case("early", "requeue"), DONE,
    processed("early", state="REJECTED", settlement="ack"),
)  # fmt: skip
expect(
    "late-rejected", Case("late", "reject"), DEAD,
    processed("late", state="REJECTED", settlement="reject"), settled("late", "reject"),
)  # fmt: skip
expect(
    "late-requeued", Case("late", "requeue"), BACK,
    processed("late", state="REJECTED", settlement="requeue"), settled("late", "requeue"),
)  # fmt: skip
expect(
    "requeued-when-lost", Case("late_requeue_lost", fault="kill"), BACK,
    report("lost", "late_requeue_lost", LOST), settled("late_requeue_lost", "requeue"),
)  # fmt: skip
expect(
    "strict-killed", Case("late_strict", fault="kill"), DEAD,
    report("lost", "late_strict", LOST), settled("late_strict", "reject"),
)  # fmt: skip
expect(
    "strict-time-limit", Case("late_strict", fault="time_limit"), BACK,
    cut_short("late_strict", None), report("time_limit", "late_strict", LIMIT),
    settled("late_strict", "requeue"),
)  # fmt: skip
expect(
    "strict-failed", Case("late_strict", "fail"), DEAD,
    processed("late_strict", state="FAILURE", settlement="reject", error=FAILURE),
    settled("late_strict", "reject"),
)  # fmt: skip
expect(
    "policy-rejects", Case("late_policy", "fail"), DEAD,
    processed("late_policy", state="REJECTED", settlement="reject", error=FAILURE),
    settled("late_policy", "reject"),
)  # fmt: skip
expect(
    "policy-requeues", Case("late_policy_once", "fail"), BACK,
    processed("late_policy_once", state="REJECTED", settlement="requeue", error=FAILURE),
    settled("late_policy_once", "requeue"),
)  # fmt: skip

CASES = {name: expected.case for name, expected in EXPECTED.items()}


@pytest.fixture(scope="module", params=["rabbitmq", "redis"])
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Ended]:
    """Return what became of each case, on each broker in turn."""
    broker, backend = broker_at(endpoint(request.param)), Redis(endpoint("redis"))
    folder = tmp_path_factory.mktemp("fates")
    counts = {name: len(expected.told) for name, expected in EXPECTED.items()}
    # kombu takes no notice of another queue before its wait for a message is over.
    options = {"polling_interval": 0.1} if request.param == "redis" else {}
    told: dict[str, Any] = {"delay": 0.2, "transport_options": options}
    with set_up(broker, backend, folder, tuple(CASES), **told) as stage:
        return run(stage, broker, CASES, counts)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_task_that_ends_badly_is_told_of_and_the_broker_agrees(
    ended: Mapping[str, Ended], name: str, request: pytest.FixtureRequest
) -> None:
    case, fate, told = EXPECTED[name]
    has_dead_letters = request.node.callspec.params["ended"] == "rabbitmq"
    if fate == DEAD and not has_dead_letters:
        fate = DONE

    assert ((published(case.task, *told),), fate) == (trees(ended[name].spans), ended[name].fate)


def test_all_that_is_told_of_a_task_is_linked_to_its_message_and_says_how_it_is_acked(
    ended: Mapping[str, Ended],
) -> None:
    for name, (case, _, _) in EXPECTED.items():
        (publish,) = (span for span in ended[name].spans if span.role == "web")
        told = [span for span in ended[name].spans if span.role == "worker"]

        assert {
            (span.name, (publish.id,), case.task.partition("_")[0])
            for span in told
            if span.kind != "CLIENT"  # a settlement is of a message, and its child
        } == {
            (span.name, span.links, span.told("hopspan.celery.acks") or "early")
            for span in told
            if span.kind != "CLIENT"
        }


@pytest.mark.parametrize("ended", ["redis"], indirect=True)
def test_a_message_is_unsettled_while_its_body_runs_only_where_it_is_acked_late(
    ended: Mapping[str, Ended],
) -> None:
    running = {name: case for name, case in CASES.items() if case.is_running}

    assert {name: case.task != "early" for name, case in running.items()} == {
        name: ended[name].held for name in running
    }
