"""Second tries, for tests that wait for brokers and other processes on a machine that may be busy.

They go by files; the units, the properties and the contracts of pika and aio-pika get none. A run
lists what needed one (`RERUN`): it is to be looked at, and what is really broken fails every time.
"""

from __future__ import annotations

import pytest

WAITING = (
    "integration/",
    "tests/contract/test_celery",
    "tests/contract/test_kafka",
    "tests/doctor/",
    "tests/fakes/",
    "tests/infra/",
    "tests/sdk/",
    "tests/test_demo",
    "tests/test_wheel",
    "tests/test_zero_code",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks them, where pytest-rerunfailures is installed."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.nodeid.startswith(WAITING) and item.get_closest_marker("flaky") is None:
                item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))
