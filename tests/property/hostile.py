"""Headers as no honest producer writes them, and what hopspan has to make of them.

Shared with the integration suite, which sends the same through a real broker. Every value has a
type that some AMQP client can send; what a client in Python can hold besides (`float`, `bytearray`,
`tuple`) is in `ANYTHING`.
"""

from __future__ import annotations

import string
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

FIELDS = ("traceparent", "tracestate", "baggage")
BROKERS_OWN = (
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
)
INT64 = (-(2**63), 2**63 - 1)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
HUGE = st.builds(
    lambda text, times: text * times, st.sampled_from("aé%,=;\n☃ "), st.integers(0, 30_000)
)
PERCENT = st.text(st.sampled_from("%=,; \t0aFgé"), max_size=30)
"""Baggage with every encoding broken that can be."""
DECIMALS = st.builds(
    lambda digits, shift: Decimal(digits).scaleb(-shift),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 9),
)
TIMES = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, timezone.utc))
SCALARS = (
    TEXT
    | HUGE
    | PERCENT
    | st.binary(max_size=40)
    | st.none()
    | st.booleans()
    | st.integers(*INT64)
    | DECIMALS
    | TIMES
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda key: key.lower() not in (*FIELDS, *BROKERS_OWN, "cc", "bcc")  # the last two route
)


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Scalars, and arrays and tables of them."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=10,
    )


VALUES = nested(SCALARS)
DEATHS = st.lists(
    st.dictionaries(
        st.sampled_from(["reason", "queue", "count", "exchange", "routing-keys", "time"]), VALUES
    ),
    max_size=3,
)
ANYTHING = nested(
    SCALARS
    | st.floats()
    | st.integers()
    | st.binary(max_size=40).map(bytearray)
    | st.binary(max_size=40).map(memoryview)
    | st.tuples(TEXT)
    | st.just(object())
)


@st.composite
def any_case(draw: st.DrawFn, name: str) -> str:
    """A header's name in any mixture of cases."""
    upper = draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    return "".join(char.upper() if up else char for char, up in zip(name, upper, strict=True))


def hex_of(size: int) -> st.SearchStrategy[str]:
    """So many digits, not all of them zero."""
    digits = st.text(st.sampled_from(string.hexdigits[:16]), min_size=size, max_size=size)
    return digits.filter(lambda text: text.strip("0"))


VALID = st.builds("00-{}-{}-{}".format, hex_of(32), hex_of(16), st.sampled_from(["00", "01", "03"]))
_BROKEN = {
    "of another length": lambda valid, n: valid[: n % len(valid)],
    "of zeros, as trace": lambda valid, _: f"00-{'0' * 32}{valid[35:]}",
    "of zeros, as span": lambda valid, _: f"{valid[:36]}{'0' * 16}{valid[52:]}",
    "of a forbidden version": lambda valid, _: f"ff{valid[2:]}",
    "with no hexadecimal digit": lambda valid, n: f"{valid[: 3 + n % 32]}g{valid[4 + n % 32 :]}",
    "with other separators": lambda valid, _: valid.replace("-", "_"),
    "with something after it": lambda valid, n: f"{valid}{'☃' * (n % 9 + 1)}",
    "with something before it": lambda valid, n: f"{'-' * (n % 9 + 1)}{valid}",
}
MALFORMED = st.builds(
    lambda how, valid, n: _BROKEN[how](valid, n),
    st.sampled_from(sorted(_BROKEN)),
    VALID,
    st.integers(0, 99),
)


class Hostile(NamedTuple):
    """Headers, and the trace context that a reader has to find in them."""

    headers: dict[Any, Any]
    context: str | None
    """The traceparent in force: the last one, if it is well-formed."""


def hostile(
    values: st.SearchStrategy[Any] = VALUES, malformed: st.SearchStrategy[Any] = VALUES
) -> st.SearchStrategy[Hostile]:
    """Headers with fields of ours in any case, several of them, of any type, among anything else.

    Args:
        values: What any header can hold.
        malformed: What a traceparent can hold that is none; strings that happen to be one are left
            out.
    """
    return _hostile(values, malformed)


@st.composite
def _hostile(draw: st.DrawFn, values: Any, malformed: Any) -> Hostile:
    bad = MALFORMED | TEXT.filter(lambda text: "-" not in text) | malformed.filter(_is_no_text)
    entries = draw(st.lists(st.tuples(KEYS, values), max_size=5))
    for name in draw(st.lists(st.sampled_from(FIELDS[1:] + BROKERS_OWN), max_size=5)):
        special = DEATHS if name == "x-death" else st.integers(*INT64)
        entries.append((draw(any_case(name)), draw(values | special | PERCENT)))
    context = None
    parents = draw(st.lists(any_case("traceparent"), max_size=3, unique=True))
    for key in parents:
        valid = draw(st.booleans())
        value = draw(VALID if valid else bad)
        context = value if valid else None
        if valid and draw(st.booleans()):
            value = value.encode()
        entries.append((key, value))
    order = draw(st.permutations(range(len(entries))))
    # The order among the traceparents decides; everything else may be anywhere.
    places = sorted(order[len(entries) - len(parents) :])
    parent_entries = entries[len(entries) - len(parents) :]
    others = iter(entries[: len(entries) - len(parents)])
    mixed = [
        parent_entries[places.index(index)] if index in places else next(others)
        for index in range(len(entries))
    ]
    return Hostile(dict(mixed), context)


def _is_no_text(value: object) -> bool:
    return not isinstance(value, str | bytes | bytearray | memoryview)
