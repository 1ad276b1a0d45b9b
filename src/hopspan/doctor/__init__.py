"""`hopspan doctor`: looks at an environment, and says what is wrong and how to mend it.

A check is a function from an `Environment` to findings. It reads, changes nothing and sends
nothing; one that fails itself is reported, and the others go on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hopspan.doctor import (
    application,
    clients,
    correlation,
    endings,
    exporting,
    propagators,
    resources,
    sampling,
    sdk,
    settings,
)
from hopspan.doctor.environment import Environment, SetUp, requirements
from hopspan.doctor.findings import Check, Finding, Level, error, hint, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CHECKS",
    "Check",
    "Environment",
    "Finding",
    "Level",
    "SetUp",
    "examine",
    "healthy",
    "this",
]


def _ran(environment: Environment) -> Iterable[Finding]:
    """The application's own set-up, if it was run."""
    if environment.set_up is None:
        yield hint(
            "not run, so its set-up, its ends, its logs and its span names were not looked at",
            "hopspan doctor --app module:callable, with the callable that sets it up",
        )
    elif environment.set_up.failure:
        yield error(
            f"its set-up failed: {environment.set_up.failure}",
            "--app module:callable, with a callable that takes no arguments and returns",
        )
    else:
        yield ok("set up, in this process")


CHECKS: tuple[Check, ...] = (
    Check("application", _ran),
    Check("clients", clients.found),
    Check("instrumentation", clients.woven),
    Check("settings", settings.valid),
    Check("SDK", sdk.present),
    Check("set-up", sdk.set_up),
    Check("propagators", propagators.configured),
    Check("exporter", exporting.reachable),
    Check("transport", exporting.encrypted),
    Check("queue", exporting.queued),
    Check("sampler", sampling.parent_based),
    Check("resource", resources.attributes),
    Check("exit and forks", endings.safe),
    Check("logs", correlation.installed),
    Check("baggage", settings.baggage),
    Check("span names", settings.few_names),
)
"""In the order in which they are told: what is there, the way out, what is said, what is risked."""


def this(app: str | None = None, *, seconds: float = 3.0) -> Environment:
    """The environment of this process; with `app`, after the application's own set-up.

    Args:
        app: `module:callable`, or a module whose import is enough.
        seconds: How long a receiver may take to answer.
    """
    set_up = application.run(app) if app else None
    return Environment(dict(os.environ), set_up, requirements=requirements(), seconds=seconds)


def examine(environment: Environment, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Run checks, and tell what they found, in their order. Never raises."""
    return [each for check in checks for each in _looked(check, environment)]


def _looked(check: Check, environment: Environment) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check.look(environment))
    except Exception as failure:  # noqa: BLE001 - one check less is better than none
        found.append(
            warning(
                f"this check failed itself: {type(failure).__name__}: {failure}",
                "look at it by yourself; a fault of hopspan's, or of what it looked at",
            )
        )
    return [each._replace(check=check.name) for each in found]


def healthy(findings: Iterable[Finding], *, strict: bool = False) -> bool:
    """Whether nothing is wrong: no error, and where it is strict, no warning."""
    worst = max((each.level for each in findings), default=Level.OK)
    return worst < (Level.WARNING if strict else Level.ERROR)
