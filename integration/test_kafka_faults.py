"""Records under fire: consumers killed and frozen, brokers ended, and nothing is lost on Kafka.

`integration/faults/kafka_verdict.py` says precisely what is promised. On failure the seed is printed;
a run with the same seed makes the same decisions (`TEST_CHAOS_SEED`), though never the same timing.
`TEST_CHAOS_RECORDS` sets how many records there are; `python -m integration.faults.kafka_chaos` goes
on for longer, with each commit strategy by itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.brokers.kafka import KafkaNode
from integration.brokers.services import NotHereError
from integration.faults.kafka_chaos import STRATEGIES, run
from integration.faults.kafka_ledger import Plan, Records
from integration.faults.kafka_rates import rates
from integration.faults.kafka_verdict import Report, Verdict

RECORDS = int(os.environ.get("TEST_CHAOS_RECORDS", "1200"))
FEW = 300
FAULTS = (
    "kill", "broker stop", "kill at ended", "freeze", "join", "broker kill", "kill at exporting",
    "leave",
)  # fmt: skip
SESSION = 2.0
"""Seconds: shorter than a broker allows by itself, so that the group soon goes on without the dead."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """Return a broker of our own, which may be ended; without one, skip, or fail in CI."""
    folder = tmp_path_factory.mktemp("chaos") / "node"
    settings = {"group.min.session.timeout.ms": str(int(SESSION * 1000))}
    try:
        node = KafkaNode(folder, settings=settings)
    except NotHereError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Kafka to end: {missing}")
    with node:
        yield node


@pytest.fixture
def seed() -> int:
    """Return the seed that was asked for, or a new one."""
    return int(os.environ.get("TEST_CHAOS_SEED", "0")) or secrets.randbelow(1_000_000)


def judged(records: Records) -> Report:
    """Judge what came of a plan."""
    try:
        return Verdict(records).report()
    except AssertionError as error:
        raise AssertionError(f"{records.plan}: {error}") from error


def test_no_record_is_lost_under_fire(
    node: KafkaNode, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(RECORDS, seed, STRATEGIES["mixed"], FAULTS, session=SESSION)

    report = judged(run(plan, node, tmp_path))

    with capsys.disabled():
        print(f"\nchaos on Kafka: {report}, seed {seed}")  # noqa: T201 - figures for the log of CI


def test_each_record_is_committed_by_itself_where_that_is_asked_for(
    node: KafkaNode, tmp_path: Path, seed: int
) -> None:
    plan = Plan(FEW, seed, ("iterator record",), (), members=1, session=SESSION)

    records = run(plan, node, tmp_path)

    assert judged(records).duplicates == 0
    assert len(records.commits) == FEW


def test_every_hundredth_record_commits_where_that_is_asked_for(
    node: KafkaNode, tmp_path: Path, seed: int
) -> None:
    plan = Plan(FEW, seed, ("iterator every",), (), members=1, partitions=1, session=SESSION)

    records = run(plan, node, tmp_path)

    assert judged(records).duplicates == 0
    assert len({commit.wall for commit in records.commits}) <= FEW // 100 + records.seconds + 1


def test_a_client_that_commits_by_itself_is_condemned(
    node: KafkaNode, tmp_path: Path, seed: int
) -> None:
    plan = Plan(FEW, seed, ("bare auto",), (), members=1, session=SESSION)

    records = run(plan, node, tmp_path)

    with pytest.raises(AssertionError, match="records are lost"):
        Verdict(records).none_is_lost()
    with pytest.raises(AssertionError, match="Commit"):
        Verdict(records).no_commit_leaves_a_hole()


def test_each_strategy_has_its_price(node: KafkaNode, capsys: pytest.CaptureFixture[str]) -> None:
    found = rates(node.bootstrap, RECORDS, rounds=1)

    with capsys.disabled():
        print("", *found, sep="\n")  # noqa: T201 - figures for the log of CI
    (waiting,) = (rate for rate in found if rate.way == "record")
    # The broker's time is nearly all of it: not much more, nor so much less as if nobody waited.
    assert 0.2 < waiting.ratio < 5, waiting
