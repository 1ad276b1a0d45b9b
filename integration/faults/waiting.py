"""Waiting for something to come about, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

STEP_SECONDS = 60.0
"""How long anything that a fault is to bring about may take."""


class OverdueError(AssertionError):
    """Something did not come about in time."""


def wait(
    condition: Callable[[], Any], what: str, seconds: float = STEP_SECONDS, pause: float = 0.005
) -> Any:
    """Wait for something to become true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise OverdueError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return found
