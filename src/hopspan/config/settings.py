"""What each setting takes: keywords are checked, the texts of variables are read.

A value that a setting does not take is an error that names the setting, and says what it takes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from hopspan import settlement
from hopspan.conventions import METRICS
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.settlement import Commits, Policy

Correlation = Literal["auto", "parent", "link", "none"]
SettleSpans = Literal["notable", "all", "none"]

PREFIX = "HOPSPAN_"
"""Of the variables."""

PLAIN_COMMITS = settlement.Commits()


def variable_of(name: str) -> str:
    """The variable that sets a setting."""
    return PREFIX + name.upper()


def unknown(name: str, known: list[str], spelled: Callable[[str], str] = str) -> ConfigurationError:
    """An error about a setting that there is not, with the one that may be meant."""
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
    others = sorted(str(each) for each in value if each not in METRICS)
    if others:
        raise _invalid(name, ", ".join(others), "names out of " + ", ".join(sorted(METRICS)))
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


def _listed(name: str, value: Any, wanted: str, is_good: Callable[[str], bool]) -> tuple[str, ...]:
    """A list of texts, each of them once; the order means nothing."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _invalid(name, value, wanted)
    given = list(value)
    for each in given:
        if not isinstance(each, str) or not is_good(each.strip()):
            raise _invalid(name, each, wanted)
    return tuple(sorted({each.strip() for each in given}))


def _is_name(text: str) -> bool:
    return bool(text) and "*" not in text


def _is_name_or_prefix(text: str) -> bool:
    return bool(text) and "*" not in text[:-1]


_PATTERNS = 'a list of names and prefixes such as ["tenant_id", "app.*"]'


def patterns(name: str, value: Any) -> tuple[str, ...]:
    """A list of baggage entries that are meant, checked."""
    return _listed(name, value, _PATTERNS, _is_name_or_prefix)


def _allowed(name: str, value: Any) -> tuple[str, ...] | None:
    wanted = f"{_PATTERNS}; None allows all"
    return None if value is None else _listed(name, value, wanted, _is_name_or_prefix)


def _names(name: str, value: Any) -> tuple[str, ...]:
    return _listed(name, value, 'a list of names such as ["tenant_id"], without *', _is_name)


def _destinations(name: str, value: Any) -> tuple[str, ...]:
    return _listed(name, value, 'a list of destinations such as ["health.*"]', bool)


def _header_names(name: str, value: Any) -> tuple[str, ...]:
    names = _listed(name, value, 'a list of names such as ["x-request-id"], without *', _is_name)
    return tuple(sorted({each.lower() for each in names}))


_PROVIDES = {
    "tracer_provider": "get_tracer",
    "meter_provider": "get_meter",
    "logger_provider": "get_logger",
}


def _provider(name: str, value: Any) -> Any:
    if value is not None and not hasattr(value, _PROVIDES[name]):
        raise _invalid(name, value, f"a provider, which has {_PROVIDES[name]}, or None")
    return value


def checked(name: str, value: Any) -> Any:
    """A keyword's value, made into what `Config` holds."""
    if name not in CHECKS:
        raise unknown(name, list(CHECKS))
    return CHECKS[name](name, value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "policy": lambda _, value: settlement.as_policy(value),
    "correlation": lambda name, value: _one_of(name, value, get_args(Correlation)),
    "commits": _commits,
    "keep_context": _boolean,
    "settle_spans": lambda name, value: _one_of(name, value, get_args(SettleSpans)),
    "metrics": _metric_names,
    "message_key": _boolean,
    "reraise": _boolean,
    "baggage_allow": _allowed,
    "baggage_attributes": patterns,
    "baggage_metrics": _names,
    "trust": _boolean,
    "ignore": _destinations,
    "capture_headers": _header_names,
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


def _read_list(text: str) -> list[str]:
    """Names separated by commas; `none` for none of them, since an empty variable says nothing."""
    words = [word.strip() for word in text.split(",")]
    return [] if text.strip().lower() == "none" else [word for word in words if word]


def _lists(name: str) -> Callable[[str, str], Any]:
    return lambda variable, text: CHECKS[name](variable, _read_list(text))


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
        seconds = PLAIN_COMMITS.seconds
    return settlement.Commits(every, seconds, "wait" in given).checked()


def _read_policy(variable: str, text: str) -> Policy:
    times = re.fullmatch(r"requeue_times\(([1-9][0-9]*)\)", text.strip())
    if times:
        return settlement.requeue_times(int(times[1]))
    plain = {each.name: each for each in settlement.SHIPPED}
    if text.strip() not in plain:
        raise _invalid(variable, text, f"one of {', '.join(plain)}, requeue_times(N)")
    return plain[text.strip()]


READERS: dict[str, Callable[[str, str], Any]] = {
    "policy": _read_policy,
    "correlation": lambda variable, text: _one_of(variable, text.strip(), get_args(Correlation)),
    "settle_spans": lambda variable, text: _one_of(variable, text.strip(), get_args(SettleSpans)),
    "commits": _read_commits,
    "keep_context": _read_boolean,
    "message_key": _read_boolean,
    "reraise": _read_boolean,
    "metrics": _read_metrics,
    "trust": _read_boolean,
    **{
        name: _lists(name)
        for name in (
            "baggage_allow",
            "baggage_attributes",
            "baggage_metrics",
            "capture_headers",
            "ignore",
        )
    },
}
