"""The contract, kept by kafka-python on the fake broker."""

from __future__ import annotations

from tests.contract import suite
from tests.contract.kafka_client import FEATURES, on_fake


@suite.scenarios(FEATURES, *suite.EVERYWHERE, "scenarios_kafka")
def test_kafka_on_the_fake(play: suite.Play) -> None:
    play(on_fake)
