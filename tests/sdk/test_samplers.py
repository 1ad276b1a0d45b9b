"""Sampling: what matters is always kept, the rest by ratio, and everybody decides alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
)

import hopspan
from hopspan.sdk import keep, parent_based_ratio, rule
from hopspan.sdk.samplers import Keep
from hopspan.testing import Message

MANY = 10_000
RATIO = 0.05
ENTERPRISE = rule(baggage={"customer.tier": "enterprise"})


def of_tier(tier: str) -> Context:
    return baggage.set_baggage("customer.tier", tier, Context())


def child_of(
    *, is_sampled: bool, is_remote: bool = True, state: TraceState | None = None
) -> Context:
    span = SpanContext(
        trace_id=RandomIdGenerator().generate_trace_id(),
        span_id=1,
        is_remote=is_remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT),
        trace_state=state or TraceState(),
    )
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def decided(
    sampler: Sampler,
    context: Context | None = None,
    attributes: Mapping[str, Any] | None = None,
    trace_id: int = 2**128 - 1,
) -> tuple[bool, str | None]:
    """Whether it is kept, and why; the trace id is one that no ratio below 1 keeps."""
    result = sampler.should_sample(
        context or Context(), trace_id, "place", SpanKind.PRODUCER, attributes
    )
    reason = (result.attributes or {}).get("hopspan.sampling.reason")
    return result.decision is Decision.RECORD_AND_SAMPLE, None if reason is None else str(reason)


# -- what is promised ------------------------------------------------------------------------------


def test_enterprise_is_kept_and_the_rest_within_the_binomial_bounds() -> None:
    """Five standard deviations: it is off by chance once in two million runs."""
    tracer = TracerProvider(sampler=keep(ENTERPRISE, ratio=RATIO)).get_tracer("test")

    def kept(tier: str) -> int:
        context = of_tier(tier)
        return sum(tracer.start_span("place", context).is_recording() for _ in range(MANY))

    deviation = math.sqrt(MANY * RATIO * (1 - RATIO))
    assert MANY == kept("enterprise")
    assert abs(kept("free") - MANY * RATIO) < 5 * deviation


@pytest.mark.parametrize("parent", ["asked", "not asked"])
def test_producer_and_consumer_decide_alike(parent: str) -> None:
    """Through real headers, with a sampler of its own in each service; asked or not, a parent."""

    def sampler() -> Sampler:
        return keep(ENTERPRISE, ratio=RATIO) if parent == "asked" else Keep([ENTERPRISE], RATIO)

    producer = TracerProvider(sampler=sampler()).get_tracer("producer")
    consumer = TracerProvider(sampler=sampler()).get_tracer("consumer")
    outcomes = set()
    for number in range(MANY // 5):
        tier = "enterprise" if number % 10 == 0 else "free"
        sent = producer.start_span("send", of_tier(tier))
        headers = hopspan.inject({}, trace.set_span_in_context(sent, of_tier(tier)))
        handled = consumer.start_span("process", hopspan.extract(headers))
        outcomes.add((tier, sent.is_recording(), handled.is_recording()))
    assert {
        ("enterprise", True, True),
        ("free", True, True),
        ("free", False, False),
    } == outcomes


def test_a_new_trace_in_the_consumer_is_still_kept_by_the_baggage_of_its_message() -> None:
    """With `correlation="link"` there is no parent to ask; the rule is asked again."""
    provider = TracerProvider(sampler=keep(ENTERPRISE, ratio=0.0))
    recorded = []

    @hopspan.consumer(correlation="link", tracer_provider=provider)
    def handle(message: Message) -> None:
        recorded.append(trace.get_current_span().is_recording())

    handle(Message(b"", headers={"baggage": "customer.tier=enterprise"}))
    handle(Message(b"", headers={"baggage": "customer.tier=free"}))
    assert [True, False] == recorded


def test_the_rest_is_decided_as_the_sdk_decides_it() -> None:
    ours, theirs = Keep([ENTERPRISE], RATIO), TraceIdRatioBased(RATIO)
    make = RandomIdGenerator().generate_trace_id
    for trace_id in (make() for _ in range(2000)):
        result = theirs.should_sample(Context(), trace_id, "place")
        expected = result.decision is Decision.RECORD_AND_SAMPLE
        assert (expected, "ratio" if expected else None) == decided(ours, trace_id=trace_id)


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "value", "matches"),
    [
        ("enterprise", "enterprise", True),
        ("enterprise", "Enterprise", False),
        ({"gold", "enterprise"}, "gold", True),
        (["gold", "enterprise"], "free", False),
        (("gold",), "gold", True),
        (lambda text: float(text) > 1000, "1001", True),
        (lambda text: float(text) > 1000, "10", False),
        (lambda text: float(text) > 1000, "no number", False),
    ],
    ids=["same", "case", "one of", "none of", "tuple", "true", "false", "raises"],
)
def test_what_a_rule_wants(wanted: Any, value: str, matches: bool) -> None:
    reason = "why" if matches else None
    by_baggage = keep(rule(baggage={"tier": wanted}, reason="why"), ratio=0)
    by_attribute = keep(rule(attribute={"tier": wanted}, reason="why"), ratio=0)
    with_entry = baggage.set_baggage("tier", value, Context())
    assert (matches, reason) == decided(by_baggage, with_entry)
    assert (matches, reason) == decided(by_attribute, attributes={"tier": value})
    assert (False, None) == decided(by_baggage, attributes={"tier": value})
    assert (False, None) == decided(by_attribute, with_entry)


def test_all_that_one_rule_names_must_match_and_one_rule_is_enough() -> None:
    both = rule(attribute={"queue": "orders"}, baggage={"customer.tier": "enterprise"})
    sampler = keep(both, rule(attribute={"queue": "refunds"}), ratio=0)
    assert (False, None) == decided(sampler, of_tier("enterprise"))
    assert (False, None) == decided(sampler, attributes={"queue": "orders"})
    assert (True, "attribute queue=orders; baggage customer.tier=enterprise") == decided(
        sampler, of_tier("enterprise"), {"queue": "orders"}
    )
    assert (True, "attribute queue=refunds") == decided(sampler, attributes={"queue": "refunds"})


def test_an_attribute_that_is_a_list_matches_nothing_of_a_set() -> None:
    sampler = keep(rule(attribute={"queue": {"orders"}}), ratio=0)
    assert (False, None) == decided(sampler, attributes={"queue": ["orders"]})


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: rule(), "a rule names an attribute or a baggage entry; this names neither"),
        (lambda: keep(ratio=1.5), "ratio=1.5 is not valid: it takes a number from 0 to 1"),
        (
            lambda: parent_based_ratio(-1),
            "ratio=-1 is not valid: it takes a number from 0 to 1",
        ),
    ],
    ids=["empty rule", "ratio", "parent based"],
)
def test_what_cannot_be(made: Any, error: str) -> None:
    with pytest.raises(hopspan.ConfigurationError) as raised:
        made()
    assert error == str(raised.value)


# -- parents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remote", [True, False], ids=["remote", "local"])
@pytest.mark.parametrize("sampler", [keep(ENTERPRISE, ratio=0.5), parent_based_ratio(0.5)], ids=["keep", "ratio"])  # fmt: skip
@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "unsampled"])
def test_the_parent_decides(is_remote: bool, sampler: Sampler, is_sampled: bool) -> None:
    """Also where a rule matches: a trace is whole or not there at all."""
    parent = child_of(is_sampled=is_sampled, is_remote=is_remote)
    context = baggage.set_baggage("customer.tier", "enterprise", parent)
    assert (is_sampled, None) == decided(sampler, context)


@pytest.mark.parametrize("is_remote", [True, False], ids=["remote", "local"])
def test_rescue_keeps_what_matters_of_an_unsampled_trace(is_remote: bool) -> None:
    sampler = keep(ENTERPRISE, ratio=1.0, rescue=True)
    parent = child_of(is_sampled=False, is_remote=is_remote)
    context = baggage.set_baggage("customer.tier", "enterprise", parent)
    assert (True, "baggage customer.tier=enterprise") == decided(sampler, context)
    assert (False, None) == decided(sampler, parent, trace_id=0)


@pytest.mark.parametrize("trace_id", [0, 2**128 - 1], ids=["by ratio", "by rule"])
def test_the_tracestate_stays_the_parents(trace_id: int) -> None:
    state = TraceState([("vendor", "value")])
    context = baggage.set_baggage(
        "customer.tier", "enterprise", child_of(is_sampled=False, state=state)
    )
    result = keep(ENTERPRISE, ratio=0.5, rescue=True).should_sample(context, trace_id, "place")
    assert state == result.trace_state


def test_attributes_at_start_are_kept_beside_the_reason() -> None:
    provider = TracerProvider(sampler=keep(rule(attribute={"queue": "orders"}), ratio=0))
    span: Any = provider.get_tracer("test").start_span("place", attributes={"queue": "orders"})
    assert {"queue": "orders", "hopspan.sampling.reason": "attribute queue=orders"} == dict(
        span.attributes
    )


def test_a_child_says_no_reason() -> None:
    """It is there because its parent is; that one says why."""
    assert (True, None) == decided(keep(ENTERPRISE, ratio=1.0), child_of(is_sampled=True))


# -- as values -------------------------------------------------------------------------------------


def test_samplers_made_of_the_same_are_equal() -> None:
    made = [keep(ENTERPRISE, ratio=0.1) for _ in range(2)]
    assert made[0] == made[1]
    assert 1 == len(set(made))
    others = [
        keep(ENTERPRISE, ratio=0.2),
        keep(ratio=0.1),
        keep(ENTERPRISE, ratio=0.1, rescue=True),
        keep(rule(baggage={"customer.tier": "gold"}), ratio=0.1),
        parent_based_ratio(0.1),
    ]
    assert [] == [other for other in others if other == made[0]]
    assert parent_based_ratio(0.1) == parent_based_ratio(0.1)
    assert Keep([ENTERPRISE], 0.1) == Keep([ENTERPRISE], 0.1)


def test_a_sampler_describes_itself() -> None:
    assert (
        "Keep{baggage customer.tier=enterprise, attribute queue=orders|refunds, else 0.05}"
        == Keep(
            [ENTERPRISE, rule(attribute={"queue": ["refunds", "orders"]})], 0.05
        ).get_description()
    )
    described = keep(ENTERPRISE, ratio=0.05).get_description()  # type: ignore[no-untyped-call]
    assert described.startswith(
        "ParentBased{root:Keep{baggage customer.tier=enterprise, else 0.05}"
    )
