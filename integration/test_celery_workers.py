"""Real workers: whatever the pool and the broker, no span is lost and none is made twice."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.celery_story.brokers import Redis, broker_at
from integration.celery_story.stage import POOLS, Stage, set_up
from integration.celery_story.trees import Node, Span, Told, ordered, processed, published, trees
from integration.conftest import endpoint

MANY = 200
FEW = 12
BROKERS = ("rabbitmq", "redis")


def stage_on(service: str, folder: Path) -> AbstractContextManager[Stage]:
    """A stage on a broker that answers."""
    return set_up(broker_at(endpoint(service)), Redis(endpoint("redis")), folder)


@pytest.fixture(params=BROKERS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Return a stage on each broker in turn."""
    with stage_on(request.param, tmp_path) as stage:
        yield stage


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
    left = {entry["task"]: entry["left"] for entry in stage.entries("before")}
    assert {each: [] for each in ids} == left, "what was current when a run began"


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


def test_children_that_are_recycled_after_each_task_leave_all_their_spans(stage: Stage) -> None:
    web, worker = (
        stage.web(),
        stage.worker(POOLS["prefork"], "-c", "4", "--max-tasks-per-child", "1"),
    )

    ids = web.ask("burst", count=FEW)
    stage.wait(lambda: len(stage.entries("run")) == FEW, "all to run")
    worker.stop()
    web.stop()

    assert_all_told(stage, ids)
    assert len({entry["process"] for entry in stage.entries("run")}) == FEW


def test_a_provider_that_is_made_in_the_child_loses_nothing_either(stage: Stage) -> None:
    web, worker = stage.web(), stage.worker(POOLS["prefork"], provider="process_init")

    ids = web.ask("burst", count=FEW)
    stage.wait(lambda: len(stage.entries("run")) == FEW, "all to run")
    worker.stop()
    web.stop()

    assert_all_told(stage, ids)


def test_what_a_worker_had_not_begun_when_it_was_stopped_is_told_by_the_next_one(
    stage: Stage,
) -> None:
    web, worker = stage.web(), stage.worker(POOLS["prefork"])

    ids = web.ask("burst", count=MANY, seconds=0.01)
    web.ask("flush")
    stage.wait(lambda: stage.entries("run"), "the first to begin")
    worker.stop()
    begun = assert_each_run_told(stage)
    following = stage.worker(POOLS["prefork"])
    stage.wait(lambda: set(ids) == {entry["task"] for entry in stage.entries("run")}, "all to run")
    following.stop()
    web.stop()

    assert 0 < begun < MANY
    assert MANY <= assert_each_run_told(stage)


def assert_each_run_told(stage: Stage) -> int:
    """Each run has a process span of its own, below its own publish; return how many there are.

    Celery may run a task again whose ack was on its way when the worker ended: that is two runs.
    """
    runs = {entry["inside"]: entry["task"] for entry in stage.entries("run")}
    spans = stage.spans()
    publishes: dict[str | None, Any] = {
        span.id: span.told("messaging.message.id") for span in spans if span.role == "web"
    }
    told = {span.id: span.parent for span in spans if span.role == "worker"}

    assert len(runs) == len(stage.entries("run"))
    assert len(told) == sum(span.role == "worker" for span in spans)
    assert runs.keys() == told.keys()
    assert runs == {run: publishes.get(parent) for run, parent in told.items()}
    return len(runs)


# -- stories --------------------------------------------------------------------------------------


class Story(NamedTuple):
    """What came of a publisher, a worker and a scheduler."""

    spans: list[Span]
    results: dict[str, Any]
    runs: list[dict[str, Any]]

    def of(self, name: str) -> list[Span]:
        """The spans below the one of that name."""
        (root,) = (span for span in self.spans if span.name == name)
        return [span for span in self.spans if span.trace == root.trace]


BY_HAND = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module", params=BROKERS)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Return what a publisher, a prefork worker and beat do on each broker in turn."""
    folder = tmp_path_factory.mktemp("story")
    with stage_on(request.param, folder) as stage:
        web, worker, beat = stage.web(), stage.worker(POOLS["prefork"]), stage.beat(1.0)
        results = {name: web.ask("canvas", name=name) for name in CANVASES}
        if request.param == "rabbitmq":
            web.ask("by_hand", number=7, task_id=BY_HAND)
        stage.wait(lambda: len(ticks(stage)) >= 2, "beat to tick twice")
        web.stop()
        beat.stop()
        sent = len([span for span in stage.spans() if span.name == "publish tick"])
        stage.wait(lambda: len(ticks(stage)) == sent, "every tick to be run")
        worker.stop()
        return Story(stage.spans(), results, stage.entries("run"))


def ticks(stage: Stage) -> list[dict[str, Any]]:
    """The runs of what beat publishes."""
    return [entry for entry in stage.entries("run") if entry["name"] == "tick"]


def chain(*tasks: str) -> Node:
    """One publishes the next."""
    first, *others = tasks
    return published(first, processed(first, *([chain(*others)] if others else [])))


def in_request(name: str, *children: Node) -> tuple[Node, ...]:
    """What is below the span of a request."""
    return (Node(Told(name, "INTERNAL"), ordered(children)),)


CANVASES = {
    "chain": (10, in_request("chain", chain("add", "add", "add"))),
    "group": (
        [2 * number for number in range(10)],
        in_request("group", *[chain("add")] * 10),
    ),
    "chord": (90, in_request("chord", *[chain("add")] * 9, chain("add", "total"))),
    "flaky": (
        2,
        in_request(
            "flaky",
            published(
                "flaky",
                processed(
                    "flaky",
                    published(
                        "flaky",
                        processed("flaky", published("flaky", processed("flaky")), state="RETRY"),
                    ),
                    state="RETRY",
                ),
            ),
        ),
    ),
    "order": (None, in_request("order", chain("order", "notify"))),
}
"""What each returns, and its tree."""


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_is_one_trace_that_reads_as_it_is_written(story: Story, name: str) -> None:
    result, tree = CANVASES[name]

    assert (result, tree) == (story.results[name], trees(story.of(name)))


def test_the_body_of_a_chord_is_linked_to_every_task_of_its_header(story: Story) -> None:
    spans = story.of("chord")
    header = {span.id for span in spans if span.name == "process add"}
    (sent,) = (span for span in spans if span.name == "publish total")
    (body,) = (span for span in spans if span.name == "process total")

    assert len(header) == 10
    assert sorted(header | {sent.id}) == sorted(body.links)


def test_attempts_of_a_retried_task_are_counted_and_have_one_id(story: Story) -> None:
    spans = story.of("flaky")
    runs = [span for span in spans if span.name == "process flaky"]
    (_,) = {span.told("messaging.message.id") for span in spans if span.kind != "INTERNAL"}

    assert [0, 1, 2] == sorted(span.told("hopspan.celery.retries") or 0 for span in runs)
    # It is the root of itself, which nothing says.
    assert {None} == {span.told("hopspan.celery.root_id") for span in runs}


def test_each_tick_of_beat_is_a_trace_of_its_own(story: Story) -> None:
    spans = [span for span in story.spans if "tick" in span.name]
    publishes = [span for span in spans if span.name == "publish tick"]

    assert len(publishes) >= 2
    assert {"beat"} == {span.role for span in publishes}
    assert (chain("tick"),) * len(publishes) == trees(spans)


def test_a_story_of_three_processes_is_told_by_those_who_were_in_it(story: Story) -> None:
    roles = {(span.name, span.role) for span in story.of("order")}

    assert {
        ("order", "web"),
        ("publish order", "web"),
        ("process order", "worker"),
        ("publish notify", "worker"),
        ("process notify", "worker"),
    } == roles


@pytest.mark.parametrize("story", ["rabbitmq"], indirect=True)
def test_a_task_that_pika_publishes_by_hand_is_joined_by_the_worker(story: Story) -> None:
    ((seen, baggage),) = (
        (entry["inside"], entry["baggage"]) for entry in story.runs if entry["task"] == BY_HAND
    )
    run = next(span for span in story.spans if span.id == seen)
    publish = next(span for span in story.spans if span.id == run.parent)

    assert (Node(Told(publish.name, "PRODUCER"), (processed("work"),)),) == trees([publish, run])
    assert publish.name.startswith("publish celery-")
    assert ("web", "worker", {"order": "7"}) == (publish.role, run.role, baggage)
