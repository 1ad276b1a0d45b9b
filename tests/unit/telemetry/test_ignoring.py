"""Destinations that are left untraced: patterns of the shell, for names and templates."""

from __future__ import annotations

import pytest

from hopspan.model import Endpoint
from hopspan.telemetry.ignoring import ignoring


def test_without_patterns_nothing_is_looked_at() -> None:
    assert ignoring(()) is None


@pytest.mark.parametrize(
    ("patterns", "ignored"),
    [
        (("health",), ["health"]),
        (("health.*",), ["health.ping", "health.ping.a"]),
        (("health*",), ["health", "health.ping", "health.ping.a", "healthy"]),
        (("*.ping",), ["health.ping"]),
        (("health.p[aio]ng", "healt?y"), ["health.ping", "healthy"]),
        (("Health",), ["Health"]),
        (("*",), ["health", "Health", "health.ping", "health.ping.a", "healthy", "(x|y)", ""]),
        (("(x|y)", "y"), ["(x|y)"]),
    ],
)
def test_a_destination_is_matched_as_a_whole(patterns: tuple[str, ...], ignored: list[str]) -> None:
    names = ["health", "Health", "health.ping", "health.ping.a", "healthy", "(x|y)", ""]
    is_ignored = ignoring(patterns)
    assert is_ignored is not None
    assert [name for name in names if is_ignored(Endpoint("memory", name))] == ignored


@pytest.mark.parametrize(("template", "ignored"), [("health.{id}", True), ("orders.{id}", False)])
def test_a_template_is_as_good_as_a_name(template: str, ignored: bool) -> None:
    is_ignored = ignoring(["health.*"])
    assert is_ignored is not None
    assert is_ignored(Endpoint("memory", "x.7", template=template)) is ignored
