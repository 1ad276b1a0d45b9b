"""`opentelemetry-instrument python app.py` traces a client by our entry point, and never twice.

The real launcher starts the application in a process of its own; the broker is the fake one, in
this process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("celery")
pytest.importorskip("kafka")
pytest.importorskip("pika")
pytest.importorskip("opentelemetry.sdk")

from tests.fakes.amqp import FakeRabbit
from tests.fakes.kafka import FakeKafka

LAUNCHER = Path(sys.executable).with_name("opentelemetry-instrument")
DEADLINE = 60

PIKA = '''
"""Sends two messages and handles them; knows nothing of tracing."""

import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.queue_declare("orders")
for body in (b"good", b"bad"):
    channel.basic_publish("", "orders", body)


def on_order(channel, method, properties, body):
    channel.basic_ack(method.delivery_tag)
    if body == b"bad":
        channel.stop_consuming()


channel.basic_consume("orders", on_order)
channel.start_consuming()
connection.close()
'''

KAFKA = '''
"""The same."""

import sys

from kafka import KafkaConsumer, KafkaProducer

producer = KafkaProducer(bootstrap_servers=sys.argv[1])
for value in (b"good", b"bad"):
    producer.send("orders", value).get(30)
producer.close()

consumer = KafkaConsumer(
    "orders", bootstrap_servers=sys.argv[1], group_id="billing", auto_offset_reset="earliest",
    enable_auto_commit=False,
)
for record in consumer:
    if record.value == b"bad":
        break
consumer.close()
'''

AIO_PIKA = '''
"""The same."""

import asyncio
import sys

import aio_pika


async def main():
    connection = await aio_pika.connect(sys.argv[1])
    channel = await connection.channel()
    queue = await channel.declare_queue("orders")
    for body in (b"good", b"bad"):
        await channel.default_exchange.publish(aio_pika.Message(body), "orders")
    done = asyncio.Event()

    async def on_order(message):
        await message.ack()
        if message.body == b"bad":
            done.set()

    await queue.consume(on_order)
    await done.wait()
    await asyncio.sleep(0)
    await connection.close()


asyncio.run(main())
'''


CELERY = '''
"""Publishes two tasks and runs them; knows nothing of tracing."""

import sys

from celery import Celery
from celery.contrib.testing.worker import start_worker

app = Celery("shop", broker=sys.argv[1], backend="cache+memory://")


@app.task(name="orders.place")
def place(order):
    return order


sent = [place.delay(order) for order in ("good", "bad")]
with start_worker(app, perform_ping_check=False):
    for each in sent:
        each.get(timeout=30)
'''


class InMemory(nullcontext[Any]):
    """What Celery's broker in the application's own process needs of this one: nothing."""

    url = "memory://"

    def __enter__(self) -> InMemory:
        return self


class Case(NamedTuple):
    """A client, with an application that knows nothing of tracing."""

    client: str
    app: str
    broker: Any
    names: list[str]
    """The spans, in the order in which they end."""
    package: str
    """The other instrumentation's."""

    @property
    def rival(self) -> str:
        """Its entry point."""
        return self.client.replace("_", "-")

    @property
    def contrib(self) -> str:
        """Its module."""
        return f"opentelemetry.instrumentation.{self.client}"


CASES = [
    Case(
        "pika",
        PIKA,
        FakeRabbit,
        ["publish orders", "publish orders", "process orders", "process orders"],
        "opentelemetry-instrumentation-pika",
    ),
    Case(
        "kafka",
        KAFKA,
        FakeKafka,
        ["send orders", "send orders", "process orders", "process orders"],
        "opentelemetry-instrumentation-kafka-python",
    ),
    Case(
        "aio_pika",
        AIO_PIKA,
        FakeRabbit,
        ["publish orders", "publish orders", "process orders", "process orders"],
        "opentelemetry-instrumentation-aio-pika",
    ),
    Case(
        "celery",
        CELERY,
        InMemory,
        ["publish orders.place"] * 2 + ["process orders.place"] * 2,
        "opentelemetry-instrumentation-celery",
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.client)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


# What a distribution of OpenTelemetry does: the launcher itself leaves the SDK alone. Spans are
# written as lines of JSON, at once.
SDK = '''
"""Sets the SDK up, as a distribution does."""

import json

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def described(span):
    return json.dumps(
        {
            "name": span.name,
            "scope": span.instrumentation_scope.name,
            "trace": span.context.trace_id,
            "id": span.context.span_id,
            "parent": span.parent and span.parent.span_id,
        }
    ) + "\\n"


class Configurator:
    def configure(self, **_):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=described)))
        trace.set_tracer_provider(provider)
'''
RIVAL = '''
"""Another instrumentation of the client, which has not wrapped anything yet."""


class Instrumentor:
    def instrument(self, **_):
        print("the rival was loaded")
'''


class Said(NamedTuple):
    """What an application's process has said."""

    spans: list[dict[str, Any]]
    other: str
    complaints: list[str]
    """What went to standard error, as far as it is about hopspan."""

    def names(self, scope: str = "hopspan") -> list[str]:
        """The spans of one instrumentation, in the order in which they ended."""
        return [span["name"] for span in self.spans if span["scope"].startswith(scope)]


def distribution(folder: Path, name: str, group: str, entry: str, module: str) -> None:
    """Install a distribution with one module and one entry point into a folder."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


class Launcher:
    """The standard launcher, with a distribution that sets the SDK up."""

    def __init__(self, folder: Path, url: str, case: Case) -> None:
        self._folder, self._url, self._case = folder, url, case
        (folder / "app.py").write_text(case.app)
        distribution(
            folder, "sdkdistro", "opentelemetry_configurator", "sdk = sdkdistro:Configurator", SDK
        )

    def add_rival(self) -> None:
        """Install something else that instruments the client."""
        entry = f"{self._case.rival} = rival:Instrumentor"
        distribution(self._folder, "rival", "opentelemetry_instrumentor", entry, RIVAL)

    def run(self, *without: str, check: bool = True, **environment: str) -> Said:
        """Run the application under the launcher, without some instrumentations.

        Those of the clients that it does not use are left out in any case.
        """
        others = [each for each in CASES if each.client != self._case.client]
        without = (*without, *(each.rival for each in others))
        without = (*without, *(f"hopspan_{each.client}" for each in others))
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "HOPSPAN_"))
        }
        path = os.pathsep.join([str(self._folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [LAUNCHER, sys.executable, self._folder / "app.py", self._url],
            env={
                **inherited,
                "PYTHONPATH": path,
                "OTEL_PYTHON_CONFIGURATOR": "sdk",
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(without),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        spans = [json.loads(line) for line in lines if line.startswith("{")]
        other = "\n".join(line for line in lines if not line.startswith("{"))
        ours = [line for line in done.stderr.splitlines() if "hopspan" in line]
        return Said(spans, other, ours)


@pytest.fixture
def launcher(tmp_path: Path, case: Case) -> Iterator[Launcher]:
    """The launcher, with a broker for its application."""
    if not LAUNCHER.exists():
        pytest.skip("the launcher, opentelemetry-instrumentation, is not installed")
    if not entry_points(group="opentelemetry_instrumentor", name=f"hopspan_{case.client}"):
        pytest.skip("hopspan runs from its source tree here: it has no entry points")
    with case.broker() as broker:
        yield Launcher(tmp_path, getattr(broker, "url", None) or broker.bootstrap, case)


@pytest.fixture
def contrib(case: Case) -> str:
    """The other instrumentation of the client, where it is installed."""
    if importlib.util.find_spec("opentelemetry.instrumentation") is None:
        pytest.skip("the launcher, opentelemetry-instrumentation, is not installed")
    if importlib.util.find_spec(case.contrib) is None:
        pytest.skip(f"{case.package} is not installed")
    return case.contrib


def test_the_launcher_traces_an_application_that_knows_nothing_of_it(
    launcher: Launcher, case: Case
) -> None:
    said = launcher.run(case.rival)  # whatever else instruments it here
    assert said.names() == case.names
    assert len(said.spans) == 4
    sent, handled = said.spans[:2], said.spans[2:]
    assert [span["parent"] for span in handled] == [span["id"] for span in sent]
    assert [span["trace"] for span in handled] == [span["trace"] for span in sent]
    assert said.complaints == []


def test_the_launcher_can_be_told_to_leave_it_out(launcher: Launcher, case: Case) -> None:
    assert launcher.run(case.rival, f"hopspan_{case.client}") == Said([], "", [])


def test_the_environment_sets_it_up(launcher: Launcher, case: Case) -> None:
    said = launcher.run(case.rival, HOPSPAN_CORRELATION="link")
    assert said.names() == case.names
    assert [span["parent"] for span in said.spans[2:]] == [None, None]


def test_beside_another_instrumentation_it_steps_back_and_says_so(
    launcher: Launcher, case: Case
) -> None:
    launcher.add_rival()
    said = launcher.run()
    assert said.names() == []
    assert "the rival was loaded" in said.other
    (complaint,) = said.complaints
    client = case.rival
    assert complaint.startswith(f"hopspan leaves {client} alone, or spans would be doubled: ")
    assert complaint.endswith(
        f" is installed as well; add {client} or hopspan_{case.client} to "
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    )


def test_with_the_other_instrumentation_left_out_it_is_there(
    launcher: Launcher, case: Case
) -> None:
    launcher.add_rival()
    said = launcher.run(case.rival)
    assert said.names() == case.names
    assert (said.other, said.complaints) == ("", [])


def test_it_does_not_lose_a_policy_beside_another_instrumentation(
    launcher: Launcher, case: Case
) -> None:
    launcher.add_rival()
    said = launcher.run(check=False, HOPSPAN_POLICY="requeue_once")
    lost = f"hopspan leaves {case.rival} alone, and HOPSPAN_POLICY is lost: rival"
    assert lost in said.complaints[-1]


def test_beside_contrib_no_span_is_doubled(launcher: Launcher, contrib: str, case: Case) -> None:
    said = launcher.run()
    assert said.names() == []
    assert said.names(contrib) != []
    (complaint,) = said.complaints
    assert f"{case.package} is installed as well" in complaint


def test_instead_of_contrib_it_traces_alone(launcher: Launcher, contrib: str, case: Case) -> None:
    said = launcher.run(case.rival)
    assert said.names(contrib) == []
    assert said.names() == case.names
