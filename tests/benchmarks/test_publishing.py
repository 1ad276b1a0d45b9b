"""The picture and the tables of docs/benchmarks.md are made of results.json, by one command."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from benchmarks import results
from benchmarks.brokers import Figures
from benchmarks.chart import draw
from benchmarks.gates import OF_CONTRIB, call_gates, judge
from benchmarks.groups import DECORATED, HOPSPAN, SDK
from benchmarks.memory import Kept
from benchmarks.modes import MODES
from benchmarks.page import figures, filled, lead
from benchmarks.publishing import JSON, PAGE, ROOT, SVG, publish


def measured(ours: float, paths: Iterable[str]) -> dict[str, Any]:
    noise = random.Random(1)  # noqa: S311 - no secret
    costs = {"bare": 10, "SDK floor": 20, "API floor": 22, "contrib": 30, "hopspan": ours}
    return {
        f"{path}, {mode}": {
            name: [(cost + noise.random()) / 1e6 for _ in range(9)] for name, cost in costs.items()
        }
        for path in paths
        for mode in MODES
    }


def found(ours: float = 24, *paths: str) -> results.Results:
    rows = measured(ours, paths or ["pika publish"])
    return results.of_groups(rows, judge(rows), rounds=9)


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)  # noqa: S314 - our own
    return [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_shows_every_mode_and_every_path_that_was_measured() -> None:
    shown = texts(draw(found()))
    assert [mode for mode in MODES if mode in shown] == list(MODES)
    assert "pika publish" in shown
    assert "pika consume" not in shown
    assert len([text for text in shown if text.startswith(("0.69", "0.7"))]) == 3


def test_a_bar_that_is_cut_says_so() -> None:
    assert not any("longer than is shown" in text for text in texts(draw(found())))
    shown = texts(draw(found(ours=70)))
    assert any("longer than is shown" in text for text in shown)
    assert len([text for text in shown if text.startswith(("2.9", "3.0"))]) == 3


def test_the_tables_hold_ratios_gates_targets_and_verdicts() -> None:
    page = figures(found())
    assert f"| {OF_CONTRIB} | sampled | unsampled | no SDK |" in page
    (row,) = (line for line in page.splitlines() if "gate 0.82" in line)
    assert row.startswith("| pika publish | 0.7")
    assert "; gate 0.82, target 0.76: target |" in row
    assert "; gate 0.23, target 0.16: OVER |" in row
    assert "settled messages" not in page
    assert "messages/s" not in page


def test_the_page_leads_with_what_it_costs() -> None:
    assert lead(found(24)).startswith("**Publishing one costs 0.7 times what")
    both = lead(found(30, "pika publish", "pika consume"))
    assert both.startswith("**Handling a message costs 1.0 times what")
    assert "publishing one costs 1.0 times" in both
    assert "RabbitMQ" not in both


def test_it_says_what_is_left_of_a_brokers_throughput() -> None:
    ways = {
        "RabbitMQ, pika": {
            name: Figures([wall], [wall])
            for name, wall in (("bare", 0.001), ("contrib", 0.002), ("hopspan", 0.004))
        }
    }
    told = lead(found() | {"brokers": results.of_brokers(ways, 5, 400)})
    assert "pika has 25 % of the throughput that it has untraced (50 % with contrib)" in told


def test_rows_with_a_policy_are_in_the_tables_the_figures_and_the_picture() -> None:
    rows = measured(24, ["pika consume"])
    for each in rows.values():
        each[DECORATED] = [value * 1.5 for value in each["hopspan"]]
    every = results.of_groups(rows, judge(rows), rounds=9)
    assert "| pika consume, decorated with requeue_once | 1.3" in figures(every)
    assert 1.2 < every["parts_of_contrib"]["pika consume, sampled"][DECORATED] < 1.5
    assert len([text for text in texts(draw(every)) if text.startswith(("1.3", "1.4"))]) == 3


def test_calls_are_in_a_table_of_their_own() -> None:
    counted = {"kafka-python send, unsampled": {SDK: (40,), HOPSPAN: (47,)}}
    calls = results.of_calls(judge(counted, call_gates()))
    page = figures(found() | {"calls": calls})
    assert "kafka-python send, unsampled: calls beyond the SDK floor's | 7 | 6: OVER |" in page


def test_memory_and_brokers_are_on_the_page_when_they_were_measured() -> None:
    ways = {"RabbitMQ, pika": {name: Figures([0.001], [0.0001]) for name in ("bare", "hopspan")}}
    page = figures(
        found()
        | {"memory": results.of_memory(Kept(30_000, 15_000, 2048, 3072, {}))}
        | {"brokers": results.of_brokers(ways, 5, 400)}
    )
    assert "kept of 30,000 settled messages" in page
    assert "| at most since | 3 kB |" in page
    assert "| RabbitMQ, pika, hopspan | 1,000 | 100 | 1.00 | 1.00 |" in page


def test_publishing_fills_the_page_again_and_keeps_what_was_not_measured_again(
    tmp_path: Path,
) -> None:
    for name in (JSON, SVG, PAGE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    before = json.loads((tmp_path / JSON).read_text())
    publish(found(), tmp_path)
    publish(found(), tmp_path)
    after = json.loads((tmp_path / JSON).read_text())
    assert after["rounds"] == 9
    assert {name: after.get(name) for name in ("memory", "brokers")} == {
        name: before.get(name) for name in ("memory", "brokers")
    }
    assert (tmp_path / PAGE).read_text().count(f"| {OF_CONTRIB} |") == 1
    assert (tmp_path / PAGE).read_text().count(lead(after)) == 1
    assert (tmp_path / SVG).read_text() == draw(after)


def test_the_page_and_the_picture_are_of_the_results_that_are_committed() -> None:
    committed = json.loads((ROOT / JSON).read_text())
    page = (ROOT / PAGE).read_text()
    assert filled(page, committed) == page
    assert draw(committed) == (ROOT / SVG).read_text()


def test_everything_cannot_be_written_from_a_part() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks", "--write", "--only", "pika*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--write" in done.stderr
