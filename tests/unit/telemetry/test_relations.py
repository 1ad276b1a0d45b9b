"""Relations to messages: links, one each and no more than the SDK keeps; endpoints in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from hopspan.model import Endpoint
from hopspan.propagation import MAPPING, PAIRS
from hopspan.telemetry.relations import (
    Members,
    batch_links,
    common_endpoint,
    link_limit,
    links_to_senders,
    links_to_spans,
    messages_to_count,
)
from tests.unit.support import Given, delivery


def sent_by(span: int) -> dict[str, str]:
    return {"traceparent": f"00-{1:032x}-{span:016x}-01"}


@pytest.fixture
def at_most_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "2")


@pytest.mark.parametrize(
    ("text", "number"),
    [(None, 128), ("", 128), ("3", 3), ("0", 0), ("x", 128), ("²", 128), ("-1", 128)],
)
def test_how_many_the_sdk_keeps(
    text: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", text)
    assert link_limit() == number


def test_a_message_without_a_context_has_no_link() -> None:
    links = links_to_senders([sent_by(1), None, {"color": "red"}, sent_by(2)], MAPPING)
    assert [link.context.span_id for link in links] == [1, 2]


def test_where_the_sdk_keeps_none_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "0")
    assert links_to_senders([sent_by(1)], MAPPING) == ()


def test_headers_are_read_as_the_codec_does() -> None:
    links = links_to_senders([[("traceparent", sent_by(1)["traceparent"].encode())]], PAIRS)
    assert [link.context.span_id for link in links] == [1]


def test_invalid_spans_are_not_linked_to() -> None:
    valid = SpanContext(1, 2, is_remote=False)
    assert [link.context for link in links_to_spans([INVALID_SPAN_CONTEXT, valid])] == [valid]


@pytest.mark.usefixtures("at_most_two")
def test_the_newest_spans_are_linked_to() -> None:
    spans = [SpanContext(1, number, is_remote=False) for number in (1, 2, 3)]
    assert [link.context.span_id for link in links_to_spans(spans)] == [2, 3]


def test_a_batch_is_counted_and_linked() -> None:
    attributes, links = batch_links([delivery(sent_by(1)), delivery(sent_by(2))], MAPPING)
    assert (attributes, [link.context.span_id for link in links]) == (
        {"messaging.batch.message_count": 2},
        [1, 2],
    )


@pytest.mark.usefixtures("at_most_two")
@pytest.mark.parametrize(
    ("size", "omitted", "linked"),
    [(2, None, [1, 2]), (3, 1, [2, 3]), (5, 3, [4, 5])],
)
def test_links_that_the_sdk_would_drop_are_omitted_and_counted(
    size: int, omitted: int | None, linked: list[int]
) -> None:
    attributes, links = batch_links([delivery(sent_by(n + 1)) for n in range(size)], MAPPING)
    expected = {"messaging.batch.message_count": size}
    if omitted is not None:
        expected["hopspan.links.omitted"] = omitted
    assert (attributes, [link.context.span_id for link in links]) == (expected, linked)


def test_no_links_at_all_can_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "0")
    assert batch_links([delivery(sent_by(1)), delivery(sent_by(2))], MAPPING) == (
        {"messaging.batch.message_count": 2, "hopspan.links.omitted": 2},
        (),
    )


# -- many deliveries: a list, or a sequence that builds them on demand ------------------------------

ORDERS, BILLS = Endpoint("memory", "orders", group="g"), Endpoint("memory", "bills", group="g")


class Lazy(Members):
    """Deliveries that take note of which of them are made."""

    def __init__(self, *given: Given) -> None:
        self._given = given
        self.made = 0

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, index: Any) -> Any:
        self.made += 1
        return self._given[index]

    def endpoints(self) -> list[Endpoint]:
        return list(dict.fromkeys(each.endpoint for each in self._given))

    def headers(self, most: int) -> list[Any]:
        return [each.headers for each in self._given[max(0, len(self) - most) :]]

    def uncounted(self) -> int:
        return sum(not each.counted for each in self._given)


def listed(*given: Given) -> Sequence[Given]:
    return list(given)


BOTH = pytest.mark.parametrize("sequence", [listed, Lazy])


def made(sequence: Sequence[Given]) -> int:
    return sequence.made if isinstance(sequence, Lazy) else 0


@BOTH
def test_a_common_endpoint_is_that_of_all(sequence: Any) -> None:
    many = sequence(delivery(endpoint=ORDERS), delivery(endpoint=ORDERS))
    assert common_endpoint(many) == ORDERS
    assert made(many) == 0


@BOTH
@pytest.mark.parametrize(
    "other",
    [BILLS, ORDERS._replace(template="o-{n}"), ORDERS._replace(anonymous=True)],
    ids=["destination", "template", "anonymous"],
)
def test_of_several_endpoints_only_what_they_share_is_said(sequence: Any, other: Endpoint) -> None:
    for pair in ((ORDERS, other), (other, ORDERS)):
        many = sequence(*(delivery(endpoint=each) for each in pair))
        assert common_endpoint(many) == Endpoint("memory", "", group="g")
        assert made(many) == 0


@BOTH
@pytest.mark.parametrize("counted", [(), (True,), (False,), (True, False, False), (True, True)])
def test_what_no_receive_has_counted_is_counted(sequence: Any, counted: tuple[bool, ...]) -> None:
    many = sequence(*(delivery(counted=each) for each in counted))
    assert messages_to_count(many) == counted.count(False)
    assert made(many) == 0


@BOTH
def test_a_batch_of_either_is_described_alike(
    sequence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    sent = [{"traceparent": f"00-{1:032x}-{each:016x}-01"} for each in (1, 2, 3)]
    many = sequence(*map(delivery, sent))
    attributes, links = batch_links(many, MAPPING)
    assert [link.context.span_id for link in links] == [3]
    assert attributes == {
        "messaging.batch.message_count": 3,
        "hopspan.links.omitted": 2,
    }
    assert made(many) == 0
