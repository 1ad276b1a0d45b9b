"""What the checks find in an application that was set up, and where they are silent.

Each application is a real one, set up in a process of its own.
"""

from __future__ import annotations

import pytest

from hopspan.doctor import CHECKS
from tests.doctor.programs import Doctor, Row

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
pytest.importorskip("pika")

PLAIN = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

ENDPOINT = "http://127.0.0.1:9/v1/traces"

def provide(processor=None, **options):
    provider = TracerProvider(**options)
    if processor is None:
        processor = BatchSpanProcessor(OTLPSpanExporter(ENDPOINT))
    if processor:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return provider

def set_up():
"""


def plain(body: str) -> str:
    """An application that sets OpenTelemetry up by itself."""
    return PLAIN + "\n".join(f"    {line}" for line in body.strip().splitlines()) + "\n"


SETUP_FIRST = "call hopspan.sdk.setup() first, before anything that traces"
ONCE = "set up once: remove one of the two, or start without opentelemetry-instrument"
BATCHED = "BatchSpanProcessor(exporter), or hopspan.sdk.setup()"
RATIO = "OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.05"
SIGTERM: Row = (
    "warning",
    "SIGTERM ends the process at once: what waits in the queue is lost at each deployment",
    "hopspan.sdk.setup() in the main thread, or signal.signal(signal.SIGTERM, lambda *_: "
    "sys.exit(0))",
)

FAULTS: list[tuple[str, str, str, list[Row]]] = [
    (
        "no provider",
        "set-up",
        "pass",
        [
            (
                "error",
                "the application has set no tracer provider, so nothing is recorded",
                "hopspan.sdk.setup(), or start with opentelemetry-instrument",
            )
        ],
    ),
    (
        "spans before the provider",
        "set-up",
        """
tracer = trace.get_tracer("shop")
with tracer.start_as_current_span("connect"):
    tracer.start_span("login").end()
provide(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
with tracer.start_as_current_span("serve"):
    pass
""",
        [
            (
                "error",
                "2 spans started before the SDK was set up, and lost: connect, login",
                SETUP_FIRST,
            )
        ],
    ),
    (
        "two providers",
        "set-up",
        "provide()\nprovide()",
        [
            (
                "warning",
                "providers were set twice, and the second had no effect: Overriding of current "
                "TracerProvider is not allowed",
                ONCE,
            )
        ],
    ),
    (
        "no exporter",
        "exporter",
        "provide(False)",
        [
            (
                "error",
                "the tracer provider has no exporter, so no span leaves",
                "hopspan.sdk.setup(), or provider.add_span_processor(BatchSpanProcessor(...))",
            )
        ],
    ),
    (
        "an exporter to the console",
        "exporter",
        "provide(BatchSpanProcessor(ConsoleSpanExporter()))",
        [("hint", "spans go to ConsoleSpanExporter, not over OTLP", "nothing, if that is meant")],
    ),
    (
        "an endpoint in code",
        "exporter",
        "provide()",
        [
            (
                "error",
                "127.0.0.1:9 cannot be reached: Connection refused",
                "start a collector there, or endpoint='https://HOST:PORT' of the exporter",
            )
        ],
    ),
    (
        "an endpoint far away",
        "transport",
        "ENDPOINT = 'http://collector.invalid/v1/traces'\n"
        "provide(BatchSpanProcessor(OTLPSpanExporter(ENDPOINT)))",
        [
            (
                "warning",
                "telemetry leaves this machine in plain text, to collector.invalid",
                "endpoint='https://collector.invalid:80' of the exporter",
            ),
            (
                "warning",
                "telemetry is sent without compression",
                "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
            ),
        ],
    ),
    (
        "one by one",
        "queue",
        "provide(SimpleSpanProcessor(OTLPSpanExporter(ENDPOINT)))",
        [
            (
                "warning",
                "a SimpleSpanProcessor exports each span by itself, while the handler waits",
                BATCHED,
            )
        ],
    ),
    (
        "a small queue",
        "queue",
        "provide(BatchSpanProcessor(OTLPSpanExporter(ENDPOINT), max_queue_size=64, "
        "max_export_batch_size=64))",
        [
            (
                "warning",
                "the queue holds 64 spans, the preset production 2048: a burst is dropped",
                "OTEL_BSP_MAX_QUEUE_SIZE=2048 or more",
            )
        ],
    ),
    (
        "a sampler of its own mind",
        "sampler",
        "provide(sampler=TraceIdRatioBased(0.5))",
        [
            (
                "warning",
                "the sampler TraceIdRatioBased{0.5} ignores what the sender has decided: traces "
                "have holes",
                "ParentBased(...) around it, or hopspan.sdk.setup()",
            )
        ],
    ),
    (
        "a sampler in code",
        "sampler",
        "provide(sampler=ParentBased(TraceIdRatioBased(0.5)))",
        [
            (
                "hint",
                "the sampler ParentBased TraceIdRatioBased{0.5} is set in code, so operators "
                "cannot turn it down",
                f"TracerProvider() without sampler=, and {RATIO}",
            )
        ],
    ),
    (
        "a resource that says nothing",
        "resource",
        "provide(resource=Resource({'service.name': 'shop'}))",
        [
            (
                "warning",
                "service.version is missing: nobody sees which release a span is from",
                "OTEL_RESOURCE_ATTRIBUTES=service.version=1.4.0",
            ),
            (
                "warning",
                "deployment.environment.name is missing: staging and production are mixed",
                "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=production",
            ),
            (
                "hint",
                "service.instance.id is missing: copies of the service cannot be told apart",
                "hopspan.sdk.setup(), or OTEL_RESOURCE_ATTRIBUTES=service.instance.id=$HOSTNAME",
            ),
        ],
    ),
    (
        "no log correlation",
        "logs",
        "import logging\nlogging.basicConfig()\nprovide()",
        [
            (
                "warning",
                "log records do not carry the trace, so a line does not lead to it",
                "hopspan.logs.install(), or hopspan.logs.structlog_processor() among structlog's "
                "processors",
            )
        ],
    ),
    (
        "baggage of one client",
        "baggage",
        "import hopspan\nprovide()\nhopspan.instrument('pika')\n"
        "hopspan.instrument('kafka', baggage_allow=['tenant_id'])",
        [
            (
                "warning",
                "all baggage leaves in messages of pika, whoever has set it, and whatever is in it",
                "HOPSPAN_BAGGAGE_ALLOW=tenant_id,app.*, or hopspan.instrument(baggage_allow=[...])",
            )
        ],
    ),
    (
        "names with ids",
        "span names",
        """
import hopspan
from hopspan.testing import Message, Queue
provide(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
for number in range(30):
    with hopspan.process(Message(queue=Queue(f"user.{number}"))):
        pass
""",
        [
            (
                "warning",
                "30 span names differ only in a number: user.*",
                "put ids into the message, not into the name of a queue, topic or routing key; or "
                "HOPSPAN_IGNORE=user.*",
            )
        ],
    ),
]


@pytest.mark.parametrize(
    ("check", "body", "found"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS]
)
def test_a_fault_of_an_application_is_found(
    doctor: Doctor, check: str, body: str, found: list[Row]
) -> None:
    assert doctor.on(plain(body)).of(check) == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("provide(shutdown_on_exit=False)", "nothing flushes spans at exit"),
        ("provide()", "SIGTERM ends the process at once"),
    ],
)
def test_an_end_that_loses_spans_is_found(doctor: Doctor, body: str, found: str) -> None:
    said = [
        what for level, what, _ in doctor.on(plain(body)).of("exit and forks") if level == "warning"
    ]
    assert [each for each in said if each.startswith(found)], said


def test_a_handler_of_the_applications_own_is_enough_for_sigterm(doctor: Doctor) -> None:
    body = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprovide()"
    assert SIGTERM not in doctor.on(plain(body)).of("exit and forks")


CORRELATED = {
    "install": "import hopspan.logs\nhopspan.logs.install()",
    "a filter": (
        "import logging, hopspan.logs\nlogging.basicConfig()\n"
        "logging.root.handlers[0].addFilter(hopspan.logs.TraceFilter())"
    ),
    "structlog": (
        "import structlog, hopspan.logs\n"
        "structlog.configure(processors=[hopspan.logs.structlog_processor()])"
    ),
    "OpenTelemetry's handler": (
        "import logging, warnings\nwarnings.simplefilter('ignore')\n"
        "from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler\n"
        "logging.root.addHandler(LoggingHandler(logger_provider=LoggerProvider()))"
    ),
}


@pytest.mark.parametrize("way", CORRELATED)
def test_every_way_to_have_the_trace_in_logs_counts(doctor: Doctor, way: str) -> None:
    if way == "structlog":
        pytest.importorskip("structlog")
    report = doctor.on(plain(CORRELATED[way] + "\nprovide()"))
    assert report.of("logs") == [("ok", "log records carry the trace", "")]


# -- another instrumentation -----------------------------------------------------------------------

ANOTHER = """
import functools
from pika.adapters.blocking_connection import BlockingChannel

def another(method):
    @functools.wraps(method)
    def publish(*args, **kwargs):
        return method(*args, **kwargs)
    return publish

def instrument_another():
    BlockingChannel.basic_publish = another(BlockingChannel.basic_publish)
"""


@pytest.mark.parametrize(
    ("body", "level", "found"),
    [
        (
            "instrument_another()",
            "warning",
            "pika is instrumented by shop, so hopspan leaves it alone",
        ),
        (
            "instrument_another()\nimport hopspan\nhopspan.instrument('pika')",
            "error",
            "pika is instrumented by shop and by hopspan: spans are doubled",
        ),
        (
            "import hopspan\nhopspan.instrument('pika')\ninstrument_another()",
            "error",
            "pika is instrumented by shop and by hopspan: spans are doubled",
        ),
    ],
    ids=["alone", "before hopspan", "after hopspan"],
)
def test_another_instrumentation_of_the_same_method_is_found(
    doctor: Doctor, body: str, level: str, found: str
) -> None:
    report = doctor.on(ANOTHER + plain(body + "\nprovide()"))
    mend = "keep one: leave out hopspan.instrument('pika'), or set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=pika"
    assert (level, found, mend) in report.of("instrumentation")


# -- the whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("application", "failure"),
    [
        ("def set_up():\n    raise SystemExit('usage: shop')", "SystemExit: usage: shop"),
        (
            "import nowhere_to_be_found",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("", "AttributeError: module 'shop' has no attribute 'set_up'"),
        (
            "def set_up(settings): ...",
            "TypeError: set_up() missing 1 required positional argument: 'settings'",
        ),
    ],
    ids=["exits", "cannot be imported", "is not there", "takes arguments"],
)
def test_a_set_up_that_fails_is_an_error_and_the_rest_is_looked_at(
    doctor: Doctor, application: str, failure: str
) -> None:
    report = doctor.on(application)
    assert report.of("application") == [
        (
            "error",
            f"its set-up failed: {failure}",
            "--app module:callable, with a callable that takes no arguments and returns",
        )
    ]
    assert report.status == 1
    assert report.of("set-up")[0][0] == "error"


def test_a_set_up_may_be_asynchronous_and_print(doctor: Doctor) -> None:
    report = doctor.on(
        PLAIN.replace("def set_up", "async def set_up") + "    print('hello')\n    provide()"
    )
    assert report.of("application") == [("ok", "set up, in this process", "")]
    assert report.stderr.splitlines()[:1] == ["hello"]


GOOD = """
import hopspan
import hopspan.sdk

def set_up():
    hopspan.sdk.setup(service_name="orders", service_version="1.4", environment="production")
    hopspan.instrument()
"""


def test_a_good_application_has_no_fault_in_any_check(doctor: Doctor) -> None:
    """The other half: every check looks at it, and none of them finds anything."""
    receivers = pytest.importorskip("tests.sdk.receivers")
    with receivers.http_receiver() as receiver:
        report = doctor.on(
            GOOD,
            "--strict",
            **receiver.environment(),
            HOPSPAN_BAGGAGE_ALLOW="tenant_id,app.*",
            OTEL_TRACES_SAMPLER_ARG="0.05",
        )
    assert report.levels() == {check.name: {"ok"} for check in CHECKS}
    assert (report.status, report.document["healthy"]) == (0, True)
