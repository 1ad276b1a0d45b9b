"""Clients: found, too old, from elsewhere, changed, and two instrumentations at once."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import hopspan
from hopspan.adapters import ADAPTERS
from hopspan.doctor import SetUp, application
from hopspan.doctor.environment import requirements
from tests.doctor.test_variables import an_environment, looked

blocking = pytest.importorskip("pika.adapters.blocking_connection")

FLOORS = ("pika>=1.3; extra == 'pika'", "pika>=1.3; extra == 'all'", "opentelemetry-api>=1.38")
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
RIVALS = {"pika": "opentelemetry-instrumentation-pika", "hopspan_pika": "hopspan"}


@pytest.fixture(autouse=True)
def only_pika(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no other client were installed."""
    kept = importlib.util.find_spec
    others = {*ADAPTERS} - {"pika"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in others else kept(name)
    )
    yield
    hopspan.uninstrument()


def test_a_supported_client_is_told_with_its_version_and_the_oldest() -> None:
    environment = an_environment(version_of={"pika": "1.3.2"}.get, requirements=FLOORS)
    assert looked("clients", environment) == [("ok", "pika 1.3.2 (supported from 1.3)", "")]


def test_the_oldest_versions_are_those_of_the_package() -> None:
    """What the wheel requires is what the doctor reads, for every client."""
    required = requirements()
    if not required:
        pytest.skip("hopspan is not installed, only found")
    version = importlib.metadata.version("pika")
    environment = an_environment(version_of={"pika": version}.get, requirements=required)
    assert looked("clients", environment) == [("ok", f"pika {version} (supported from 1.3)", "")]


def test_an_old_client_is_an_error() -> None:
    environment = an_environment(version_of={"pika": "1.2.10"}.get, requirements=FLOORS)
    assert looked("clients", environment) == [
        (
            "error",
            "pika 1.2.10 is older than 1.3, the oldest that is supported",
            "pip install 'pika>=1.3'",
        )
    ]


def test_a_module_of_another_distribution_is_an_error() -> None:
    environment = an_environment(version_of={}.get, requirements=FLOORS)
    assert looked("clients", environment) == [
        (
            "error",
            "module pika comes from pika, which hopspan does not support",
            "pip install 'pika>=1.3'",
        )
    ]


def test_a_source_tree_that_was_never_installed_knows_no_oldest_version() -> None:
    environment = an_environment(version_of={"pika": "1.3.2"}.get, requirements=())
    assert looked("clients", environment) == [("ok", "pika 1.3.2", "")]


def test_no_client_at_all_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    known = ", ".join(ADAPTERS).replace("_", "-")
    assert looked("clients", an_environment()) == [
        (
            "warning",
            f"no client is installed that hopspan knows: {known}",
            "pip install 'hopspan[pika]'",
        )
    ]


def test_a_method_that_has_changed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def basic_publish(self: Any, routing_key: str, exchange: str, body: bytes) -> None:
        raise NotImplementedError

    monkeypatch.setattr(blocking.BlockingChannel, "basic_publish", basic_publish)
    environment = an_environment(version_of={"pika": "9.0"}.get, requirements=FLOORS)
    assert looked("clients", environment) == [
        ("ok", "pika 9.0 (supported from 1.3)", ""),
        (
            "warning",
            "hopspan leaves BlockingChannel.basic_publish alone: this version of the client has "
            "(routing_key, exchange, body) where hopspan knows (exchange, routing_key, body, "
            "properties, mandatory); look for a newer hopspan",
            "pip install --upgrade hopspan, or an older release of the client",
        ),
    ]


def test_what_hopspan_has_replaced_itself_has_not_changed() -> None:
    hopspan.instrument("pika")
    environment = an_environment(version_of={"pika": "1.4"}.get, requirements=FLOORS)
    assert looked("clients", environment) == [("ok", "pika 1.4 (supported from 1.3)", "")]


# -- who intercepts --------------------------------------------------------------------------------


def instrumented() -> SetUp:
    """As after an application's set-up."""
    return SetUp(configs=application.configs())


def test_an_instrumentation_of_hopspans_alone_is_fine() -> None:
    hopspan.instrument("pika")
    environment = an_environment(set_up=instrumented())
    assert looked("instrumentation", environment) == [
        ("ok", "pika is instrumented by hopspan alone", "")
    ]


def test_a_client_that_nobody_instruments_is_a_hint() -> None:
    assert looked("instrumentation", an_environment(set_up=SetUp())) == [
        (
            "hint",
            "installed, and not instrumented as a whole: pika",
            "hopspan.instrument('pika'), unless handlers are decorated or objects wrapped",
        )
    ]


def test_without_an_application_nobody_could_have_instrumented_it() -> None:
    assert looked("instrumentation", an_environment()) == []


def test_two_that_the_launcher_would_load_are_found() -> None:
    environment = an_environment(entry_points_of=lambda _: RIVALS)
    assert looked("instrumentation", environment) == [
        (
            "warning",
            "opentelemetry-instrumentation-pika is installed as well: under "
            "opentelemetry-instrument hopspan leaves pika to it",
            f"{DISABLED}=pika to keep hopspan, {DISABLED}=hopspan_pika to keep the other",
        )
    ]


@pytest.mark.parametrize("disabled", ["pika", "flask, hopspan_pika"])
def test_one_of_the_two_that_is_disabled_is_no_fault(disabled: str) -> None:
    environment = an_environment({DISABLED: disabled}, entry_points_of=lambda _: RIVALS)
    assert looked("instrumentation", environment) == []


def test_a_wrapper_of_wrapt_is_told_by_the_module_that_wraps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most other instrumentations are made with it: it shows the wrapped method's own names."""
    wrapt = pytest.importorskip("wrapt")

    def another(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    wrapped = wrapt.FunctionWrapper(blocking.BlockingConnection.channel, another)
    monkeypatch.setattr(blocking.BlockingConnection, "channel", wrapped)
    assert looked("instrumentation", an_environment(set_up=SetUp())) == [
        (
            "warning",
            f"pika is instrumented by {__name__}, so hopspan leaves it alone",
            f"keep one: leave out hopspan.instrument('pika'), or set {DISABLED}=pika",
        )
    ]


def test_an_instrumentation_of_opentelemetrys_own_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Celery wraps nothing: it listens to signals."""
    base = pytest.importorskip("opentelemetry.instrumentation.instrumentor")

    class Another(base.BaseInstrumentor):  # type: ignore[misc, name-defined]
        def instrumentation_dependencies(self) -> list[str]:
            return []

        def _instrument(self, **_: Any) -> None:
            """It listens."""

        def _uninstrument(self, **_: Any) -> None:
            """It does not listen any more."""

    module = types.ModuleType("opentelemetry.instrumentation.pika")
    vars(module).update(Another=Another, BaseInstrumentor=base.BaseInstrumentor)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    environment = an_environment(set_up=SetUp())
    assert [level for level, *_ in looked("instrumentation", environment)] == ["hint"]
    Another().instrument()
    assert looked("instrumentation", environment) == [
        (
            "warning",
            "pika is instrumented by opentelemetry.instrumentation.pika, so hopspan leaves it "
            "alone",
            f"keep one: leave out hopspan.instrument('pika'), or set {DISABLED}=pika",
        )
    ]
    Another().uninstrument()
    assert [level for level, *_ in looked("instrumentation", environment)] == ["hint"]
