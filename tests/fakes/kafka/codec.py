"""Requests and responses as bytes, after schemas in a small language of their own.

    "group:str topics:[name:str partitions:[index:i32 epoch@6:i32]]"

A field is `name:type`; `name@6` is there from version 6 on, `name@2-4` in versions 2 to 4. `[...]` is
an array, of structures or of one type. Strings, bytes and arrays may be None. What comes in is read
into namespaces; what goes out is given as mappings.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

_NUMBERS = {
    name: struct.Struct(f">{code}")
    for name, code in {"bool": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q"}.items()
}
_TOKEN = re.compile(r"[\[\]]|\w+(?:@[\d-]+)?:|\w+")
_ALWAYS = range(1_000)


class Buffer:
    """Bytes and how far they are read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, kind: str) -> Any:
        packed = _NUMBERS[kind]
        (value,) = packed.unpack_from(self.data, self.at)
        self.at += packed.size
        return value

    def take(self, size: int) -> bytes | None:
        """So many bytes; None where their count says that there are none."""
        if size < 0:
            return None
        if len(self.data) - self.at < size:
            raise ValueError(f"{size} bytes announced, {len(self.data) - self.at} came")
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self) -> str | None:
        raw = self.take(self.number("i16"))
        return None if raw is None else raw.decode()


class Kind(NamedTuple):
    """How a type is read and written."""

    read: Callable[[Buffer, int], Any]
    write: Callable[[Any, int], bytes]


class Field(NamedTuple):
    name: str
    versions: range
    kind: Kind


def schema(text: str) -> Kind:
    """The structure that `text` describes."""
    return _structure(_fields(iter(_TOKEN.findall(text))))


def pack(kind: str, value: Any) -> bytes:
    return _NUMBERS[kind].pack(value)


def _fields(tokens: Iterator[str]) -> list[Field]:
    """Fields up to the bracket that closes them."""
    found = []
    for token in tokens:
        if token == "]":
            break
        name, _, versions = token.rstrip(":").partition("@")
        found.append(Field(name, _versions(versions), _kind(next(tokens), tokens)))
    return found


def _versions(text: str) -> range:
    if not text:
        return _ALWAYS
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1 if dash else _ALWAYS.stop)


def _kind(token: str, tokens: Iterator[str]) -> Kind:
    if token != "[":
        return _KINDS[token]
    first = next(tokens)
    if not first.endswith(":"):
        next(tokens)  # the closing bracket
        return _array(_KINDS[first])
    return _array(_structure(_fields(itertools.chain([first], tokens))))


def _structure(fields: list[Field]) -> Kind:
    def read(buffer: Buffer, version: int) -> SimpleNamespace:
        present = [field for field in fields if version in field.versions]
        return SimpleNamespace(
            **{field.name: field.kind.read(buffer, version) for field in present}
        )

    def write(value: Mapping[str, Any], version: int) -> bytes:
        present = [field for field in fields if version in field.versions]
        return b"".join(field.kind.write(value[field.name], version) for field in present)

    return Kind(read, write)


def _array(of: Kind) -> Kind:
    def read(buffer: Buffer, version: int) -> list[Any] | None:
        count = buffer.number("i32")
        return None if count < 0 else [of.read(buffer, version) for _ in range(count)]

    def write(values: list[Any] | None, version: int) -> bytes:
        if values is None:
            return pack("i32", -1)
        return pack("i32", len(values)) + b"".join(of.write(value, version) for value in values)

    return Kind(read, write)


def _number(name: str) -> Kind:
    return Kind(lambda buffer, _: buffer.number(name), lambda value, _: pack(name, value))


def _sized(count: str, raw: bytes | None) -> bytes:
    return pack(count, -1) if raw is None else pack(count, len(raw)) + raw


_KINDS = {
    **{name: _number(name) for name in _NUMBERS},
    "str": Kind(
        lambda buffer, _: buffer.text(),
        lambda value, _: _sized("i16", None if value is None else value.encode()),
    ),
    "bytes": Kind(
        lambda buffer, _: buffer.take(buffer.number("i32")),
        lambda value, _: _sized("i32", value),
    ),
}
