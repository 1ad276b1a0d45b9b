"""Whose settings hold: what `instrument` set for a client, and what a face says over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import hopspan
from hopspan.config import Config
from hopspan.model import ConfigurationError, Outcome, PolicyError, Verdict
from hopspan.telemetry.instrumenter import Instrumenter
from hopspan.telemetry.scopes import (
    NO_OVERRIDES,
    Binding,
    Overrides,
    cached_overrides,
    forget_defaults,
    instrumenter_for,
    set_for_client,
)
from tests.unit.support import Telemetry


@pytest.fixture
def installed(telemetry: Telemetry) -> Iterator[Any]:
    instrumenter = telemetry.instrumenter(reraise=True)
    set_for_client("memory", instrumenter)
    yield instrumenter
    set_for_client("memory", None)


def test_what_was_installed_is_used_for_its_client(installed: Any) -> None:
    assert instrumenter_for("memory") is installed


def test_other_clients_use_the_defaults(installed: Any) -> None:
    assert instrumenter_for("pika").config == Config()


def test_what_is_taken_away_is_used_no_more(installed: Any) -> None:
    set_for_client("memory", None)
    assert instrumenter_for("memory").config == Config()


def test_the_defaults_are_read_from_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSPAN_RERAISE", "true")
    first = instrumenter_for("memory")
    monkeypatch.setenv("HOPSPAN_RERAISE", "false")
    assert instrumenter_for("memory") is first
    assert first.config.reraise is True


def test_the_defaults_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    instrumenter_for("memory")
    monkeypatch.setenv("HOPSPAN_RERAISE", "true")
    forget_defaults()
    assert instrumenter_for("memory").config.reraise is True


def test_a_wrong_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSPAN_RERAISE", "perhaps")
    with pytest.raises(ConfigurationError):
        instrumenter_for("memory")


def test_a_face_without_settings_is_what_lies_beneath_it(telemetry: Telemetry) -> None:
    base = telemetry.instrumenter()
    assert NO_OVERRIDES.applied_to(base) is base


def test_a_face_lays_its_settings_over_the_base(telemetry: Telemetry) -> None:
    base = telemetry.instrumenter(correlation="link")
    assert Overrides({"reraise": True}).applied_to(base).config == telemetry.config(
        correlation="link", reraise=True
    )


def test_a_face_over_one_base_is_made_once(telemetry: Telemetry) -> None:
    """A tracer and a meter are not asked for at every message."""
    base, face = telemetry.instrumenter(), Overrides({"reraise": True})
    assert face.applied_to(base) is face.applied_to(base)


def test_a_face_over_another_base_is_made_anew(telemetry: Telemetry) -> None:
    face = Overrides({"reraise": True})
    face.applied_to(telemetry.instrumenter())
    other = telemetry.instrumenter(correlation="link")
    assert face.applied_to(other).config.correlation == "link"


def test_a_face_keeps_the_switch_of_its_base(telemetry: Telemetry) -> None:
    base = telemetry.instrumenter()
    assert Overrides({"reraise": True}).applied_to(base).switch is base.switch


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"nonsense": 1}, ConfigurationError), ({"policy": "manual"}, PolicyError)],
)
def test_a_mistake_is_known_when_the_face_is_made(
    settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Overrides(settings)


def test_later_changes_to_the_given_settings_do_not_matter() -> None:
    settings: dict[str, Any] = {"reraise": True}
    face = Overrides(settings)
    settings["reraise"] = False
    assert face.settings == {"reraise": True}


def test_equal_settings_have_one_face() -> None:
    """`process` is called for every message."""
    assert cached_overrides({"policy": hopspan.requeue_once}) is cached_overrides(
        {"policy": hopspan.requeue_once}
    )


def test_no_settings_have_one_face() -> None:
    assert cached_overrides({}) is NO_OVERRIDES


class Unhashable:
    """A policy of the user's own."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, outcome: Outcome, delivery: Any) -> Verdict:
        return Verdict.ACK


def test_settings_that_cannot_be_hashed_have_a_face_all_the_same() -> None:
    policy = Unhashable()
    assert cached_overrides({"policy": policy}).settings == {"policy": policy}


@pytest.mark.parametrize(
    "names", [["tenant_id", "app.*"], {"tenant_id", "app.*"}], ids=["list", "set"]
)
def test_equal_names_have_one_face(names: Any) -> None:
    face = cached_overrides({"baggage_allow": names})
    assert face is cached_overrides({"baggage_allow": ["app.*", "tenant_id"]})
    assert face.applied_to(Instrumenter(Config())).config.baggage_allow == ("app.*", "tenant_id")


def test_a_mistake_is_an_error_every_time() -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            cached_overrides({"nonsense": 1})


def test_a_binding_is_active_until_its_switch_is_off(telemetry: Telemetry) -> None:
    binding = Binding(None, telemetry.instrumenter())
    assert binding.active is True
    binding.instrumenter.switch.on = False
    assert binding.active is False
