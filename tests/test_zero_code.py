"""`opentelemetry-instrument python app.py` traces pika through our entry point, and never twice.

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
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("pika")
pytest.importorskip("opentelemetry.sdk")

from tests.fakes.amqp import FakeRabbit

LAUNCHER = Path(sys.executable).with_name("opentelemetry-instrument")
CONTRIB = "opentelemetry.instrumentation.pika"
DEADLINE = 60

APP = '''
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
"""Another instrumentation of pika, which has not wrapped anything yet."""


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

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        (folder / "app.py").write_text(APP)
        distribution(
            folder, "sdkdistro", "opentelemetry_configurator", "sdk = sdkdistro:Configurator", SDK
        )

    def add_rival(self) -> None:
        """Install something else that instruments pika."""
        distribution(
            self._folder, "rival", "opentelemetry_instrumentor", "pika = rival:Instrumentor", RIVAL
        )

    def run(self, *without: str, check: bool = True, **environment: str) -> Said:
        """Run the application under the launcher, without some instrumentations."""
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
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """The launcher, with a broker for its application."""
    if not LAUNCHER.exists():
        pytest.skip("the launcher, opentelemetry-instrumentation, is not installed")
    if not entry_points(group="opentelemetry_instrumentor", name="hopspan_pika"):
        pytest.skip("hopspan runs from its source tree here: it has no entry points")
    with FakeRabbit() as broker:
        yield Launcher(tmp_path, broker.url)


@pytest.fixture
def contrib() -> str:
    """The other instrumentation of pika, where it is installed."""
    if importlib.util.find_spec("opentelemetry.instrumentation") is None:
        pytest.skip("the launcher, opentelemetry-instrumentation, is not installed")
    if importlib.util.find_spec(CONTRIB) is None:
        pytest.skip("opentelemetry-instrumentation-pika is not installed")
    return CONTRIB


def test_the_launcher_traces_an_application_that_knows_nothing_of_it(launcher: Launcher) -> None:
    said = launcher.run("pika")  # whatever else instruments pika here
    assert said.names() == ["publish orders", "publish orders", "process orders", "process orders"]
    assert len(said.spans) == 4
    sent, handled = said.spans[:2], said.spans[2:]
    assert [span["parent"] for span in handled] == [span["id"] for span in sent]
    assert [span["trace"] for span in handled] == [span["trace"] for span in sent]
    assert said.complaints == []


def test_the_launcher_can_be_told_to_leave_it_out(launcher: Launcher) -> None:
    assert launcher.run("pika", "hopspan_pika") == Said([], "", [])


def test_the_environment_sets_it_up(launcher: Launcher) -> None:
    said = launcher.run("pika", HOPSPAN_SETTLE_SPANS="all")
    assert said.names().count("ack orders") == 2


def test_beside_another_instrumentation_it_steps_back_and_says_so(launcher: Launcher) -> None:
    launcher.add_rival()
    said = launcher.run()
    assert said.names() == []
    assert "the rival was loaded" in said.other
    (complaint,) = said.complaints
    assert complaint.startswith("hopspan leaves pika alone, or spans would be doubled: ")
    assert complaint.endswith(
        " is installed as well; add pika or hopspan_pika to OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    )


def test_with_the_other_instrumentation_left_out_it_is_there(launcher: Launcher) -> None:
    launcher.add_rival()
    said = launcher.run("pika")
    assert said.names() == ["publish orders", "publish orders", "process orders", "process orders"]
    assert (said.other, said.complaints) == ("", [])


def test_it_does_not_lose_a_policy_beside_another_instrumentation(launcher: Launcher) -> None:
    launcher.add_rival()
    said = launcher.run(check=False, HOPSPAN_POLICY="requeue_once")
    assert "hopspan leaves pika alone, and HOPSPAN_POLICY is lost: rival" in said.complaints[-1]


def test_beside_contrib_no_span_is_doubled(launcher: Launcher, contrib: str) -> None:
    said = launcher.run()
    assert said.names() == []
    assert said.names(contrib) != []
    (complaint,) = said.complaints
    assert "opentelemetry-instrumentation-pika is installed as well" in complaint


def test_instead_of_contrib_it_traces_alone(launcher: Launcher, contrib: str) -> None:
    said = launcher.run("pika")
    assert said.names(contrib) == []
    assert len(said.names()) == 4
