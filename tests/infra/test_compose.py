"""What can be said about docker-compose.test.yml without a container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.brokers import kafka
from integration.brokers.services import SERVICES, Service, address

FILE = Path(__file__).parents[2] / "docker-compose.test.yml"
COMPOSED: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
MAJOR_VERSIONS = {"rabbitmq": "4", "kafka": "4", "redis": "7"}

IN_IMAGES = {name: service for name, service in SERVICES.items() if service.is_composed}

each_service = pytest.mark.parametrize("service", IN_IMAGES.values(), ids=IN_IMAGES)


def test_the_file_and_the_script_know_the_same_services() -> None:
    assert set(COMPOSED) == set(IN_IMAGES) == set(MAJOR_VERSIONS)


@each_service
def test_the_image_has_a_fixed_tag_of_the_promised_version(service: Service) -> None:
    _, _, tag = COMPOSED[service.name]["image"].partition(":")
    assert re.fullmatch(rf"{MAJOR_VERSIONS[service.name]}\.\d+\.\d+(-[a-z]+)?", tag)


@each_service
def test_a_health_check_says_when_it_is_ready(service: Service) -> None:
    check = COMPOSED[service.name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries"} <= set(check)


@each_service
def test_its_port_is_the_scripts_and_on_loopback_only(service: Service) -> None:
    _, usual = address(service.endpoint.replace(":{port}", ""))
    published = f"127.0.0.1:${{{service.port_variable}:-{usual}}}:{usual}"
    assert COMPOSED[service.name]["ports"] == [published]


def test_kafka_advertises_the_port_that_clients_can_reach() -> None:
    advertised = COMPOSED["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert "HOST://127.0.0.1:${TEST_KAFKA_PORT:-9092}" in advertised


def test_kafka_is_the_same_in_a_container_and_on_this_machine() -> None:
    assert COMPOSED["kafka"]["image"] == f"apache/kafka:{kafka.VERSION}"


def test_nothing_is_kept() -> None:
    assert not any("volumes" in service for service in COMPOSED.values())
