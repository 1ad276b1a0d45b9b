"""The sampler: whether whole traces are kept, and whether operators can turn it down."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hopspan.doctor.findings import Finding, error, hint, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment

_VARIABLE = "OTEL_TRACES_SAMPLER"
_ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"
_RATIO = "parentbased_traceidratio"
_KNOWN = {"always_on", "always_off", "traceidratio"}
_PARENT_BASED = re.compile(r"ParentBased\{root:(.*?),remoteParentSampled:")
_MEND = f"{_VARIABLE}={_RATIO} {_ARGUMENT}=0.05"


def parent_based(environment: Environment) -> Iterable[Finding]:
    """The sampler follows the decision that the trace began with, and is set by variables."""
    findings = [*_variables(environment), *_made(environment)]
    yield from findings or [ok(_description(environment))]


def _variables(environment: Environment) -> Iterator[Finding]:
    name = environment.text(_VARIABLE).lower()
    known = {*_KNOWN, *(f"parentbased_{each}" for each in _KNOWN)}
    if name and name not in {*known, *environment.entry_points_of("opentelemetry_traces_sampler")}:
        yield error(f"{_VARIABLE}={name} is misspelt or not installed: all is kept", _MEND)
    elif name in _KNOWN and environment.provider is None:
        yield warning(
            f"{_VARIABLE}={name} ignores what the sender has decided: traces have holes",
            f"{_VARIABLE}=parentbased_{name}",
        )
    elif name == "parentbased_always_off":
        yield warning(f"{_VARIABLE}={name}: no trace begins here", _MEND)
    yield from _ratio(environment, name)


def _ratio(environment: Environment, name: str) -> Iterator[Finding]:
    text = environment.text(_ARGUMENT)
    if text and not _is_ratio(text):
        yield error(f"{_ARGUMENT}={text} is no ratio from 0 to 1: all is kept", f"{_ARGUMENT}=0.05")
    elif name.endswith("traceidratio") and not text:
        yield warning(f"{_VARIABLE}={name} without a ratio keeps all", f"{_ARGUMENT}=0.05")


def _is_ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _made(environment: Environment) -> Iterator[Finding]:
    """What the application's provider has, if it was run."""
    sampler = getattr(environment.provider, "sampler", None)
    if sampler is None:
        return
    if not _follows_parents(sampler):
        yield warning(
            f"the sampler {_named(sampler)} ignores what the sender has decided: traces have holes",
            "ParentBased(...) around it, or hopspan.sdk.setup()",
        )
    elif environment.telemetry is None and _named(sampler) != _named(_by_variables()):
        yield hint(
            f"the sampler {_named(sampler)} is set in code, so operators cannot turn it down",
            f"TracerProvider() without sampler=, and {_MEND}",
        )


def _follows_parents(sampler: Any) -> bool:
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415 - there, or no provider was
        ALWAYS_ON,
        ParentBased,
    )

    # What keeps everything leaves no holes.
    return isinstance(sampler, ParentBased) or sampler is ALWAYS_ON or "Parent" in _named(sampler)


def _by_variables() -> Any:
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    return TracerProvider(shutdown_on_exit=False).sampler


def _named(sampler: Any) -> str:
    """Its description; of a parent-based one that of what it does with new traces."""
    description = str(sampler.get_description())
    parts = _PARENT_BASED.match(description)
    return f"ParentBased {parts[1]}" if parts else description


def _description(environment: Environment) -> str:
    sampler = getattr(environment.provider, "sampler", None)
    if sampler is not None:
        return _named(sampler)
    ratio = environment.text(_ARGUMENT)
    name = environment.text(_VARIABLE) or "parentbased_always_on, the default"
    return f"{name} {ratio}".strip()
