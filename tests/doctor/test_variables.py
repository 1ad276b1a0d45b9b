"""What the checks find in variables alone, and where they are silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hopspan import doctor
from hopspan.doctor import CHECKS, Environment, SetUp
from tests.doctor.programs import Row

GROUPS = {
    "opentelemetry_propagator": ["tracecontext", "baggage", "b3", "b3multi"],
    "opentelemetry_traces_exporter": ["otlp_proto_grpc", "otlp_proto_http", "console"],
    "opentelemetry_traces_sampler": ["rule"],
}
VERSIONS = {"opentelemetry-sdk": "1.45.2"}


def an_environment(variables: Mapping[str, str] | None = None, **more: Any) -> Environment:
    """A small machine, with nothing installed but the SDK, whose exporters reach nobody."""
    given = {
        "version_of": VERSIONS.get,
        "entry_points_of": lambda group: dict.fromkeys(GROUPS.get(group, ()), "some-package"),
        "seconds": 1.0,
        **more,
    }
    return Environment(variables or {}, **given)


def looked(check: str, environment: Environment) -> list[Row]:
    """What one check finds."""
    (chosen,) = [each for each in CHECKS if each.name == check]
    found = doctor.examine(environment, [chosen])
    assert {each.check for each in found} <= {check}
    return [(each.level.name.lower(), each.what, each.mend) for each in found]


UNKNOWN_SETTING = "unknown setting HOPSPAN_POLCY; did you mean HOPSPAN_POLICY?"
RATIO = "OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.05"
NAMED = {
    "OTEL_SERVICE_NAME": "orders",
    "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.4,deployment.environment.name=production",
}
NO_VERSION = (
    "warning",
    "service.version is missing: nobody sees which release a span is from",
    "OTEL_RESOURCE_ATTRIBUTES=service.version=1.4.0",
)
NO_ENVIRONMENT = (
    "warning",
    "deployment.environment.name is missing: staging and production are mixed",
    "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=production",
)

FAULTS: list[tuple[str, dict[str, str], list[Row]]] = [
    (
        "settings",
        {"HOPSPAN_POLCY": "requeue_once"},
        [
            (
                "error",
                UNKNOWN_SETTING,
                "correct the variable: hopspan.instrument() raises this error",
            )
        ],
    ),
    (
        "settings",
        {"HOPSPAN_TRUST": "perhaps"},
        [
            (
                "error",
                "HOPSPAN_TRUST='perhaps' is not valid: it takes true or false",
                "correct the variable: hopspan.instrument() raises this error",
            )
        ],
    ),
    (
        "SDK",
        {"OTEL_SDK_DISABLED": "true"},
        [("warning", "OTEL_SDK_DISABLED=true: nothing is recorded", "unset OTEL_SDK_DISABLED")],
    ),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "tracecontex,baggage"},
        [
            (
                "error",
                "OTEL_PROPAGATORS names 'tracecontex', which is misspelt or not installed: "
                "hopspan and OpenTelemetry refuse to start",
                "OTEL_PROPAGATORS=tracecontext,baggage",
            ),
        ],
    ),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "tracecontext,baggage,jaeger"},
        [
            (
                "error",
                "OTEL_PROPAGATORS names 'jaeger', which is misspelt or not installed: "
                "hopspan and OpenTelemetry refuse to start",
                "pip install opentelemetry-propagator-jaeger",
            )
        ],
    ),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "b3"},
        [
            (
                "warning",
                "OTEL_PROPAGATORS is without tracecontext: services that speak the W3C format "
                "start traces of their own",
                "OTEL_PROPAGATORS=tracecontext,b3",
            ),
            (
                "warning",
                "OTEL_PROPAGATORS is without baggage: what is set as baggage stays in this process",
                "OTEL_PROPAGATORS=b3,baggage",
            ),
        ],
    ),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "baggage"},
        [
            (
                "error",
                "OTEL_PROPAGATORS names no propagator of traces",
                "OTEL_PROPAGATORS=tracecontext,baggage",
            )
        ],
    ),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "None"},
        [
            (
                "error",
                "OTEL_PROPAGATORS=None: no trace leaves this process",
                "OTEL_PROPAGATORS=tracecontext,baggage",
            )
        ],
    ),
    (
        "exporter",
        {"OTEL_TRACES_EXPORTER": "none"},
        [("warning", "OTEL_TRACES_EXPORTER=none: no span leaves", "OTEL_TRACES_EXPORTER=otlp")],
    ),
    (
        "exporter",
        {"OTEL_TRACES_EXPORTER": "otpl"},
        [
            (
                "error",
                "the exporter otpl is misspelt or not installed",
                "OTEL_TRACES_EXPORTER=otlp",
            )
        ],
    ),
    (
        "exporter",
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        [
            (
                "error",
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is not valid",
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc or http/protobuf",
            )
        ],
    ),
    (
        "exporter",
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318/v1/traces",
        },
        [
            (
                "error",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'collector:4318/v1/traces' does not begin with "
                "http:// or https://",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://HOST:PORT",
            )
        ],
    ),
    (
        "exporter",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:99999"},
        [
            (
                "error",
                "OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:99999': Port out of range 0-65535",
                "OTEL_EXPORTER_OTLP_ENDPOINT=https://HOST:PORT",
            )
        ],
    ),
    (
        "exporter",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://collector"},
        [
            (
                "error",
                "OTEL_EXPORTER_OTLP_ENDPOINT: 'ftp://collector' is no http:// or https:// address",
                "OTEL_EXPORTER_OTLP_ENDPOINT=https://HOST:PORT",
            )
        ],
    ),
    (
        "transport",
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4317"},
        [
            (
                "warning",
                "telemetry leaves this machine in plain text, to collector.example",
                "OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example:4317",
            ),
            (
                "hint",
                "telemetry is sent without compression, unless hopspan.sdk.setup() compresses it",
                "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
            ),
        ],
    ),
    (
        "transport",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        },
        [
            (
                "warning",
                "telemetry is sent without compression",
                "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
            )
        ],
    ),
    (
        "transport",
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
        [
            (
                "error",
                "OTEL_EXPORTER_OTLP_COMPRESSION=zip is not valid",
                "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
            )
        ],
    ),
    (
        "queue",
        {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50"},
        [
            (
                "warning",
                "the queue holds 100 spans, the preset production 2048: a burst is dropped",
                "OTEL_BSP_MAX_QUEUE_SIZE=2048 or more",
            ),
            (
                "hint",
                "50 spans are exported at once, 512 with the preset production",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=512",
            ),
        ],
    ),
    (
        "queue",
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},
        [
            (
                "error",
                "a batch of 4096 spans does not fit into a queue of 2048",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=2048 or less",
            )
        ],
    ),
    (
        "queue",
        {"OTEL_BSP_MAX_QUEUE_SIZE": "many", "OTEL_BSP_SCHEDULE_DELAY": "-1"},
        [
            (
                "error",
                "OTEL_BSP_MAX_QUEUE_SIZE=many is no positive number",
                "unset OTEL_BSP_MAX_QUEUE_SIZE",
            ),
            (
                "error",
                "OTEL_BSP_SCHEDULE_DELAY=-1 is no positive number",
                "unset OTEL_BSP_SCHEDULE_DELAY",
            ),
        ],
    ),
    (
        "queue",
        {"OTEL_BSP_SCHEDULE_DELAY": "60000"},
        [
            (
                "warning",
                "spans wait for up to 60 s, and are lost if the process is killed",
                "OTEL_BSP_SCHEDULE_DELAY=5000",
            )
        ],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
        [
            (
                "warning",
                "OTEL_TRACES_SAMPLER=traceidratio ignores what the sender has decided: traces have "
                "holes",
                "OTEL_TRACES_SAMPLER=parentbased_traceidratio",
            )
        ],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "parent_based"},
        [
            (
                "error",
                "OTEL_TRACES_SAMPLER=parent_based is misspelt or not installed: all is kept",
                RATIO,
            )
        ],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        [("warning", "OTEL_TRACES_SAMPLER=parentbased_always_off: no trace begins here", RATIO)],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5%"},
        [
            (
                "error",
                "OTEL_TRACES_SAMPLER_ARG=5% is no ratio from 0 to 1: all is kept",
                "OTEL_TRACES_SAMPLER_ARG=0.05",
            )
        ],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER_ARG": "-1"},
        [
            (
                "error",
                "OTEL_TRACES_SAMPLER_ARG=-1 is no ratio from 0 to 1: all is kept",
                "OTEL_TRACES_SAMPLER_ARG=0.05",
            )
        ],
    ),
    (
        "resource",
        {**NAMED, "OTEL_SERVICE_NAME": "unknown_service:python"},
        [
            (
                "error",
                "the service has no name: spans are from unknown_service:python",
                "OTEL_SERVICE_NAME=orders",
            )
        ],
    ),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"},
        [
            (
                "warning",
                "OTEL_TRACES_SAMPLER=parentbased_traceidratio without a ratio keeps all",
                "OTEL_TRACES_SAMPLER_ARG=0.05",
            )
        ],
    ),
    (
        "resource",
        {},
        [
            (
                "error",
                "the service has no name: spans are from unknown_service",
                "OTEL_SERVICE_NAME=orders",
            ),
            NO_VERSION,
            NO_ENVIRONMENT,
        ],
    ),
    (
        "resource",
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=orders,deployment.environment=production"},
        [
            NO_VERSION,
            (
                "hint",
                "deployment.environment.name is missing, only deployment.environment, its former "
                "name",
                "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=production",
            ),
        ],
    ),
    (
        "baggage",
        {},
        [
            (
                "warning",
                "all baggage leaves in messages, whoever has set it, and whatever is in it",
                "HOPSPAN_BAGGAGE_ALLOW=tenant_id,app.*, or hopspan.instrument(baggage_allow=[...])",
            )
        ],
    ),
    (
        "span names",
        {"HOPSPAN_BAGGAGE_METRICS": "user_id"},
        [
            (
                "hint",
                "every value of the baggage entries user_id makes new time series",
                "HOPSPAN_BAGGAGE_METRICS with entries of few values only",
            )
        ],
    ),
]


def _named(case: Any) -> str:
    return case if isinstance(case, str) else ""


@pytest.mark.parametrize(("check", "variables", "found"), FAULTS, ids=_named)
def test_a_fault_in_variables_is_found(
    check: str, variables: dict[str, str], found: list[Row]
) -> None:
    assert looked(check, an_environment(variables)) == found


SILENT: list[tuple[str, dict[str, str], list[Row]]] = [
    ("settings", {}, [("ok", "no HOPSPAN_* variable is set", "")]),
    (
        "settings",
        {"HOPSPAN_POLICY": "requeue_once", "HOPSPAN_PRESET": "production"},
        [("ok", "HOPSPAN_POLICY, HOPSPAN_PRESET", "")],
    ),
    ("SDK", {"OTEL_SDK_DISABLED": "false"}, [("ok", "opentelemetry-sdk 1.45.2", "")]),
    ("propagators", {}, [("ok", "tracecontext, baggage", "")]),
    (
        "propagators",
        {"OTEL_PROPAGATORS": "tracecontext, baggage, b3"},
        [("ok", "tracecontext, baggage, b3", "")],
    ),
    ("transport", {}, [("ok", "plain, on this machine, compression none", "")]),
    (
        "transport",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        },
        [("ok", "TLS, compression gzip", "")],
    ),
    (
        "transport",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "collector.example:4317",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
        },
        [("ok", "TLS, compression gzip", "")],
    ),
    ("transport", {"OTEL_TRACES_EXPORTER": "none"}, []),
    ("queue", {}, [("ok", "as the preset production has them, or better", "")]),
    (
        "queue",
        {"HOPSPAN_PRESET": "development", "OTEL_BSP_MAX_QUEUE_SIZE": "512"},
        [("ok", "as the preset development has them, or better", "")],
    ),
    ("sampler", {}, [("ok", "parentbased_always_on, the default", "")]),
    (
        "sampler",
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"},
        [("ok", "parentbased_traceidratio 0.05", "")],
    ),
    ("sampler", {"OTEL_TRACES_SAMPLER": "rule"}, [("ok", "rule", "")]),
    ("resource", NAMED, [("ok", "orders 1.4 in production", "")]),
    (
        "resource",
        {
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=my%20orders, service.version=2 ,"
            "deployment.environment.name=test"
        },
        [("ok", "my orders 2 in test", "")],
    ),
    (
        "baggage",
        {"HOPSPAN_BAGGAGE_ALLOW": "tenant_id,app.*"},
        [("ok", "only app.*, tenant_id may leave", "")],
    ),
    ("baggage", {"HOPSPAN_BAGGAGE_ALLOW": "none"}, [("ok", "none may leave", "")]),
    (
        "baggage",
        {"OTEL_PROPAGATORS": "tracecontext"},
        [("ok", "none leaves: the propagator of baggage is not configured", "")],
    ),
    ("span names", {}, []),
]


@pytest.mark.parametrize(("check", "variables", "found"), SILENT, ids=_named)
def test_a_good_variable_is_no_fault(
    check: str, variables: dict[str, str], found: list[Row]
) -> None:
    assert looked(check, an_environment(variables)) == found


def test_without_the_sdk_it_is_asked_for() -> None:
    assert looked("SDK", an_environment(version_of={}.get)) == [
        ("error", "the OpenTelemetry SDK is not installed", "pip install 'hopspan[sdk]'")
    ]


def test_without_the_exporters_package_it_is_asked_for() -> None:
    environment = an_environment(entry_points_of=lambda _: {})
    assert looked("exporter", environment) == [
        (
            "error",
            "the exporter otlp_proto_grpc is misspelt or not installed",
            "pip install 'hopspan[sdk]'",
        )
    ]


# -- what depends on an application that was run ---------------------------------------------------


@pytest.mark.parametrize("check", ["set-up", "exit and forks", "logs"])
def test_what_only_an_application_shows_is_not_judged_without_one(check: str) -> None:
    assert looked(check, an_environment()) == []


def test_and_that_is_said_once() -> None:
    assert looked("application", an_environment()) == [
        (
            "hint",
            "not run, so its set-up, its ends, its logs and its span names were not looked at",
            "hopspan doctor --app module:callable, with the callable that sets it up",
        )
    ]


MEND = (
    "put ids into the message, not into the name of a queue, topic or routing key; or "
    "HOPSPAN_IGNORE="
)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            ["publish orders", "process reply.6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
            (
                "1 span name has an id in it: 'process reply.6ba7b810-9dad-11d1-80b4-00c04fd430c8'",
                MEND + "reply.*",
            ),
        ),
        (
            ["send a.5f2b8c9d0e1f2a3b", "send a.5f2b8c9d0e1f2a3c"],
            ("2 span names have an id in them, such as 'send a.5f2b8c9d0e1f2a3b'", MEND + "a.*"),
        ),
        (
            [f"process user.{number}.mail" for number in range(21)],
            ("21 span names differ only in a number: user.*.mail", MEND + "user.*.mail"),
        ),
        (
            [f"process {chr(97 + a)}{chr(103 + b)}q" for a in range(26) for b in range(8)],
            (
                "there are 208 span names already, and more than 200 are hard to search",
                MEND + "...",
            ),
        ),
    ],
    ids=["a UUID", "long numbers", "many numbers", "many names"],
)
def test_names_that_are_endless_are_found(names: list[str], found: tuple[str, str]) -> None:
    environment = an_environment(set_up=SetUp(span_names=names))
    assert looked("span names", environment) == [("warning", *found)]


def test_names_of_queues_topics_and_shards_are_fine() -> None:
    names = [
        *(f"process orders.{number}" for number in range(20)),
        *("publish orders:created", "process retry-30000ms", "send 2024", "process cafe"),
    ]
    environment = an_environment(set_up=SetUp(span_names=names))
    assert looked("span names", environment)[0][0] == "ok"


def test_a_check_that_fails_is_told_and_stops_no_other() -> None:
    def fails(_: Environment) -> Any:
        yield doctor.Finding(doctor.Level.OK, "so far so good")
        raise RuntimeError("a fault of the doctor's")

    found = doctor.examine(
        an_environment(), [doctor.Check("broken", fails), *(c for c in CHECKS if c.name == "SDK")]
    )
    assert [(each.check, each.level.name, each.what) for each in found] == [
        ("broken", "OK", "so far so good"),
        ("broken", "WARNING", "this check failed itself: RuntimeError: a fault of the doctor's"),
        ("SDK", "OK", "opentelemetry-sdk 1.45.2"),
    ]


class Foreign:
    """A provider that is not OpenTelemetry's, and tells nothing about itself."""

    def get_tracer(self, *_: Any) -> Any:
        raise AssertionError("the doctor starts no span")


def test_of_a_foreign_provider_nothing_is_claimed() -> None:
    set_up = SetUp(provider=Foreign(), handles_sigterm=True, correlates_logs=True)
    environment = an_environment(NAMED, set_up=set_up)
    checks = ("set-up", "exporter", "transport", "sampler", "resource", "exit and forks", "logs")
    assert {check: looked(check, environment) for check in checks} == {
        "set-up": [
            (
                "hint",
                "the tracer provider is a Foreign, of which the doctor knows nothing",
                "nothing, if that is meant; else hopspan.sdk.setup()",
            )
        ],
        "exporter": [],
        "transport": [],
        "sampler": [("ok", "parentbased_always_on, the default", "")],
        "resource": [("ok", "orders 1.4 in production", "")],
        "exit and forks": [("ok", "flushed at exit, at SIGTERM and in forked children", "")],
        "logs": [("ok", "log records carry the trace", "")],
    }
