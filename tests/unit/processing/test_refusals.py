"""Policies that cannot work are refused, and the error says what, why, and what to change."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from hopspan.model import Endpoint, PolicyError
from hopspan.processing.refusals import refuse, refuse_plain, settled_already
from tests.unit.support import Adapting, delivery

REFUSING: Any = Adapting(NAME="test", refusal=lambda policy, native: "it has no dead letters")
WILLING: Any = Adapting(
    NAME="test", SETTLED_ALREADY="it has done so itself. Switch that off", refusal=lambda *_: None
)
AWAITED: Any = Adapting(NAME="test", ASYNCHRONOUS=True)


def test_a_policy_that_the_client_cannot_serve_is_refused() -> None:
    with pytest.raises(PolicyError) as raised:
        refuse(hopspan.reject_on_error, REFUSING, ())
    assert str(raised.value) == (
        "policy reject_on_error cannot work with test: it has no dead letters"
    )


def test_a_policy_that_settles_nothing_can_always_work() -> None:
    refuse(hopspan.manual, REFUSING, [delivery(settles=False)])
    refuse_plain("operation", hopspan.manual, AWAITED)


def test_a_policy_that_can_work_is_not_refused() -> None:
    refuse(hopspan.reject_on_error, WILLING, [delivery()])


@pytest.mark.parametrize(
    ("destination", "whom"),
    [("orders", "the consumer of orders"), ("", "the consumer of this queue")],
)
def test_a_settling_policy_on_an_auto_ack_consumer_is_refused(destination: str, whom: str) -> None:
    acked = delivery(settles=False, endpoint=Endpoint("memory", destination))
    with pytest.raises(PolicyError) as raised:
        refuse(hopspan.requeue_once, WILLING, [delivery(), acked])
    assert str(raised.value) == str(settled_already(hopspan.requeue_once, WILLING, whom))


def test_the_refusal_of_what_is_settled_already_says_what_to_change() -> None:
    refused = settled_already(hopspan.requeue_once, WILLING, "a consumer of 'orders'")
    assert str(refused) == (
        "policy requeue_once cannot settle for a consumer of 'orders': it has done so itself. "
        "Switch that off, or use policy=hopspan.manual"
    )


def test_a_policy_that_cannot_serve_one_of_the_deliveries_is_refused() -> None:
    adapter: Any = Adapting(NAME="test", refusal=lambda policy, native: native)
    with pytest.raises(PolicyError) as raised:
        refuse(hopspan.reject_on_error, adapter, [delivery(native=None), delivery(native="no via")])
    assert str(raised.value) == "policy reject_on_error cannot work with test: no via"


def test_a_plain_block_cannot_settle_what_must_be_awaited() -> None:
    with pytest.raises(PolicyError) as raised:
        refuse_plain("hopspan.process(...)", hopspan.ack_always, AWAITED)
    assert str(raised.value) == (
        "`with hopspan.process(...)` cannot settle for test, whose settlement is awaited: "
        "write `async with hopspan.process(...)`"
    )


@pytest.mark.parametrize(("block", "adapter"), [("", AWAITED), ("hopspan.process(...)", WILLING)])
def test_other_blocks_can(block: str, adapter: Any) -> None:
    refuse_plain(block, hopspan.ack_always, adapter)
