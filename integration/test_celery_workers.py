"""Real workers: whatever the pool and the broker, no span is lost and none is made twice."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.celery_story.brokers import Broker, RabbitMQ, Redis
from integration.celery_story.settings import Settings
from integration.celery_story.stage import POOLS, Stage
from integration.conftest import endpoint

MANY = 200
FEW = 20


@pytest.fixture(params=["rabbitmq", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Return each broker in turn."""
    url = endpoint(request.param)
    return RabbitMQ(url) if request.param == "rabbitmq" else Redis(url)


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    """Return a stage with queues of its own."""
    queue = f"celery-{secrets.token_hex(4)}"
    settings = Settings(broker.url, endpoint("redis"), queue, str(tmp_path / "journal"), "")
    try:
        with Stage(settings, tmp_path) as stage:
            yield stage
    finally:
        broker.clear(queue, ())
        Redis(endpoint("redis")).clear(queue, ())


def assert_all_told(stage: Stage, ids: list[str]) -> None:
    """Each task was run once, and has a publish and a process span of its own, parented right."""
    spans = stage.spans()
    publishes = {span.told("messaging.message.id"): span for span in spans if span.role == "web"}
    runs = {span.told("messaging.message.id"): span for span in spans if span.role == "worker"}

    assert [("publish work", "PRODUCER")] * len(ids) + [("process work", "CONSUMER")] * len(
        ids
    ) == sorted(((span.name, span.kind) for span in spans), reverse=True)
    assert set(ids) == publishes.keys() == runs.keys()
    assert dict.fromkeys(ids) == {each: publishes[each].parent for each in ids}
    assert {each: publishes[each].id for each in ids} == {each: runs[each].parent for each in ids}
    seen = {entry["task"]: (entry["inside"], entry["baggage"]) for entry in stage.entries("run")}
    assert len(ids) == len(stage.entries("run"))
    assert {
        each: (runs[each].id, {"order": str(number)}) for number, each in enumerate(ids)
    } == seen


def needs(pool: str) -> None:
    """Skip where a pool's library is missing."""
    if pool == "gevent" and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")


@pytest.mark.parametrize("pool", POOLS)
def test_each_task_is_one_publish_and_one_run_also_when_the_worker_is_stopped_in_the_last(
    stage: Stage, pool: str
) -> None:
    needs(pool)
    web, worker = stage.web(), stage.worker(POOLS[pool])

    ids = web.ask("burst", count=MANY - 1)
    stage.wait(lambda: len(stage.entries("run")) == MANY - 1, "all but one to run")
    ids += web.ask("burst", count=1, first=MANY - 1, seconds=0.5)
    stage.wait(lambda: len(stage.entries("run")) == MANY, "the last to begin")
    worker.stop()
    web.stop()

    assert_all_told(stage, ids)
