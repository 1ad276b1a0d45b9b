"""The picture and the tables of docs/benchmarks.md are made of results.json, by one command."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from benchmarks import results
from benchmarks.brokers import Figures
from benchmarks.chart import draw
from benchmarks.gates import judge
from benchmarks.memory import Kept
from benchmarks.modes import MODES
from benchmarks.page import figures, filled
from benchmarks.publishing import JSON, PAGE, ROOT, SVG, publish


def measured(ours: float = 24) -> dict[str, Any]:
    noise = random.Random(1)  # noqa: S311 - no secret
    costs = {"bare": 10, "SDK floor": 20, "API floor": 22, "contrib": 30, "hopspan": ours}
    return {
        f"pika publish, {mode}": {
            name: [(cost + noise.random()) / 1e6 for _ in range(9)] for name, cost in costs.items()
        }
        for mode in MODES
    }


def found(ours: float = 24) -> results.Results:
    rows = measured(ours)
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
    assert "| as a part of contrib's | sampled | unsampled | no SDK |" in page
    (row,) = (line for line in page.splitlines() if "gate 0.85" in line)
    assert row.startswith("| pika publish | 0.7")
    assert "; gate 0.85, target 0.78: target |" in row
    assert "; gate 0.30, target 0.23: OVER |" in row
    assert "settled messages" not in page
    assert "messages/s" not in page


def test_memory_and_brokers_are_on_the_page_when_they_were_measured() -> None:
    ways = {"RabbitMQ, pika": {name: Figures([0.001], [0.0001]) for name in ("bare", "hopspan")}}
    page = figures(
        found()
        | {"memory": results.of_memory(Kept(30_000, 15_000, 2048, 3072, {}))}
        | {"brokers": results.of_brokers(ways, 5, 400)}
    )
    assert "kept of 30,000 settled messages" in page
    assert "| at the end | 3 kB |" in page
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
    assert (tmp_path / PAGE).read_text().count("| as a part of contrib's |") == 1
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
