"""The contract, kept by pika on a real RabbitMQ."""

from __future__ import annotations

import functools

from tests.contract import suite
from tests.contract.pika_client import FEATURES, PikaClient


@suite.scenarios(
    FEATURES,
    "scenarios_propagation",
    "scenarios_metrics",
    "scenarios_instrumentation",
    "scenarios_robustness",
)
def test_pika_on_rabbitmq(play: suite.Play, rabbitmq_url: str) -> None:
    play(functools.partial(PikaClient, rabbitmq_url))
