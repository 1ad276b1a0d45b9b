"""Clients: which are found, whether their versions are supported, and who intercepts them."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from hopspan import adapters, instrumentation
from hopspan.adapters import adapter_named, registered
from hopspan.doctor.findings import Finding, error, hint, ok, warning
from hopspan.interception.weaving import INTERCEPTED, owner_of, why_not_intercept
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hopspan.doctor.environment import Environment

_REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)[^;]*;\s*extra == ['\"]([\w-]+)['\"]")
_LAUNCHED = "opentelemetry_instrumentor"
_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


def found(environment: Environment) -> Iterable[Finding]:
    """Clients that are installed, in versions that hopspan supports."""
    clients = _installed()
    if not clients:
        known = ", ".join(adapters.clients()).replace("_", "-")
        yield warning(
            f"no client is installed that hopspan knows: {known}", "pip install 'hopspan[pika]'"
        )
    floors = _floors(environment.requirements)
    for name in clients:
        if name in registered():
            yield _registration(name)
        else:
            yield _version(environment, name, *floors.get(name, (_distribution(name), "")))
        yield from _misfits(name)


def _installed() -> list[str]:
    return [name for name in adapters.clients() if instrumentation.is_installed(name)]


def _registration(name: str) -> Finding:
    """The adapter that a client has, and whether it can be used."""
    whose = adapters.registrant(registered()[name])
    try:
        adapter_named(name)
    except ConfigurationError as failure:
        return error(str(failure), f"pip install --upgrade {whose}")
    return ok(f"{_client(name)}, with the adapter that {whose} registers")


def _floors(requirements: Iterable[str]) -> dict[str, tuple[str, str]]:
    """From a client's module to its distribution and the lowest supported version."""
    read = filter(None, map(_REQUIREMENT.match, requirements))
    return {each[3].replace("-", "_"): (each[1], each[2]) for each in read if each[3] != "all"}


def _distribution(name: str) -> str:
    """What a module comes from; Python 3.10 does not find all of them."""
    return ", ".join(metadata.packages_distributions().get(name, [_client(name)]))


def _version(environment: Environment, name: str, distribution: str, floor: str) -> Finding:
    """The floor is empty in a source tree, which nobody has told what it requires."""
    version = environment.version_of(distribution)
    wanted = f"{distribution}>={floor}" if floor else distribution
    if version is None:
        return error(
            f"module {name} comes from {_distribution(name)}, which hopspan does not support",
            f"pip install '{wanted}'",
        )
    if _numbers(version) < _numbers(floor):
        return error(
            f"{distribution} {version} is older than {floor}, the oldest that is supported",
            f"pip install '{wanted}'",
        )
    return ok(f"{distribution} {version}" + (f" (supported from {floor})" if floor else ""))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])


def _misfits(name: str) -> Iterator[Finding]:
    """Methods that hopspan would leave alone, because they are not as it knows them."""
    try:
        points = adapter_named(name).points
    except ConfigurationError:  # of a registered adapter, which was said already
        return
    except Exception as failure:  # noqa: BLE001 - a client that is broken, or of an unknown age
        yield error(
            f"{name} cannot be imported: {type(failure).__name__}: {failure}",
            f"reinstall it: pip install --force-reinstall 'hopspan[{_client(name)}]'",
        )
        return
    for point in points:
        method = _at(point.owner, point.method)
        original = getattr(method, INTERCEPTED, method)
        reason = None if _wrapper(original) else why_not_intercept(original, point.reader)
        if reason:
            yield warning(
                f"hopspan leaves {_shown(point.owner, point.method)} alone: {reason}",
                "pip install --upgrade hopspan, or an older release of the client",
            )


def woven(environment: Environment) -> Iterable[Finding]:
    """Who intercepts the clients: hopspan, another instrumentation, or both."""
    clients = _installed()
    for name in clients:
        yield from _woven(environment, name)
    idle = [_client(name) for name in clients if _is_idle(environment, name)]
    if idle:
        yield hint(
            f"installed, and not instrumented as a whole: {', '.join(idle)}",
            f"hopspan.instrument({', '.join(map(repr, idle))}), unless handlers are decorated or "
            "objects wrapped",
        )


def _woven(environment: Environment, name: str) -> Iterator[Finding]:
    client = _client(name)
    strangers = ", ".join(sorted(_strangers(name)))
    if strangers and name in _ours(environment):
        yield error(
            f"{client} is instrumented by {strangers} and by hopspan: spans are doubled",
            _keep_one(name),
        )
    elif strangers:
        yield warning(
            f"{client} is instrumented by {strangers}, so hopspan leaves it alone", _keep_one(name)
        )
    elif name in _ours(environment):
        yield ok(f"{client} is instrumented by hopspan alone")
    else:
        yield from _launched(environment, name)


def _keep_one(name: str) -> str:
    client = _client(name)
    rival = _rival(name) or client
    return f"keep one: leave out hopspan.instrument({client!r}), or set {_DISABLED}={rival}"


def _is_idle(environment: Environment, name: str) -> bool:
    """The application could have instrumented it, and nobody has."""
    is_looked_at = environment.set_up is not None
    return is_looked_at and name not in _ours(environment) and not _strangers(name)


def _client(name: str) -> str:
    return name.replace("_", "-")


def _ours(environment: Environment) -> Mapping[str, object]:
    return environment.set_up.configs if environment.set_up else {}


def _launched(environment: Environment, name: str) -> Iterator[Finding]:
    """Two instrumentations of a client that the zero-code launcher would load."""
    rival = _rival(name)
    theirs = environment.entry_points_of(_LAUNCHED).get(rival or "")
    disabled = {each.strip() for each in environment.text(_DISABLED).split(",")}
    ours = f"hopspan_{name}"
    if rival and theirs and not disabled & {rival, ours}:
        yield warning(
            f"{theirs} is installed as well: under opentelemetry-instrument hopspan leaves "
            f"{rival} to it",
            f"{_DISABLED}={rival} to keep hopspan, {_DISABLED}={ours} to keep the other",
        )


def _rival(name: str) -> str | None:
    """What the launcher calls the other instrumentation of a client."""
    known = instrumentation._Instrumentor.__subclasses__()  # noqa: SLF001 - one package
    return next(
        (each._rival for each in known if each._client.replace("-", "_") == name),  # noqa: SLF001
        None,
    )


def _strangers(name: str) -> set[str]:
    """The modules of those who wrap what hopspan intercepts, over or under it, or say they do."""
    try:
        adapter = adapter_named(name)
    except Exception:  # noqa: BLE001 - said among the clients
        return set()
    places: list[tuple[Any, ...]] = [(point.owner, point.method) for point in adapter.points]
    places += [tuple(each.rsplit(".", 1)) for each in adapter.rivals]
    wrappers = _said(name) | {
        wrapper for owner, method in places for wrapper in _wrappers(_at(owner, method))
    }
    return {each for each in wrappers if each.partition(".")[0] != "hopspan"}


def _said(name: str) -> set[str]:
    """OpenTelemetry's own instrumentation of a client, if it is on: not all of them wrap."""
    module = f"opentelemetry.instrumentation.{name}"
    kinds = vars(sys.modules.get(module, object)).values()
    made = [getattr(kind, "_instance", None) for kind in kinds if isinstance(kind, type)]
    is_on = any(getattr(each, "is_instrumented_by_opentelemetry", False) for each in made)
    return {module} if is_on else set()


def _at(owner: str, method: str) -> Any:
    try:
        return getattr(owner_of(owner), method, None)
    except (ImportError, AttributeError):  # of a version that has no such class
        return None


def _wrappers(method: Any) -> Iterator[str]:
    """The modules of all wrappers of a method, from the outermost to the innermost."""
    while method is not None and (module := _wrapper(method)):
        yield module
        method = method.__wrapped__


def _wrapper(method: Any) -> str | None:
    """The module whose code wraps a method; None for one that is nobody's."""
    if getattr(method, "__wrapped__", None) is None:
        return None
    by = getattr(method, "_self_wrapper", method)  # of wrapt, which most instrumentations use
    named = getattr(by, "__globals__", {}).get("__name__")
    return str(named or type(by).__module__)


def _shown(owner: str, method: str) -> str:
    return f"{owner.partition(':')[2]}.{method}"
