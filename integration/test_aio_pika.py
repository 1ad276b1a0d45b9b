"""The contract, kept by aio-pika on a real RabbitMQ."""

from __future__ import annotations

from tests.contract import suite
from tests.contract.aio_pika_client import FEATURES, NOT_HERE, play_on

MODULES = (*suite.EVERYWHERE, "scenarios_amqp", "scenarios_aio_pika")


@suite.scenarios(FEATURES, *MODULES, but=NOT_HERE)
def test_aio_pika_on_rabbitmq(play: suite.Play, rabbitmq_url: str) -> None:
    play_on(play, rabbitmq_url)
