"""Publishing with `KafkaProducer`: the span ends when the future does.

Dead letters go the same way. The application owns their producer: hopspan uses it, and neither
wraps nor closes it. What the consumer did not deserialise is copied byte by byte; anything else
goes through the producer's serialisers, which have to take the same objects.
"""

from __future__ import annotations

import atexit
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer
from kafka.errors import BrokerResponseError

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import kafka_common
from hopspan.conventions import Route
from hopspan.delivery import Client, adapter_of, failure
from hopspan.interception import INTERCEPTED, sends
from hopspan.propagation import PAIRS
from hopspan.telemetry import Binding, binding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hopspan.model import OutgoingFields
    from hopspan.telemetry import Instrumenter, Operation

_HEADERS_SINCE = (0, 11)
"""The first broker version whose message format has headers."""
_TIMEOUT = 120.0
"""Seconds to wait for the broker, where the producer has no such setting."""
_BYTES = (bytes, bytearray, memoryview, type(None))


def error_type(error: BaseException) -> str | None:
    """The protocol's own word for an error, where the broker said one."""
    return error.message if isinstance(error, BrokerResponseError) else None


CLIENT = Client(
    "kafka",
    system=kafka_common.SYSTEM,
    codec=PAIRS,
    settle_names=kafka_common.SETTLE_NAMES,
    settled_already=kafka_common.SETTLED_ALREADY,
    error_type=error_type,
)


def send(  # noqa: PLR0917 - as in kafka-python
    producer: Any,
    topic: Any,
    value: Any = None,
    key: Any = None,
    headers: Any = None,
    partition: Any = None,
    timestamp_ms: Any = None,
    *rest: Any,
    **added: Any,
) -> OutgoingFields | None:
    """`KafkaProducer.send`."""
    if not isinstance(topic, str):
        return None  # the client is about to say so

    def call(carrying: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        if not kept.takes_headers or not (headers is None or isinstance(headers, list)):
            carrying = headers  # for the client to refuse, or to send as they are
        return (topic, value, key, carrying, partition, timestamp_ms, *rest), added

    kept = producer.__dict__.get(_KEPT) or _keep(producer)
    if key is None and partition is None and value is not None:
        return kept.routes[topic], _NOTHING, headers, call
    return kept.routes[topic], _described(value, key, partition), headers, call


_NOTHING: Any = (None, None, None, None)
"""A message of which there is nothing to say."""
_KEPT = "_hopspan_sends"
"""The attribute in which a producer keeps what its sends have in common."""


def _described(value: Any, key: Any, partition: Any) -> Any:
    """The fields that are special to a message."""
    attributes: dict[str, Any] = {}
    if partition is not None:
        attributes[names.PARTITION_ID] = str(partition)
    if value is None:
        attributes[kafka_common.TOMBSTONE] = True
    return None, None, attributes, kafka_common.key(key)


class _Sends:
    """The common part of all sends of one producer: its configuration, read once."""

    __slots__ = ("is_acked", "routes", "takes_headers")

    def __init__(self, config: Mapping[str, Any]) -> None:
        version = config.get("api_version")
        self.is_acked: bool = config.get("acks") != 0
        self.takes_headers: bool = not isinstance(version, tuple) or version >= _HEADERS_SINCE
        where = kafka_common.server(config.get("bootstrap_servers"))
        about = {names.CLIENT_ID: config.get("client_id")}
        self.routes = kafka_common.Routes(
            lambda topic: Route(
                names.plan(kafka_common.SEND, kafka_common.endpoint(topic, where)), about
            )
        )


def _keep(producer: Any) -> _Sends:
    kept = producer.__dict__[_KEPT] = _Sends(producer.config)
    return kept


class _Unanswered:
    """Operations whose future is not done. Their spans end when the process does.

    Without a lock: each step on the dictionary is atomic, and to leave twice is harmless.
    """

    def __init__(self) -> None:
        self._operations: dict[int, Operation] = {}
        self._is_registered = False

    def add(self, operation: Operation) -> None:
        """Wait for the answer to a publish."""
        self._operations[id(operation)] = operation
        if not self._is_registered:
            # Late, so that it runs early: before the SDK's own, and before the client's, which
            # gives up what it has not sent.
            self._is_registered = True
            atexit.register(self._leave)

    def forget(self) -> None:
        """This is a forked process: the answers come to the one that it is forked from."""
        self._operations = {}

    def remove(self, operation: Operation) -> None:
        """It is answered."""
        self._operations.pop(id(operation), None)

    def _leave(self) -> None:
        for key in list(self._operations):
            operation = self._operations.pop(key, None)
            if operation is not None:
                operation.end(attributes={names.UNANSWERED: True})


_unanswered = _Unanswered()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unanswered.forget)


def completes(producer: Any, operation: Operation, future: Any) -> bool:
    """A send is over when its future is done, on whatever thread that is."""
    _unanswered.add(operation)
    kept = producer.__dict__.get(_KEPT) or _keep(producer)
    answered = partial(_answered, operation, kept.is_acked)
    future.add_callback(answered)
    future.add_errback(answered)
    return True


def _answered(operation: Operation, is_acked: bool, answer: Any) -> None:
    """The future's value, or the error that it failed with."""
    try:
        _unanswered.remove(operation)
        if isinstance(answer, BaseException):
            operation.end(failure(CLIENT, answer))
            return
        attributes: dict[str, Any] = {names.PARTITION_ID: str(answer.partition)}
        if is_acked and answer.offset is not None and answer.offset >= 0:
            attributes[kafka_common.OFFSET] = answer.offset
        operation.end(attributes=attributes)
    except Exception:  # noqa: BLE001 - or the client would log it as one of the application's
        faults.report("ending a send")


_traced: Any = sends(kafka_common.SEND, send, completes)


def traced_send(producer: Any, instrumenter: Instrumenter) -> Callable[..., Any]:
    """The `send` of a producer that need not be wrapped or instrumented."""
    if binding_of(producer) is not None or hasattr(type(producer).send, INTERCEPTED):
        bare: Callable[..., Any] = producer.send
        return bare
    intercepted = _traced(type(producer).send, Binding(adapter_of(type(producer)), instrumenter))
    return partial(intercepted, producer)


# -- dead letters ----------------------------------------------------------------------------------


def publish_copy(
    target: tuple[str, Any], record: Any, headers: Any, instrumenter: Instrumenter | None
) -> None:
    """Publish a copy of a record with these headers, and wait until the broker has it.

    Raises:
        Exception: the producer's.
    """
    topic, producer = target
    send = producer.send
    if isinstance(producer, KafkaProducer) and instrumenter is not None:
        # The context of the copy came with the record; nobody has put it there on purpose.
        if instrumenter.config.keep_context:
            instrumenter = instrumenter.with_settings({"keep_context": False})
        send = traced_send(producer, instrumenter)
    future = send(topic, value=record.value, key=record.key, headers=headers)
    seconds = (producer.config.get("delivery_timeout_ms") or _TIMEOUT * 1000) / 1000
    future.get(timeout=seconds + 1)


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
