"""The contract, kept by kafka-python on a real Apache Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import suite
from tests.contract.kafka_client import FEATURES, real

# kafka-python may leave behind a connection that it was about to open when a client was closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def on_kafka(kafka_bootstrap: str) -> Iterator[Callable[..., Any]]:
    with real(kafka_bootstrap) as client:
        yield client


@suite.scenarios(FEATURES, *suite.EVERYWHERE, "scenarios_kafka")
def test_kafka(play: suite.Play, on_kafka: Callable[..., Any]) -> None:
    play(on_kafka)
