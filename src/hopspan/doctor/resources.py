"""The resource: who speaks. Without it nobody knows which release or copy a span is from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hopspan.doctor.findings import Finding, error, hint, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hopspan.doctor.environment import Environment

_NAME = "service.name"
_VERSION = "service.version"
_INSTANCE = "service.instance.id"
_ENVIRONMENT = "deployment.environment.name"
_OLD_ENVIRONMENT = "deployment.environment"
_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"
_UNKNOWN = "unknown_service"


def attributes(environment: Environment) -> Iterable[Finding]:
    """Name, version, environment and instance of the service are told."""
    told = _told(environment)
    findings = [*_unnamed(told), *_undescribed(told), *_anonymous(environment, told)]
    yield from findings or [ok(_described(told))]


def _told(environment: Environment) -> Mapping[str, Any]:
    resource = getattr(environment.provider, "resource", None)
    if resource is not None:
        return {key: value for key, value in resource.attributes.items() if value}
    pairs = (each.partition("=") for each in environment.text(_VARIABLE).split(","))
    told = {key.strip(): unquote(value.strip()) for key, _, value in pairs if value.strip()}
    name = environment.text("OTEL_SERVICE_NAME")
    return {**told, _NAME: name} if name else told


def _unnamed(told: Mapping[str, Any]) -> Iterator[Finding]:
    name = str(told.get(_NAME, _UNKNOWN))
    if name.startswith(_UNKNOWN):
        yield error(f"the service has no name: spans are from {name}", "OTEL_SERVICE_NAME=orders")


def _undescribed(told: Mapping[str, Any]) -> Iterator[Finding]:
    if _VERSION not in told:
        yield warning(
            f"{_VERSION} is missing: nobody sees which release a span is from",
            f"{_VARIABLE}={_VERSION}=1.4.0",
        )
    if _ENVIRONMENT not in told:
        renamed = f", only {_OLD_ENVIRONMENT}, its former name" if _OLD_ENVIRONMENT in told else ""
        yield (hint if renamed else warning)(
            f"{_ENVIRONMENT} is missing{renamed or ': staging and production are mixed'}",
            f"{_VARIABLE}={_ENVIRONMENT}=production",
        )


def _anonymous(environment: Environment, told: Mapping[str, Any]) -> Iterator[Finding]:
    """The SDK's newer releases, and hopspan's set-up, make an instance id: look at the result."""
    if hasattr(environment.provider, "resource") and _INSTANCE not in told:
        yield hint(
            f"{_INSTANCE} is missing: copies of the service cannot be told apart",
            f"hopspan.sdk.setup(), or {_VARIABLE}={_INSTANCE}=$HOSTNAME",
        )


def _described(told: Mapping[str, Any]) -> str:
    environment = told.get(_ENVIRONMENT, told.get(_OLD_ENVIRONMENT))
    return f"{told[_NAME]} {told[_VERSION]} in {environment}"
