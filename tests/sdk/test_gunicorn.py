"""A real pre-fork server: its workers' spans are there after a graceful stop, and after recycling."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grpc")
pytest.importorskip("gunicorn")

from tests.sdk.processes import DEADLINE, RENEWS_INSTANCES, clean
from tests.sdk.receivers import Receiver, eventually, grpc_receiver, http_receiver

MANY = 1000

APP = """
import os
import hopspan.sdk
from opentelemetry import trace

telemetry = hopspan.sdk.setup("development", service_name="shop")
tracer = trace.get_tracer("test")
tracer.start_span("imported").end()

def app(environ, start_response):
    for _ in range(1000):
        tracer.start_span("request").end()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture(params=["grpc", "http"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with (grpc_receiver if request.param == "grpc" else http_receiver)() as receiver:
        yield receiver


def asked(url: str) -> int:
    """The process that answers."""
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:  # noqa: S310 - ours
        return int(answer.read())


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["in the worker", "preloaded"])
def test_the_workers_spans_are_there(
    receiver: Receiver, options: tuple[str, ...], tmp_path: Path
) -> None:
    """A worker is recycled after two requests; the next one is stopped after the third."""
    (tmp_path / "shop.py").write_text(APP)
    port = free_port()
    command = [
        *(sys.executable, "-Wignore", "-m", "gunicorn", "shop:app"),
        *("--bind", f"127.0.0.1:{port}", "--workers", "1", "--max-requests", "2"),
        *("--log-level", "warning", *options),
    ]
    environment = clean({**receiver.environment(), "OTEL_BSP_MAX_QUEUE_SIZE": "20000"})
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert eventually(lambda: is_up(port))
            url = f"http://127.0.0.1:{port}"
            first = asked(url)
            second = asked(url)
            assert eventually(lambda: receiver.received.names().get("request") == 2 * MANY)
            third = asked(url)
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate(timeout=DEADLINE)
        finally:
            server.kill()
    assert (0, "") == (server.returncode, said)
    assert first == second != third
    assert 3 * MANY == receiver.received.names()["request"]
    instances = {
        span.resource["service.instance.id"]
        for span in receiver.received.spans
        if span.name == "request"
    }
    is_shared = "--preload" in options and not RENEWS_INSTANCES
    assert (1 if is_shared else 2) == len(instances), "each worker is an instance of its own"
