from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from hopspan import ConfigurationError
from hopspan.logs.fields import Chosen, Fields
from tests.logs.conftest import SPAN, TRACE, Within, recording


def test_ids_are_lower_case_hex_of_full_width_and_flags_as_w3c_has_them() -> None:
    with Within(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(3))):
        assert Fields().current() == {
            "trace_id": "00000000000000000000000000000abc",
            "span_id": "0000000000000def",
            "trace_flags": "03",
        }


def test_a_span_that_is_not_sampled_is_told_all_the_same() -> None:
    with Within(SpanContext(0xABC, 0xDEF, is_remote=True)):
        assert Fields().current() == {**TRACE, "trace_flags": "00"}


def test_without_a_span_there_is_nothing_not_even_baggage_or_a_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    assert Fields(["*"]).current() == {}
    with Within(trace.INVALID_SPAN, tenant="acme"):
        assert Fields(["*"]).current() == {}


def test_the_service_is_that_which_the_span_is_exported_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of the environment")
    with Within(recording("of the span")):
        assert Fields().current()["service.name"] == "of the span"


def test_for_a_span_that_is_not_recorded_it_is_that_of_the_global_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of the environment")
    provider = TracerProvider(resource=Resource({"service.name": "of all"}), shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with Within():
        assert Fields().current() == {**TRACE, "service.name": "of all"}


def test_without_an_sdk_it_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of the environment")
    with Within():
        assert Fields().current() == {**TRACE, "service.name": "of the environment"}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], {}),
        (["tenant"], {"tenant": "acme"}),
        (["ten"], {}),
        (["app.*"], {"app.plan": "gold", "app.tier": "1"}),
        (["tenant", "app.tier", "absent"], {"tenant": "acme", "app.tier": "1"}),
        (["*"], {"tenant": "acme", "app.plan": "gold", "app.tier": "1", "application": "x"}),
    ],
)
def test_only_chosen_baggage_is_copied(patterns: list[str], chosen: dict[str, str]) -> None:
    with Within(tenant="acme", app__plan="gold", app__tier=1, application="x"):
        assert Fields(patterns).current() == {**chosen, **TRACE}


def test_baggage_cannot_pretend_to_be_the_trace() -> None:
    """It comes from whoever sent the message."""
    with Within(SPAN, trace_id="forged", span_id="forged", trace_flags="forged"):
        assert Fields(["*"]).current() == TRACE


@pytest.mark.parametrize(
    ("patterns", "error"),
    [
        (
            "tenant",
            "baggage='tenant' is not valid: it takes a list of names and prefixes, such as "
            '["tenant_id", "app.*"]',
        ),
        (
            7,
            "baggage=7 is not valid: it takes a list of names and prefixes, such as "
            '["tenant_id", "app.*"]',
        ),
        ([""], "'' names no baggage: give a name, or a prefix with * at its end"),
        (["a*b"], "'a*b' names no baggage: give a name, or a prefix with * at its end"),
        ([b"a"], "b'a' names no baggage: give a name, or a prefix with * at its end"),
    ],
)
def test_what_names_no_baggage_is_refused(patterns: Iterable[str], error: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(error)}$"):
        Chosen(patterns)
