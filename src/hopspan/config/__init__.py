"""Settings: one frozen value, made from keywords, then `HOPSPAN_*` variables, then defaults.

An unknown or invalid setting is an error that names it, raised where the setting is given: when a
handler is decorated, a channel wrapped, a client instrumented. Standard `OTEL_*` variables are not
repeated here; `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN` is honoured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from hopspan import settlement
from hopspan.config.settings import PLAIN_COMMITS, PREFIX, READERS, checked, unknown, variable_of
from hopspan.conventions import METRICS

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from hopspan.config.settings import Correlation, SettleSpans
    from hopspan.settlement import Commits, Policy, PolicyLike

ExceptionSignal = Literal["event", "logs", "logs/dup"]
Hook = Callable[[Any, Any], None]
NameList = frozenset[str] | set[str] | list[str] | tuple[str, ...]

_EXCEPTIONS_VARIABLE = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"

_NOT_OURS = ("preset", "sdk_")
"""`HOPSPAN_PRESET` and `HOPSPAN_SDK_*` are settings of `hopspan.sdk`."""


class Settings(TypedDict, total=False):
    """The keywords that `wrap`, `instrument`, `consumer` and `process` take; see `Config`."""

    policy: PolicyLike
    commits: Commits
    correlation: Correlation
    keep_context: bool
    settle_spans: SettleSpans
    metrics: bool | NameList
    message_key: bool
    reraise: bool
    baggage_allow: NameList | None
    baggage_attributes: NameList
    baggage_metrics: NameList
    trust: bool
    ignore: NameList
    capture_headers: NameList
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
    commits: Commits = PLAIN_COMMITS
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
    baggage_allow: tuple[str, ...] | None = None
    """Names, and prefixes such as `app.*`, of the baggage entries that may leave in messages; None
    for all of them. `HOPSPAN_BAGGAGE_ALLOW`: separated by commas, or `none` for no entry."""
    baggage_attributes: tuple[str, ...] = ()
    """Names and prefixes of entries that become attributes of spans that send, receive or process,
    at their start. `HOPSPAN_BAGGAGE_ATTRIBUTES`."""
    baggage_metrics: tuple[str, ...] = ()
    """Names of entries that become attributes of the metrics. `HOPSPAN_BAGGAGE_METRICS`."""
    trust: bool = True
    """Whether those who send our messages are ours. False: their trace is linked to and not joined,
    and their baggage and their decision to sample do not count. `HOPSPAN_TRUST`."""
    ignore: tuple[str, ...] = ()
    """Destinations that are left untraced, as patterns of the shell such as `health.*`; messages
    are settled all the same. `HOPSPAN_IGNORE`: separated by commas."""
    capture_headers: tuple[str, ...] = ()
    """Names, in any letter case, of message headers that become attributes of spans. What sounds
    like a secret is redacted. `HOPSPAN_CAPTURE_HEADERS`."""
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
        return replace(self, **{key: checked(key, value) for key, value in settings.items()})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Config:
        """The defaults, overridden by `HOPSPAN_*` variables.

        Raises:
            ConfigurationError: a `HOPSPAN_*` variable is unknown, or does not take its value.
        """
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {"exceptions": _exception_signal(environ)}
        for variable, text in environ.items():
            if variable.startswith(PREFIX) and text != "":
                key = variable[len(PREFIX) :].lower()
                if key.startswith(_NOT_OURS):
                    continue
                if key not in READERS:
                    raise unknown(key, list(READERS), variable_of)
                settings[key] = READERS[key](variable, text)
        return cls(**settings)


def _exception_signal(environ: Mapping[str, str]) -> ExceptionSignal:
    """`logs/dup` wins over `logs`; words for other instrumentations are not ours to judge."""
    words = [word.strip() for word in environ.get(_EXCEPTIONS_VARIABLE, "").split(",")]
    if "logs/dup" in words:
        return "logs/dup"
    return "logs" if "logs" in words else "event"
