"""`setup`: providers made from presets, variables and arguments, and made global, once."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED

from hopspan.faults import logger
from hopspan.logs import install
from hopspan.model import ConfigurationError
from hopspan.sdk import presets
from hopspan.sdk.ending import end_with_process, end_with_signals
from hopspan.sdk.exporting import sdk_counts
from hopspan.sdk.providers import logger_provider, meter_provider, tracer_provider
from hopspan.sdk.resources import resource_of
from hopspan.sdk.telemetry import Providers, Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["current", "setup"]

_lock = threading.Lock()
_DEFAULTS = {"logs": True, "signals": True, "shutdown_seconds": 10.0}
_made: tuple[Telemetry, dict[str, Any]] | None = None


def current() -> Telemetry | None:
    """What `setup` has returned in this process; None before."""
    return _made[0] if _made else None


def setup(
    preset: str | None = None,
    *,
    service_name: str | None = None,
    service_version: str | None = None,
    environment: str | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
    sampler: Sampler | None = None,
    span_exporter: SpanExporter | None = None,
    metric_exporter: MetricExporter | None = None,
    metric_readers: Sequence[MetricReader] | None = None,
    log_exporter: LogRecordExporter | None = None,
    logs: bool = True,
    signals: bool = True,
    shutdown_seconds: float = 10.0,
) -> Telemetry:
    """Set up tracer, meter and logger providers for this process. Call it once, early.

    ::

        telemetry = hopspan.sdk.setup(
            service_name="orders", service_version="1.4", environment="production"
        )

    Everything that the SDK and its exporters read from `OTEL_*` variables holds: endpoint, headers,
    certificates, timeouts, queue sizes, sampler, propagators, and `OTEL_TRACES_EXPORTER` and its
    like. An argument beats a variable, and a variable beats the preset.

    When the process ends, what has ended is exported and all is shut down, in `shutdown_seconds` at
    most: at a normal exit, after an unhandled exception, in forked children (of multiprocessing,
    gunicorn, `os.fork`), and at SIGTERM or SIGINT where the application has no handler of its own.
    Only `os._exit` and SIGKILL leave no time: call `flush` before the one.

    Where providers are set already, by `opentelemetry-instrument` or your own code, they are left
    alone, which is logged; the handle then flushes those. A second call returns the same handle.

    Args:
        preset: `"development"` or `"production"`; else `HOPSPAN_PRESET`, else production.
        service_name: Else `OTEL_SERVICE_NAME`.
        service_version: Else `service.version` in `OTEL_RESOURCE_ATTRIBUTES`.
        environment: `deployment.environment.name`, else in `OTEL_RESOURCE_ATTRIBUTES`.
        resource_attributes: More of them.
        sampler: Such as `hopspan.sdk.keep(...)`.
        span_exporter: In the place of those of the environment. It is shared with forked children;
            those of the environment are made again in each.
        metric_exporter: Likewise.
        metric_readers: In the place of the metric exporter; for pulling, such as Prometheus.
        log_exporter: Likewise.
        logs: Whether log records are exported and carry the trace; see `hopspan.logs`.
        signals: Whether SIGTERM and SIGINT are minded.
        shutdown_seconds: The longest that the end of the process is held up.

    Raises:
        ConfigurationError: an argument or a variable is not valid, or an exporter not installed.

    Thread safety: safe. Signals can only be minded when it is called in the main thread.
    """
    given = {key: value for key, value in locals().items() if value is not None}
    with _lock:
        return _set_up_once(given)


def _set_up_once(given: dict[str, Any]) -> Telemetry:
    global _made  # noqa: PLW0603 - so are the API's providers
    if _made is not None:
        telemetry, before = _made
        differing = sorted(
            key
            for key in given
            if given[key] != before.get(key) and given[key] != _DEFAULTS.get(key)
        )
        if differing:
            logger.warning(
                "hopspan.sdk.setup() was called before; now without effect: %s",
                ", ".join(differing),
            )
        return telemetry
    try:
        telemetry = _of_somebody_else() or _set_up(**given)
    except ConfigurationError:
        raise
    except ValueError as error:  # the SDK's own, of a limit that is no number, say
        raise ConfigurationError(str(error)) from error
    if given["logs"]:
        install()  # a format may ask for the trace, whoever has set the SDK up
    _made = (telemetry, given)
    return telemetry


def _of_somebody_else() -> Telemetry | None:
    """A handle on providers that are there already."""
    tracer = trace.get_tracer_provider()
    if isinstance(tracer, trace.ProxyTracerProvider):
        return None
    logger.info("the OpenTelemetry SDK is set up already; hopspan.sdk.setup() leaves it alone")
    every = Providers(tracer, metrics.get_meter_provider(), _logs.get_logger_provider())
    flushable = [each if hasattr(each, "force_flush") else None for each in every]
    return Telemetry(Providers(*flushable), is_ours=False)


def _is_set(provider: object) -> bool:
    """Whether somebody has set a meter or logger provider: else the API has one that stands in."""
    return not type(provider).__module__.startswith(
        ("opentelemetry.metrics", "opentelemetry._logs")
    )


def _set_up(
    preset: str | None = None,
    *,
    service_name: str | None = None,
    service_version: str | None = None,
    environment: str | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
    sampler: Sampler | None = None,
    span_exporter: SpanExporter | None = None,
    metric_exporter: MetricExporter | None = None,
    metric_readers: Sequence[MetricReader] | None = None,
    log_exporter: LogRecordExporter | None = None,
    logs: bool,
    signals: bool,
    shutdown_seconds: float,
) -> Telemetry:
    chosen = presets.chosen(preset)
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        logger.info("OTEL_SDK_DISABLED is true; hopspan.sdk.setup() sets nothing up")
        return Telemetry(Providers(), preset=chosen.name)
    resource = resource_of(
        service_name,
        service_version,
        environment,
        resource_attributes,
        is_strict=chosen.is_strict,
    )
    with ExitStack() as made:  # what is made before something fails must not go on exporting
        meter = None
        if not _is_set(metrics.get_meter_provider()):
            meter = meter_provider(chosen, resource, metric_exporter, metric_readers)
            made.callback(_shut_down, meter)
        records = None
        if logs and not _is_set(_logs.get_logger_provider()):
            records = logger_provider(chosen, resource, log_exporter)
            made.callback(_shut_down, records)
        tracer, tallies = tracer_provider(chosen, resource, sampler, span_exporter)
        made.pop_all()
    telemetry = Telemetry(
        Providers(tracer, meter, records),
        tallies,
        preset=chosen.name,
        shutdown_seconds=shutdown_seconds,
    )
    _make_global(telemetry)
    end_with_process(telemetry)
    if signals:
        end_with_signals(telemetry)
    return telemetry


def _shut_down(provider: MeterProvider | LoggerProvider | None) -> None:
    if provider is not None:
        provider.shutdown()


def _make_global(telemetry: Telemetry) -> None:
    tracer, meter, records = telemetry.providers
    if meter is not None:
        metrics.set_meter_provider(meter)
        if not sdk_counts():
            telemetry.publish_losses()
    if records is not None:
        _logs.set_logger_provider(records)
    trace.set_tracer_provider(tracer)
