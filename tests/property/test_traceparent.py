"""A plain `traceparent` is found without a propagator, and is what the propagator would find.

Where the answer is not to ask the propagator, the whole context that it extracts is foreseen.
"""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from copy import copy
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from hopspan.propagation import extract_from, plain_traceparent, sender_of
from hopspan.propagation.headers import ASK, MAPPING, PAIRS, Codec
from hopspan.propagation.w3c import FIELDS
from tests.property.hostile import ANYTHING, KEYS, MALFORMED, VALID, any_case

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ONE, TWO = (f"00-{1:032x}-{each:016x}-01" for each in (1, 2))


class Text(str):
    """A client's own class of text."""

    __slots__ = ()


NAMES = (
    any_case("traceparent")
    | any_case("traceparent").map(str.encode)
    | any_case("traceparent").map(Text)
    | st.just("traceparent")
    | any_case("tracestate")
    | any_case("baggage")
    | KEYS
    | st.sampled_from([None, 1, True, b"\xff", (), "", "trace", "traceparent "])
)
VALUES = (
    VALID
    | VALID.map(str.encode)
    | VALID.map(lambda valid: bytearray(valid.encode()))
    | VALID.map(Text)
    | VALID.map(lambda valid: valid.upper())
    | VALID.map(lambda valid: f" {valid}")
    | MALFORMED
    | st.sampled_from(["a=1", "tenant=acme"])
    | ANYTHING
)
ITEMS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
MAPPINGS = ITEMS.map(dict) | st.builds(
    lambda items, kind: kind(dict(items)),
    ITEMS,
    st.sampled_from([OrderedDict, UserDict, MappingProxyType]),
)
NO_PAIRS = (
    st.tuples(NAMES, VALUES).map(list)
    | st.tuples(NAMES, VALUES, ANYTHING)
    | st.tuples(NAMES)
    | ANYTHING
    | st.sampled_from(["ab", "", {"traceparent": ONE, "x": 1}])
)
ALL_PAIRS = (
    ITEMS
    | ITEMS.map(tuple)
    | st.lists(st.tuples(NAMES, VALUES) | NO_PAIRS, max_size=6)
    | ITEMS.map(dict)
    | ANYTHING
)


def extracted(codec: Codec, headers: Any) -> tuple[SpanContext, dict[str, object], int]:
    """The span, the baggage, and how much there is at all in the extracted context."""
    context = extract_from(codec, headers, Context())
    span = trace.get_current_span(context).get_span_context()
    return span, dict(baggage.get_all(context)), len(context)


def foreseen(sender: Any) -> tuple[SpanContext, dict[str, object], int]:
    context = Context()
    if sender is not None and sender.is_valid:
        context = trace.set_span_in_context(NonRecordingSpan(sender), context)
    return trace.get_current_span(context).get_span_context(), {}, len(context)


def compare(codec: Codec, headers: Any) -> None:
    value = plain_traceparent(codec, headers)
    if value is not ASK:
        assert value is None or codec.traceparent(headers) is value
        assert extracted(codec, headers) == foreseen(None if value is None else sender_of(value))


@PATIENT
@given(MAPPINGS | st.none())
@example({})
@example({"traceparent": None})
@example({"traceparent": ONE, "TraceParent": TWO})
@example({"traceparent": ONE, b"traceparent": TWO.encode()})
@example({b"traceparent": ONE})
@example({"traceparent": ONE, "tracestate": ""})
def test_of_a_mapping_the_propagator_would_find_the_same(headers: Any) -> None:
    compare(MAPPING, headers)


@PATIENT
@given(ALL_PAIRS | st.none())
@example([])
@example([("traceparent", ONE.encode()), ("traceparent", TWO.encode())])
@example([("traceparent", None), ("traceparent", TWO.encode())])
@example([("traceparent", ONE.encode()), ("traceparent", None)])
@example([("traceparent", ONE), ("Traceparent", None)])
@example([["traceparent", ONE.encode()]])
@example([("traceparent", ONE.encode()), ["traceparent", TWO.encode()]])
@example((("traceparent", ONE.encode()),))
@example([{"traceparent": 1, "x": 2}])
@example({"traceparent": ONE})
def test_of_pairs_the_propagator_would_find_the_same(headers: Any) -> None:
    compare(PAIRS, headers)


# -- writing ---------------------------------------------------------------------------------------


def written(write: Callable[[], Any]) -> Any:
    """The headers with the order that they have, or the class of error."""
    try:
        found = write()
    except Exception as error:  # noqa: BLE001 - for the caller to see that it is the same one
        return type(error)
    return list(found.items()) if isinstance(found, dict) else found


def compare_written(codec: Codec, headers: Any) -> None:
    before = dict(headers) if isinstance(headers, MappingProxyType) else copy(headers)
    at_once = written(lambda: codec.with_traceparent(headers, ONE))
    assert at_once == written(lambda: codec.replaced(headers, FIELDS, {"traceparent": ONE}))
    assert headers == before


@PATIENT
@given(MAPPINGS | st.none())
@example({"TraceParent": TWO, "traceparent": TWO, "Baggage": "a=1", "x": 1})
@example({b"traceparent": TWO})
def test_a_mapping_carries_the_traceparent_as_if_the_stale_ones_were_replaced(headers: Any) -> None:
    compare_written(MAPPING, headers)


@PATIENT
@given(
    ITEMS | ITEMS.map(tuple) | st.lists(st.tuples(NAMES, VALUES) | NO_PAIRS, max_size=6) | st.none()
)
@example([("traceparent", TWO), ("Baggage", b"a=1"), ("x", b"1")])
@example((("traceparent", TWO.encode()),))
@example([["traceparent", TWO]])
def test_pairs_carry_the_traceparent_as_if_the_stale_ones_were_replaced(headers: Any) -> None:
    compare_written(PAIRS, headers)


# -- the common message ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["traceparent", "Traceparent", "TRACEPARENT", b"TraceParent"])
def test_the_only_header_of_a_context_is_found_in_any_letter_case(key: Any) -> None:
    for _ in range(2):  # the second time by what was found out about names
        assert MAPPING.traceparent({"x": 1, key: ONE, "y": 2}) == ONE


def test_of_pairs_the_name_is_found_as_it_is_written() -> None:
    """Other letter cases are for the propagator: no client of Kafka's writes them."""
    for _ in range(2):
        assert PAIRS.traceparent([("x", b"1"), ("traceparent", b"p"), ("y", b"2")]) == b"p"
    assert PAIRS.traceparent([("x", b"1"), ("Traceparent", b"p")]) is ASK


@pytest.mark.parametrize("headers", [{}, {"x": 1}, {1: "traceparent"}])
def test_a_mapping_without_a_context_has_none(headers: Any) -> None:
    assert MAPPING.traceparent(headers) is None


@pytest.mark.parametrize("headers", [[], (), [("x", b"1")], [("x", b"traceparent")]])
def test_pairs_without_a_context_have_none(headers: Any) -> None:
    assert PAIRS.traceparent(headers) is None


@pytest.mark.parametrize("name", ["tracestate", "baggage", "Baggage", "TraceParent"])
def test_another_header_of_a_context_is_for_the_propagator(name: str) -> None:
    assert MAPPING.traceparent({"traceparent": ONE, name: "x"}) is ASK
    assert PAIRS.traceparent([("traceparent", ONE), (name, "x")]) is ASK
    assert PAIRS.traceparent([(name, "x"), ("traceparent", ONE)]) is ASK


@pytest.mark.parametrize("kind", [OrderedDict, UserDict, MappingProxyType])
def test_another_class_of_mapping_is_for_the_propagator(kind: Any) -> None:
    assert MAPPING.traceparent(kind({"traceparent": ONE})) is ASK


def test_what_is_remembered_of_names_is_bounded() -> None:
    """Senders choose them."""
    codecs: Any = type(MAPPING)(), type(PAIRS)()
    for number in range(3000):
        codecs[0].traceparent({f"n{number}": 1, "traceparent": ONE})
        codecs[1].traceparent([(f"n{number}", b"1"), ("traceparent", ONE)])
    assert 0 < len(codecs[0]._layouts) <= 1024
    assert 0 < len(codecs[1]._harmless) <= 1024
