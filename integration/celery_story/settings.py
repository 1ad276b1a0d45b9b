"""What every process of a story is told, through one variable of its environment."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from typing_extensions import Self

VARIABLE = "TEST_CELERY_STORY"


class Settings(NamedTuple):
    """What a process is told."""

    broker: str
    backend: str
    """Always a Redis: only there chords need no polling."""
    queue: str
    """The default queue, and what the names of all others begin with."""
    journal: str
    """The file that every process appends to."""
    role: str
    """worker, web or beat."""
    cases: tuple[str, ...] = ()
    """What else there are queues for: each has a dead-letter queue."""
    provider: str = "import"
    """When the tracer provider is made: at `import`, before the fork, or at `process_init`."""
    delay: float = 5.0
    """Seconds between two exports. The SDK's own default is long enough to lose everything."""
    tick: float = 0.0
    """Seconds between two publishes of beat."""
    queue_arguments: dict[str, object] = {}  # noqa: RUF012 - never changed
    """Of the default queue."""
    transport_options: dict[str, object] = {}  # noqa: RUF012 - never changed

    @classmethod
    def from_environment(cls) -> Self:
        """What this process was told."""
        told = json.loads(os.environ[VARIABLE])
        return cls(**{**told, "cases": tuple(told["cases"])})

    def to_environment(self) -> dict[str, str]:
        """What to add to the environment of a process."""
        return {VARIABLE: json.dumps(self._asdict())}

    @property
    def go(self) -> str:
        """The file whose existence tells tasks that wait to go on."""
        return f"{self.journal}.go"


def queue_of(queue: str, case: str) -> str:
    """The queue of one case."""
    return f"{queue}.{case}"


def dead_queue_of(queue: str, case: str) -> str:
    """Where RabbitMQ puts what was rejected there."""
    return f"{queue}.{case}.dead"
