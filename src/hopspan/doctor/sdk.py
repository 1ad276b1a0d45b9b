"""The SDK: whether it is there and on, and whether it was set up once, before its first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hopspan.doctor.findings import Finding, error, hint, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment, SetUp

_SDK = "opentelemetry-sdk"
_MOST_NAMES = 3


def present(environment: Environment) -> Iterable[Finding]:
    """The SDK is installed, and not switched off."""
    version = environment.version_of(_SDK)
    if version is None:
        yield error("the OpenTelemetry SDK is not installed", "pip install 'hopspan[sdk]'")
        return
    if environment.text("OTEL_SDK_DISABLED").lower() == "true":
        yield warning("OTEL_SDK_DISABLED=true: nothing is recorded", "unset OTEL_SDK_DISABLED")
        return
    yield ok(f"{_SDK} {version}")


def set_up(environment: Environment) -> Iterable[Finding]:
    """A provider is set, by one who came first, and once."""
    if environment.set_up is None:
        return
    findings = [*_too_late(environment.set_up), *_unset(environment.set_up)]
    yield from findings or [ok("set up before its first use, and once")]


def _too_late(done: SetUp) -> Iterator[Finding]:
    if done.early:
        names = ", ".join(dict.fromkeys(done.early[:_MOST_NAMES]))
        count = len(done.early)
        yield error(
            f"{count} {'span' if count == 1 else 'spans'} started before the SDK was set up, and "
            f"lost: {names}",
            "call hopspan.sdk.setup() first, before anything that traces",
        )
    for said in done.overridden:
        yield warning(
            f"providers were set twice, and the second had no effect: {said}",
            "set up once: remove one of the two, or start without opentelemetry-instrument",
        )


def _unset(done: SetUp) -> Iterator[Finding]:
    if done.provider is None:
        yield error(
            "the application has set no tracer provider, so nothing is recorded",
            "hopspan.sdk.setup(), or start with opentelemetry-instrument",
        )
    elif not hasattr(done.provider, "resource"):
        yield hint(
            f"the tracer provider is a {type(done.provider).__qualname__}, of which the doctor "
            "knows nothing",
            "nothing, if that is meant; else hopspan.sdk.setup()",
        )
