"""Record batches, format 2: what producers send, what consumers get, what tests see of them.

What old producers send in formats 0 and 1 is converted on arrival.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from .codec import Buffer

Headers = Sequence[tuple[bytes, "bytes | None"]]

_HEADER = struct.Struct(">qiibIhiqqqhii")
_OFFSET_AND_LENGTH = struct.Struct(">qi")
_UNCHECKED = 21  # the checksum covers what follows it
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_GZIP = 1
NO_PRODUCER = -1


class CorruptError(ValueError):
    """Bytes that are no record batch."""


class CompressedError(ValueError):
    """A codec that the standard library does not have."""


class Record(NamedTuple):
    """A record as it is stored. `headers` are the bytes on the wire, in their order."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[bytes, bytes | None]]
    timestamp: int


class Batch(NamedTuple):
    """One batch in a partition's log; `raw` begins with the offset that the log gave it."""

    base: int
    last: int
    raw: bytes
    attributes: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    sequence: int
    record_count: int

    @property
    def control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)

    def records(self, partition: int) -> list[Record]:
        """What is in it; a marker of a transaction has nothing for readers."""
        if self.control:
            return []
        first = _HEADER.unpack_from(self.raw)[7]
        reader = _Reader(_plain(self.raw[_HEADER.size :], self.attributes))
        return [reader.record(partition, self.base, first) for _ in range(self.record_count)]

    def at(self, base: int, leader_epoch: int) -> Batch:
        """The same batch where the log puts it."""
        head = _OFFSET_AND_LENGTH.pack(base, len(self.raw) - _OFFSET_AND_LENGTH.size)
        raw = head + struct.pack(">i", leader_epoch) + self.raw[16:]
        return self._replace(base=base, last=base + self.last - self.base, raw=raw)

    def without(self, offsets: set[int], partition: int) -> Batch:
        """The batch as the compaction of a log leaves it: fewer records, the same offsets."""
        kept = [record for record in self.records(partition) if record.offset not in offsets]
        return self._replace(
            raw=_encode(kept, self, leader_epoch=struct.unpack_from(">i", self.raw, 12)[0]),
            attributes=self.attributes & ~_CODEC,
            record_count=len(kept),
        )


def parse(raw: bytes) -> list[Batch]:
    """The batches that a producer sent; CorruptError or CompressedError where they are not good."""
    found = []
    while raw:
        if _magic(raw) < 2:
            return [_convert(raw)]
        if len(raw) < _HEADER.size:
            raise CorruptError("too short")
        base, length, _, magic, crc, attributes, delta, _, stamp, *producer = _HEADER.unpack_from(
            raw
        )
        size = _OFFSET_AND_LENGTH.size + length
        one, raw = raw[:size], raw[size:]
        if magic != 2 or len(one) != size or crc32c(one[_UNCHECKED:]) != crc:
            raise CorruptError("another format, cut off, or another checksum")
        batch = Batch(base, base + delta, one, attributes, stamp, *producer)
        batch.records(0)  # what cannot be read is refused, not stored
        found.append(batch)
    return found


def _magic(raw: bytes) -> int:
    """The version of the format, which is at the same place in all."""
    return raw[16] if len(raw) > 16 else 2


def _convert(raw: bytes) -> Batch:
    """One batch of what came in the formats 0 and 1, which have no headers."""
    found: list[Record] = []
    while raw:
        _, size, crc, magic, attributes = struct.unpack_from(">qiIbb", raw)
        message, raw = raw[12 : 12 + size], raw[12 + size :]
        if len(message) != size or zlib.crc32(message[4:]) != crc:
            raise CorruptError("cut off, or another checksum")
        if attributes & _CODEC:
            raise CompressedError("an old format, compressed")
        timestamp = struct.unpack_from(">q", message, 6)[0] if magic else -1
        rest = Buffer(message[14 if magic else 6 :])
        key, value = (rest.take(rest.number("i32")) for _ in range(2))
        found.append(Record(0, len(found), key, value, [], timestamp))
    newest = max(record.timestamp for record in found)
    batch = Batch(0, len(found) - 1, b"", 0, newest, NO_PRODUCER, -1, -1, len(found))
    return batch._replace(raw=_encode(found, batch))


def build(
    key: bytes | None, value: bytes | None, headers: Headers, timestamp: int, partition: int = 0
) -> Batch:
    """A batch with one record."""
    record = Record(partition, 0, key, value, list(headers), timestamp)
    batch = Batch(0, 0, b"", 0, timestamp, NO_PRODUCER, -1, -1, 1)
    return batch._replace(raw=_encode([record], batch))


def marker(*, committed: bool, producer_id: int, producer_epoch: int, offsets: int = 1) -> Batch:
    """The end of a transaction, which takes offsets in the log and is no record to anybody."""
    attributes = _CONTROL | _TRANSACTIONAL
    batch = Batch(0, offsets - 1, b"", attributes, 0, producer_id, producer_epoch, -1, 1)
    key, value = struct.pack(">hh", 0, committed), struct.pack(">hi", 0, 0)
    return batch._replace(raw=_encode([Record(0, 0, key, value, [], 0)], batch))


def _encode(records: list[Record], batch: Batch, leader_epoch: int = 0) -> bytes:
    first = records[0].timestamp if records else batch.max_timestamp
    checked = struct.pack(
        ">hiqqqhii",
        batch.attributes & ~_CODEC,
        batch.last - batch.base,
        first,
        batch.max_timestamp,
        batch.producer_id,
        batch.producer_epoch,
        batch.sequence,
        len(records),
    ) + b"".join(_encode_record(record, batch.base, first) for record in records)
    unchecked = struct.pack(">ibI", leader_epoch, 2, crc32c(checked))
    length = len(unchecked) + len(checked)
    return _OFFSET_AND_LENGTH.pack(batch.base, length) + unchecked + checked


def _encode_record(record: Record, base: int, first: int) -> bytes:
    headers = b"".join(_sized(name) + _sized(value) for name, value in record.headers)
    body = b"".join(
        (
            b"\0",
            _varint(record.timestamp - first),
            _varint(record.offset - base),
            _sized(record.key),
            _sized(record.value),
            _varint(len(record.headers)),
            headers,
        )
    )
    return _varint(len(body)) + body


def _sized(raw: bytes | None) -> bytes:
    return _varint(-1) if raw is None else _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def record(self, partition: int, base: int, first: int) -> Record:
        self._varint()  # the size
        self._at += 1  # attributes, of which there are none
        timestamp, offset = first + self._varint(), base + self._varint()
        key, value = self._sized(), self._sized()
        headers = [(self._sized() or b"", self._sized()) for _ in range(self._varint())]
        return Record(partition, offset, key, value, headers, timestamp)

    def _sized(self) -> bytes | None:
        size = self._varint()
        if size < 0:
            return None
        self._at += size
        if self._at > len(self._data):
            raise CorruptError("a record is cut off")
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            if self._at == len(self._data):
                raise CorruptError("a record is cut off")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value >> 1 ^ -(value & 1)


def _plain(records: bytes, attributes: int) -> bytes:
    codec = attributes & _CODEC
    if codec not in (0, _GZIP):
        raise CompressedError(f"codec {codec}")
    return gzip.decompress(records) if codec else records


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 if byte & 1 else byte >> 1
    return byte


_TABLE = [_remainder(byte) for byte in range(256)]
