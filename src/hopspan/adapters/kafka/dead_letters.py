"""Dead-lettering: a copy of the record is published, and the record is done when that is confirmed.

The application owns the producer: hopspan uses it, and neither wraps nor closes it. What the
consumer did not deserialise is copied byte by byte; what it did goes through the producer's
serialisers, which have to take the same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer

from hopspan.adapters import _kafka
from hopspan.adapters.kafka.sending import traced_send

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.adapters.kafka.consumers import Received
    from hopspan.processing import Processing

PAUSE = 1.0
"""Seconds before a record is handed out again whose copy could not be published."""
_PATIENCE = 120.0
"""Seconds to wait for the broker, where the producer has no such setting."""
_BYTES = (bytes, bytearray, memoryview, type(None))


def publish(
    native: Received, target: tuple[str, Any], processing: Processing | None, attempt: int
) -> None:
    """Publish a copy that tells the attempt that failed, and wait until the broker has it.

    Raises:
        Exception: what the producer raises; the record is then not done.
    """
    topic, producer = target
    record = native.record
    outcome = processing.outcome if processing is not None else None
    origin = _kafka.Origin(
        record.topic,
        record.partition,
        record.offset,
        outcome.error_type if outcome is not None else None,
        attempt,
    )
    headers = _kafka.dead_letter_headers(record.headers, origin)
    send = _send_of(producer, processing)
    future = send(topic, value=record.value, key=record.key, headers=headers)
    seconds = (producer.config.get("delivery_timeout_ms") or _PATIENCE * 1000) / 1000
    future.get(timeout=seconds + 1)


def _send_of(producer: Any, processing: Processing | None) -> Callable[..., Any]:
    """The producer's `send`, with a span and the context in the headers."""
    if not isinstance(producer, KafkaProducer) or processing is None:
        bare: Callable[..., Any] = producer.send
        return bare
    # What the copy carries came with the record; nobody has put it there on purpose.
    instrumenter = processing.instrumenter
    if instrumenter.config.keep_context:
        instrumenter = instrumenter.with_settings({"keep_context": False})
    return traced_send(producer, instrumenter)


def refusal(target: tuple[str, Any], record: Any) -> str | None:
    """Why a record could not be dead-lettered as the producer is configured, or None."""
    topic, producer = target
    config = getattr(producer, "config", None)
    if not isinstance(config, dict) or not callable(getattr(producer, "send", None)):
        return (
            f"dead_letter({topic!r}, producer=...) needs a KafkaProducer, and was given "
            f"{type(producer).__name__}"
        )
    if config.get("acks") == 0 or config.get("transactional_id"):
        setting = "acks" if config.get("acks") == 0 else "transactional_id"
        return (
            f"the producer of dead_letter({topic!r}) has {setting}={config[setting]!r}, so nobody "
            "knows whether the broker has the copy and keeps it. Give dead_letter a producer of "
            "its own, with acks and without transactions"
        )
    for what in ("key", "value"):
        given = getattr(record, what)
        if config.get(f"{what}_serializer") is None and not isinstance(given, _BYTES):
            return (
                f"the consumer deserialises each {what} (this one is {type(given).__name__}), and "
                f"the producer of dead_letter({topic!r}) has no {what}_serializer to write it "
                f"again. Give it one, or leave {what}_deserializer out of the consumer"
            )
    return None
