"""Message headers in the two shapes that clients have: a mapping, or a list of pairs.

Reading accepts any letter case, takes the last duplicate and tolerates every value that a broker
can deliver. Writing replaces, in a copy: never in the caller's own object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from opentelemetry.propagators.textmap import Getter, Setter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from typing_extensions import Self

LONGEST = 8192
"""W3C's limit for baggage; its others are lower. OpenTelemetry before 1.45 reads a long
`tracestate` in quadratic time: one that fills an AMQP frame would hold up a consumer for many
seconds."""
_MOST_KEYS = 1024
"""A propagator that looks at all keys copies its baggage for each that it takes."""


ASK: Any = object()
"""The answer of `Codec.traceparent` for headers that only a propagator can read."""
_CONTEXT = frozenset({"traceparent", "tracestate", "baggage"})
_MOST_NAMES = 1024
"""Bounds what is remembered of header names, which senders choose."""


class Codec(ABC):
    """Reads and writes one shape of header container. Shared by all threads."""

    @abstractmethod
    def traceparent(self, headers: Any) -> Any:
        """The value of `traceparent`, where it is the only header of a context; None where none is.

        `ASK` for every other case: `tracestate` or baggage beside it, a name given twice, or a
        container of another class than clients make. Names are compared in any letter case; what
        was found out about names is remembered, since messages repeat them.
        """

    @abstractmethod
    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        """The headers as pairs, in order; empty for None."""

    def traceparents(self, many: Iterable[Any]) -> list[Any] | None:
        """The values of `traceparent` in the headers of many messages, as above, without None.

        None where one of them is for a propagator to read.
        """
        found = [self.traceparent(headers) for headers in many if headers]
        return None if ASK in found else [each for each in found if each is not None]

    @abstractmethod
    def with_traceparent(self, headers: Any, value: str) -> Any:
        """A copy of `headers` whose only header of a W3C context is this `traceparent`."""

    @abstractmethod
    def replaced(self, headers: Any, stale: Collection[Any], fresh: dict[str, str]) -> Any:
        """A copy of `headers` without the stale keys (lower case) and with the fresh ones."""

    def found(self, headers: Any, names: Collection[Any]) -> dict[str, Any]:
        """The headers of these names, which are given in lower case.

        Of duplicates the last, but a name that is written in lower case wins over all others.
        """
        found: dict[str, Any] = {}
        exact: dict[str, Any] = {}
        for key, value in self.items(headers):
            if type(key) is str:
                name: Any = key.lower()
            elif not isinstance(name := folded(key), str):
                continue
            if name in names:
                found[name] = value
                if name == key:
                    exact[name] = value
        found.update(exact)
        return found


class _MappingCodec(Codec):
    """AMQP header tables and their like: `str` values travel as text."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[Any, ...], Any] = {}

    def traceparent(self, headers: Any) -> Any:
        if type(headers) is not dict:
            return ASK
        names = tuple(headers)
        try:
            key = self._layouts[names]
        except KeyError:
            key = self._learn(names)
        return key if key is None or key is ASK else headers[key]

    def with_traceparent(self, headers: Any, value: str) -> Any:
        if headers is None:
            return {"traceparent": value}
        if type(headers) is not dict:
            return self.replaced(headers, _CONTEXT, {"traceparent": value})
        fresh = headers.copy()
        names = tuple(headers)
        key = self._layouts[names] if names in self._layouts else self._learn(names)
        if key is ASK:
            for name in names:
                if folded(name) in _CONTEXT:
                    del fresh[name]
        elif key is not None:
            del fresh[key]
        fresh["traceparent"] = value
        return fresh

    def _learn(self, names: tuple[Any, ...]) -> Any:
        """Find the key of `traceparent` among the names of headers, and remember it."""
        ours = [name for name in names if folded(name) in _CONTEXT]
        key = ASK if ours else None
        if len(ours) == 1 and folded(ours[0]) == "traceparent":
            key = ours[0]
        if len(self._layouts) >= _MOST_NAMES:
            self._layouts.clear()
        self._layouts[names] = key
        return key

    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        # Whatever has items will do for a client, so it does for us; for anything else this raises,
        # and the message leaves as it is.
        return () if headers is None else headers.items()

    def replaced(self, headers: Any, stale: Collection[Any], fresh: dict[str, str]) -> Any:
        if headers is None:
            return fresh
        # Copied in one go: hardly ever is there anything to leave out.
        kept = {**headers} if type(headers) is dict else dict(self.items(headers))
        for key in tuple(kept):
            if (key.lower() if type(key) is str else folded(key)) in stale:
                del kept[key]
        kept.update(fresh)
        return kept


class _PairsCodec(Codec):
    """Kafka record headers: a list of pairs whose values are bytes."""

    def __init__(self) -> None:
        self._harmless: set[str] = set()

    def traceparent(self, headers: Any) -> Any:
        found, harmless = None, self._harmless
        try:
            for pair in headers if type(headers) is list else self.items(headers):
                name, value = pair
                if name == "traceparent" and found is None and type(pair) is tuple:
                    found = value
                elif name not in harmless and not self._is_harmless(name):
                    return ASK
        except (TypeError, ValueError):  # no pair, or a name that cannot be one
            return ASK
        return found

    def traceparents(self, many: Iterable[Any]) -> list[Any] | None:
        # `traceparent`, without a call for each.
        values, harmless = [], self._harmless
        try:
            for headers in many:
                if type(headers) is not list and headers:
                    return None
                found = None
                for pair in headers or ():
                    name, value = pair
                    if name == "traceparent" and found is None and type(pair) is tuple:
                        found = value
                    elif name not in harmless and not self._is_harmless(name):
                        return None
                if found is not None:
                    values.append(found)
        except (TypeError, ValueError):
            return None
        return values

    def with_traceparent(self, headers: Any, value: str) -> Any:
        if not headers:
            return [("traceparent", value.encode())]
        harmless = self._harmless
        try:
            if type(headers) is list:
                for name, _ in headers:
                    if name not in harmless and not self._is_harmless(name):
                        break
                else:
                    return [*headers, ("traceparent", value.encode())]
        except (TypeError, ValueError):  # no pair: the client is about to refuse it
            pass
        return self.replaced(headers, _CONTEXT, {"traceparent": value})

    def _is_harmless(self, name: Any) -> bool:
        """Whether a name is text and no header of a context; if so, remember it."""
        if type(name) is not str or name.lower() in _CONTEXT:
            return False
        if len(self._harmless) >= _MOST_NAMES:
            self._harmless.clear()
        self._harmless.add(name)
        return True

    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        if isinstance(headers, Mapping) or headers is None:
            return ()
        return [pair for pair in headers if isinstance(pair, tuple) and len(pair) == 2]  # noqa: PLR2004

    def found(self, headers: Any, names: Collection[Any]) -> dict[str, Any]:
        pairs = headers if type(headers) is list else self.items(headers)
        found = {}
        for pair in pairs:
            if type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str:  # noqa: PLR2004
                name = pair[0].lower()
                if name in names:
                    found[name] = pair[1]
            elif isinstance(pair, tuple):  # hardly ever: what a client does not make by itself
                found.update(super().found([pair], names))
        return found

    def replaced(self, headers: Any, stale: Collection[Any], fresh: dict[str, str]) -> Any:
        kept = [pair for pair in headers or () if not _is_stale(pair, stale)]
        for key, value in fresh.items():
            kept.append((key, value.encode("utf-8")))
        return kept


def _is_stale(pair: object, stale: Collection[Any]) -> bool:
    """Whether a header is one of these. What is no header at all is the client's to refuse."""
    return isinstance(pair, list | tuple) and bool(pair) and folded(pair[0]) in stale


MAPPING: Codec = _MappingCodec()
PAIRS: Codec = _PairsCodec()


class Stale(frozenset[str]):
    """The headers of an earlier hop, in lower case: of these names, or with these beginnings."""

    __slots__ = ("beginnings",)
    beginnings: tuple[str, ...]

    def __new__(cls, names: Iterable[str], beginnings: tuple[str, ...]) -> Self:
        """These names, and these beginnings of names."""
        made = super().__new__(cls, names)
        made.beginnings = beginnings
        return made

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        return isinstance(name, str) and name.startswith(self.beginnings)


def folded(key: object) -> object:
    """The name of a header in lower case, as far as it is one."""
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return key.lower() if isinstance(key, str) else key


def text(value: object) -> str | None:
    """A header value as text, or None for what no propagator could read."""
    if isinstance(value, str):
        return value if value.isascii() or _is_encodable(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            return None
    return None


def _is_encodable(text: str) -> bool:
    """Whether a text can be read by a propagator: JSON brings lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Folded(Getter[dict[str, Any]]):
    """Reads a dict whose keys are lower case already. Values are decoded only when asked for."""

    def get(self, carrier: dict[str, Any], key: str) -> list[str] | None:
        """The value of a header, if it can be text."""
        found = text(carrier.get(key.lower()))
        return None if found is None or len(found) > LONGEST else [found]

    def keys(self, carrier: dict[str, Any]) -> list[str]:
        """For propagators with a header for each entry of baggage, such as Jaeger's."""
        keys = islice(carrier, _MOST_KEYS)
        return [key for key in keys if self.get(carrier, key) is not None]


class _Plain(Setter[dict[str, str]]):
    """Writes into a dict of our own."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


GETTER = _Folded()
SETTER = _Plain()


def values_of(codec: Codec, headers: Any, names: Collection[str]) -> dict[str, list[Any]]:
    """The values of the headers of these names, which are given in lower case, in their order."""
    found: dict[str, list[Any]] = {}
    for key, value in codec.items(headers):
        name = folded(key)
        if isinstance(name, str) and name in names:
            found.setdefault(name, []).append(value)
    return found


def codec_of(headers: object) -> Codec:
    """How to read headers of either shape."""
    return MAPPING if headers is None or isinstance(headers, Mapping) else PAIRS
