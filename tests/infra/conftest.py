"""An empty checkout on a machine that has nothing: what runs on the real one is not touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.brokers import state, tansu
from integration.brokers.processes import stop_processes
from integration.brokers.services import EMBEDDED_VARIABLE, SERVICES, BrokerError


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an empty checkout: these tests must not see or touch what runs in the real one."""
    monkeypatch.setattr(state, "ROOT", tmp_path)
    monkeypatch.setattr(tansu, "importable", list)
    for service in SERVICES.values():
        monkeypatch.delenv(service.variable, raising=False)
        monkeypatch.delenv(service.port_variable, raising=False)
    for name in (EMBEDDED_VARIABLE, "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    # What a test that failed half-way has left running.
    with contextlib.suppress(BrokerError):
        for running in state.recall().values():
            stop_processes(running.processes)
