"""Whether an operation is observed: an SDK, hooks, suppression, destinations that are ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hopspan.config import Config
from hopspan.model import Endpoint, Verdict
from hopspan.telemetry.enabled import Enabled, has_no_sdk, ignoring, is_suppressed
from tests.unit.support import Telemetry

NONE: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", object())


def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", object())


SDKS = pytest.mark.parametrize("installed", [traced, measured])


@pytest.fixture
def current() -> Iterator[None]:
    token = attach(set_value("color", "red", Context()))
    yield
    detach(token)


def given(name: str) -> Any:
    telemetry = Telemetry()
    return telemetry.settings.get(name) or (lambda *_: None)


PROVIDERS_AND_HOOKS = pytest.mark.parametrize(
    "name", ["tracer_provider", "meter_provider", "on_start", "on_end"]
)

# -- an SDK ----------------------------------------------------------------------------------------


def test_at_first_there_is_no_sdk() -> None:
    assert has_no_sdk() is True


@SDKS
def test_an_sdk_that_is_installed_later_is_seen(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled = Enabled(Config())
    before = (has_no_sdk(), enabled.is_unobserved(), enabled.publish_is_noop())
    installed(monkeypatch)
    after = (has_no_sdk(), enabled.is_unobserved(), enabled.publish_is_noop())
    assert (before, after) == ((True, True, True), (False, False, False))


def test_where_the_api_has_another_inside_there_is_an_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trace, "_TRACER_PROVIDER")
    assert has_no_sdk() is False
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None, raising=False)
    monkeypatch.delattr(metrics._internal, "_METER_PROVIDER")
    assert has_no_sdk() is False


def test_the_proxy_of_the_api_is_no_sdk() -> None:
    trace.get_tracer_provider()
    metrics.get_meter_provider()
    assert has_no_sdk() is True


# -- nobody ----------------------------------------------------------------------------------------


@PROVIDERS_AND_HOOKS
def test_a_provider_or_a_hook_of_the_settings_is_somebody(name: str) -> None:
    enabled = Enabled(Config(**{name: given(name)}))
    assert (enabled.is_unobserved(), enabled.publish_is_noop()) == (False, False)


@pytest.mark.parametrize("signal", ["logs", "logs/dup"])
def test_who_wants_exceptions_in_logs_is_somebody(signal: Any) -> None:
    """Whether there is a provider of logs is not asked: one can be installed later."""
    enabled = Enabled(Config(exceptions=signal))
    assert (enabled.is_unobserved(), enabled.publish_is_noop()) == (False, False)


# -- nothing to carry ------------------------------------------------------------------------------


@pytest.mark.usefixtures("current")
def test_whatever_is_current_may_be_carried() -> None:
    enabled = Enabled(Config())
    assert (enabled.is_unobserved(), enabled.publish_is_noop()) == (True, False)


@pytest.mark.parametrize("allowed", [NONE, frozenset({"tenant.id"})])
def test_an_allow_list_holds_for_what_the_message_brings(allowed: Any) -> None:
    enabled = Enabled(Config(baggage_allow=allowed))
    assert (enabled.is_unobserved(), enabled.publish_is_noop()) == (True, False)


def test_another_propagator_may_know_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled = Enabled(Config())
    other = CompositePropagator([TraceContextTextMapPropagator()])
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", other)
    assert enabled.publish_is_noop() is False


# -- how it ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "hears"),
    [
        ({}, False),
        ({"metrics": NONE}, False),
        ({"on_start": given("on_start")}, False),
        ({"tracer_provider": given("tracer_provider")}, False),
        ({"on_end": given("on_end")}, True),
        ({"meter_provider": given("meter_provider")}, True),
        ({"meter_provider": given("meter_provider"), "metrics": NONE}, False),
        ({"exceptions": "logs"}, True),
        ({"exceptions": "logs/dup"}, True),
    ],
)
def test_who_hears_of_what_is_not_recorded(settings: Any, hears: bool) -> None:
    assert Enabled(Config(**settings)).observes_unrecorded() is hears


@SDKS
@pytest.mark.parametrize(("settings", "hears"), [({}, True), ({"metrics": NONE}, False)])
def test_a_global_sdk_hears_what_is_measured(
    installed: Any, settings: Any, hears: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled = Enabled(Config(**settings))
    installed(monkeypatch)
    assert enabled.observes_unrecorded() is hears


# -- settlements -----------------------------------------------------------------------------------

TOLD = {
    "all": set(Verdict),
    "notable": {Verdict.REQUEUE, Verdict.REJECT},
    "none": set[Verdict](),
}


@pytest.mark.parametrize("wanted", sorted(TOLD))
def test_which_settlements_are_told(wanted: Any) -> None:
    enabled = Enabled(Config(settle_spans=wanted))
    assert {each for each in Verdict if enabled.records_settlement(each)} == TOLD[wanted]


@pytest.mark.parametrize(("wanted", "tells"), [("all", True), ("notable", True), ("none", False)])
def test_what_is_notable_by_itself_is_told_unless_nothing_is(wanted: Any, tells: bool) -> None:
    enabled = Enabled(Config(settle_spans=wanted))
    assert {enabled.records_settlement(each, notable=True) for each in Verdict} == {tells}


# -- suppression -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"], ids=["api", "plain"]
)
def test_both_spellings_suppress(key: str) -> None:
    """The one of the API, and the plain one that older instrumentations set."""
    assert is_suppressed(set_value(key, True, Context())) is True


def test_nothing_is_suppressed_by_itself() -> None:
    assert is_suppressed(Context()) is False


def test_suppression_can_be_lifted() -> None:
    assert is_suppressed(set_value("suppress_instrumentation", False, Context())) is False


# -- destinations that are ignored: patterns of the shell, for names and templates ------------------


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
