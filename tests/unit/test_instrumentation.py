"""The whole process at once, on pika's own classes: woven once, and restored exactly."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from opentelemetry import trace
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.channel import Channel
from pika.connection import Connection

import hopspan
from hopspan import instrumentation
from hopspan.config import Config
from hopspan.instrumentation import KafkaInstrumentor, PikaInstrumentor
from hopspan.model import ConfigurationError, PolicyError
from hopspan.telemetry import instrumenter_for
from tests.unit.support import Telemetry

ROOT = Path(__file__).parents[2]
CLASSES = (BlockingChannel, BlockingConnection, Channel, Connection)


def attributes() -> list[dict[str, Any]]:
    return [dict(vars(each)) for each in CLASSES]


BEFORE = attributes()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    assert attributes() == BEFORE
    yield
    hopspan.uninstrument()
    assert attributes() == BEFORE


def woven() -> set[str]:
    """The methods that are not the client's own just now."""
    return {
        f"{each.__name__}.{name}"
        for each, before in zip(CLASSES, BEFORE, strict=True)
        for name, value in vars(each).items()
        if before.get(name) is not value
    }


def test_every_point_is_woven(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    assert woven() == {
        "BlockingChannel.basic_publish",
        "BlockingChannel.basic_consume",
        "BlockingChannel.consume",
        "BlockingChannel.cancel",
        "BlockingChannel.basic_get",
        "Channel.basic_publish",
        "Channel.basic_consume",
        "Channel.basic_get",
        "Channel.confirm_delivery",
    }


def test_without_a_name_every_installed_client_is_instrumented(telemetry: Telemetry) -> None:
    hopspan.instrument(**telemetry.settings)
    assert len(woven()) == 9


def test_instrumenting_twice_is_once(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    first = attributes()
    hopspan.instrument("pika", **telemetry.settings)
    hopspan.instrument("pika")
    assert attributes() == first
    assert logged.records == []


def test_other_settings_the_second_time_have_no_effect_and_say_so(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    hopspan.instrument("pika", reraise=True)
    assert instrumenter_for("pika").config.reraise is False
    assert [record.message for record in logged.records] == [
        "pika is instrumented already; these settings have no effect"
    ]


def test_its_settings_hold_where_nothing_else_is_said(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", policy=hopspan.requeue_once, **telemetry.settings)
    assert instrumenter_for("pika").config == telemetry.config(policy=hopspan.requeue_once)


def test_variables_hold_beneath_its_settings(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOPSPAN_CORRELATION", "link")
    monkeypatch.setenv("HOPSPAN_RERAISE", "true")
    hopspan.instrument("pika", reraise=False, **telemetry.settings)
    found = instrumenter_for("pika").config
    assert (found.correlation, found.reraise) == ("link", False)


# -- undoing it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [(), ("pika",), ("pika", "pika"), ("pika", "unknown")])
def test_uninstrumenting_restores_the_classes_exactly(
    clients: tuple[str, ...], telemetry: Telemetry
) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    hopspan.uninstrument(*clients)
    assert attributes() == BEFORE


def test_uninstrumenting_another_client_changes_nothing(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    hopspan.uninstrument("kafka")
    assert len(woven()) == 9


def test_uninstrumenting_what_is_not_instrumented_is_harmless() -> None:
    hopspan.uninstrument()
    hopspan.uninstrument("pika")


def test_afterwards_the_defaults_hold_again(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", reraise=True, **telemetry.settings)
    hopspan.uninstrument()
    assert instrumenter_for("pika").config == Config()


def test_what_is_still_alive_is_switched_off(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    instrumenter = instrumenter_for("pika")
    hopspan.uninstrument()
    assert instrumenter.switch.on is False


def test_it_can_be_instrumented_again(telemetry: Telemetry) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    hopspan.uninstrument()
    hopspan.instrument("pika", reraise=True, **telemetry.settings)
    assert instrumenter_for("pika").config.reraise is True
    assert instrumenter_for("pika").switch.on is True


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "settings", "error", "message"),
    [
        (
            ("pika", "rabbit"),
            {},
            ConfigurationError,
            "unknown client 'rabbit'; hopspan knows aio-pika, celery, kafka, pika",
        ),
        (
            ("pika",),
            {"polices": 1},
            ConfigurationError,
            "unknown setting polices; did you mean policy?",
        ),
        (
            ("pika",),
            {"policy": hopspan.dead_letter("dlt", producer=None)},
            PolicyError,
            "policy dead_letter('dlt') cannot work with pika: RabbitMQ dead-letters by itself. "
            "Declare the queue with the argument x-dead-letter-exchange and use "
            "policy=hopspan.reject_on_error",
        ),
    ],
)
def test_a_mistake_is_an_error_and_nothing_is_woven(
    clients: tuple[str, ...], settings: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        hopspan.instrument(*clients, **settings)
    assert (str(raised.value), woven()) == (message, set())


def test_a_client_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as raised:
        hopspan.instrument("pika")
    assert str(raised.value) == "pika is not installed: pip install 'hopspan[pika]'"


def test_without_a_name_clients_that_are_not_installed_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    hopspan.instrument()
    assert woven() == set()


def test_a_wrong_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSPAN_POLICY", "nonsense")
    with pytest.raises(ConfigurationError, match="HOPSPAN_POLICY"):
        hopspan.instrument("pika")


# -- a client that has changed ---------------------------------------------------------------------


def changed(self: Any, on_message_callback: Any, queue: str, auto_ack: bool = False) -> Any: ...


@pytest.fixture
def newer_pika() -> Iterator[None]:
    """One whose `basic_consume` has its parameters in another order."""
    original = BlockingChannel.basic_consume
    BlockingChannel.basic_consume = changed  # type: ignore[method-assign, assignment]
    yield
    hopspan.uninstrument()
    BlockingChannel.basic_consume = original  # type: ignore[method-assign]


@pytest.mark.usefixtures("newer_pika")
def test_a_method_that_has_changed_is_left_alone_with_a_warning(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    hopspan.instrument("pika", **telemetry.settings)
    assert BlockingChannel.basic_consume is changed
    assert [record.message for record in logged.records] == [
        "hopspan leaves BlockingChannel.basic_consume alone: this version of the client has "
        "(on_message_callback, queue, auto_ack) where hopspan knows "
        "(queue, on_message_callback, auto_ack); look for a newer hopspan"
    ]


@pytest.mark.usefixtures("newer_pika")
def test_a_method_that_has_changed_is_an_error_where_a_policy_would_be_lost() -> None:
    before = attributes()
    with pytest.raises(ConfigurationError) as raised:
        hopspan.instrument("pika", policy=hopspan.ack_always)
    assert str(raised.value).startswith(
        "BlockingChannel.basic_consume cannot be instrumented, so policy ack_always would be lost:"
    )
    assert attributes() == before
    assert instrumenter_for("pika").config == Config()


# -- zero-code -------------------------------------------------------------------------------------


def test_the_launcher_instruments_with_its_providers(telemetry: Telemetry) -> None:
    PikaInstrumentor().instrument(
        tracer_provider=telemetry.tracer_provider, meter_provider=None, skip_dep_check=True
    )
    found = instrumenter_for("pika").config
    assert (found.tracer_provider, found.meter_provider) == (telemetry.tracer_provider, None)
    PikaInstrumentor().uninstrument(anything=True)
    assert woven() == set()


def test_the_launcher_passes_over_a_client_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    PikaInstrumentor().instrument()
    assert woven() == set()


RIVAL = EntryPoint("pika", "opentelemetry.instrumentation.pika:PikaInstrumentor", "x")


@pytest.fixture
def rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instrumentation of pika is installed."""
    monkeypatch.setattr(instrumentation, "entry_points", lambda *, group, name: [RIVAL])


WHY = (
    "opentelemetry.instrumentation.pika:PikaInstrumentor is installed as well; add pika or "
    "hopspan_pika to OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
)


@pytest.mark.usefixtures("rival")
def test_the_launcher_gives_way_to_another_instrumentation_and_says_so(
    logged: pytest.LogCaptureFixture,
) -> None:
    PikaInstrumentor().instrument()
    assert woven() == set()
    assert [record.message for record in logged.records] == [
        f"hopspan leaves pika alone, or spans would be doubled: {WHY}"
    ]


@pytest.mark.usefixtures("rival")
def test_a_policy_that_would_be_lost_to_another_instrumentation_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOPSPAN_POLICY", "requeue_once")
    with pytest.raises(ConfigurationError) as raised:
        PikaInstrumentor().instrument()
    assert str(raised.value) == f"hopspan leaves pika alone, and HOPSPAN_POLICY is lost: {WHY}"


@pytest.mark.usefixtures("rival")
@pytest.mark.parametrize("disabled", ["pika", "redis, pika"])
def test_another_instrumentation_that_is_disabled_does_not_matter(
    disabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", disabled)
    PikaInstrumentor().instrument()
    assert len(woven()) == 9


@pytest.mark.parametrize(
    ("name", "instrumentor"),
    [("hopspan_kafka", KafkaInstrumentor), ("hopspan_pika", PikaInstrumentor)],
)
def test_the_entry_point_names_the_instrumentor(name: str, instrumentor: type) -> None:
    """As pyproject.toml has it."""
    path = f"hopspan.instrumentation:{instrumentor.__name__}"
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert f'{name} = "{path}"' in lines
    assert EntryPoint(name, path, "opentelemetry_instrumentor").load() is instrumentor


KAFKA_METHODS = {
    (KafkaProducer, "send"),
    (KafkaConsumer, "poll"),
    (KafkaConsumer, "__iter__"),
    (KafkaConsumer, "__next__"),
}


def of_kafka() -> dict[Any, Any]:
    return {(owner, name): vars(owner)[name] for owner, name in KAFKA_METHODS}


def test_the_launcher_instruments_kafka_and_nothing_else(telemetry: Telemetry) -> None:
    before = of_kafka()
    KafkaInstrumentor().instrument(tracer_provider=telemetry.tracer_provider)
    changed = {each for each, value in of_kafka().items() if value is not before[each]}
    assert (changed, woven()) == (KAFKA_METHODS, set())
    assert instrumenter_for("kafka").config.tracer_provider is telemetry.tracer_provider
    KafkaInstrumentor().uninstrument()
    assert of_kafka() == before


def test_the_launcher_leaves_kafka_to_another_instrumentation_of_kafka(
    monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        asked.append((group, name))
        return [EntryPoint("kafka", "opentelemetry.instrumentation.kafka:KafkaInstrumentor", "x")]

    monkeypatch.setattr(instrumentation, "entry_points", entry_points)
    before = of_kafka()
    KafkaInstrumentor().instrument()
    assert (asked, of_kafka()) == ([("opentelemetry_instrumentor", "kafka")], before)
    assert [record.message for record in logged.records] == [
        "hopspan leaves kafka alone, or spans would be doubled: "
        "opentelemetry.instrumentation.kafka:KafkaInstrumentor is installed as well; add kafka or "
        "hopspan_kafka to OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    ]


def test_the_global_provider_is_used_where_none_is_given() -> None:
    hopspan.instrument("pika")
    assert instrumenter_for("pika").config.tracer_provider is None
    assert trace.get_tracer_provider() is not None
