"""The contract, kept by Celery on the fake RabbitMQ."""

from __future__ import annotations

from tests.contract import suite
from tests.contract.celery_client import NOT_HERE, ON_RABBITMQ, on_fake


@suite.scenarios(ON_RABBITMQ, *suite.EVERYWHERE, "scenarios_celery", but=NOT_HERE)
def test_celery_on_the_fake(play: suite.Play) -> None:
    play(on_fake)
