"""The public API is typed as `tests/typing/api.py` has it, and the checker can say no."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
API = ROOT / "tests" / "typing" / "api.py"
DEADLINE = 300

pytestmark = pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")


def mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, str(path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=ROOT,
    )


def test_the_public_api_is_typed_as_it_is_used() -> None:
    done = mypy(API)
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n")


def test_a_mistake_in_it_would_be_found(tmp_path: Path) -> None:
    """What is marked as refused is really refused."""
    text = API.read_text()
    broken = tmp_path / "api.py"
    broken.write_text(text.replace("  # type: ignore", "  # ignore nothing"))
    done = mypy(broken)
    refused = text.count("  # type: ignore")
    assert done.stdout.splitlines()[-1] == (
        f"Found {refused} errors in 1 file (checked 1 source file)"
    )
