"""The contract, kept by Celery on a real RabbitMQ and on a real Redis."""

from __future__ import annotations

import functools

import pytest

from integration.conftest import endpoint
from tests.contract import suite
from tests.contract.celery_client import (
    NOT_HERE,
    NOT_HERE_ON_REDIS,
    ON_RABBITMQ,
    ON_REDIS,
    CeleryClient,
    rabbitmq,
    redis,
)

MODULES = (*suite.EVERYWHERE, "scenarios_celery")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Return the URL of a Redis that answers."""
    return endpoint("redis")


def _own(url: str) -> str:
    """A database in which nobody else keeps what is not acked."""
    return f"{url.rpartition('/')[0]}/9"


@suite.scenarios(ON_RABBITMQ, *MODULES, but=NOT_HERE)
def test_celery_on_rabbitmq(play: suite.Play, rabbitmq_url: str) -> None:
    play(functools.partial(CeleryClient, rabbitmq(rabbitmq_url)))


@suite.scenarios(ON_REDIS, *MODULES, but=NOT_HERE_ON_REDIS)
def test_celery_on_redis(play: suite.Play, redis_url: str) -> None:
    play(functools.partial(CeleryClient, redis(_own(redis_url))))
