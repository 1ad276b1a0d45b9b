"""The plain form of W3C's fields: what is answered directly, and what is left to the propagator."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hopspan.propagation import w3c
from hopspan.propagation.baggage import KEY, Names
from hopspan.propagation.w3c import parse_traceparent, parse_traceparents

TRACE, SPAN = "1" * 32, "2" * 16
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
SENDER = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(1))
STATED = SpanContext(
    1, 2, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "state")])
)
HALF_VALID = SpanContext(1, 0, is_remote=False)


class Counting(W3CBaggagePropagator):
    """The API's, which counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def extract(self, *args: Any, **kwargs: Any) -> Context:
        self.asked += 1
        return super().extract(*args, **kwargs)

    def inject(self, *args: Any, **kwargs: Any) -> None:
        self.asked += 1
        super().inject(*args, **kwargs)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def propagator(counting: Counting) -> TextMapPropagator:
    return CompositePropagator([TraceContextTextMapPropagator(), counting])


# -- who has sent it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", [TRACEPARENT, TRACEPARENT.encode(), bytearray(TRACEPARENT.encode())]
)
def test_a_plain_traceparent_is_read(told: Any) -> None:
    assert w3c.sender({"traceparent": told}) == SENDER


@pytest.mark.parametrize("is_laid_out", [True, False])
def test_a_sender_is_what_its_constructor_makes(
    is_laid_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(w3c, "IS_LAID_OUT", is_laid_out)
    span = w3c.sender({"traceparent": TRACEPARENT})
    assert type(span) is SpanContext
    assert tuple(span) == tuple(SENDER)


class Swapped(tuple[Any, ...]):
    """A span context with its parts in another order."""

    __slots__ = ()

    def __new__(cls, trace_id: int, span_id: int, is_remote: bool, flags: TraceFlags) -> Swapped:
        told = SpanContext(trace_id, span_id, is_remote, flags)
        return super().__new__(cls, (told[1], told[0], told[3], told[2], told[4], told[5]))


class Plain:
    """A span context that is no tuple."""

    def __init__(self, *_parts: object) -> None: ...


def test_a_span_context_is_made_directly_only_if_it_is_the_tuple_that_it_was() -> None:
    assert w3c.IS_LAID_OUT
    assert w3c.is_laid_out(SpanContext)
    assert not w3c.is_laid_out(Swapped)
    assert not w3c.is_laid_out(Plain)


class AnyCase(str):
    """Text that is the same in capitals."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __ne__(self, other: object) -> bool:
        return not self == other


def test_what_an_application_makes_of_text_is_for_the_propagator() -> None:
    assert w3c.sender({"traceparent": AnyCase(f"00-{'A' * 32}-{SPAN}-01")}) is None
    assert w3c.sender({"traceparent": AnyCase(TRACEPARENT)}) is None


@pytest.mark.parametrize("flags", ["00", "01", "02", "03", "ff"])
def test_all_flags_are_kept(flags: str) -> None:
    span = w3c.sender({"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
    assert span is not None
    assert (span.trace_flags, type(span.trace_flags)) == (int(flags, 16), TraceFlags)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"traceparent": None},
        {"traceparent": 3},
        {"traceparent": ""},
        {"traceparent": b"\xff"},
        {"traceparent": f" {TRACEPARENT}"},
        {"traceparent": f"{TRACEPARENT}\n"},
        {"traceparent": f"{TRACEPARENT}-more"},
        {"traceparent": f"01{TRACEPARENT[2:]}"},
        {"traceparent": f"00-{'A' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'B' * 16}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-0A"},
        {"traceparent": f"00-{TRACE}-{SPAN}-+1"},
        {"traceparent": f"00-{TRACE}1-{SPAN[1:]}-01"},
        {"traceparent": f"00-{TRACE}11-{SPAN[2:]}-01"},
        {"traceparent": f"00-{TRACE[2:]}-{SPAN}22-01"},
        {"traceparent": f"00-{TRACE[1:]} -{SPAN}-01"},
        {"traceparent": f"00-{TRACE[2:]}0x-{SPAN}-01"},
        {"traceparent": f"00-{TRACE[1:]}_-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}--1"},
        {"traceparent": f"00-{TRACE}{SPAN}--01"},
        {"traceparent": f"00-{TRACE}-{SPAN}22-01"},
        {"traceparent": f"00-{TRACE}-{SPAN[2:]}-01"},
        {"traceparent": "-" * 55},
        {"traceparent": f"00-{TRACE}-{SPAN[1:]}\u212a-01"},
        {"traceparent": f"0 -{TRACE}-{SPAN}-01"},
        {"traceparent": TRACEPARENT.replace("1", "\uff11")},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": TRACEPARENT, "tracestate": ""},
        {"traceparent": TRACEPARENT, "tracestate": "a=b"},
        {"traceparent": TRACEPARENT, "tracestate": None},
    ],
)
def test_what_is_not_plain_is_for_the_propagator(fields: dict[str, Any]) -> None:
    assert w3c.sender(fields) is None


# -- entries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["a=1,b.c-d_e*=x%20y", b"a=1,b.c-d_e*=x%20y"])
def test_plain_entries_are_read(told: Any, propagator: TextMapPropagator) -> None:
    assert w3c.entries(told, propagator) == {"a": "1", "b.c-d_e*": "x y"}


def test_the_same_entries_are_read_once(counting: Counting, propagator: TextMapPropagator) -> None:
    one, two = (w3c.entries("same=1", propagator) for _ in range(2))
    assert (one, two, counting.asked) == ({"same": "1"}, {"same": "1"}, 1)


@pytest.mark.parametrize(
    "told",
    [
        None,
        3,
        b"\xff",
        "",
        "a",
        "a=1;p=2",
        "a = 1",
        "a=1 ",
        "a=1, b=2",
        "a=1,",
        "a=é",
        "a=1\n",
        ",".join(f"k{each}=1" for each in range(65)),
        "a=" + "v" * 1023,
    ],
)
def test_what_is_hardly_ever_met_is_for_the_propagator_each_time(
    told: Any, counting: Counting, propagator: TextMapPropagator
) -> None:
    """It may have to complain, and each time; and no cache keeps what is long."""
    assert w3c.entries(told, propagator) is None
    assert counting.asked == 0


@pytest.mark.parametrize(
    ("told", "many"),
    [(",".join(f"k{each}=1" for each in range(64)), 64), ("a=" + "v" * 1022, 1)],
)
def test_up_to_the_bounds_it_is_plain(told: str, many: int, propagator: TextMapPropagator) -> None:
    found = w3c.entries(told, propagator)
    assert found is not None
    assert len(found) == many


def test_what_is_remembered_is_bounded(propagator: TextMapPropagator) -> None:
    for each in range(600):
        w3c.entries(f"k{each}=1", propagator)
        context = Context({KEY: {f"k{each}": "1"}})
        w3c.fields_of(SENDER, context, None, propagator)
    kept = (w3c._read.cache_info(), w3c._written.cache_info())
    assert [each.currsize <= 256 for each in kept] == [True, True]


# -- writing ---------------------------------------------------------------------------------------


def test_a_span_is_written(propagator: TextMapPropagator) -> None:
    assert w3c.fields_of(SENDER, Context(), None, propagator) == {"traceparent": TRACEPARENT}


def test_no_span_and_no_baggage_are_nothing(propagator: TextMapPropagator) -> None:
    assert w3c.fields_of(INVALID_SPAN_CONTEXT, Context(), None, propagator) == {}


@pytest.mark.parametrize("span", [STATED, HALF_VALID], ids=["stated", "half valid"])
def test_other_spans_are_for_the_propagator(span: Any, propagator: TextMapPropagator) -> None:
    assert w3c.fields_of(span, Context(), None, propagator) is None


@pytest.mark.parametrize(
    ("allowed", "told"),
    [(None, "a=1,b=x+y"), (Names(["b"]), "b=x+y"), (Names(["b", "a"]), "a=1,b=x+y")],
)
def test_baggage_that_may_leave_is_written(
    allowed: Names | None, told: str, propagator: TextMapPropagator
) -> None:
    context = Context({KEY: {"a": "1", "b": "x y"}})
    fields = w3c.fields_of(SENDER, context, allowed, propagator)
    assert fields == {"traceparent": TRACEPARENT, "baggage": told}


@pytest.mark.parametrize(
    ("held", "allowed"), [({}, None), ({"a": "1"}, Names([])), ({"a": "1"}, Names(["b*"]))]
)
def test_baggage_of_which_nothing_leaves_is_no_header(
    held: Any, allowed: Names | None, propagator: TextMapPropagator
) -> None:
    context = Context({KEY: held})
    assert w3c.fields_of(SENDER, context, allowed, propagator) == {"traceparent": TRACEPARENT}


def test_the_same_baggage_is_written_once(
    counting: Counting, propagator: TextMapPropagator
) -> None:
    for _ in range(2):
        context = baggage.set_baggage("once", "1", Context())
        w3c.fields_of(SENDER, context, None, propagator)
    assert counting.asked == 1


def test_the_order_of_entries_is_kept(propagator: TextMapPropagator) -> None:
    written = [
        w3c.fields_of(INVALID_SPAN_CONTEXT, Context({KEY: held}), None, propagator)
        for held in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    ]
    assert written == [{"baggage": "a=1,b=2"}, {"baggage": "b=2,a=1"}]


@pytest.mark.parametrize(
    "held", [{"a": 1}, {1: "a"}, {"a": None}, {"a": "v" * 5000}, {"a": True}], ids=repr
)
def test_other_baggage_is_for_the_propagator(held: Any, propagator: TextMapPropagator) -> None:
    """`1` and `True` are equal, and are not written alike."""
    assert w3c.fields_of(SENDER, Context({KEY: held}), None, propagator) is None


# -- many at once ----------------------------------------------------------------------------------

OTHER = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
MANY: list[bytes] = [
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
    b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
    b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
    b"00-" + b"0" * 16 + b"8448eb211c80319c-b7ad6b7169203331-01",
]


def test_many_are_read_as_each_is() -> None:
    each = [parse_traceparent(value) for value in [*MANY, OTHER]]
    assert parse_traceparents([*MANY, OTHER]) == [span for span in each if span is not None]
    assert parse_traceparents([]) == []


@pytest.mark.parametrize(
    "value",
    [
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01",
        b"0--0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331001",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 ",
        b"00-" + b"-" * 49 + b"-01",
        b"nonsense",
        b"",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        None,
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_where_one_is_not_plain_each_is_read_by_itself(value: Any, times: int) -> None:
    assert parse_traceparents([OTHER, *[value] * times, OTHER]) is None
