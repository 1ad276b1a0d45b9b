"""Kafka's settlement without a client: what may be committed, when, and where to go back to.

Kafka has no acks. A record is done, and a commit tells it later, together with everything below it.
This is the bookkeeping for that, for any client of Kafka's: an adapter derives a `Consumer` and a
`Record`, and tells the `Tracker` what the client hands out and what the application does by itself.

Rules: no client is imported; a record's handling begins and ends as that of any delivery.
"""

from hopspan.offsets.committer import COMMIT, TIMEOUT, UserCommit, on_answer
from hopspan.offsets.consumer import Consumer, Partition, Position, Positions
from hopspan.offsets.frontier import BatchHandling, Done, Frontier, Handling
from hopspan.offsets.record import Record, RecordBatch, Records, RevokedError
from hopspan.offsets.tracker import Registry, Tracker

__all__ = [
    "COMMIT", "TIMEOUT", "BatchHandling", "Consumer", "Done", "Frontier", "Handling",
    "Partition", "Position", "Positions", "Record", "RecordBatch", "Records", "Registry",
    "RevokedError", "Tracker", "UserCommit", "on_answer",
]  # fmt: skip
