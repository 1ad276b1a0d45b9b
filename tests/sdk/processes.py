"""Programs under test, each in a process of its own: providers are global, and so is an exit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from opentelemetry.sdk import resources

DEADLINE = 40

RENEWS_INSTANCES = hasattr(resources, "ServiceInstanceIdResourceDetector")
"""Whether this SDK gives a forked child an instance id of its own."""

PRELUDE = """
import logging, os, signal, sys, time
logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
import hopspan.sdk
from opentelemetry import trace

def spans(number, name="work"):
    tracer = trace.get_tracer("test")
    for _ in range(number):
        tracer.start_span(name).end()

def say(text):
    print(text, flush=True)
"""


def clean(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anybody's telemetry settings."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "HOPSPAN_", "GRPC_")) and not key.endswith("_CA_BUNDLE")
    }
    quiet = {"GRPC_VERBOSITY": "NONE", "PYTHONFAULTHANDLER": "1"}
    return {**kept, **quiet, **(extra or {})}


def start(
    program: str,
    environment: Mapping[str, str],
    folder: Path | None = None,
    arguments: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-Wignore", "-c", PRELUDE + textwrap.dedent(program), *arguments],
        env=clean(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def run(
    program: str, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which a hang is not."""
    with start(program, environment, folder) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it hangs; it said {out!r} {err!r}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
