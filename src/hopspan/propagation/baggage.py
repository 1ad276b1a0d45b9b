"""Baggage entries: which are meant, how many a message carries, what of them is recorded.

Rules of this module: it reads contexts and makes new ones, and changes none; it knows neither
headers nor spans. Whole entries are dropped, never parts of one.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from opentelemetry import baggage
from opentelemetry.context import Context

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_ENTRIES = 64
"""What every system has to pass on (W3C Baggage, *Limits*); it may drop what is beyond."""
MOST_BYTES = 8192
"""Likewise, of all entries together as they are encoded, with the commas between them."""
MOST_BYTES_OF_ENTRY = 4096
"""What OpenTelemetry for Python writes and reads: it drops a longer one at each message."""

KEY = next(iter(baggage.set_baggage("any", "", Context())))
"""Where the API keeps baggage in a context: most contexts have none, and need not pay for it."""

LONGEST_VALUE = 1024
"""Characters of a value that are recorded: the span is ours, the value is anybody's."""
_MOST_RECORDED = 32
"""A prefix may mean any number of entries, and too many would push out a span's own attributes."""
_MOST_BYTES_OF_CHARACTER = 12  # four bytes of UTF-8, three characters each


class Names:
    """Names, and prefixes that end in `*`. Immutable; safe for all threads."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        self._exact = frozenset(each for each in patterns if not each.endswith("*"))
        self._prefixes = tuple(each[:-1] for each in patterns if each.endswith("*"))

    def __contains__(self, name: str) -> bool:
        return name in self._exact or name.startswith(self._prefixes)


def names_of(patterns: Iterable[str] | None) -> Names | None:
    """`Names`, where there are any to speak of."""
    return None if patterns is None else Names(patterns)


ANY = Names("*")
"""Of every name."""


def leaving(context: Context, allowed: Names | None) -> Context:
    """`context` with what of its baggage may leave in a message; None allows all, within limits."""
    entries = kept = baggage.get_all(context)
    if allowed is not None:
        kept = {key: each for key, each in entries.items() if str(key) in allowed}
    if not surely_fits(kept):
        kept = _fitting(kept)
    return context if len(kept) == len(entries) else with_only(context, kept)


def with_only(context: Context, entries: Mapping[str, object]) -> Context:
    """`context` with this baggage and no other."""
    context = baggage.clear(context)
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    return context


def surely_fits(entries: Mapping[str, object]) -> bool:
    """A cheap bound: encoding takes longer than all the rest."""
    longest = 0
    for key, value in entries.items():
        longest += (len(str(key)) + len(str(value)) + 2) * _MOST_BYTES_OF_CHARACTER
    return longest <= MOST_BYTES_OF_ENTRY and len(entries) <= MOST_ENTRIES


def _fitting(entries: Mapping[str, object]) -> dict[str, object]:
    """The entries that a message can carry, the first ones first."""
    kept: dict[str, object] = {}
    left = MOST_BYTES + 1  # a comma goes before each entry but the first
    for key, value in entries.items():
        size = len(quote_plus(str(key))) + len("=") + len(quote_plus(str(value)))
        if len(kept) < MOST_ENTRIES and size <= MOST_BYTES_OF_ENTRY and size < left:
            kept[key] = value
            left -= size + len(",")
    if len(kept) < len(entries):
        faults.once(
            "some baggage does not leave in messages, for it is more than %s entries, %s bytes in "
            "all or %s bytes an entry: set fewer entries, or allow fewer with baggage_allow",
            MOST_ENTRIES,
            MOST_BYTES,
            MOST_BYTES_OF_ENTRY,
        )
    return kept


def recorded(context: Context, names: Names) -> dict[str, str]:
    """The entries of these names as attributes; at most so many, and of each the beginning."""
    meant = ((str(key), each) for key, each in baggage.get_all(context).items())
    named = ((key, shortened(str(each))) for key, each in meant if key in names)
    return dict(islice(named, _MOST_RECORDED))


_IN_URL = re.compile(r"(?<=://)[^/\s]+@")


def without_passwords(text: str, instead: str = "") -> str:
    """A text whose URLs have no user and password in them."""
    return _IN_URL.sub(instead, text)


def encodable(entries: Mapping[str, object]) -> dict[str, object]:
    """The entries that a propagator can write; the others are said once."""
    kept = {key: value for key, value in entries.items() if _is_encodable(key, value)}
    if len(kept) < len(entries):
        faults.once(
            "some baggage does not leave in messages, for it cannot be written as text: an "
            "undecodable file name, say, or a value whose __str__ raises"
        )
    return kept


def _is_encodable(key: object, value: object) -> bool:
    try:
        quote_plus(f"{key}{value}")
    except Exception:  # noqa: BLE001 - of any object's `__str__`
        return False
    return True


def shortened(text: str) -> str:
    """A text as it may be recorded."""
    return text[:LONGEST_VALUE]
