"""The command: `scripts/brokers up|down|status [service ...]`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping

from integration.brokers.containers import find_engine, start_container, stop_container
from integration.brokers.processes import STOP_SECONDS, is_alive, is_open, say, stop_processes
from integration.brokers.rabbitmq import (
    find_rabbitmq,
    install_rabbitmq,
    last_lines,
    start_rabbitmq,
)
from integration.brokers.services import (
    DEFAULT_SERVICES,
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

START_SECONDS = 120.0


def choose(
    service: Service,
    environ: Mapping[str, str],
    engine: Callable[[], str],
    program: Callable[[Service], str],
) -> tuple[str, str]:
    """Decide how to get a service: the way, and the endpoint, engine or program for it.

    Questions are asked in order and only as far as needed: an engine may take seconds to answer.
    """
    if endpoint := environ.get(service.variable):
        return "environment", endpoint
    if found := engine():
        return "container", found
    if found := program(service):
        return "program", found
    raise BrokerError(remedy(service))


def remedy(service: Service) -> str:
    """Say what a person can do to get a service that was not found."""
    install = "" if service.name != "rabbitmq" else ", or install rabbitmq-server"
    return (
        f"{service.name}: not found. Set {service.variable} to the endpoint of a running one, "
        f"or start docker or podman (with compose){install}."
    )


def find_program(service: Service) -> str:
    """Return the program for a service, installed first when missing and permitted."""
    return (find_rabbitmq() or install_rabbitmq()) if service.name == "rabbitmq" else ""


def is_up(service: Service, running: Running) -> bool:
    """Whether what `up` recorded still runs and answers; a state file may outlive its processes."""
    return all(map(is_alive, running.processes)) and service.answers(running.endpoint)


def start(service: Service) -> str:
    """Start a service, wait until it answers and return its endpoint."""
    way, means = choose(service, os.environ, find_engine, find_program)
    if way == "environment":
        check(service, means)
        return means
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


def attempt(service: Service, way: str, means: str) -> str:
    """Start a service once; what fails to start, or is interrupted, is removed again."""
    begin = {"container": start_container, "program": start_rabbitmq}[way]
    try:
        running = begin(service, means)
        remember(service.name, running)
        await_answer(service, running)
    except BaseException:
        stop(service.name)
        raise
    say(f"{service.name}: started ({way}) at {shown(running.endpoint)}")
    return running.endpoint


def await_answer(service: Service, running: Running) -> None:
    """Return when the service answers; raise with its last words when it died or time is over."""

    def died() -> bool:
        return not all(map(is_alive, running.processes))

    say(f"{service.name}: waiting for it to answer")
    wait_until(lambda: died() or service.answers(running.endpoint), START_SECONDS)
    log = last_lines(state_folder() / service.name)
    if died():
        raise DiedError(f"{service.name}: ended while starting; its last words:\n{log}")
    if not service.answers(running.endpoint):
        raise BrokerError(
            f"{service.name}: did not answer within {START_SECONDS:.0f} seconds. "
            f"Run scripts/brokers up again, or set {service.variable}; its last words:\n{log}"
        )


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
            running = None if os.environ.get(service.variable) else recall().get(service.name)
            if running and is_up(service, running):
                say(f"{service.name}: already up at {shown(running.endpoint)}")
                endpoint = running.endpoint
            else:
                if running:
                    stop(service.name)  # what is left of one that died
                endpoint = start(service)
            print(f"export {service.variable}={shlex.quote(endpoint)}", flush=True)
    return 0


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
