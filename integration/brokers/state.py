"""What `up` started, written down for `down`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from integration.brokers.processes import Process
from integration.brokers.services import BrokerError

ROOT = Path(__file__).resolve().parents[2]


class Running(NamedTuple):
    """A service that `up` started: all that `down` has to know."""

    way: str
    endpoint: str
    processes: tuple[Process, ...] = ()
    ports: tuple[int, ...] = ()
    engine: str = ""


def state_folder() -> Path:
    """Return the only folder we write to."""
    return ROOT / ".brokers"


def recall() -> dict[str, Running]:
    """Return what `up` started here, by service."""
    file = state_folder() / "state.json"
    try:
        return from_json(file.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BrokerError(f"{file} is damaged; end what it names and delete its folder") from None


def from_json(text: str) -> dict[str, Running]:
    """Read what `to_json` wrote."""
    state = {name: Running(**fields) for name, fields in json.loads(text).items()}
    return {
        name: running._replace(
            processes=tuple(Process(*process) for process in running.processes),
            ports=tuple(running.ports),
        )
        for name, running in state.items()
    }


def to_json(state: Mapping[str, Running]) -> str:
    """Write the state so that a person can read it too."""
    return json.dumps({name: running._asdict() for name, running in state.items()}, indent=2)


def remember(name: str, running: Running | None) -> None:
    """Record a service before anything can go wrong with it; forget it (`None`) once it is gone."""
    state: dict[str, Any] = {**recall(), name: running}
    state = {key: value for key, value in state.items() if value}
    folder = state_folder()
    if not state:
        shutil.rmtree(folder, ignore_errors=True)
        return
    folder.mkdir(exist_ok=True)
    whole = folder / "state.json.new"
    whole.write_text(to_json(state))
    whole.replace(folder / "state.json")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one `up` or `down` of this checkout run. The lock is on its folder: no file to leave."""
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
