"""Where results are left: as JSON, as a picture, and as tables on the page."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.page import filled
from benchmarks.results import Results

ROOT = Path(__file__).parents[1]
JSON, SVG, PAGE = "benchmarks/results.json", "docs/img/benchmarks.svg", "docs/benchmarks.md"


def write_json(results: Results, path: Path) -> None:
    """In lines, so that two runs can be compared."""
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def publish(results: Results, root: Path = ROOT) -> None:
    """Leave everything in a checkout; runs that were not repeated stay as they were there."""
    before = json.loads((root / JSON).read_text(encoding="utf-8"))
    apart = {name: before[name] for name in ("memory", "brokers") if name in before}
    results = {**apart, **results}
    write_json(results, root / JSON)
    (root / SVG).write_text(draw(results), encoding="utf-8")
    page = (root / PAGE).read_text(encoding="utf-8")
    (root / PAGE).write_text(filled(page, results), encoding="utf-8")
