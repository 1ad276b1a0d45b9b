"""The command: `scripts/brokers up|down|status [service ...]`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping

from integration.brokers.containers import find_engine, stop_container
from integration.brokers.processes import STOP_SECONDS, is_alive, is_open, say, stop_processes
from integration.brokers.readiness import await_answer
from integration.brokers.services import (
    DEFAULT_SERVICES,
    EMBEDDED_VARIABLE,
    PROBE_SECONDS,
    SERVICES,
    BrokerError,
    DiedError,
    Service,
    named,
    shown,
    wait_until,
)
from integration.brokers.state import Running, one_at_a_time, recall, remember, state_folder
from integration.brokers.ways import begin, choose, find_embedded, find_program


def is_up(service: Service, running: Running) -> bool:
    """Whether what `up` recorded still runs and answers; a state file may outlive its processes."""
    return all(map(is_alive, running.processes)) and service.answers(running.endpoint)


def start(service: Service) -> Running:
    """Start a service and wait until it answers."""
    way, means = choose(service, os.environ, find_engine, find_program, find_embedded)
    if way == "environment":
        check(service, means)
        return Running(way, means)
    try:
        return attempt(service, way, means)
    except DiedError as error:
        # Somebody may have taken a port between our look and the broker's.
        say(f"{error}\ntrying once more")
        return attempt(service, way, means)


def check(service: Service, endpoint: str) -> None:
    """Raise when nothing answers where the environment says that something does."""
    if not wait_until(lambda: service.answers(endpoint), PROBE_SECONDS):
        raise BrokerError(
            f"{service.name}: nothing answers at {shown(endpoint)}, set in {service.variable}. "
            f"Start it, or unset {service.variable} to have one started."
        )


def attempt(service: Service, way: str, means: str) -> Running:
    """Start a service once; what fails to start, or is interrupted, is removed again."""
    try:
        running = begin(service, way, means)
        remember(service.name, running)
        await_answer(service, running, state_folder() / service.name)
    except BaseException:
        stop(service.name)
        raise
    say(f"{service.name}: started ({way}) at {shown(running.endpoint)}")
    return running


def stop(name: str) -> None:
    """Stop one service that `up` started and remove its data; without one do nothing."""
    running = recall().get(name)
    if running is None:
        return
    if running.way == "container":
        stop_container(name, running)
    stop_processes(running.processes)
    if not wait_until(lambda: not any(map(is_open, running.ports)), STOP_SECONDS):
        raise BrokerError(f"{name}: something still listens on one of the ports {running.ports}")
    shutil.rmtree(state_folder() / name, ignore_errors=True)
    remember(name, None)
    say(f"{name}: stopped")


def up(services: list[Service]) -> int:
    """Have every service running, reusing those that are, and print their export lines."""
    with one_at_a_time():
        for service in services:
            print(*exports(service, obtain(service)), sep="\n", flush=True)
    return 0


def obtain(service: Service) -> Running:
    """Return a service that answers: the one that runs, or a new one."""
    running = None if os.environ.get(service.variable) else recall().get(service.name)
    if running and is_up(service, running):
        say(f"{service.name}: already up at {shown(running.endpoint)}")
        return running
    if running:
        stop(service.name)  # what is left of one that died
    return start(service)


def exports(service: Service, running: Running) -> list[str]:
    """Return the lines for a shell to eval; those that run on a stand-in must be told."""
    lines = [f"export {service.variable}={shlex.quote(running.endpoint)}"]
    if running.way == "embedded":
        say("kafka: the Kafka suite runs on the embedded broker (Tansu), not on Apache Kafka")
        lines.append(f"export {EMBEDDED_VARIABLE}=1")
    elif running.way != "environment" and service.name == "kafka":
        lines += [f"unset {EMBEDDED_VARIABLE}"] * (EMBEDDED_VARIABLE in os.environ)
    return lines


def down(services: list[Service]) -> int:
    """Stop what `up` started."""
    with one_at_a_time():
        for service in services:
            stop(service.name)
    return 0


def status(services: list[Service]) -> int:
    """Tell how each service stands; succeed only when all of them are up."""
    state = recall()
    answers = [describe(service, os.environ, state.get(service.name)) for service in services]
    print(*(line for _, line in answers), sep="\n")
    return 0 if all(well for well, _ in answers) else 1


def describe(
    service: Service, environ: Mapping[str, str], running: Running | None
) -> tuple[bool, str]:
    """Return whether a service is up, and the line that says so."""
    if endpoint := environ.get(service.variable):
        well, way = service.answers(endpoint), "environment"
    elif running:
        well, way, endpoint = is_up(service, running), running.way, running.endpoint
    else:
        return False, f"{service.name}: not started"
    standing = "up" if well else "does not answer"
    return well, f"{service.name}: {standing} at {shown(endpoint)} ({way})"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an error is one message on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="scripts/brokers", description="Brokers for the tests.")
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("service", nargs="*", type=named, help=", ".join(SERVICES))
    options = parser.parse_args(arguments)
    default = SERVICES if options.command == "down" else DEFAULT_SERVICES
    services = options.service or [SERVICES[name] for name in default]
    try:
        return {"up": up, "down": down, "status": status}[options.command](services)
    except (BrokerError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    # A terminated `up` must take back what it has begun, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
