"""`hopspan doctor --app`, in a process of its own: providers are global, and set once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DEADLINE = 60

Row = tuple[str, str, str]
"""Level, what was found, how to mend it."""


class Report(NamedTuple):
    """What the doctor said."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)

    def of(self, check: str) -> list[Row]:
        """What a check found."""
        return [
            (each["level"], each["what"], each["mend"])
            for each in self.document["findings"]
            if each["check"] == check
        ]

    def levels(self) -> dict[str, set[str]]:
        """The levels of what each check found."""
        levels: dict[str, set[str]] = {}
        for each in self.document["findings"]:
            levels.setdefault(each["check"], set()).add(each["level"])
        return levels


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anybody's settings, and with these."""
    others = ("HOPSPAN_", "OTEL_", "GRPC_", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**kept, **variables}


class Doctor:
    """Runs it in a folder in which there is an application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on(self, application: str, *arguments: str, **variables: str) -> Report:
        """The JSON about an application, whose `set_up` is called."""
        (self.folder / "shop.py").write_text(textwrap.dedent(application), "utf-8")
        return self.run("--app", "shop:set_up", "--json", *arguments, **variables)

    def run(self, *arguments: str, **variables: str) -> Report:
        """Whatever the command says with these arguments."""
        done = subprocess.run(
            [sys.executable, "-m", "hopspan", "doctor", *arguments],
            cwd=self.folder,
            env=clean(variables),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        return Report(done.returncode, done.stdout, done.stderr)
