"""Brokers in containers, from docker-compose.test.yml."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from integration.brokers.processes import free_ports, run, succeeds
from integration.brokers.services import Service
from integration.brokers.state import ROOT, Running, recall, remember


def find_engine() -> str:
    """Return the first container engine that answers and has compose, or an empty string."""
    for engine in ("docker", "podman"):
        if succeeds(engine, "info") and succeeds(engine, "compose", "version"):
            return engine
    return ""


def compose(engine: str, root: Path = ROOT) -> list[str]:
    """Return the compose command of a checkout; two checkouts on one machine are two projects."""
    project = f"hopspan-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    file = str(root / "docker-compose.test.yml")
    return [engine, "compose", "--project-name", project, "--file", file]


def start_container(service: Service, engine: str) -> Running:
    """Start one service of the compose file on a port of our own, and wait for its health check."""
    port = int(os.environ.get(service.port_variable) or free_ports(1)[0])
    running = Running("container", service.endpoint.format(port=port), ports=(port,), engine=engine)
    remember(service.name, running)
    run(
        *compose(engine),
        *("up", "--detach", "--wait", service.name),
        env={**os.environ, service.port_variable: str(port)},
        failure=f"{service.name}: {engine} could not start it, see its output above",
    )
    return running


def stop_container(name: str, running: Running) -> None:
    """Remove the container and its volumes, and with the last one the network."""
    others = any(each.way == "container" for key, each in recall().items() if key != name)
    remove_one, remove_all = ("rm", "--stop", "--force", "--volumes", name), ("down", "--volumes")
    run(
        *compose(running.engine),
        *(remove_one if others else remove_all),
        failure=f"{name}: {running.engine} could not remove it, see its output above",
    )
