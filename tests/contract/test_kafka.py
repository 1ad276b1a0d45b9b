"""The contract, kept by kafka-python on the fake broker."""

from __future__ import annotations

import pytest

from tests.contract import suite
from tests.contract.kafka_client import FEATURES, on_fake

# kafka-python may leave behind a connection that it was about to open when a client was closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@suite.scenarios(FEATURES, *suite.EVERYWHERE, "scenarios_kafka")
def test_kafka_on_the_fake(play: suite.Play) -> None:
    play(on_fake)
