"""The whole process at once: `instrument`, `uninstrument`, and the zero-code entry points."""

from __future__ import annotations

import importlib.util
import os
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from hopspan import adapters, faults
from hopspan.adapters import ADAPTERS, adapter_named, registered
from hopspan.config import Config
from hopspan.delivery import refuse
from hopspan.interception import unweave, weave
from hopspan.model import ConfigurationError
from hopspan.telemetry import Binding, Instrumenter, set_for_client

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hopspan.config import Settings

_lock = threading.Lock()
_woven: dict[str, tuple[Binding, Any, dict[str, Any]]] = {}


def instrument(*clients: str, **settings: Unpack[Settings]) -> None:
    """Trace all that the named clients do in this process; with no name, every client installed.

    ::

        hopspan.instrument("pika", policy=hopspan.reject_on_error)

    Call it once, early; objects made before are traced as well, except for consumers that are
    registered already. Instrumenting twice is once, and the second call changes nothing. A method
    that another instrumentation wraps already is left alone, which is logged.

    Args:
        clients: `"aio-pika"`, `"celery"`, `"kafka"` (kafka-python), `"pika"`, and those that
            installed packages register adapters for (`hopspan.adapters`), by their modules' names.
        settings: See `hopspan.Config`. Without a policy, hopspan settles nothing.

    Raises:
        ConfigurationError: a client or a setting is unknown, a client is not installed, its
            registered adapter cannot be used, or a method that the policy needs cannot be
            instrumented.
        PolicyError: the policy can never work with a client.

    Thread safety: safe, but not while messages are in flight on other threads: those may be traced
    or not.
    """
    named = tuple(name.replace("-", "_") for name in clients)
    chosen = named or tuple(filter(_can_be_traced, adapters.clients()))
    config = Config.from_environment().override(settings)
    for name in chosen:
        _check(name)
    for name in chosen:
        _instrument(name, config, dict(settings))


def _check(name: str) -> None:
    if name not in adapters.clients():
        known = ", ".join(adapters.clients()).replace("_", "-")
        raise ConfigurationError(f"unknown client {name!r}; hopspan knows {known}")
    if not is_installed(name):
        client = name.replace("_", "-")
        remedy = f": pip install 'hopspan[{client}]'" if name in ADAPTERS else ""
        raise ConfigurationError(f"{client} is not installed{remedy}")


def _instrument(name: str, config: Config, settings: dict[str, Any]) -> None:
    with _lock:
        if name in _woven:
            if settings and settings != _woven[name][2]:
                faults.logger.warning(
                    "%s is instrumented already; these settings have no effect",
                    name.replace("_", "-"),
                )
            return
        adapter = adapter_named(name)
        if config.policy.settles:
            reason = adapter.delivery.refusal(config.policy)
            refuse(config.policy, adapter.client, reason)
        binding = Binding(adapter, Instrumenter(config))
        woven = weave(adapter.points, binding)
        if adapter.signals is not None:
            try:
                adapter.signals.connect(binding)
            except Exception:
                unweave(woven)
                raise
        _woven[name] = (binding, woven, settings)
        set_for_client(adapter.name, binding.instrumenter)


def uninstrument(*clients: str) -> None:
    """Undo `instrument`: the clients' classes are exactly as before.

    Live channels and registered callbacks emit nothing any more, and settle nothing by the policy
    that `instrument` was given. Decorated handlers and wrapped objects go on: they were asked for
    by themselves.

    Args:
        clients: Names as given to `instrument`; all that are instrumented when omitted. One that is
            not instrumented is passed over.
    """
    with _lock:
        for name in [name.replace("-", "_") for name in clients] or tuple(_woven):
            if name in _woven:
                binding, woven, _ = _woven.pop(name)
                binding.instrumenter.switch.on = False
                unweave(woven)
                if binding.adapter.signals is not None:
                    binding.adapter.signals.disconnect(binding)
                set_for_client(binding.adapter.name, None)


def _can_be_traced(name: str) -> bool:
    """Whether the client is installed, and its adapter not one that has to be left alone."""
    return is_installed(name) and (name in ADAPTERS or adapters.usable(name) is not None)


def is_installed(name: str) -> bool:
    """Whether there is the client of a name; a part of a package is there only with the package."""
    try:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    except ModuleNotFoundError:
        return False


_GROUP = "opentelemetry_instrumentor"
_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


def _yields_to(client: str, rival: str) -> bool:
    """Whether the launcher loads another instrumentation of a client too; if so, say it."""
    found = next(iter(entry_points(group=_GROUP, name=rival)), None)
    if found is None or rival in _disabled():
        return False
    ours = "hopspan_" + client.replace("-", "_")
    theirs = found.dist.name if found.dist else found.value
    why = f"{theirs} is installed as well; add {rival} or {ours} to {_DISABLED}"
    if Config.from_environment().policy.settles:
        raise ConfigurationError(
            f"hopspan leaves {client} alone, and HOPSPAN_POLICY is lost: {why}"
        )
    faults.once("hopspan leaves %s alone, or spans would be doubled: %s", client, why)
    return True


def _disabled() -> set[str]:
    """What the launcher is told to leave out."""
    return {name.strip() for name in os.environ.get(_DISABLED, "").split(",")}


def _launch(client: str, rival: str, options: dict[str, Any]) -> None:
    """Instrument a client that is installed, unless another instrumentation of it is."""
    if _can_be_traced(client.replace("-", "_")) and not _yields_to(client, rival):
        known = ("tracer_provider", "meter_provider", "logger_provider")
        given = {key: options[key] for key in known if options.get(key) is not None}
        instrument(client, **cast("Settings", given))


class _Instrumentor:
    """What `opentelemetry-instrument` looks for under `opentelemetry_instrumentor`."""

    _client: str
    _rival: str
    """The entry point of the other instrumentation of this client."""

    def instrument(self, **options: Any) -> None:
        """Instrument the client if it is installed, with the launcher's providers.

        Not beside another instrumentation of it: the launcher loads the two in any order, so that
        it need not be there yet.

        Raises:
            ConfigurationError: the policy that the environment sets would be lost by that.
        """
        _launch(self._client, self._rival, options)

    def uninstrument(self, **_options: Any) -> None:
        """Undo it."""
        uninstrument(self._client)


class AioPikaInstrumentor(_Instrumentor):
    """aio-pika."""

    _client = _rival = "aio-pika"


class CeleryInstrumentor(_Instrumentor):
    """Celery."""

    _client = _rival = "celery"


class KafkaInstrumentor(_Instrumentor):
    """kafka-python."""

    _client = _rival = "kafka"


class PikaInstrumentor(_Instrumentor):
    """pika."""

    _client = _rival = "pika"


class RegisteredInstrumentor:
    """The clients that installed packages register adapters for.

    `hopspan_tinyq` among the disabled instrumentations leaves out the client `tinyq` alone.
    """

    def instrument(self, **options: Any) -> None:
        """As of the other instrumentors, for each of these clients."""
        for client in registered():
            if f"hopspan_{client}" not in _disabled():
                _launch(client, client, options)

    def uninstrument(self, **_options: Any) -> None:
        """Undo it."""
        for client in registered():
            uninstrument(client)
