"""Kafka's settlement without a client: what may be committed, when, and where to go back to.

Kafka has no acks. A record is done, and a commit tells it later, together with everything below it.
This is the bookkeeping for that, for any client of Kafka's: an adapter derives a `Consumer`, tells
its `Tracker` what the client hands out and what the application does by itself, and gives it the
handlings of records.

Rules: no client is imported; nothing here starts or ends a handling.
"""

from hopspan.offsets.committer import COMMIT, TIMEOUT, UserCommit, on_answer
from hopspan.offsets.consumer import Consumer, Partition, Position, Positions
from hopspan.offsets.frontier import BatchHandling, Done, Frontier, Handling
from hopspan.offsets.registry import MixedConsumersError, Registry
from hopspan.offsets.tracker import RevokedError, Tracker

__all__ = [
    "COMMIT", "TIMEOUT", "BatchHandling", "Consumer", "Done", "Frontier", "Handling",
    "MixedConsumersError", "Partition", "Position", "Positions", "Registry", "RevokedError",
    "Tracker", "UserCommit", "on_answer",
]  # fmt: skip
