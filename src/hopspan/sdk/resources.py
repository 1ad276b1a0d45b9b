"""The resource: who speaks. Arguments over variables, and in production what is missing is said."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource

from hopspan.faults import logger

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ENVIRONMENT", "missing", "resource_of"]

ENVIRONMENT = "deployment.environment.name"
_OLD_ENVIRONMENT = "deployment.environment"

_REMEDIES = {
    SERVICE_NAME: "service_name=... or OTEL_SERVICE_NAME",
    SERVICE_VERSION: f"service_version=... or {SERVICE_VERSION} in OTEL_RESOURCE_ATTRIBUTES",
    ENVIRONMENT: f"environment=... or {ENVIRONMENT} in OTEL_RESOURCE_ATTRIBUTES",
}


def resource_of(
    name: str | None,
    version: str | None,
    environment: str | None,
    attributes: Mapping[str, Any] | None,
    *,
    is_strict: bool,
) -> Resource:
    """The SDK's resource, with what was given, and an instance id of this process."""
    named = {SERVICE_NAME: name, SERVICE_VERSION: version, ENVIRONMENT: environment}
    given = {**(attributes or {}), **{key: value for key, value in named.items() if value}}
    resource = Resource.create(given)
    if not resource.attributes.get(SERVICE_INSTANCE_ID):  # older SDKs make none
        resource = resource.merge(Resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}))
    lacking = missing(resource) if is_strict else []
    if lacking:
        remedies = "; ".join(f"{key}: {_REMEDIES[key]}" for key in lacking)
        logger.warning("the resource lacks what production needs. Set %s", remedies)
    return resource


def missing(resource: Resource) -> list[str]:
    """Which of service name, version and environment a resource does not tell."""
    told = {key for key, value in resource.attributes.items() if value}
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        told.discard(SERVICE_NAME)
    if _OLD_ENVIRONMENT in told:
        told.add(ENVIRONMENT)
    return [key for key in _REMEDIES if key not in told]
