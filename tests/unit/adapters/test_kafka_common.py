"""Kafka's names, where records come from, and what a dead letter says: the rules as tables."""

from __future__ import annotations

from typing import Any

import pytest

from hopspan.adapters import kafka_common
from hopspan.adapters.kafka_common import Server, dead_letter_headers, endpoint, key, server
from hopspan.conventions import Action
from hopspan.model import Endpoint, OperationType, Verdict


@pytest.mark.parametrize(
    ("bootstrap", "address", "port"),
    [
        ("broker:9093", "broker", 9093),
        ("broker", "broker", None),
        ("one:1,two:2", "one", 1),
        (" one:1 , two:2", "one", 1),
        (["one:1", "two:2"], "one", 1),
        (("one", "two:2"), "one", None),
        ({"one:1"}, "one", 1),
        (iter(["one:1"]), "one", 1),
        ("SASL_SSL://broker:9093", "broker", 9093),
        ("PLAINTEXT://broker", "broker", None),
        ("10.0.0.1:9092", "10.0.0.1", None),
        ("[::1]:9093", "::1", 9093),
        ("[::1]", "::1", None),
        ("broker:", "broker:", None),
        ("broker:port", "broker:port", None),
        (":9092", None, None),
        ("", None, None),
        ([], None, None),
        (None, None, None),
        ([("broker", 9092)], None, None),
        ([None], None, None),
    ],
)
def test_the_server_is_the_first_bootstrap_server(
    bootstrap: Any, address: str | None, port: int | None
) -> None:
    assert server(bootstrap) == Server(address, port)


@pytest.mark.parametrize(("group", "found"), [({}, None), ({"group": "billing"}, "billing")])
def test_an_endpoint_is_a_topic(group: dict[str, str], found: str | None) -> None:
    assert endpoint("orders", Server("broker", 9093), **group) == Endpoint(
        "kafka", "orders", group=found, server_address="broker", server_port=9093
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("k1", "k1"),
        ("", ""),
        (b"k1", "k1"),
        (bytearray(b"k1"), "k1"),
        ("é☃".encode(), "é☃"),
        (b"", ""),
    ],
)
def test_a_key_that_is_text_is_told(value: Any, text: str) -> None:
    assert key(value) == ("messaging.kafka.message.key", text)


@pytest.mark.parametrize("value", [None, b"\xff\xfe", 7, 1.5, ("a",), {"a": 1}, memoryview(b"k")])
def test_a_key_that_is_no_text_is_left_out(value: Any) -> None:
    assert key(value) is None


# -- what a dead letter says -----------------------------------------------------------------------

ORIGIN: Any = (("orders", 3, 41), "ValueError", 2)
SAID = [
    ("hopspan.origin.topic", b"orders"),
    ("hopspan.origin.partition", b"3"),
    ("hopspan.origin.offset", b"41"),
    ("hopspan.error.type", b"ValueError"),
    ("hopspan.attempt", b"2"),
]


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        (None, []),
        ([], []),
        ((), []),
        ([("a", b"1"), ("b", b"2")], [("a", b"1"), ("b", b"2")]),
        ([("a", b"1"), ("a", b"2")], [("a", b"1"), ("a", b"2")]),
        ([("empty", b""), ("null", None)], [("empty", b""), ("null", b"")]),
        ([("traceparent", b"00-x")], [("traceparent", b"00-x")]),
        ([("hopspan.origin.topics", b"x")], [("hopspan.origin.topics", b"x")]),
    ],
)
def test_a_dead_letter_keeps_its_headers_and_says_where_it_is_from(headers: Any, kept: Any) -> None:
    assert dead_letter_headers(headers, *ORIGIN) == [*kept, *SAID]


def test_the_last_origin_takes_the_place_of_an_earlier_one() -> None:
    """A dead letter that fails again has died here."""
    earlier = [(name, b"earlier") for name, _ in SAID]
    headers = [("first", b"1"), *earlier, ("last", b"2")]
    assert dead_letter_headers(headers, *ORIGIN) == [("first", b"1"), ("last", b"2"), *SAID]


def test_what_is_not_known_is_not_said_and_what_was_said_is_gone() -> None:
    """Or the error of an earlier death would be taken for this one's."""
    headers = [("hopspan.error.type", b"KeyError")]
    origin = (ORIGIN[0], None, ORIGIN[2])
    assert dead_letter_headers(headers, *origin) == [
        each for each in SAID if each[0] != "hopspan.error.type"
    ]


def test_an_origin_at_zero_is_said() -> None:
    said = dict(dead_letter_headers(None, ("orders", 0, 0), None, 1))
    assert said == {
        "hopspan.origin.topic": b"orders",
        "hopspan.origin.partition": b"0",
        "hopspan.origin.offset": b"0",
        "hopspan.attempt": b"1",
    }


def test_the_headers_given_are_left_as_they_are() -> None:
    """They are the record's, which the application has as well."""
    headers = [("a", None), ("hopspan.attempt", b"1")]
    dead_letter_headers(headers, *ORIGIN)
    assert headers == [("a", None), ("hopspan.attempt", b"1")]


# -- names -----------------------------------------------------------------------------------------


def test_operations_have_kafkas_names() -> None:
    assert (kafka_common.SEND, kafka_common.POLL, kafka_common.COMMIT) == (
        Action("send", OperationType.SEND),
        Action("poll", OperationType.RECEIVE),
        "commit",
    )


def test_verdicts_have_kafkas_names_and_an_ack_has_none() -> None:
    assert kafka_common.SETTLE_NAMES == {Verdict.REQUEUE: "seek", Verdict.REJECT: "dead_letter"}
