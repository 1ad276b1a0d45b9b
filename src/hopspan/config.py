"""Settings: one frozen value, made from keywords, then `HOPSPAN_*` variables, then defaults.

An unknown or invalid setting is an error that names it, raised where the setting is given: when a
handler is decorated, a channel wrapped, a client instrumented. Standard `OTEL_*` variables are not
repeated here; `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN` is honoured.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from hopspan import settlement
from hopspan.conventions import METRICS
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from hopspan.settlement import Commits, Policy, PolicyLike

Correlation = Literal["auto", "parent", "link", "none"]
SettleSpans = Literal["notable", "all", "none"]
ExceptionSignal = Literal["event", "logs", "logs/dup"]
Hook = Callable[[Any, Any], None]

_PREFIX = "HOPSPAN_"
_EXCEPTIONS_VARIABLE = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"

_PLAIN_COMMITS = settlement.Commits()


class Settings(TypedDict, total=False):
    """The keywords that `wrap`, `instrument`, `consumer` and `process` take; see `Config`."""

    policy: PolicyLike
    commits: Commits
    correlation: Correlation
    keep_context: bool
    settle_spans: SettleSpans
    metrics: bool | frozenset[str] | set[str] | list[str] | tuple[str, ...]
    message_key: bool
    reraise: bool
    on_start: Hook | None
    on_end: Hook | None
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    logger_provider: LoggerProvider | None


@dataclass(frozen=True)
class Config:
    """Everything that can be set. Immutable; read when a face is bound, not once a message."""

    policy: Policy = settlement.manual
    """What becomes of a handled message. `HOPSPAN_POLICY`: the name of a shipped policy, such as
    `requeue_once` or `requeue_times(3)`. Manual: hopspan settles nothing."""
    commits: Commits = _PLAIN_COMMITS
    """When what is done is committed, on Kafka. `HOPSPAN_COMMITS`: `every=100`, `seconds=5`,
    `wait`, or several of them separated by commas."""
    correlation: Correlation = "auto"
    """How a process span relates to its message. `HOPSPAN_CORRELATION`.

    - `auto`: child of the message for a pushed delivery, or where no span is current; else child of
      the current span. Linked to the message either way.
    - `parent`: always child of the message.
    - `link`: a new trace, linked to the message.
    - `none`: the message's context and baggage are ignored.
    """
    keep_context: bool = False
    """Leave a context that the user put into a message's headers on purpose; the send span links to
    it. `HOPSPAN_KEEP_CONTEXT`."""
    settle_spans: SettleSpans = "notable"
    """Which settlements get a span and a duration: `notable` (requeue, reject, all that failed),
    `all`, `none`. `HOPSPAN_SETTLE_SPANS`."""
    metrics: frozenset[str] = METRICS
    """Which of the four instruments record; True for all, False for none. `HOPSPAN_METRICS`: `all`,
    `none`, or names separated by commas."""
    message_key: bool = False
    """Whether spans tell the messages' keys, which are the application's data.
    `HOPSPAN_MESSAGE_KEY`."""
    reraise: bool = False
    """Whether a decorated handler raises a failure that its policy settled. `HOPSPAN_RERAISE`."""
    exceptions: ExceptionSignal = "event"
    """How exceptions are recorded. `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`: `logs` or `logs/dup`."""
    on_start: Hook | None = None
    """`on_start(operation, native)`, called when a span has started. Its errors are only logged."""
    on_end: Hook | None = None
    """`on_end(operation, native)`, called just before a span ends."""
    tracer_provider: TracerProvider | None = None
    """None: the global one, also when it is set later."""
    meter_provider: MeterProvider | None = None
    logger_provider: LoggerProvider | None = None

    def override(self, settings: Mapping[str, Any]) -> Config:
        """This configuration with some settings replaced.

        Raises:
            ConfigurationError: a setting is unknown, or does not take the value.
        """
        return replace(self, **{key: _checked(key, value) for key, value in settings.items()})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Config:
        """The defaults, overridden by `HOPSPAN_*` variables.

        Raises:
            ConfigurationError: a `HOPSPAN_*` variable is unknown, or does not take its value.
        """
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {"exceptions": _exception_signal(environ)}
        for variable, text in environ.items():
            if variable.startswith(_PREFIX) and text != "":
                key = variable[len(_PREFIX) :].lower()
                if key not in _READERS:
                    raise _unknown(key, list(_READERS), _variable)
                settings[key] = _READERS[key](variable, text)
        return cls(**settings)


def _exception_signal(environ: Mapping[str, str]) -> ExceptionSignal:
    """`logs/dup` wins over `logs`; words for other instrumentations are not ours to judge."""
    words = [word.strip() for word in environ.get(_EXCEPTIONS_VARIABLE, "").split(",")]
    if "logs/dup" in words:
        return "logs/dup"
    return "logs" if "logs" in words else "event"


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _unknown(
    name: str, known: list[str], spelled: Callable[[str], str] = str
) -> ConfigurationError:
    near = difflib.get_close_matches(name, known, n=1)
    every = ", ".join(map(spelled, sorted(known)))
    hint = f"did you mean {spelled(near[0])}?" if near else f"known settings: {every}"
    return ConfigurationError(f"unknown setting {spelled(name)}; {hint}")


def _invalid(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{name}={value!r} is not valid: it takes {wanted}")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise _invalid(name, value, "one of " + ", ".join(choices))
    return value


def _metric_names(name: str, value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return METRICS if value else frozenset()
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise _invalid(name, value, "True, False or a set of " + ", ".join(sorted(METRICS)))
    unknown = sorted(str(each) for each in value if each not in METRICS)
    if unknown:
        raise _invalid(name, ", ".join(unknown), "names out of " + ", ".join(sorted(METRICS)))
    return frozenset(value)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, value, "True or False")
    return value


def _commits(name: str, value: object) -> Commits:
    if not isinstance(value, settlement.Commits):
        raise _invalid(name, value, "hopspan.Commits(every=..., seconds=..., wait=...)")
    return value.checked()


def _hook(name: str, value: object) -> Any:
    if value is not None and not callable(value):
        raise _invalid(name, value, "a function of (operation, native)")
    return value


_PROVIDES = {
    "tracer_provider": "get_tracer",
    "meter_provider": "get_meter",
    "logger_provider": "get_logger",
}


def _provider(name: str, value: Any) -> Any:
    if value is not None and not hasattr(value, _PROVIDES[name]):
        raise _invalid(name, value, f"a provider, which has {_PROVIDES[name]}, or None")
    return value


def _checked(name: str, value: Any) -> Any:
    """A keyword's value, made into what `Config` holds."""
    if name not in _CHECKS:
        raise _unknown(name, list(_CHECKS))
    return _CHECKS[name](name, value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "policy": lambda _, value: settlement.as_policy(value),
    "correlation": lambda name, value: _one_of(name, value, get_args(Correlation)),
    "commits": _commits,
    "keep_context": _boolean,
    "settle_spans": lambda name, value: _one_of(name, value, get_args(SettleSpans)),
    "metrics": _metric_names,
    "message_key": _boolean,
    "reraise": _boolean,
    "on_start": _hook,
    "on_end": _hook,
    "tracer_provider": _provider,
    "meter_provider": _provider,
    "logger_provider": _provider,
}


def _read_boolean(variable: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in {"true", "1", "false", "0"}:
        raise _invalid(variable, text, "true or false")
    return word in {"true", "1"}


def _read_metrics(variable: str, text: str) -> frozenset[str]:
    if text.strip().lower() in {"all", "none"}:
        return _metric_names(variable, text.strip().lower() == "all")
    return _metric_names(variable, [name.strip() for name in text.split(",") if name.strip()])


_COMMITS = re.compile(
    r"(?:every=(?P<every>[0-9]+)|seconds=(?P<seconds>[0-9]+(?:\.[0-9]+)?)|(?P<wait>wait))"
)


def _read_commits(variable: str, text: str) -> Commits:
    words = [_COMMITS.fullmatch(word.strip()) for word in text.split(",")]
    given: dict[str, str] = {}
    for word in words:
        if word is None:
            raise _invalid(variable, text, "every=N, seconds=T, wait, or several of them")
        given.update((key, value) for key, value in word.groupdict().items() if value is not None)
    seconds = float(given["seconds"]) if "seconds" in given else None
    every = int(given["every"]) if "every" in given else None
    if every is None and seconds is None:
        seconds = _PLAIN_COMMITS.seconds
    return settlement.Commits(every, seconds, "wait" in given).checked()


def _read_policy(variable: str, text: str) -> Policy:
    times = re.fullmatch(r"requeue_times\(([1-9][0-9]*)\)", text.strip())
    if times:
        return settlement.requeue_times(int(times[1]))
    plain = {each.name: each for each in settlement.SHIPPED}
    if text.strip() not in plain:
        raise _invalid(variable, text, f"one of {', '.join(plain)}, requeue_times(N)")
    return plain[text.strip()]


_READERS: dict[str, Callable[[str, str], Any]] = {
    "policy": _read_policy,
    "correlation": lambda variable, text: _one_of(variable, text.strip(), get_args(Correlation)),
    "settle_spans": lambda variable, text: _one_of(variable, text.strip(), get_args(SettleSpans)),
    "commits": _read_commits,
    "keep_context": _read_boolean,
    "message_key": _read_boolean,
    "reraise": _read_boolean,
    "metrics": _read_metrics,
}
