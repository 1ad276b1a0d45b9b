"""Reading the broker's own log of commits, the topic `__consumer_offsets`.

Keys of version 0 and 1 are of commits, later ones of other things; a value of None takes a commit
back. Fields: group-coordinator/src/main/resources/common/message in Kafka's source, 4.1.
"""

from __future__ import annotations

import struct

from integration.faults.kafka_ledger import Commit


def commit_of(group: str, key: bytes, value: bytes | None) -> Commit | None:
    """Read one record of the log: a commit of this group, or None for anything else."""
    (version,) = struct.unpack_from(">h", key)
    if version > 1 or value is None:
        return None
    name, at = _text(key, 2)
    _, at = _text(key, at)
    (partition,) = struct.unpack_from(">i", key, at)
    return _committed(partition, value) if name == group else None


def _committed(partition: int, value: bytes) -> Commit:
    version, offset = struct.unpack_from(">hq", value)
    assert version in {1, 3, 4}, f"a commit of version {version}: look up its fields"
    at = 14 if version >= 3 else 10  # from then on with a leader epoch
    _, at = _compact_text(value, at) if version >= 4 else _text(value, at)
    (milliseconds,) = struct.unpack_from(">q", value, at)
    return Commit(partition, offset, milliseconds / 1000)


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    end = at + 2 + size
    return data[at + 2 : end].decode(), end


def _compact_text(data: bytes, at: int) -> tuple[str, int]:
    assert data[at] < 128, "so long a text has a longer size"
    end = at + data[at]  # its size and one more, in one byte
    return data[at + 1 : end].decode(), end
