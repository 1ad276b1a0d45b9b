"""How context rides in headers: replaced, never appended, never in the caller's own object."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import hopspan
from hopspan import propagation
from hopspan.propagation import (
    MAPPING,
    PAIRS,
    Codec,
    carries_context,
    extract_from,
    inject_into,
    senders_of,
)
from hopspan.propagation import headers as shapes
from hopspan.propagation.baggage import Names

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"
OTHER = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
SENDER = trace.set_span_in_context(
    NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(1))),
    Context(),
)
WITH_BAGGAGE = baggage.set_baggage("tenant.id", "acme", SENDER)


def span_id(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().span_id


# -- inject: the public face -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "carrying"),
    [
        (None, {"traceparent": TRACEPARENT}),
        ({}, {"traceparent": TRACEPARENT}),
        ({"color": "red"}, {"color": "red", "traceparent": TRACEPARENT}),
        (MappingProxyType({"color": "red"}), {"color": "red", "traceparent": TRACEPARENT}),
        ([], [("traceparent", TRACEPARENT.encode())]),
        ([("color", b"red")], [("color", b"red"), ("traceparent", TRACEPARENT.encode())]),
        ((("color", b"red"),), [("color", b"red"), ("traceparent", TRACEPARENT.encode())]),
    ],
)
def test_inject_copies_the_headers_and_adds_the_context(headers: Any, carrying: Any) -> None:
    """Mappings carry text, pairs carry bytes."""
    assert hopspan.inject(headers, SENDER) == carrying


def test_inject_takes_the_current_context_when_none_is_given() -> None:
    token = attach(SENDER)
    try:
        assert hopspan.inject() == {"traceparent": TRACEPARENT}
    finally:
        detach(token)


def test_inject_carries_baggage() -> None:
    assert hopspan.inject({}, WITH_BAGGAGE) == {
        "traceparent": TRACEPARENT,
        "baggage": "tenant.id=acme",
    }


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"TraceParent": OTHER, "TRACESTATE": "a=b", "Baggage": "x=y"}, {}),
        ({"traceparent": OTHER, "color": "red"}, {"color": "red"}),
        ([("Traceparent", b"x"), ("traceparent", b"y"), ("baggage", b"x=y")], []),
    ],
)
def test_inject_replaces_in_any_letter_case(headers: Any, left: Any) -> None:
    """A forwarded message must not keep the tracestate or the baggage of an earlier hop."""
    fresh: Any = {"traceparent": TRACEPARENT}
    carried = hopspan.inject(headers, SENDER)
    expected = (
        {**left, **fresh}
        if isinstance(headers, dict)
        else [*left, ("traceparent", TRACEPARENT.encode())]
    )
    assert carried == expected


@pytest.mark.parametrize("headers", [{"traceparent": OTHER}, [("traceparent", b"x")]])
def test_inject_without_a_context_removes_a_stale_one(headers: Any) -> None:
    assert hopspan.inject(headers, Context()) == type(headers)()


@pytest.mark.parametrize("headers", [{}, {"a": 1}, [], [("a", b"1")]])
def test_inject_always_returns_another_object(headers: Any) -> None:
    """Also where there is nothing to carry: the result is the caller's to change."""
    assert hopspan.inject(headers, Context()) == headers
    assert hopspan.inject(headers, Context()) is not headers


@pytest.mark.parametrize(
    "headers",
    [{}, {"traceparent": OTHER, "n": {"x": 1}}, [], [("traceparent", b"x"), ("a", b"b")]],
)
def test_inject_never_changes_what_it_is_given(headers: Any) -> None:
    before = headers.copy()
    hopspan.inject(headers, WITH_BAGGAGE)
    assert headers == before


@pytest.mark.parametrize("headers", ["traceparent", 3, b"x", {1, 2}, object()])
def test_inject_refuses_what_is_neither_mapping_nor_pairs(headers: Any) -> None:
    with pytest.raises(TypeError) as raised:
        hopspan.inject(headers)
    assert str(raised.value) == (
        f"inject() takes a mapping or a list of pairs, not {type(headers).__name__}"
    )


# -- extract: the public face ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": TRACEPARENT},
        {"TraceParent": TRACEPARENT},
        {"traceparent": TRACEPARENT.encode()},
        {"traceparent": bytearray(TRACEPARENT.encode())},
        {"traceparent": memoryview(TRACEPARENT.encode())},
        MappingProxyType({"traceparent": TRACEPARENT}),
        {1: "x", None: "y", "traceparent": TRACEPARENT},
        {b"TraceParent": TRACEPARENT},
        {"traceparent": TRACEPARENT, "tracestate": b"\xff", "baggage": 3},
        [("traceparent", TRACEPARENT.encode())],
        (("Traceparent", TRACEPARENT),),
        [("traceparent", OTHER.encode()), ("traceparent", TRACEPARENT.encode())],
        [("traceparent", OTHER.encode()), ("TRACEPARENT", TRACEPARENT.encode())],
        [("short",), "text", None, ("traceparent", TRACEPARENT.encode())],
    ],
)
def test_extract_reads_what_brokers_deliver(headers: Any) -> None:
    """Any letter case, text and bytes, the last of duplicates, and other headers of any type."""
    assert span_id(hopspan.extract(headers)) == SPAN


@pytest.mark.parametrize("others", [("Traceparent",), ("TRACEPARENT", "TraceParent")])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_exact_header_name_of_a_mapping_wins_over_other_letter_cases(
    others: tuple[str, ...], is_first: bool
) -> None:
    wrong = f"00-{'1' * 32}-{'2' * 16}-01"
    pairs = [(name, wrong) for name in others]
    pairs.insert(0 if is_first else len(pairs), ("traceparent", f"00-{'3' * 32}-{'4' * 16}-01"))
    assert span_id(hopspan.extract(dict(pairs))) == 0x4444444444444444


def test_extract_reads_any_iterable_of_pairs() -> None:
    assert span_id(hopspan.extract(iter([("traceparent", TRACEPARENT)]))) == SPAN


def test_what_is_no_pair_of_a_list_is_left_as_it_is() -> None:
    once = iter(("traceparent", TRACEPARENT))
    assert hopspan.extract([once, ["traceparent", TRACEPARENT]]) == {}  # type: ignore[list-item]
    assert tuple(once) == ("traceparent", TRACEPARENT)


def test_senders_are_read_once_each_whatever_another_is() -> None:
    once: Any = [iter([("traceparent", TRACEPARENT)]), [("traceparent", TRACEPARENT)], 5]
    found = senders_of(PAIRS, iter(once))
    assert [each.span_id for each in found] == [SPAN, SPAN]


@pytest.mark.parametrize("is_default", [True, False])
def test_baggage_that_is_not_trusted_is_not_read_by_any_propagator(is_default: bool) -> None:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(before if is_default else CompositePropagator([before]))
    try:
        headers = {"traceparent": TRACEPARENT, "baggage": "a=1"}
        context = extract_from(MAPPING, headers, Context(), trust=False)
    finally:
        propagate.set_global_textmap(before)
    assert (span_id(context), baggage.get_all(context)) == (SPAN, {})


class Unhashable(str):
    __slots__ = ()
    __hash__: None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_baggage_that_is_not_wanted_is_not_read() -> None:
    """The caller has baggage of its own, which the message's is added to by the propagator."""
    headers = {"traceparent": TRACEPARENT, "baggage": Unhashable("a=1")}
    context = extract_from(MAPPING, headers, baggage.set_baggage("x", "1", Context()))
    assert (span_id(context), baggage.get_all(context)) == (SPAN, {"x": "1", "a": "1"})


def test_extract_reads_baggage() -> None:
    headers = {"traceparent": TRACEPARENT, "baggage": b"tenant.id=acme"}
    assert baggage.get_baggage("tenant.id", hopspan.extract(headers)) == "acme"


class Hostile(dict[str, Any]):
    def __bool__(self) -> bool:
        raise RuntimeError("hostile")


def failing_pairs() -> Iterator[tuple[str, Any]]:
    yield "traceparent", TRACEPARENT
    raise RuntimeError("hostile")


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        [],
        {"traceparent": None},
        {"traceparent": 3},
        {"traceparent": 1.5},
        {"traceparent": True},
        {"traceparent": {"nested": TRACEPARENT}},
        {"traceparent": [TRACEPARENT]},
        {"traceparent": b"\xff\xfe"},
        {"traceparent": ""},
        {"traceparent": "x" * 100_000},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        {"traceparent": "ff" + TRACEPARENT[2:]},
        {b"\xfftraceparent": TRACEPARENT},
        5,
        "traceparent",
        Hostile(traceparent=TRACEPARENT),
        failing_pairs(),
    ],
)
def test_extract_gives_an_empty_context_for_what_it_cannot_read(headers: Any) -> None:
    """It never raises, whatever a producer has written."""
    assert not trace.get_current_span(hopspan.extract(headers)).get_span_context().is_valid


def test_extract_knows_nothing_of_the_current_context() -> None:
    token = attach(WITH_BAGGAGE)
    try:
        assert hopspan.extract({}) == Context()
    finally:
        detach(token)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["traceparent", "tracestate", "baggage", "Baggage", "x"])


@given(st.dictionaries(KEYS, ANYTHING) | st.lists(st.tuples(KEYS, ANYTHING)))
def test_no_header_can_make_extract_raise(headers: Any) -> None:
    assert isinstance(hopspan.extract(headers), Context)


@given(st.dictionaries(KEYS, ANYTHING) | st.lists(st.tuples(KEYS, ANYTHING)))
def test_what_was_injected_is_extracted_whatever_was_there(headers: Any) -> None:
    carried = hopspan.inject(headers, WITH_BAGGAGE)
    found = hopspan.extract(carried)
    assert (span_id(found), dict(baggage.get_all(found))) == (SPAN, {"tenant.id": "acme"})


@given(st.dictionaries(KEYS, ANYTHING))
def test_injecting_twice_is_injecting_once(headers: dict[str, Any]) -> None:
    once = hopspan.inject(headers, WITH_BAGGAGE)
    assert list(hopspan.inject(once, WITH_BAGGAGE)) == list(once)


# -- what the core asks for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "headers"),
    [(MAPPING, None), (MAPPING, {"a": "b"}), (PAIRS, None), (PAIRS, [("a", b"b")])],
)
def test_headers_that_need_no_change_are_given_back(codec: Codec, headers: Any) -> None:
    """Without a context nothing is copied: the send goes on with the caller's own objects."""
    assert inject_into(codec, headers, Context()) is headers


@pytest.mark.parametrize(
    ("codec", "headers", "carries"),
    [
        (MAPPING, None, False),
        (MAPPING, {}, False),
        (MAPPING, {"color": "red"}, False),
        (MAPPING, {"TRACEPARENT": "x"}, True),
        (MAPPING, {"baggage": "x"}, True),
        (PAIRS, None, False),
        (PAIRS, [("tracestate", b"x")], True),
        (PAIRS, [("color", b"x")], False),
        (PAIRS, {"traceparent": "x"}, False),
    ],
)
def test_whether_a_message_holds_a_context(codec: Codec, headers: Any, carries: bool) -> None:
    assert carries_context(codec, headers) is carries


def test_extracting_nothing_gives_back_the_context_itself() -> None:
    """An empty context is falsy, so what is absent must not be mistaken for it."""
    assert extract_from(MAPPING, None, SENDER) is SENDER


def test_extracting_adds_to_the_context() -> None:
    base = baggage.set_baggage("already", "here", Context())
    assert (
        baggage.get_baggage("already", extract_from(MAPPING, {"traceparent": TRACEPARENT}, base))
        == "here"
    )


class B3ish(TextMapPropagator):
    """A propagator with other fields than the default one's, and one that it does not announce."""

    def extract(
        self,
        carrier: Any,
        context: Context | None = None,
        getter: Any = None,
    ) -> Context:
        found = getter.get(carrier, "X-Trace")
        return baggage.set_baggage("found", found, context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        setter.set(carrier, "X-Trace", "fresh")
        setter.set(carrier, "X-Extra", "fresh")

    @property
    def fields(self) -> set[str]:
        return {"X-Trace", "X-Sampled"}


@pytest.fixture
def b3ish() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(B3ish())
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("b3ish")
def test_the_configured_propagator_decides_which_headers_are_replaced() -> None:
    """Its fields and what it writes; another propagator's headers are the user's business."""
    headers = {"x-sampled": "1", "x-trace": "old", "x-extra": "old", "traceparent": OTHER}
    assert hopspan.inject(headers) == {
        "traceparent": OTHER,
        "X-Trace": "fresh",
        "X-Extra": "fresh",
    }


@pytest.mark.usefixtures("b3ish")
def test_the_configured_propagator_reads_in_any_letter_case() -> None:
    assert baggage.get_baggage("found", hopspan.extract({"x-TRACE": b"theirs"})) == ["theirs"]


class Failing(B3ish):
    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        raise RuntimeError("a propagator that cannot")


def test_a_propagator_that_raises_is_logged_once_and_the_context_goes_on(
    logged: pytest.LogCaptureFixture,
) -> None:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Failing())
    try:
        found = [extract_from(MAPPING, {"a": "b"}, SENDER) for _ in range(2)]
    finally:
        propagate.set_global_textmap(before)
    assert found == [SENDER, SENDER]
    assert [record.levelno for record in logged.records] == [logging.WARNING]


def test_a_codec_has_no_shape_of_its_own() -> None:
    make: Any = Codec
    with pytest.raises(TypeError, match="abstract"):
        make()


def test_the_getter_lists_its_keys() -> None:
    """Part of what a propagator may ask of a getter: those whose values it can have, then."""
    assert shapes.GETTER.keys({"a": "1", "b": 2, "c": b"3"}) == ["a", "c"]


def test_the_getter_lists_no_more_keys_than_anybody_needs() -> None:
    """Jaeger's propagator copies all baggage for each that it takes."""
    assert len(shapes.GETTER.keys({str(key): "" for key in range(5000)})) == 1024


@pytest.mark.parametrize(("length", "read"), [(8192, True), (8193, False)])
def test_a_value_that_is_longer_than_any_standard_allows_is_not_read(
    length: int, read: bool
) -> None:
    """Reading it would take a propagator seconds, or more."""
    found = shapes.GETTER.get({"baggage": "x" * length}, "baggage")
    assert found == (["x" * length] if read else None)


def test_pairs_are_made_where_there_were_none() -> None:
    assert inject_into(PAIRS, None, SENDER) == [("traceparent", TRACEPARENT.encode())]


def test_pairs_that_are_none_are_kept_as_they_are() -> None:
    """What the client makes of them is the client's business."""
    assert hopspan.inject([(), ("a",)], SENDER) == [  # type: ignore[list-item]
        (),
        ("a",),
        ("traceparent", TRACEPARENT.encode()),
    ]


# -- what cannot be written, and what nobody has written ------------------------------------------


def _bad_and_good() -> Context:
    context = baggage.set_baggage("file", "caf\udce9", Context())
    return baggage.set_baggage("tenant", "acme", context)


def test_an_entry_that_cannot_be_written_stays_behind_alone() -> None:
    headers = {"baggage": "secret=1", "color": "red"}
    expected = {"color": "red", "baggage": "tenant=acme"}
    assert expected == inject_into(MAPPING, headers, _bad_and_good())
    assert expected == inject_into(MAPPING, headers, _bad_and_good(), Names(["tenant", "file"]))


def test_an_allow_list_holds_for_baggage_that_no_propagator_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(propagation, "get_global_textmap", lambda: NoBaggage())
    assert {} == inject_into(MAPPING, {"Baggage": "secret=1"}, Context(), Names([]))
    kept = {"baggage": "mine=1"}
    assert kept == inject_into(MAPPING, kept, Context())


class NoBaggage(TextMapPropagator):
    """One that carries no baggage."""

    @property
    def fields(self) -> set[str]:
        return {"traceparent"}

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        return context or Context()

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None: ...


class Each(NoBaggage):
    """One with a header for each entry, which it does not count among its fields."""

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        for key, value in baggage.get_all(context).items():
            setter.set(carrier, f"uberctx-{key}", str(value))


@pytest.mark.parametrize("allowed", [None, Names(["tenant"])])
def test_a_header_for_each_entry_is_not_left_of_an_earlier_hop(
    monkeypatch: pytest.MonkeyPatch, allowed: Names | None
) -> None:
    propagator = Each()
    monkeypatch.setattr(propagation, "get_global_textmap", lambda: propagator)
    headers = {"uberctx-secret": "1", "UberCtx-Other": 7, "color": "red"}
    context = baggage.set_baggage("tenant", "acme", Context())
    expected = {"color": "red", "uberctx-tenant": "acme"}
    assert expected == inject_into(MAPPING, headers, context, allowed)


def test_a_header_with_a_lone_surrogate_costs_nothing_but_itself() -> None:
    headers = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "baggage": "ok=\ud800"}
    context = extract_from(MAPPING, headers, Context())
    assert ("a" * 32, {}) == (
        format(trace.get_current_span(context).get_span_context().trace_id, "032x"),
        dict(baggage.get_all(context)),
    )
