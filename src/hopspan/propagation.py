"""How context rides in message headers: replaced, never appended, never in the caller's own object.

The only module that writes a header. Works through the globally configured propagator (W3C trace
context and baggage by default; B3 or Jaeger where configured), on two header shapes: a mapping of
strings (AMQP tables, Celery) and a list of pairs (Kafka). Reading accepts any letter case, takes
the last duplicate and tolerates every value that a broker can deliver; it never raises.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from opentelemetry import propagate
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter, Setter

from hopspan import faults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.propagators.textmap import TextMapPropagator

__all__ = ["MAPPING", "PAIRS", "Codec", "carries_context", "extract", "inject"]

Pairs = list[tuple[str, Any]]


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
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            return None
    return None


class _Folded(Getter[dict[str, Any]]):
    """Reads a dict whose keys are lower case already. Values are decoded only when asked for."""

    def get(self, carrier: dict[str, Any], key: str) -> list[str] | None:
        text = _text(carrier.get(key.lower()))
        return None if text is None or len(text) > _LONGEST else [text]

    def keys(self, carrier: dict[str, Any]) -> list[str]:
        return list(carrier)


class _Plain(Setter[dict[str, str]]):
    """Writes into a dict of our own."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


_LONGEST = 8192
"""W3C's limit for baggage; its others are lower. OpenTelemetry before 1.45 reads a long
`tracestate` in quadratic time: one that fills an AMQP frame would hold up a consumer for many
seconds."""
_GETTER = _Folded()
_SETTER = _Plain()


def _stale_keys(propagator: TextMapPropagator) -> frozenset[str]:
    return frozenset(field.lower() for field in propagator.fields)


def inject_into(codec: Codec, headers: Any, context: Context) -> Any:
    """A copy of `headers` that carries `context`, or `headers` itself where nothing is to change.

    The propagator's fields are removed first, in any letter case, so that a message that is
    forwarded or retried never keeps the `tracestate` or `baggage` of an earlier hop.
    """
    propagator = propagate.get_global_textmap()
    fresh: dict[str, str] = {}
    propagator.inject(fresh, context, _SETTER)
    stale = _stale_keys(propagator) | frozenset(key.lower() for key in fresh)
    if not fresh and not _holds(codec, headers, stale):
        return headers
    return codec.replaced(headers, stale, fresh)


def _holds(codec: Codec, headers: Any, keys: frozenset[str]) -> bool:
    return bool(headers) and any(_folded(key) in keys for key, _ in codec.items(headers))


def carries_context(codec: Codec, headers: Any) -> bool:
    """Whether a message holds a field of the configured propagator already."""
    return _holds(codec, headers, _stale_keys(propagate.get_global_textmap()))


def extract_from(codec: Codec, headers: Any, context: Context) -> Context:
    """`context` with what the headers carry; unchanged for headers that are absent or malformed.

    Never raises: the application's handler runs whatever a producer has written into its headers.
    """
    try:
        if not headers:
            return context
        folded = {
            name: value
            for key, value in codec.items(headers)
            if isinstance(name := _folded(key), str)
        }
        return propagate.get_global_textmap().extract(folded, context, _GETTER)
    except Exception:  # noqa: BLE001 - a propagator that raises must not reach the message path
        faults.report("reading the context in message headers", level=logging.WARNING)
        return context


def _is_headers(headers: object) -> bool:
    return headers is None or isinstance(headers, Mapping | list | tuple)


def _codec_of(headers: object) -> Codec:
    return MAPPING if headers is None or isinstance(headers, Mapping) else PAIRS


@overload
def inject(headers: None = None, context: Context | None = None) -> dict[str, Any]: ...
@overload
def inject(headers: Mapping[str, Any], context: Context | None = None) -> dict[str, Any]: ...
@overload
def inject(
    headers: list[tuple[str, Any]], context: Context | None = None
) -> list[tuple[str, Any]]: ...
def inject(
    headers: Mapping[str, Any] | list[tuple[str, Any]] | None = None, context: Context | None = None
) -> dict[str, Any] | list[tuple[str, Any]]:
    """Copy message headers and put the current trace context and baggage into the copy.

    For clients that hopspan does not know and for outboxes: store the result with the message and
    hand it to the client later. Any context that the headers held before is replaced.

    Args:
        headers: A mapping, or a list of `(key, value)` pairs whose values the client wants as bytes
            (Kafka). None means no headers yet. Never changed.
        context: The OpenTelemetry context to carry; the current one when omitted.

    Returns:
        A new `dict`, or a new list of pairs for a list.

    Thread and task safety: no state; reads the caller's current context.
    """
    if not _is_headers(headers):
        kind = type(headers).__name__
        raise TypeError(f"inject() takes a mapping or a list of pairs, not {kind}")
    codec = _codec_of(headers)
    carried = inject_into(codec, headers, get_current() if context is None else context)
    return codec.replaced(carried, frozenset(), {}) if carried is headers else carried  # type: ignore[no-any-return]


def extract(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Context:
    """Read trace context and baggage from message headers into a new, otherwise empty, context.

    Accepts any letter case, `str`, `bytes` and `bytearray` values, and takes the last of
    duplicates. Malformed headers give an empty context; it never raises.

    The result can be attached (`opentelemetry.context.attach`) or given to
    `start_span(context=...)`. Beware that an empty context is falsy: test it with `is`, never with
    `or`.
    """
    return extract_from(_codec_of(headers), headers, Context())
