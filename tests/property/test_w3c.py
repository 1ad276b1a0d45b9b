"""What is read and written without a propagator is what the API's own would read and write."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, get_current, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    TraceState,
)

from hopspan import faults
from hopspan.propagation import MAPPING, PAIRS, Codec, extract_from, inject_into
from hopspan.propagation.baggage import KEY, Names, encodable, leaving, with_only
from hopspan.propagation.headers import GETTER, SETTER, folded
from hopspan.propagation.w3c import SPAN_KEY
from tests.property.hostile import MALFORMED, PERCENT, VALID, any_case, hex_of

PATIENT = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
FIELDS = ("traceparent", "tracestate", "baggage")
CODECS = st.sampled_from([MAPPING, PAIRS])
ANYTHING: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 1.5, True, "", "x", "\ud800", b"", b"\xff", [], {}, (), ["a=1"]]
)


class Words(str):
    """Text of a client's own class."""

    __slots__ = ()


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def told() -> Iterator[list[str]]:
    """What OpenTelemetry complains of meanwhile."""
    handler, logger = _Told(), logging.getLogger("opentelemetry")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Nothing is left current, and what hopspan says once it may say again."""
    faults.forget()
    yield
    assert get_current() == Context()


# -- what headers can hold -------------------------------------------------------------------------

_ODD = {
    "with blanks around it": lambda valid: f" \t{valid}\t ",
    "with a line's end": lambda valid: f"{valid}\n",
    "with another blank": lambda valid: f"\u00a0{valid}",
    "in upper case": lambda valid: valid.upper(),
    "with digits of another script": lambda valid: valid.translate(
        {0x31: "\uff11", 0x32: "\u0662"}
    ),
    "of a later version": lambda valid: f"cc{valid[2:]}",
    "of a later version, with more in it": lambda valid: f"01{valid[2:]}-what-is-to-come",
    "of the forbidden version": lambda valid: f"ff{valid[2:]}",
    "of version 00, with more in it": lambda valid: f"{valid}-more",
    "with an unknown flag": lambda valid: f"{valid[:-2]}ff",
    "with half of the flags": lambda valid: valid[:-1],
    "twice": lambda valid: f"{valid},{valid}",
    "much too long": lambda valid: f"01{valid[2:]}-{'x' * 600}",
    "of no trace": lambda valid: f"00-{'0' * 32}-{valid[36:]}",
    "of no span": lambda valid: f"{valid[:36]}{'0' * 16}{valid[52:]}",
}
ANY_FLAGS = st.builds(
    "00-{}-{}-{:02x}".format, hex_of(32), hex_of(16), st.integers(min_value=0, max_value=255)
)
ODD = st.builds(lambda how, valid: _ODD[how](valid), st.sampled_from(sorted(_ODD)), VALID)
NAME = st.text(st.sampled_from("abzAZ019_.-*~!+ é"), max_size=6)
VALUE = st.text(st.sampled_from('ab09_.-*%+:/@~!;= \té"\\,'), max_size=8)
PLAIN_ENTRY = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}=[a-zA-Z0-9_.*%+:/@~!-]{0,8}", fullmatch=True)
ENTRY = (
    PLAIN_ENTRY
    | st.builds("{}={}".format, NAME, VALUE)
    | st.builds("{}={};{}".format, NAME, VALUE, NAME)
    | st.builds("{} = {} ; p = 1 ".format, NAME, VALUE)
    | st.builds("{}=%{}".format, NAME, st.sampled_from(["2C", "41", "zz", "ff", "C3%A9", ""]))
    | NAME
)
BAGGAGE = (
    st.lists(PLAIN_ENTRY, min_size=1, max_size=4).map(",".join)
    | st.lists(ENTRY, max_size=5).map(",".join)
    | st.lists(ENTRY, max_size=5).map(" , ".join)
    | PERCENT
    | st.integers(60, 200).map(lambda many: ",".join(f"k{each}=v" for each in range(many)))
    | st.integers(1010, 1030).map(lambda length: "k=" + "v" * (length - 2))
    | st.sampled_from([4096, 4097, 8192, 8193]).map(lambda length: "k=" + "v" * (length - 2))
)
STATE = st.sampled_from(
    ["", " ", ",", "a=b", " a=b , c=d ", "a=b,a=c", "A=b", "a=", "=", "a=b;c", "a=é", "a=b" * 200]
)


def in_any_type(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Text as clients hand it out."""
    as_bytes = texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return (
        texts
        | as_bytes
        | texts.map(Words)
        | as_bytes.map(bytearray)
        | as_bytes.map(lambda text: memoryview(text))
        | texts.map(lambda text: text.encode("latin-1", "replace"))
    )


PARENT = in_any_type(VALID | ANY_FLAGS | ODD | MALFORMED)
HELD: Mapping[str, st.SearchStrategy[Any]] = {
    "traceparent": PARENT,
    "tracestate": in_any_type(STATE) | st.none(),
    "baggage": in_any_type(BAGGAGE) | st.none() | st.just("\ud800=1"),
}


@st.composite
def pairs(draw: st.DrawFn) -> list[tuple[Any, Any]]:
    """Headers: most often one of each field, in any letter case, among others."""
    found: list[tuple[Any, Any]] = []
    for name in draw(st.permutations(FIELDS)):
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
            key: Any = draw(st.just(name) | any_case(name))
            key = draw(st.sampled_from([key, key, key, Words(key), key.encode()]))
            likely = HELD[name]
            found.append((key, draw(st.one_of(likely, likely, likely, ANYTHING))))
    others = st.tuples(st.text(max_size=5) | st.binary(max_size=5) | st.integers(), ANYTHING)
    return found + draw(st.lists(others, max_size=2))


def shaped(codec: Codec, found: list[tuple[Any, Any]]) -> Any:
    return dict(found) if codec is MAPPING else found


def plain(parent: str, entries: list[str]) -> list[tuple[Any, Any]]:
    said: list[tuple[Any, Any]] = [("traceparent", parent)]
    return [*said, ("baggage", ",".join(entries))] if entries else said


PLAIN = st.builds(plain, VALID | ANY_FLAGS, st.lists(PLAIN_ENTRY, max_size=4))

ONE, ANOTHER = f"00-{'1' * 32}-{'1' * 16}-00", f"00-{'2' * 32}-{'1' * 16}-00"
UPPER = [("TraceParent", f"00-{'1' * 32}-{'2' * 16}-01"), ("BAGGAGE", "a=1")]

# -- contexts --------------------------------------------------------------------------------------

STATES = st.none() | st.builds(TraceState, st.just([("vendor", "state")])) | st.builds(TraceState)
SPANS = st.builds(
    SpanContext,
    st.sampled_from([0, 1, 2**64, 2**128 - 1, 2**128]) | st.integers(1, 2**128 - 1),
    st.sampled_from([0, 1, 2**64 - 1, 2**64]) | st.integers(1, 2**64 - 1),
    st.booleans(),
    st.integers(0, 255).map(TraceFlags) | st.sampled_from([256, 4095]).map(TraceFlags),
    STATES,
).map(NonRecordingSpan) | st.just(INVALID_SPAN)
SAID = st.text(max_size=8) | st.text(st.characters(), max_size=5)
OBJECTS = st.sampled_from([None, 1, 1.5, True, b"x", Words("w"), ("a", "b")])
TEXTS = st.dictionaries(st.text(max_size=5), SAID, max_size=4)
LONG = st.dictionaries(
    st.text(max_size=5), st.sampled_from(["v" * 200, "é" * 400, "v" * 4095, "v" * 5000]), max_size=4
)
MANY = st.integers(60, 70).map(lambda many: {f"k{each}": "v" for each in range(many)})
ENTRIES = TEXTS | st.dictionaries(st.text(max_size=5) | OBJECTS, SAID | OBJECTS, max_size=4) | MANY
NAMES = st.none() | st.sampled_from([Names(()), Names(["a", "k1*"]), Names(["*"])])


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    """With a span, baggage and something else in it, or without."""
    context = Context()
    if draw(st.booleans()):
        context = trace.set_span_in_context(draw(SPANS), context)
    held = draw(st.none() | ENTRIES | st.just("no baggage at all"))
    if held is not None:
        context = Context({**context, KEY: held})
    return set_value("color", "red", context) if draw(st.booleans()) else context


def values(context: Context) -> dict[str, Any]:
    """All that is in a context, such that it can be compared."""
    found: dict[str, Any] = dict(context)
    span = found.pop(SPAN_KEY, None)
    if isinstance(span, Span):
        told = span.get_span_context()
        state = list(told.trace_state.items())
        found["span"] = (*told[:4], type(told.trace_flags), state, told.is_valid)
    held = found.pop(KEY, None)
    found["baggage"] = list(held.items()) if isinstance(held, dict) else held
    return found


# -- as it was without it --------------------------------------------------------------------------


def read(codec: Codec, headers: Any, context: Context, *, trust: bool = True) -> Context:
    """What the propagator reads."""
    found: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for key, value in codec.items(headers):
        if isinstance(name := folded(key), str):
            found[name] = value
            if codec is MAPPING and key == name:
                exact[name] = value
    found.update(exact)  # of a mapping, the name as W3C writes it goes before all others
    if not trust:
        found.pop("baggage", None)
    try:
        return propagate.get_global_textmap().extract(found, context, GETTER)
    except Exception:  # noqa: BLE001 - then there is nothing to be read
        return context


def written(context: Context, allowed: Names | None) -> dict[str, str]:
    """What the propagator writes."""
    if KEY in context:
        context = leaving(context, allowed)
    try:
        return _written(context)
    except Exception:  # noqa: BLE001 - an entry that cannot be written
        return _written(with_only(context, encodable(baggage.get_all(context))))


def _written(context: Context) -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.get_global_textmap().inject(carrier, context, SETTER)
    return carrier


# -- reading ---------------------------------------------------------------------------------------


@PATIENT
@given(CODECS, PLAIN | pairs(), contexts(), st.booleans())
@example(MAPPING, UPPER, Context(), True)
@example(PAIRS, UPPER, Context(), True)
@example(PAIRS, [*UPPER, ("traceparent", "no more"), ("Baggage", b"b=2")], Context(), True)
@example(MAPPING, UPPER, Context(), False)
@example(MAPPING, [("traceparent", ONE), (b"traceparent", ANOTHER)], Context(), False)
def test_reading_is_what_the_propagator_reads_each_time(
    codec: Codec, found: list[tuple[Any, Any]], base: Context, trust: bool
) -> None:
    """Also the second time, and also what it complains of."""
    headers, before = shaped(codec, found), values(base)
    with told() as expected:
        wanted = read(codec, headers, base, trust=trust)
    for _ in range(2):
        with told() as complaints:
            got = extract_from(codec, headers, base, trust=trust)
        assert values(got) == values(wanted)
        assert type(got) is type(wanted)
        assert (got is base) == (wanted is base)
        assert complaints == expected
    assert values(base) == before


@PATIENT
@given(PARENT, st.text(st.sampled_from("ab=,;% "), max_size=6), st.none() | STATE)
@example(" 00-11111111111111111111111111111111-2222222222222222-01", "", None)
@example("00-11111111111111111111111111111111-2222222222222222-01\n", "a=1", None)
@example(b"00-1111111111111111111111111111111\xe9-2222222222222222-01", "", None)
def test_every_traceparent_is_read_as_the_propagator_reads_it(
    parent: Any, entries: str, state: str | None
) -> None:
    headers = {"traceparent": parent, "baggage": entries}
    if state is not None:
        headers["tracestate"] = state
    assert values(extract_from(MAPPING, headers, Context())) == values(
        read(MAPPING, headers, Context())
    )


@PATIENT
@given(VALID, BAGGAGE)
@example("00-11111111111111111111111111111111-2222222222222222-01", "a=1,a=2,A=3")
@example("00-11111111111111111111111111111111-2222222222222222-01", "a=%2c%3D,b=%e9,c=+%20+")
@example("00-11111111111111111111111111111111-2222222222222222-01", "a=1\n")
@example("00-11111111111111111111111111111111-2222222222222222-01", "a=1,,b=2")
def test_all_baggage_is_read_as_the_propagator_reads_it(parent: str, entries: str) -> None:
    headers = {"traceparent": parent, "baggage": entries}
    with told() as expected:
        wanted = read(MAPPING, headers, Context())
    with told() as complaints:
        got = extract_from(MAPPING, headers, Context())
    assert (values(got), complaints) == (values(wanted), expected)


@PATIENT
@given(PLAIN)
def test_what_was_read_once_is_nobodys_to_change(found: list[tuple[Any, Any]]) -> None:
    """Equal headers may share what was read of them."""
    one, two = (extract_from(PAIRS, found, Context()) for _ in range(2))
    before = values(two)
    changed = baggage.set_baggage("more", "x", baggage.remove_baggage("a", one))
    with pytest.raises(TypeError):
        baggage.get_all(one)["more"] = "x"  # type: ignore[index]
    assert baggage.get_baggage("more", changed) == "x"
    assert values(one) == values(two) == before == values(extract_from(PAIRS, found, Context()))


# -- writing ---------------------------------------------------------------------------------------


@PATIENT
@given(CODECS, pairs(), contexts(), NAMES, st.none() | SPANS)
@example(MAPPING, [], Context(), None, NonRecordingSpan(SpanContext(1, 1, False, TraceFlags(256))))
def test_writing_is_what_the_propagator_writes_each_time(
    codec: Codec,
    found: list[tuple[Any, Any]],
    context: Context,
    allowed: Names | None,
    span: Span | None,
) -> None:
    headers, before = shaped(codec, found), values(context)
    carrying = context if span is None else trace.set_span_in_context(span, context)
    with told() as expected:
        fresh = written(carrying, allowed)
    wanted = codec.replaced(headers, frozenset(FIELDS), fresh)
    for _ in range(2):
        with told() as complaints:
            got = inject_into(codec, headers, context, allowed, span)
        assert got == wanted
        assert complaints == expected
    assert headers == shaped(codec, found)
    assert values(context) == before


@PATIENT
@given(SPANS, TEXTS | LONG, NAMES)
def test_text_is_written_as_the_propagator_writes_it(
    span: Span, entries: dict[str, str], allowed: Names | None
) -> None:
    context = Context({**trace.set_span_in_context(span, Context()), KEY: entries})
    wanted = written(context, allowed)
    assert (inject_into(MAPPING, None, context, allowed) or {}) == wanted


@PATIENT
@given(TEXTS | LONG, NAMES, NAMES)
def test_an_allow_list_holds_for_its_own_messages_only(
    entries: dict[str, str], one: Names | None, other: Names | None
) -> None:
    """What is remembered of a written text is not taken for another allow-list's."""
    context = Context({KEY: entries})
    for allowed in (one, other, one):
        assert (inject_into(MAPPING, None, context, allowed) or {}) == written(context, allowed)
