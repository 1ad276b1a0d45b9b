"""A real Celery worker with prefork children: what a child has done is there when it is gone.

The broker is a folder. Celery's children end through `os._exit`; hopspan flushes when Celery says so.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grpc")
pytest.importorskip("celery")

from tests.sdk.processes import DEADLINE, RENEWS_INSTANCES, clean
from tests.sdk.receivers import Receiver, grpc_receiver, http_receiver

MANY = 1000

APP = """
from pathlib import Path

import celery
from opentelemetry import trace

import hopspan
import hopspan.sdk

hopspan.instrument("celery")
telemetry = hopspan.sdk.setup("development", service_name="tasks")

folder = str(Path(__file__).parent)
app = celery.Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": folder + "/queue",
    "data_folder_out": folder + "/queue",
    "control_folder": folder + "/control",
    "polling_interval": 0.02,
}
app.conf.task_ignore_result = True
app.conf.worker_enable_remote_control = False

@app.task
def work():
    tracer = trace.get_tracer("test")
    for _ in range(1000):
        tracer.start_span("task").end()
"""


@pytest.fixture(params=["grpc", "http"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with (grpc_receiver if request.param == "grpc" else http_receiver)() as receiver:
        yield receiver


def celery(folder: Path, environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-Wignore", "-m", "celery", "-A", "tasks", *command],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("recycled", [True, False], ids=["recycled", "stopped"])
def test_the_spans_of_a_child_are_there(receiver: Receiver, recycled: bool, tmp_path: Path) -> None:
    """Three tasks, in a child each that is recycled after it, or in one that lives till the end."""
    (tmp_path / "tasks.py").write_text(APP)
    for each in ("queue", "control"):
        (tmp_path / each).mkdir()
    delay = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9000"}
    environment = clean({**receiver.environment(), "OTEL_BSP_MAX_QUEUE_SIZE": "9000", **delay})
    for _ in range(3):
        with celery(
            tmp_path, {**environment, "OTEL_SDK_DISABLED": "true"}, "call", "tasks.work"
        ) as sent:
            said, _ = sent.communicate(timeout=DEADLINE)
            assert 0 == sent.returncode, said
    options = ("--max-tasks-per-child", "1") if recycled else ()
    worker = ("worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "INFO")
    with celery(tmp_path, environment, *worker, *options) as process:
        said = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if said.count("succeeded in") == 3:
                    break
            if recycled:
                assert receiver.received.until(lambda all_: len(all_.spans) >= 2 * (MANY + 1)), said
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert {"task": 3 * MANY, "process tasks.work": 3} == receiver.received.names()
    instances = {span.resource["service.instance.id"] for span in receiver.received.spans}
    assert (3 if recycled and RENEWS_INSTANCES else 1) == len(instances)
