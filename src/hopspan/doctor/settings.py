"""hopspan's own settings: valid, baggage under control, and names that stay few."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from hopspan.config import Config
from hopspan.doctor.findings import Finding, error, hint, ok, warning
from hopspan.doctor.propagators import VARIABLE
from hopspan.model import HopspanError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hopspan.doctor.environment import Environment

_ALLOW = "HOPSPAN_BAGGAGE_ALLOW=tenant_id,app.*"


def valid(environment: Environment) -> Iterable[Finding]:
    """Every `HOPSPAN_*` variable is known, and takes its value."""
    try:
        Config.from_environment(environment.variables)
    except HopspanError as wrong:
        yield error(str(wrong), "correct the variable: hopspan.instrument() raises this error")
        return
    names = sorted(name for name in environment.variables if name.startswith("HOPSPAN_"))
    yield ok(", ".join(names) or "no HOPSPAN_* variable is set")


def _configs(environment: Environment) -> dict[str, Config]:
    """What holds for each client, else what the variables say for all of them."""
    if environment.set_up and environment.set_up.configs:
        return dict(environment.set_up.configs)
    try:
        return {"": Config.from_environment(environment.variables)}
    except HopspanError:  # said already
        return {}


def baggage(environment: Environment) -> Iterable[Finding]:
    """An allow-list says which baggage leaves in messages."""
    propagators = environment.text(VARIABLE) or "baggage"
    if "baggage" not in propagators:
        yield ok("none leaves: the propagator of baggage is not configured")
        return
    configs = _configs(environment)
    open_ones = sorted(name for name in configs if configs[name].baggage_allow is None)
    if open_ones:
        where = ", ".join(filter(None, open_ones)).replace("_", "-")
        yield warning(
            "all baggage leaves in messages" + (f" of {where}" if where else "")
            + ", whoever has set it, and whatever is in it",
            f"{_ALLOW}, or hopspan.instrument(baggage_allow=[...])",
        )  # fmt: skip
    elif configs:
        allowed = sorted(
            {each for config in configs.values() for each in config.baggage_allow or ()}
        )
        yield ok(f"only {', '.join(allowed)} may leave" if allowed else "none may leave")


# -- span names ------------------------------------------------------------------------------------

_GENERATED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{16,}", re.IGNORECASE)
"""A UUID, or a number so long that it counts nothing."""
_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*", re.IGNORECASE)
_MOST_ALIKE = 20
"""Names that differ in a number only. Partitions and shards are fewer."""
_MOST_NAMES = 200
_MEND = (
    "put ids into the message, not into the name of a queue, topic or routing key; or "
    "HOPSPAN_IGNORE={pattern}"
)


def few_names(environment: Environment) -> Iterable[Finding]:
    """Span names and metric attributes have few values."""
    findings = list(_unbounded(environment))
    names = environment.set_up.span_names if environment.set_up else ()
    findings += [*_generated(names), *_alike(names), *_many(names)]
    if findings or environment.set_up:
        yield from findings or [ok(f"{len(names)} so far")]


def _unbounded(environment: Environment) -> Iterator[Finding]:
    for config in _configs(environment).values():
        listed = sorted(config.baggage_metrics)
        if listed:
            yield hint(
                f"every value of the baggage entries {', '.join(listed)} makes new time series",
                "HOPSPAN_BAGGAGE_METRICS with entries of few values only",
            )


def _destination(name: str) -> str:
    return name.partition(" ")[2]


def _generated(names: Sequence[str]) -> Iterator[Finding]:
    found = [name for name in names if _GENERATED.search(_destination(name))]
    if found:
        pattern = _GENERATED.split(_destination(found[0]))[0] + "*"
        said = (
            f"{len(found)} span names have an id in them, such as {found[0]!r}"
            if len(found) > 1
            else f"1 span name has an id in it: {found[0]!r}"
        )
        yield warning(said, _MEND.format(pattern=pattern))


def _alike(names: Sequence[str]) -> Iterator[Finding]:
    plain = [name for name in names if not _GENERATED.search(_destination(name))]
    kinds = Counter(_NUMBER.sub("*", _destination(name)) for name in set(plain))
    for kind, count in kinds.items():
        if count > _MOST_ALIKE:
            yield warning(
                f"{count} span names differ only in a number: {kind}", _MEND.format(pattern=kind)
            )


def _many(names: Sequence[str]) -> Iterator[Finding]:
    if len(set(names)) > _MOST_NAMES:
        yield warning(
            f"there are {len(set(names))} span names already, and more than {_MOST_NAMES} are hard "
            "to search",
            _MEND.format(pattern="..."),
        )
