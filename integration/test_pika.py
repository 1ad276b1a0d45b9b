"""The contract, kept by pika on a real RabbitMQ."""

from __future__ import annotations

import functools

from tests.contract import suite
from tests.contract.pika_client import FEATURES, PikaClient


@suite.scenarios(FEATURES, *suite.EVERYWHERE, "scenarios_amqp", "scenarios_pika")
def test_pika_on_rabbitmq(play: suite.Play, rabbitmq_url: str) -> None:
    play(functools.partial(PikaClient, rabbitmq_url))
