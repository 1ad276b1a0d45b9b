"""What the checks look at: variables, what is installed, and what the application has set up.

Rule of this module: it reads, and changes nothing. Checks ask here rather than the process, so that
an environment can be any that one thinks of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hopspan.config import Config


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> Sequence[str]:
    """What hopspan's extras require; nothing in a source tree that was never installed."""
    try:
        return metadata.requires("hopspan") or ()
    except metadata.PackageNotFoundError:
        return ()


def entry_points_of(group: str) -> dict[str, str]:
    """The names in a group of entry points, with the distribution that each comes from."""
    return {
        each.name: each.dist.name if each.dist else each.value
        for each in metadata.entry_points(group=group)
    }


class SetUp(NamedTuple):
    """What became of the application's own set-up, in this process."""

    provider: Any = None
    """The global tracer provider; None where there is none but the API's own."""
    telemetry: Any = None
    """The handle of `hopspan.sdk.setup`, if that was called."""
    early: Sequence[str] = ()
    """Names of spans that were started while there was no provider."""
    overridden: Sequence[str] = ()
    """What OpenTelemetry said about providers that were set a second time."""
    handles_sigterm: bool = False
    """Whether something other than Python's default happens at SIGTERM."""
    correlates_logs: bool = False
    configs: Mapping[str, Config] = {}
    """What holds for each client that `hopspan.instrument` was called for."""
    span_names: Sequence[str] = ()
    """The names of hopspan's spans, as far as they are known by now."""
    failure: str = ""
    """What the set-up raised; then the rest is as it was at that moment."""


class Environment(NamedTuple):
    """All that the checks know."""

    variables: Mapping[str, str] = {}
    set_up: SetUp | None = None
    """None where no application was run."""
    version_of: Callable[[str], str | None] = version_of
    requirements: Sequence[str] = ()
    entry_points_of: Callable[[str], Mapping[str, str]] = entry_points_of
    seconds: float = 3.0
    """How long a receiver may take to answer."""

    def text(self, variable: str) -> str:
        """A variable; empty where it is not set, as OpenTelemetry has it."""
        return self.variables.get(variable, "").strip()

    def first(self, *variables: str) -> tuple[str, str]:
        """The first of some variables that is set, with its name; the last name where none is."""
        return next(
            ((name, self.text(name)) for name in variables if self.text(name)), (variables[-1], "")
        )

    @property
    def provider(self) -> Any:
        """The global tracer provider that the application has set."""
        return self.set_up.provider if self.set_up else None

    @property
    def telemetry(self) -> Any:
        """What `hopspan.sdk.setup` has returned to the application."""
        return self.set_up.telemetry if self.set_up else None
