"""RabbitMQ as a private node on this machine, never the system's own."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from integration.brokers.packages import provide
from integration.brokers.processes import free_ports, spawn
from integration.brokers.services import Service
from integration.brokers.state import Running, remember, state_folder


def find_rabbitmq() -> str:
    """Return the server's own start script, or an empty string.

    The one on PATH is the last choice: distributions put a wrapper there that switches users.
    """
    home = Path("/usr/lib/rabbitmq")
    known = [home / "bin/rabbitmq-server", *home.glob("lib/*/sbin/rabbitmq-server")]
    found = [str(path) for path in known if path.exists()]
    return found[0] if found else shutil.which("rabbitmq-server") or ""


def provide_rabbitmq() -> str:
    """Return the start script, of the distribution's package when there was none."""
    return provide("rabbitmq-server", find_rabbitmq)


def find_epmd() -> str:
    """Return Erlang's port mapper, which not every package puts on PATH."""
    bundled = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
    return shutil.which("epmd") or (str(bundled[-1]) if bundled else "epmd")


def rabbitmq_environment(folder: Path, amqp: int, distribution: int, epmd: int) -> dict[str, str]:
    """Return the whole environment of a private node: nothing of the system's node gets in."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        # The start script then becomes the node, instead of waiting for it: one process, one id.
        "RUNNING_UNDER_SYSTEMD": "true",
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd),
        "RABBITMQ_NODENAME": f"hopspan-{amqp}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(amqp),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": str(folder / "node.log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
    }


def write_rabbitmq_files(folder: Path) -> None:
    """Lay out a node's folder: empty configuration, no plugins, a cookie nobody else knows."""
    folder.mkdir(parents=True)
    for name in ("rabbitmq-env.conf", "rabbitmq.conf"):
        (folder / name).touch()
    for name in ("advanced.config", "enabled_plugins"):
        (folder / name).write_text("[].\n")
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(20))
    cookie.chmod(0o400)  # Erlang refuses one that others can read


def start_rabbitmq(service: Service, program: str) -> Running:
    """Start a private node and the port mapper it needs."""
    folder = state_folder() / service.name
    amqp, distribution, epmd = ports = free_ports(3)
    env = rabbitmq_environment(folder, amqp, distribution, epmd)
    running = Running("program", service.endpoint.format(port=amqp), ports=tuple(ports))
    remember(service.name, running)
    write_rabbitmq_files(folder)
    # Started by us rather than by the node, which would leave it running for ever as a daemon.
    mapper = spawn([find_epmd()], env, folder / "epmd.log")
    remember(service.name, running._replace(processes=(mapper,)))
    node = spawn([program], env, folder / "start.log")
    return running._replace(processes=(node, mapper))
