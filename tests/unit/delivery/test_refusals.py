"""Policies that cannot work are refused before anything begins, with what, why and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from hopspan import PolicyError
from tests.unit.delivery.client import AsyncLetter, Letter
from tests.unit.delivery.ways import Way
from tests.unit.support import Telemetry

CANNOT_WAIT = (
    "policy requeue_times cannot work with letters: a letter cannot wait. Leave out pause="
)
ACKED = (
    "policy ack_always cannot settle for the consumer of orders: it forgets a letter when it hands "
    "it out. Open another channel, or use policy=hopspan.manual"
)
UNKNOWN = "policy ack_always cannot work with letters: nobody knows its channel"
PAUSING = hopspan.requeue_times(3, pause=1.0)


def _never(_letter: Any) -> None:
    raise AssertionError("unreachable")


def _several(way: Way, *letters: dict[str, Any]) -> list[Letter]:
    return [way.letter(**given) for given in letters]


@pytest.mark.parametrize(
    ("policy", "letters", "said"),
    [
        (PAUSING, [{}], CANNOT_WAIT),
        (hopspan.ack_always, [{"acked": True}], ACKED),
        (hopspan.ack_always, [{}, {"acked": True}], ACKED),
        (hopspan.ack_always, [{"name": "unknown"}], UNKNOWN),
        (hopspan.ack_always, [{}, {"name": "unknown"}], UNKNOWN),
    ],
)
def test_a_policy_that_cannot_work_is_refused_before_anything_begins(
    policy: Any, letters: Any, said: str, way: Way, telemetry: Telemetry
) -> None:
    given: Any = _several(way, *letters)
    given = given if len(given) > 1 else given[0]
    with pytest.raises(PolicyError) as raised:
        way.run(given, _never, policy=policy, **telemetry.settings)
    assert said.replace("requeue_times", policy.name) == str(raised.value)
    assert ([], []) == (
        telemetry.spans,
        telemetry.points("messaging.client.consumed.messages"),
    )


def test_a_policy_that_settles_nothing_can_always_work(way: Way, telemetry: Telemetry) -> None:
    for given in ({"acked": True}, {"name": "unknown"}):
        way.run(way.letter(**given), lambda _: None, policy=hopspan.manual, **telemetry.settings)
    assert 2 == len(telemetry.spans)


@pytest.mark.parametrize("policy", [3, "requeue", hopspan.Verdict.ACK])
def test_what_is_no_policy_is_refused_where_it_is_given(policy: Any) -> None:
    for give in (hopspan.consumer, lambda **settings: hopspan.process(Letter(), **settings)):
        with pytest.raises(PolicyError, match="is no policy"):
            give(policy=policy)


def test_a_plain_block_cannot_settle_what_must_be_awaited(telemetry: Telemetry) -> None:
    """It is refused before the block runs, and nothing is settled or left behind."""
    letter = AsyncLetter()
    block = hopspan.process(letter, policy=hopspan.ack_always, **telemetry.settings)
    with pytest.raises(PolicyError) as raised, block:
        raise AssertionError("unreachable")
    assert (
        "`with hopspan.process(...)` cannot settle for letters, whose settlement is awaited: "
        "write `async with hopspan.process(...)`"
    ) == str(raised.value)
    assert ([], []) == (letter.channel.sent, telemetry.spans)


def test_a_plain_block_is_fine_where_nothing_is_settled(telemetry: Telemetry) -> None:
    with hopspan.process(AsyncLetter(), **telemetry.settings) as operation:
        assert operation is hopspan.current()
    assert 1 == len(telemetry.spans)
