"""Many deliveries at once: asked for all of them where they can say it, or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hopspan.model import Delivery, Endpoint
from hopspan.propagation import MAPPING
from hopspan.telemetry.links import batch
from hopspan.telemetry.several import Several, common_endpoint, headers_of, uncounted
from tests.unit.support import delivery

ORDERS, BILLS = Endpoint("memory", "orders", group="g"), Endpoint("memory", "bills", group="g")


class Lazy(Several):
    """Deliveries that take note of which of them are made."""

    def __init__(self, *given: Delivery) -> None:
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


def listed(*given: Delivery) -> Sequence[Delivery]:
    return list(given)


BOTH = pytest.mark.parametrize("several", [listed, Lazy])


def made(several: Sequence[Delivery]) -> int:
    return several.made if isinstance(several, Lazy) else 0


@BOTH
@pytest.mark.parametrize(
    ("most", "kept"), [(0, []), (1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])]
)
def test_the_headers_are_those_of_the_newest(several: Any, most: int, kept: list[int]) -> None:
    many = several(*(delivery({"n": each}) for each in (1, 2, 3)))
    assert [each["n"] for each in headers_of(many, most)] == kept
    assert made(many) == 0


@BOTH
def test_a_common_endpoint_is_that_of_all(several: Any) -> None:
    many = several(delivery(endpoint=ORDERS), delivery(endpoint=ORDERS))
    assert common_endpoint(many) == ORDERS
    assert made(many) == 0


@BOTH
@pytest.mark.parametrize(
    "other",
    [BILLS, ORDERS._replace(template="o-{n}"), ORDERS._replace(anonymous=True)],
    ids=["destination", "template", "anonymous"],
)
def test_of_several_endpoints_only_what_they_share_is_said(several: Any, other: Endpoint) -> None:
    for pair in ((ORDERS, other), (other, ORDERS)):
        many = several(*(delivery(endpoint=each) for each in pair))
        assert common_endpoint(many) == Endpoint("memory", "", group="g")
        assert made(many) == 0


@BOTH
@pytest.mark.parametrize("counted", [(), (True,), (False,), (True, False, False), (True, True)])
def test_what_no_receive_has_counted_is_counted(several: Any, counted: tuple[bool, ...]) -> None:
    many = several(*(delivery(counted=each) for each in counted))
    assert uncounted(many) == counted.count(False)
    assert made(many) <= (len(counted) == 1), "one alone is a value anyway"


@BOTH
def test_a_batch_of_either_is_described_alike(
    several: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    sent = [{"traceparent": f"00-{1:032x}-{each:016x}-01"} for each in (1, 2, 3)]
    many = several(*map(delivery, sent))
    attributes, links = batch(many, MAPPING)
    assert [link.context.span_id for link in links] == [3]
    assert attributes == {
        "messaging.batch.message_count": 3,
        "hopspan.links.omitted": 2,
    }
    assert made(many) == 0
