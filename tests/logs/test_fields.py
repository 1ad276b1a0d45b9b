from __future__ import annotations

import re
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from hopspan import ConfigurationError
from hopspan.logs.fields import Fields
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


WANTED = 'it takes a list of names and prefixes such as ["tenant_id", "app.*"]'


@pytest.mark.parametrize(
    ("baggage", "said"),
    [("tenant", "'tenant'"), (7, "7"), ([""], "''"), (["a*b"], "'a*b'"), ([b"a"], "b'a'")],
)
def test_what_names_no_baggage_is_refused(baggage: Any, said: str) -> None:
    error = f"baggage={said} is not valid: {WANTED}"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(error)}$"):
        Fields(baggage)


def test_what_anybody_may_have_put_into_baggage_is_bounded() -> None:
    entries = {f"app.{number}": "x" * 2000 for number in range(100)}
    with Within(**entries):
        found = Fields(["app.*"]).current()
    values = [value for name, value in found.items() if name not in TRACE]
    assert values == ["x" * 1024] * 32


@pytest.mark.parametrize(
    "name", ["getMessage", "name", "lineno", "message", "asctime", "event", "service.name"]
)
def test_a_senders_baggage_hides_nothing_of_loggings_own(name: str) -> None:
    with Within(SpanContext(0xABC, 0xDEF, is_remote=True), **{name: "evil", "tenant": "acme"}):
        assert Fields(["*"]).current() == {**TRACE, "trace_flags": "00", "tenant": "acme"}
