"""Links to messages: one each, and no more than the SDK keeps."""

from __future__ import annotations

import pytest
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from hopspan.propagation import MAPPING, PAIRS
from hopspan.telemetry.links import batch, links_to_senders, links_to_spans, most
from tests.unit.support import delivery


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
    assert most() == number


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
    attributes, links = batch([delivery(sent_by(1)), delivery(sent_by(2))], MAPPING)
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
    attributes, links = batch([delivery(sent_by(n + 1)) for n in range(size)], MAPPING)
    expected = {"messaging.batch.message_count": size}
    if omitted is not None:
        expected["hopspan.links.omitted"] = omitted
    assert (attributes, [link.context.span_id for link in links]) == (expected, linked)


def test_no_links_at_all_can_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "0")
    assert batch([delivery(sent_by(1)), delivery(sent_by(2))], MAPPING) == (
        {"messaging.batch.message_count": 2, "hopspan.links.omitted": 2},
        (),
    )
