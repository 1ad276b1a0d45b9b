"""The ways to get a service, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from integration.brokers import tansu
from integration.brokers.containers import start_container
from integration.brokers.kafka import provide_kafka, start_kafka
from integration.brokers.processes import say
from integration.brokers.rabbitmq import provide_rabbitmq, start_rabbitmq
from integration.brokers.redis import provide_redis, start_redis
from integration.brokers.services import BrokerError, NotHereError, Service
from integration.brokers.state import Running


class Program(NamedTuple):
    """How a service is had from a program of this machine.

    `provide` returns the program, installed or fetched first where that is possible, or raises
    `NotHereError`; `start` starts it and leaves the waiting to its caller.
    """

    provide: Callable[[], str]
    start: Callable[[Service, str], Running]


PROGRAMS = {
    "rabbitmq": Program(provide_rabbitmq, start_rabbitmq),
    "kafka": Program(provide_kafka, start_kafka),
    "redis": Program(provide_redis, start_redis),
    "tansu": Program(tansu.provide_tansu, tansu.start_tansu),
}


def find_program(service: Service) -> str:
    """Return the program for a service, or raise `NotHereError`."""
    return PROGRAMS[service.name].provide()


def find_embedded(service: Service) -> str:
    """Return the broker that can stand in for a service, or an empty string."""
    return tansu.find_tansu() if service.name == "kafka" else ""


def choose(
    service: Service,
    environ: Mapping[str, str],
    engine: Callable[[], str],
    program: Callable[[Service], str],
    embedded: Callable[[Service], str],
) -> tuple[str, str]:
    """Decide how to get a service: the way, and the endpoint, engine or program for it.

    Questions are asked in order and only as far as needed: an engine may take seconds to answer,
    a program may have to be installed. A stand-in is taken only with a word on what is missing.
    """
    if endpoint := environ.get(service.variable):
        return "environment", endpoint
    if service.is_composed and (found := engine()):
        return "container", found
    try:
        return "program", program(service)
    except NotHereError as missing:
        if not (found := embedded(service)):
            raise BrokerError(remedy(service, missing)) from None
        say(f"{service.name}: {missing}. To have the real one, {missing.advice}.")
        return "embedded", found


def remedy(service: Service, missing: NotHereError) -> str:
    """Say in one line what a person can do to get a service that cannot be had."""
    engine = ", or start docker or podman (with compose)" if service.is_composed else ""
    stand_in = f", or, for the embedded broker, {tansu.ADVICE}" if service.name == "kafka" else ""
    return (
        f"{service.name}: {missing}. Set {service.variable} to the endpoint of a running one"
        f"{engine}, or {missing.advice}{stand_in}."
    )


def begin(service: Service, way: str, means: str) -> Running:
    """Start a service in the way chosen; it may not answer yet."""
    starts = {"container": start_container, "embedded": tansu.start_tansu}
    return starts.get(way, PROGRAMS[service.name].start)(service, means)
