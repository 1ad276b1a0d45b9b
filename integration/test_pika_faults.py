"""Ten thousand messages, killed consumers, cut connections: each message gets what was promised.

`integration/faults/verdict.py` says precisely what is promised. On failure the seed is printed; a
run with the same seed makes the same decisions (`TEST_CHAOS_SEED`), though never the same timing.
`TEST_CHAOS_MESSAGES` sets how many messages there are.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from integration.faults.chaos import Plan, run
from integration.faults.verdict import Report, Verdict

MESSAGES = int(os.environ.get("TEST_CHAOS_MESSAGES", "10000"))
FEWER = max(MESSAGES // 10, 500)


def judged(plan: Plan, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """Carry out a plan, judge it, and print the figures in one line."""
    try:
        report = Verdict(run(plan, url, folder)).report()
    except AssertionError as error:
        raise AssertionError(f"{plan}: {error}") from error
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever reads the log of a CI run
            f"\nchaos, {plan.queue_type} queue, {plan.style}: {report}, seed {plan.seed}"
        )
    return report


@pytest.fixture
def seed() -> int:
    """Return the seed that was asked for, or a new one."""
    return int(os.environ.get("TEST_CHAOS_SEED", "0")) or secrets.randbelow(1_000_000)


def test_on_a_classic_queue_every_message_is_settled_by_its_last_run(
    rabbitmq_url: str, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(MESSAGES, "classic", "callback", seed, requeues=1)
    judged(plan, rabbitmq_url, tmp_path, capsys)


def test_on_a_quorum_queue_every_message_is_settled_by_its_last_run(
    rabbitmq_url: str, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(MESSAGES, "quorum", "callback", seed, requeues=3)
    judged(plan, rabbitmq_url, tmp_path, capsys)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_work_that_was_deferred_to_threads_settles_every_message(
    rabbitmq_url: str,
    tmp_path: Path,
    seed: int,
    capsys: pytest.CaptureFixture[str],
    queue_type: str,
) -> None:
    plan = Plan(FEWER, queue_type, "deferred", seed, requeues=2 if queue_type == "quorum" else 1)
    judged(plan, rabbitmq_url, tmp_path, capsys)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_handler_that_acks_several_at_once_is_never_settled_again(
    rabbitmq_url: str,
    tmp_path: Path,
    seed: int,
    capsys: pytest.CaptureFixture[str],
    queue_type: str,
) -> None:
    plan = Plan(FEWER, queue_type, "mixed", seed, requeues=1)
    judged(plan, rabbitmq_url, tmp_path, capsys)
