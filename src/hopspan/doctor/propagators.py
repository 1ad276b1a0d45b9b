"""Propagators: a trace joins on the other side only where both speak the same format."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from hopspan.doctor.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hopspan.doctor.environment import Environment

VARIABLE = "OTEL_PROPAGATORS"
_DEFAULT = "tracecontext,baggage"
_GROUP = "opentelemetry_propagator"
# Formats that carry a trace; whether a propagator of another name does, nobody can know.
_BAGGAGE = "baggage"


def configured(environment: Environment) -> Iterable[Finding]:
    """What `OTEL_PROPAGATORS` names is there, and carries trace and baggage."""
    text = environment.text(VARIABLE) or _DEFAULT
    names = [each.strip() for each in text.split(",")]
    if "none" in [name.lower() for name in names]:
        yield error(f"{VARIABLE}={text}: no trace leaves this process", _set(_DEFAULT))
        return
    meant = [_meant(environment, name) for name in names]
    findings = [*_unknown(environment, names, meant), *_missing(meant)]
    yield from findings or [ok(", ".join(names))]


def _meant(environment: Environment, name: str) -> str:
    """The installed propagator whose name is nearest; the name itself where none is near."""
    known = environment.entry_points_of(_GROUP)
    return next(iter(difflib.get_close_matches(name, known, n=1)), name)


def _unknown(environment: Environment, names: list[str], meant: list[str]) -> Iterator[Finding]:
    known = environment.entry_points_of(_GROUP)
    for name, near in zip(names, meant, strict=True):
        if name not in known:
            yield error(
                f"{VARIABLE} names {name!r}, which is misspelt or not installed: hopspan and "
                "OpenTelemetry refuse to start",
                _set(",".join(meant))
                if near in known
                else f"pip install opentelemetry-propagator-{name or 'b3'}",
            )


def _missing(names: list[str]) -> Iterator[Finding]:
    if not set(names) - {_BAGGAGE}:
        yield error(f"{VARIABLE} names no propagator of traces", _set(_DEFAULT))
    elif "tracecontext" not in names:
        yield warning(
            f"{VARIABLE} is without tracecontext: services that speak the W3C format start traces "
            "of their own",
            _set(",".join(["tracecontext", *names])),
        )
    if _BAGGAGE not in names:
        yield warning(
            f"{VARIABLE} is without baggage: what is set as baggage stays in this process",
            _set(",".join([*names, _BAGGAGE])),
        )


def _set(value: str) -> str:
    return f"{VARIABLE}={value}"
