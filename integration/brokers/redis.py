"""Redis as a private server on this machine that keeps nothing."""

from __future__ import annotations

import os
import shutil

from integration.brokers.packages import provide
from integration.brokers.processes import free_ports, spawn
from integration.brokers.services import Service
from integration.brokers.state import Running, remember, state_folder


def provide_redis() -> str:
    """Return the server, of the distribution's package when there was none."""
    return provide("redis-server", lambda: shutil.which("redis-server") or "")


def start_redis(service: Service, program: str) -> Running:
    """Start a private server: on loopback only, no configuration file, no snapshots."""
    folder = state_folder() / service.name
    (port,) = free_ports(1)
    running = Running("program", service.endpoint.format(port=port), ports=(port,))
    remember(service.name, running)
    folder.mkdir()
    settings = {"bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "no"}
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    return running._replace(processes=(spawn([program, *arguments], env, folder / "node.log"),))
