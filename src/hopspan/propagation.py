"""How context rides in message headers: replaced, never appended, never in the caller's own object.

The only module that writes a header. Works through the globally configured propagator (W3C trace
context and baggage by default; B3 or Jaeger where configured), on two header shapes: a mapping of
strings (AMQP tables, Celery) and a list of pairs (Kafka). Reading accepts any letter case, takes
the last duplicate and tolerates every value that a broker can deliver; it never raises.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from opentelemetry.baggage import get_all, set_baggage
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from hopspan import faults
from hopspan.entries import KEY, Names, encodable, leaving, with_only
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from opentelemetry.propagators.textmap import TextMapPropagator
    from typing_extensions import Self

__all__ = [
    "MAPPING",
    "PAIRS",
    "Codec",
    "carries_context",
    "check_propagators",
    "context_fields",
    "extract",
    "injected",
]

Pairs = list[tuple[str, Any]]

try:
    from opentelemetry.propagate import get_global_textmap
except Exception as _error:  # noqa: BLE001 - it reads OTEL_PROPAGATORS while it is imported
    # Kept until a face is bound, so that `hopspan doctor` can say it.
    _unusable = f"OTEL_PROPAGATORS={os.environ.get('OTEL_PROPAGATORS')!r} is not valid: {_error}"

    def get_global_textmap() -> TextMapPropagator:
        """There is none.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(_unusable)


def check_propagators() -> None:
    """Whether `OTEL_PROPAGATORS` can be used, as OpenTelemetry finds when it is imported.

    Raises:
        ConfigurationError: it names a propagator that is misspelt or not installed.
    """
    get_global_textmap()


class Codec(ABC):
    """Reads and writes one shape of header container. Stateless, so shared by all threads."""

    @abstractmethod
    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        """The headers as pairs, in order; empty for None."""

    @abstractmethod
    def replaced(self, headers: Any, stale: frozenset[str], fresh: dict[str, str]) -> Any:
        """A copy of `headers` without the stale keys (lower case) and with the fresh ones."""


class _MappingCodec(Codec):
    """AMQP header tables and their like: `str` values travel as text."""

    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        # Whatever has items will do for a client, so it does for us; for anything else this raises,
        # and the message leaves as it is.
        return () if headers is None else headers.items()

    def replaced(self, headers: Any, stale: frozenset[str], fresh: dict[str, str]) -> Any:
        kept = {key: value for key, value in self.items(headers) if _folded(key) not in stale}
        kept.update(fresh)
        return kept


class _PairsCodec(Codec):
    """Kafka record headers: a list of pairs whose values are bytes."""

    def items(self, headers: Any) -> Iterable[tuple[Any, Any]]:
        if isinstance(headers, Mapping) or headers is None:
            return ()
        return (pair for pair in headers if isinstance(pair, tuple) and len(pair) == 2)  # noqa: PLR2004

    def replaced(self, headers: Any, stale: frozenset[str], fresh: dict[str, str]) -> Any:
        kept = [pair for pair in headers or () if not _is_stale(pair, stale)]
        kept.extend((key, value.encode("utf-8")) for key, value in fresh.items())
        return kept


def _is_stale(pair: object, stale: frozenset[str]) -> bool:
    """Whether a header is one of these. What is no header at all is the client's to refuse."""
    return isinstance(pair, list | tuple) and bool(pair) and _folded(pair[0]) in stale


MAPPING: Codec = _MappingCodec()
PAIRS: Codec = _PairsCodec()


def _folded(key: object) -> object:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return key.lower() if isinstance(key, str) else key


def _text(value: object) -> str | None:
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
        text = _text(carrier.get(key.lower()))
        return None if text is None or len(text) > _LONGEST else [text]

    def keys(self, carrier: dict[str, Any]) -> list[str]:
        """For propagators with a header for each entry of baggage, such as Jaeger's."""
        keys = islice(carrier, _MOST_KEYS)
        return [key for key in keys if self.get(carrier, key) is not None]


class _Plain(Setter[dict[str, str]]):
    """Writes into a dict of our own."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


_LONGEST = 8192
"""W3C's limit for baggage; its others are lower. OpenTelemetry before 1.45 reads a long
`tracestate` in quadratic time: one that fills an AMQP frame would hold up a consumer for many
seconds."""
_BAGGAGE = "baggage"
_MOST_KEYS = 1024
"""A propagator that looks at all keys copies its baggage for each that it takes."""
_GETTER = _Folded()
_SETTER = _Plain()


def context_fields() -> frozenset[str]:
    """The headers that the configured propagator writes, in lower case."""
    return frozenset(field.lower() for field in get_global_textmap().fields)


class _Stale(frozenset[str]):
    """The headers of an earlier hop, in lower case: of these names, or with these beginnings."""

    __slots__ = ("_beginnings",)
    _beginnings: tuple[str, ...]

    def __new__(cls, names: Iterable[str], beginnings: tuple[str, ...]) -> Self:
        made = super().__new__(cls, names)
        made._beginnings = beginnings
        return made

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        return isinstance(name, str) and name.startswith(self._beginnings)


_PROBE = "hopspan-probe"
_known_prefixes: list[tuple[object, tuple[str, ...]]] = []


def _prefixes() -> tuple[str, ...]:
    """How the headers begin of a propagator that has one for each entry of baggage, as Jaeger's.

    It does not count them among its fields. Learnt once for each propagator.
    """
    propagator = get_global_textmap()
    if not _known_prefixes or _known_prefixes[0][0] is not propagator:
        span = NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1)))
        probe = set_baggage(_PROBE, "x", set_span_in_context(span, Context()))
        names = [name.lower() for name in _written(propagator, probe)]
        found = tuple(name[: -len(_PROBE)] for name in names if name.endswith(_PROBE))
        _known_prefixes[:] = [(propagator, tuple(each for each in found if each))]
    return _known_prefixes[0][1]


def inject_into(codec: Codec, headers: Any, context: Context, allowed: Names | None = None) -> Any:
    """A copy of `headers` that carries `context`, or `headers` itself where nothing is to change.

    The propagator's fields are removed first, in any letter case, so that a message that is
    forwarded or retried never keeps the `tracestate` or `baggage` of an earlier hop.

    Args:
        codec: How to write them.
        headers: The message's own.
        context: What they are to carry; what of its baggage may not leave stays behind.
        allowed: The names of entries that may leave; None for all.
    """
    propagator = get_global_textmap()
    if KEY in context:
        context = leaving(context, allowed)
    try:
        fresh = _written(propagator, context)
    except Exception:  # noqa: BLE001 - an entry that cannot be written is the only one that stays
        context = with_only(context, encodable(get_all(context)))
        fresh = _written(propagator, context)
    stale = _stale(frozenset(key.lower() for key in fresh), allowed)
    if not fresh and not _holds(codec, headers, stale):
        return headers
    return codec.replaced(headers, stale, fresh)


def _stale(fresh: frozenset[str], allowed: Names | None) -> _Stale:
    """What is not to be left of an earlier hop: also baggage that we know no propagator of."""
    names = context_fields() | fresh
    return _Stale(names if allowed is None else names | {_BAGGAGE}, _prefixes())


def emptied(codec: Codec, headers: Any, allowed: Names | None) -> Any:
    """Headers where no context could be written: without any where an allow-list is to hold."""
    try:
        stale = None if allowed is None else _stale(frozenset(), allowed)
        return headers if stale is None else codec.replaced(headers, stale, {})
    except Exception:  # noqa: BLE001 - neither a propagator nor headers that can be read
        return headers


def _written(propagator: TextMapPropagator, context: Context) -> dict[str, str]:
    written: dict[str, str] = {}
    propagator.inject(written, context, _SETTER)
    return written


def narrowed(codec: Codec, headers: Any, allowed: Names) -> Any:
    """A copy of headers that keep the context they have, with what of its baggage may leave.

    What cannot be read of it does not leave either.
    """
    return inject_into(codec, headers, extract_from(codec, headers, Context()), allowed)


def _holds(codec: Codec, headers: Any, keys: frozenset[str]) -> bool:
    return bool(headers) and any(_folded(key) in keys for key, _ in codec.items(headers))


def carries_context(codec: Codec, headers: Any) -> bool:
    """Whether a message holds a field of the configured propagator already."""
    return _holds(codec, headers, context_fields())


def extract_from(codec: Codec, headers: Any, context: Context, *, trust: bool = True) -> Context:
    """`context` with what the headers carry; unchanged for headers that are absent or malformed.

    Never raises: the application's handler runs whatever a producer has written into its headers.

    Args:
        codec: How to read them.
        headers: A message's.
        context: What to add to.
        trust: False leaves W3C's baggage unread: the propagator would log each entry that it finds
            malformed. Another propagator's is for the caller to leave out.
    """
    try:
        if not headers:
            return context
        folded = {
            name: value
            for key, value in codec.items(headers)
            if isinstance(name := _folded(key), str)
        }
        if not trust:
            folded.pop(_BAGGAGE, None)
        return get_global_textmap().extract(folded, context, _GETTER)
    except Exception:  # noqa: BLE001 - a propagator that raises must not reach the message path
        faults.report("reading the context in message headers", level=logging.WARNING)
        return context


def values_of(codec: Codec, headers: Any, names: Collection[str]) -> dict[str, list[Any]]:
    """The values of the headers of these names, which are given in lower case, in their order."""
    found: dict[str, list[Any]] = {}
    for key, value in codec.items(headers):
        name = _folded(key)
        if isinstance(name, str) and name in names:
            found.setdefault(name, []).append(value)
    return found


def _is_headers(headers: object) -> bool:
    return headers is None or isinstance(headers, Mapping | list | tuple)


def _codec_of(headers: object) -> Codec:
    return MAPPING if headers is None or isinstance(headers, Mapping) else PAIRS


def injected(headers: Any, context: Context, allowed: Names | None = None) -> Any:
    """`inject_into` for headers of either shape; always another object.

    Raises:
        TypeError: they are neither a mapping nor a list.
    """
    if not _is_headers(headers):
        kind = type(headers).__name__
        raise TypeError(f"inject() takes a mapping or a list of pairs, not {kind}")
    codec = _codec_of(headers)
    carried = inject_into(codec, headers, context, allowed)
    return codec.replaced(carried, frozenset(), {}) if carried is headers else carried


def extract(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Context:
    """Read trace context and baggage from message headers into a new, otherwise empty, context.

    Accepts any letter case, `str`, `bytes` and `bytearray` values, and takes the last of
    duplicates. Malformed headers give an empty context; it never raises.

    The result can be attached (`opentelemetry.context.attach`) or given to
    `start_span(context=...)`. Beware that an empty context is falsy: test it with `is`, never with
    `or`.
    """
    return extract_from(_codec_of(headers), headers, Context())
