"""The contract, kept by aio-pika on the fake RabbitMQ."""

from __future__ import annotations

from tests.contract import suite
from tests.contract.aio_pika_client import FEATURES, NOT_HERE, play_on_fake

MODULES = (*suite.EVERYWHERE, "scenarios_amqp", "scenarios_aio_pika")


@suite.scenarios(FEATURES, *MODULES, but=NOT_HERE)
def test_aio_pika_on_the_fake(play: suite.Play) -> None:
    play_on_fake(play)
