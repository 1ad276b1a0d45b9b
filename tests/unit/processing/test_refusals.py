"""Policies that cannot work are refused, and the error says what, why, and what to change."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from hopspan.model import Endpoint, PolicyError
from hopspan.processing.refusals import auto_acked, refuse, refuse_plain
from tests.unit.support import Adapting, delivery

REFUSING: Any = Adapting(NAME="test", refusal=lambda policy: "it has no dead letters")
WILLING: Any = Adapting(NAME="test", refusal=lambda policy: None)
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
    assert str(raised.value) == str(auto_acked(hopspan.requeue_once, whom))


def test_the_refusal_of_auto_ack_says_what_to_change() -> None:
    assert str(auto_acked(hopspan.requeue_once, "a consumer of 'orders'")) == (
        "policy requeue_once cannot settle for a consumer of 'orders': it was given "
        "auto_ack=True, so the broker forgets a message when it hands it out. Consume with "
        "auto_ack=False, or use policy=hopspan.manual"
    )


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
