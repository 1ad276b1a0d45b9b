"""Apache Kafka as a private node on this machine: the jars of Maven Central on a Java 17 or newer.

`KafkaNode` is for tests that take a broker down and up again:

    with KafkaNode(tmp_path / "kafka") as node:     # has answered
        producer = KafkaProducer(bootstrap_servers=node.bootstrap)
        node.kill()                                 # SIGKILL; stop() is SIGTERM
        node.start()                                # the same address, the same data
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from integration.brokers.java import cache_folder, fetch_jars, find_java
from integration.brokers.processes import (
    Process,
    free_ports,
    identify,
    is_alive,
    is_open,
    launch,
    send,
    stop_processes,
)
from integration.brokers.readiness import await_answer, last_lines
from integration.brokers.services import SERVICES, BrokerError, Service
from integration.brokers.state import Running, remember, state_folder

VERSION = "4.1.0"
OLDEST_JAVA = 17
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",  # logs to stderr; of the release that Kafka logs through
)
# For a quick start and little memory; nothing is left in the system's folder for temporary files.
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    # So that a log ends with what went wrong, not with how well the node went down after it.
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def jars_folder() -> Path:
    """Return where the jars are kept: outside the checkout, for every checkout."""
    return cache_folder() / f"kafka-{VERSION}"


def provide_kafka() -> str:
    """Return the Java to run Kafka on, its jars fetched; raise `NotHereError` without either."""
    java = find_java(OLDEST_JAVA)
    fetch_jars(jars_folder(), ARTIFACTS)
    return java


def node_settings(folder: Path, broker: int, controller: int) -> dict[str, str]:
    """Return the configuration of a node that is broker and controller in one."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "true",
        # One node cannot replicate.
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        # Fewer to create at the first use, and to load at each start.
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.num.partitions": "5",
        # Tests should not wait for members to join a group.
        "group.initial.rebalance.delay.ms": "0",
        # A killed node is let in again only when the session of the one before is over: 9 s.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
    }


class KafkaNode:
    """A node of its own folder and ports, which it keeps however often it is stopped and started.

    `settings` are added to the server's own. Construction looks for Java and fetches the jars, and
    raises `NotHereError` where they cannot be had; nothing runs until `start`. One thread at a
    time may use it. In a `with` block it runs from the beginning, and is removed at the end.
    """

    def __init__(
        self, folder: Path, java: str = "", settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.java = java or provide_kafka()
        broker, controller = free_ports(2)
        self.ports = (broker, controller)
        self.bootstrap = f"127.0.0.1:{broker}"
        self.settings = node_settings(folder, broker, controller) | dict(settings or {})
        self.process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, formatted first when it is new, and return when it answers.

        Raises `BrokerError` with the port or the node's last words when it does not come up.
        """
        for port in filter(is_open, self.ports):
            raise BrokerError(f"kafka: port {port} of this node is taken, by itself or another")
        process = self.launch()
        running = Running("program", self.bootstrap, (process,), self.ports)
        try:
            await_answer(SERVICES["kafka"], running, self.folder)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> Process:
        """Start it and do not wait until it answers."""
        if not self._properties.exists():
            self._format()
        command = [*self._jvm(), "kafka.Kafka", str(self._properties)]
        self._child = launch(command, self._environment(), self.folder / "node.log")
        self.process = identify(self._child.pid)
        return self.process

    def stop(self) -> None:
        """End it as an operator does, with SIGTERM: it says goodbye to its clients."""
        if self.process:
            stop_processes((self.process,))
        self._reap()

    def kill(self) -> None:
        """End it as a power failure does, with SIGKILL; the next start takes some seconds more."""
        if self.process:
            send(self.process, signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Stop it and start it again, at the same address and with the same data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it whatever it does, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether its process lives; it may not answer yet."""
        return self.process is not None and is_alive(self.process)

    def __enter__(self) -> KafkaNode:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _format(self) -> None:
        """Lay out the folder with a new cluster in it; the settings come last, as its seal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / "server.properties.new"
        draft.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["--cluster-id", cluster, "--config", str(draft)]
        command = [*self._jvm(), "kafka.tools.StorageTool", "format", *arguments]
        if self._run(command, self.folder / "format.log") != 0:
            words = last_lines(self.folder)
            raise BrokerError(f"kafka: the storage could not be formatted; last words:\n{words}")
        draft.rename(self._properties)

    def _run(self, command: list[str], log: Path) -> int:
        """Run a command to its end, or take it back when we are interrupted."""
        child = launch(command, self._environment(), log)
        try:
            return child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise

    def _jvm(self) -> list[str]:
        own = f"-Djava.io.tmpdir={self.folder}"
        return [self.java, *JVM_OPTIONS, own, "-cp", f"{jars_folder()}/*"]

    def _environment(self) -> dict[str, str]:
        """Return the whole environment: no option of somebody else's Java gets in."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}

    def _reap(self) -> None:
        if self._child:
            self._child.wait()


def start_kafka(service: Service, java: str) -> Running:
    """Start a private node that outlives us."""
    node = KafkaNode(state_folder() / service.name, java)
    running = Running("program", node.bootstrap, ports=node.ports)
    remember(service.name, running)
    return running._replace(processes=(node.launch(),))
