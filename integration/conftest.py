"""The real brokers of the integration suite: where they are, and what happens when they are not.

On a laptop a missing broker skips what needs it and says why. In CI it fails: a suite that runs
nothing must not look green.
"""

from __future__ import annotations

import os

import pytest

from integration.brokers.services import PROBE_SECONDS, SERVICES, shown, wait_until
from tests.patience import pytest_collection_modifyitems  # noqa: F401 - a hook


def endpoint(name: str) -> str:
    """Return where the service `name` answers, or skip; fail instead of skipping in CI."""
    service = SERVICES[name]
    url = os.environ.get(service.variable)
    if url and wait_until(lambda: service.answers(url), PROBE_SECONDS):
        return url
    where = f"= {shown(url)} does not answer" if url else "is not set"
    reason = f'{service.variable} {where}; try: eval "$(scripts/brokers up {name})"'
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """Return the URL of a RabbitMQ that answers."""
    return endpoint("rabbitmq")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    """Return the address of a Kafka that answers."""
    return endpoint("kafka")


@pytest.fixture(scope="session")
def tansu_bootstrap() -> str:
    """Return the address of a Tansu, the embedded broker of the demo, that answers."""
    return endpoint("tansu")
