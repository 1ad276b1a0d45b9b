"""Publishing with `KafkaProducer`: the span ends when the future does."""

from __future__ import annotations

import atexit
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters.kafka.errors import failure
from hopspan.interception import INTERCEPTED, sends
from hopspan.model import MessageInfo, Outgoing
from hopspan.processing import adapter_of
from hopspan.telemetry import Binding, binding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.telemetry import Instrumenter, Operation

_HEADERS_SINCE = (0, 11)
"""The first broker version whose message format has headers."""


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
) -> Outgoing | None:
    """`KafkaProducer.send`."""
    if not isinstance(topic, str):
        return None  # the client is about to say so

    def call(carrying: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        if not _takes_headers(producer, headers):
            carrying = headers  # for the client to refuse, or to send as they are
        return (topic, value, key, carrying, partition, timestamp_ms, *rest), added

    config = producer.config
    attributes: dict[str, Any] = {names.CLIENT_ID: config.get("client_id")}
    if partition is not None:
        attributes[names.PARTITION_ID] = str(partition)
    if value is None:
        attributes[_kafka.TOMBSTONE] = True
    return Outgoing(
        _kafka.endpoint(topic, _kafka.server(config.get("bootstrap_servers"))),
        MessageInfo(attributes=attributes, key=_kafka.key(key)),
        headers,
        call,
    )


def _takes_headers(producer: Any, headers: Any) -> bool:
    version = producer.config.get("api_version")
    is_old = isinstance(version, tuple) and version < _HEADERS_SINCE
    return (headers is None or isinstance(headers, list)) and not is_old


class _Unanswered:
    """Operations whose future is not done. Their spans end when the process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[int, Operation] = {}
        self._is_registered = False

    def add(self, operation: Operation) -> None:
        """Wait for the answer to a publish."""
        with self._lock:
            self._operations[id(operation)] = operation
            if not self._is_registered:
                # Late, so that it runs early: before the SDK's own, and before the client's, which
                # gives up what it has not sent.
                self._is_registered = True
                atexit.register(self._leave)

    def forget(self) -> None:
        """This is a forked process: the answers come to the one that it is forked from."""
        self._lock = threading.Lock()
        self._operations = {}

    def remove(self, operation: Operation) -> None:
        """It is answered."""
        with self._lock:
            self._operations.pop(id(operation), None)

    def _leave(self) -> None:
        with self._lock:
            operations, self._operations = list(self._operations.values()), {}
        for operation in operations:
            operation.end(attributes={names.UNANSWERED: True})


_unanswered = _Unanswered()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unanswered.forget)


def completes(producer: Any, operation: Operation, future: Any) -> bool:
    """A send is over when its future is done, on whatever thread that is."""
    _unanswered.add(operation)
    is_acked = producer.config.get("acks") != 0
    future.add_callback(partial(_sent, operation, is_acked))
    future.add_errback(partial(_failed, operation))
    return True


def _sent(operation: Operation, is_acked: bool, metadata: Any) -> None:
    try:
        _unanswered.remove(operation)
        attributes: dict[str, Any] = {names.PARTITION_ID: str(metadata.partition)}
        if is_acked and metadata.offset is not None and metadata.offset >= 0:
            attributes[_kafka.OFFSET] = metadata.offset
        operation.end(attributes=attributes)
    except Exception:  # noqa: BLE001 - or the client would log it as one of the application's
        faults.report("ending a send")


def _failed(operation: Operation, error: BaseException) -> None:
    try:
        _unanswered.remove(operation)
        operation.end(failure(error))
    except Exception:  # noqa: BLE001
        faults.report("ending a send")


_traced: Any = sends(_kafka.SEND, send, completes)


def traced_send(producer: Any, instrumenter: Instrumenter) -> Callable[..., Any]:
    """The `send` of a producer that need not be wrapped or instrumented."""
    if binding_of(producer) is not None or hasattr(type(producer).send, INTERCEPTED):
        bare: Callable[..., Any] = producer.send
        return bare
    intercepted = _traced(type(producer).send, Binding(adapter_of(type(producer)), instrumenter))
    return partial(intercepted, producer)
