"""What can be said about the files in docs/deploy without running them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docs" / "deploy"
COLLECTOR: dict[str, Any] = yaml.safe_load((FOLDER / "collector.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_every_component_is_used_and_every_used_one_is_there() -> None:
    used: dict[str, set[str]] = {kind: set() for kind in ("receivers", "processors", "exporters")}
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        for kind, names in used.items():
            names.update(pipeline[kind])
    used["extensions"] = set(COLLECTOR["service"]["extensions"])
    assert used == {kind: set(COLLECTOR[kind]) for kind in used}


def test_memory_is_limited_first_and_batches_are_made_last() -> None:
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        assert ("memory_limiter", "batch") == (
            pipeline["processors"][0],
            pipeline["processors"][-1],
        )


def test_all_errors_all_slow_and_five_percent_of_the_rest() -> None:
    policies = COLLECTOR["processors"]["tail_sampling"]["policies"]
    assert [
        {"name": "errors", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}},
        {"name": "slow", "type": "latency", "latency": {"threshold_ms": "${env:SLOW_MS:-2000}"}},
        {
            "name": "the-rest",
            "type": "probabilistic",
            "probabilistic": {"sampling_percentage": "${env:KEEP_PERCENT:-5}"},
        },
    ] == policies


def test_every_variable_is_told() -> None:
    text = (FOLDER / "collector.yaml").read_text()
    told = text.partition("receivers:")[0]
    assert [] == [name for name in re.findall(r"\$\{env:(\w+)", text) if name not in told]


def test_the_ui_has_a_fixed_version_and_is_for_this_machine_alone() -> None:
    jaeger = COMPOSE["services"]["jaeger"]
    assert re.fullmatch(r"jaegertracing/jaeger:\d+\.\d+\.\d+", jaeger["image"])
    assert [f"127.0.0.1:{port}:{port}" for port in (16686, 4317, 4318)] == jaeger["ports"]
