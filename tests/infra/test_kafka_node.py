"""A node that tests take down and up, without Kafka: the Java here is a stand-in."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.brokers import kafka, processes
from integration.brokers.kafka import KafkaNode
from integration.brokers.services import BrokerError, DiedError, answers_kafka
from tests.infra.stand_ins import JAVA_PORT, KAFKA_REPLY, broker, script, server


@pytest.fixture
def java(tmp_path: Path) -> str:
    """Return a Java that plays Kafka; how it was called is in `java.calls`."""
    broker(tmp_path / "java", JAVA_PORT, KAFKA_REPLY)
    return str(tmp_path / "java")


@pytest.fixture
def new_node(tmp_path: Path, java: str) -> Iterator[Callable[..., KafkaNode]]:
    """Return a maker of nodes that go with the test, however it ends."""
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> KafkaNode:
            node = KafkaNode(**{"folder": tmp_path / "node", "java": java, **options})  # type: ignore[arg-type]
            stack.callback(node.remove)
            return node

        yield make


def ended_by(node: KafkaNode) -> int:
    """Return the signal that ended the node."""
    assert isinstance(node._child, subprocess.Popen)
    return -node._child.returncode


def test_a_node_keeps_its_address_and_data_through_every_end(tmp_path: Path, java: str) -> None:
    with KafkaNode(tmp_path / "node", java) as node:
        first = node.bootstrap
        assert answers_kafka(first)
        node.stop()
        assert (ended_by(node), node.is_running(), answers_kafka(first)) == (15, False, False)
        node.start()
        assert (node.is_running(), node.bootstrap, answers_kafka(first)) == (True, first, True)
        node.kill()
        assert (ended_by(node), node.is_running(), answers_kafka(first)) == (9, False, False)
        node.start()
        node.restart()
        assert (node.is_running(), answers_kafka(first)) == (True, True)
    assert not (tmp_path / "node").exists()
    calls = Path(f"{java}.calls").read_text().splitlines()
    mains = ["format" if "kafka.tools.StorageTool format" in call else "run" for call in calls]
    assert mains == ["format", "run", "run", "run", "run"]


def test_ending_a_node_that_does_not_run_is_no_error(new_node: Callable[..., KafkaNode]) -> None:
    node = new_node()
    node.stop()
    node.kill()
    node.remove()
    assert not node.is_running()


def test_a_port_that_is_taken_is_named_before_anything_starts(
    tmp_path: Path, new_node: Callable[..., KafkaNode]
) -> None:
    node = new_node()
    with server(b"") as port:
        node.ports = (node.ports[0], port)
        with pytest.raises(BrokerError) as error:
            node.start()
    assert str(error.value) == f"kafka: port {port} of this node is taken, by itself or another"
    assert not (tmp_path / "java.calls").exists()


def test_a_node_that_dies_while_starting_is_quoted(
    tmp_path: Path, new_node: Callable[..., KafkaNode]
) -> None:
    dying = '#!/bin/sh\n[ "$*" = "${*#*kafka.Kafka}" ] || { echo "Address in use"; exit 1; }\n'
    node = new_node(java=str(script(tmp_path / "dying", dying)))
    with pytest.raises(DiedError) as error:
        node.start()
    words = "kafka: ended while starting; its last words:\n--- node.log\nAddress in use"
    assert (str(error.value), node.is_running()) == (words, False)


def test_storage_that_cannot_be_formatted_is_quoted_and_formatted_at_the_next_start(
    tmp_path: Path, java: str, new_node: Callable[..., KafkaNode]
) -> None:
    broken = script(tmp_path / "broken", "#!/bin/sh\necho 'disk full'; exit 1\n")
    node = new_node(java=str(broken))
    with pytest.raises(BrokerError) as error:
        node.start()
    assert str(error.value) == (
        "kafka: the storage could not be formatted; last words:\n--- format.log\ndisk full"
    )
    node.java = java
    node.start()
    node.remove()
    calls = Path(f"{java}.calls").read_text().splitlines()
    assert ["kafka.tools.StorageTool" in call for call in calls] == [True, False]


def test_a_start_that_is_interrupted_takes_its_formatting_back(
    tmp_path: Path, new_node: Callable[..., KafkaNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def launch(*arguments: Any) -> subprocess.Popen[bytes]:
        begun.append(processes.launch(*arguments))
        (tmp_path / "begun").touch()
        return begun[0]

    monkeypatch.setattr(kafka, "launch", launch)
    text = f"until [ -e '{tmp_path}/begun' ]; do :; done; kill -INT $PPID; exec sleep 600"
    endless = script(tmp_path / "endless", f"#!/bin/sh\n{text}\n")
    with pytest.raises(KeyboardInterrupt):
        new_node(java=str(endless)).start()
    assert [child.returncode for child in begun] == [-9]


def test_each_node_is_a_cluster_of_its_own(tmp_path: Path, java: str) -> None:
    for name in ("one", "two"):
        KafkaNode(tmp_path / name, java)._format()
    calls = Path(f"{java}.calls").read_text().splitlines()
    clusters = {call.partition("--cluster-id ")[2].split()[0] for call in calls}
    assert [len(cluster) for cluster in clusters] == [22, 22]


def test_a_node_is_private(tmp_path: Path) -> None:
    settings = kafka.node_settings(tmp_path, 1, 2)
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:2"
    assert [value for value in settings.values() if value.startswith("/")] == [
        str(tmp_path / "data")
    ]


def test_a_test_may_set_what_it_needs(new_node: Callable[..., KafkaNode]) -> None:
    node = new_node(settings={"num.partitions": "6", "node.id": "7"})
    assert (node.settings["num.partitions"], node.settings["node.id"]) == ("6", "7")


def test_a_node_that_was_begun_and_not_awaited_can_be_killed(
    new_node: Callable[..., KafkaNode],
) -> None:
    node = new_node()
    process = node.launch()
    assert processes.is_alive(process)
    node.remove()
    assert not processes.is_alive(process)
