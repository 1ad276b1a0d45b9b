"""The contract, kept by pika on the fake RabbitMQ."""

from __future__ import annotations

from tests.contract import suite
from tests.contract.pika_client import FEATURES, on_fake


@suite.scenarios(FEATURES, *suite.EVERYWHERE, "scenarios_amqp", "scenarios_pika")
def test_pika_on_the_fake(play: suite.Play) -> None:
    play(on_fake)
