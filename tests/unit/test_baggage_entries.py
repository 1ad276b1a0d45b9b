"""Baggage entries: which are meant, how many a message carries, what of them is recorded."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry.context import Context, set_value

from hopspan.propagation.baggage import ANY, KEY, Names, leaving, names_of, recorded, with_only


def carrying(entries: dict[str, Any]) -> Context:
    return with_only(set_value("other", 1, Context()), entries)


def left(entries: dict[str, Any], allowed: Names | None = None) -> list[str]:
    return list(baggage.get_all(leaving(carrying(entries), allowed)))


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        ((), []),
        (("tenant",), ["tenant"]),
        (("tenant.*",), ["tenant.", "tenant.id"]),
        (("tenant*",), ["tenant", "tenant.", "tenant.id", "tenants"]),
        (("tenant", "tenant.*"), ["tenant", "tenant.", "tenant.id"]),
        (("*",), ["", "Tenant", "tenant", "tenant.", "tenant.id", "tenants", "x"]),
    ],
)
def test_names_are_exact_or_begin_so(patterns: tuple[str, ...], meant: list[str]) -> None:
    names = ["", "Tenant", "tenant", "tenant.", "tenant.id", "tenants", "x"]
    assert meant == [each for each in names if each in Names(patterns)]


def test_no_patterns_at_all_are_no_names() -> None:
    assert names_of(None) is None
    assert "x" not in (names_of(()) or ["x"])


def test_the_key_is_the_one_that_the_api_uses() -> None:
    """Without it, whatever is set would leave unseen."""
    assert [KEY] == list(baggage.set_baggage("k", "v", Context()))


def test_a_context_that_may_leave_as_it_is_is_not_copied() -> None:
    context = carrying({"a": "1"})
    assert leaving(context, None) is context
    assert leaving(context, Names(["a"])) is context


def test_only_the_baggage_of_a_context_is_changed() -> None:
    context = carrying({"a": "1", "b": "2"})
    assert leaving(context, Names(["b"])) == carrying({"b": "2"})
    assert baggage.get_all(context) == {"a": "1", "b": "2"}, "the given one is changed"


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        ({"a": "x" * 4094}, 1),
        ({"a": "x" * 4095}, 0),
        ({"a": "%" * 1364 + "xx"}, 1),
        ({"a": "%" * 1365}, 0),
        ({"a": "☃" * 454}, 1),
        ({"a": "☃" * 456}, 0),
        ({str(number): "" for number in range(64)}, 64),
        ({str(number): "" for number in range(65)}, 64),
        # Two of 4,094 and one of 2 bytes with two commas are 8,192.
        ({"a": "x" * 4092, "b": "x" * 4092, "c": ""}, 3),
        ({"a": "x" * 4092, "b": "x" * 4092, "c": "1"}, 2),
        ({"a": "x" * 4092, "b": "x" * 4093, "c": ""}, 2),
        ({"a": 1, "b": None}, 2),
    ],
    ids=range(12),
)
def test_what_is_over_the_limits_does_not_leave(entries: dict[str, Any], kept: int) -> None:
    assert left(entries) == left(entries, ANY) == list(entries)[:kept]


def test_what_is_not_allowed_takes_no_room() -> None:
    entries = {**{f"mine.{number}": "x" * 200 for number in range(64)}, "tenant": "t1"}
    assert left(entries, Names(["tenant"])) == ["tenant"]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=30),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
        max_size=90,
    )
)
def test_what_leaves_fits_and_is_whole(entries: dict[str, str]) -> None:
    entries = {quote_plus(key, errors="replace"): value for key, value in entries.items()}
    kept = baggage.get_all(leaving(carrying(entries), None))
    encoded = ",".join(f"{quote_plus(key)}={quote_plus(str(each))}" for key, each in kept.items())
    assert len(kept) <= 64
    assert len(encoded) <= 8192
    assert kept.items() <= entries.items()
    if len(entries) <= 64 and sum(len(quote_plus(k + v)) + 2 for k, v in entries.items()) <= 4096:
        assert kept == entries


def test_that_entries_are_dropped_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        left({str(number): "secret" for number in range(65)})
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hopspan", logging.WARNING)
    assert "secret" not in record.getMessage()


# -- what is recorded ------------------------------------------------------------------------------


def test_the_entries_that_are_named_are_recorded() -> None:
    context = carrying({"tenant": 7, "app.a": "1", "secret": "s"})
    assert recorded(context, Names(["app.*", "tenant"])) == {"tenant": "7", "app.a": "1"}


def test_of_a_long_value_the_beginning_is_recorded() -> None:
    assert recorded(carrying({"a": "x" * 5000}), ANY) == {"a": "x" * 1024}


def test_no_more_entries_are_recorded_than_leave_room_for_others() -> None:
    """A prefix means as many as a sender likes, and a span keeps its newest attributes."""
    entries = {f"app.{number}": "x" for number in range(500)}
    assert list(recorded(carrying(entries), Names(["app.*"]))) == list(entries)[:32]
