"""The contract, kept by kafka-python on the embedded broker of the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import suite
from tests.contract.kafka_client import EMBEDDED, real

# kafka-python may leave behind a connection that it was about to open when a client was closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def on_tansu(tansu_bootstrap: str) -> Iterator[Callable[..., Any]]:
    with real(tansu_bootstrap) as client:
        yield client


@suite.scenarios(EMBEDDED, *suite.EVERYWHERE, "scenarios_kafka")
def test_kafka_embedded(play: suite.Play, on_tansu: Callable[..., Any]) -> None:
    play(on_tansu)
