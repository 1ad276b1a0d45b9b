"""Publishing with `KafkaProducer`: the span ends when the future does."""

from __future__ import annotations

import atexit
import os
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.adapters import _kafka
from hopspan.adapters.kafka.errors import failure
from hopspan.interception import INTERCEPTED, sends
from hopspan.model import MessageInfo
from hopspan.processing import adapter_of
from hopspan.telemetry import Binding, binding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hopspan.model import Endpoint, Leaving
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
) -> Leaving | None:
    """`KafkaProducer.send`."""
    if not isinstance(topic, str):
        return None  # the client is about to say so

    def call(carrying: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        if not _takes_headers(producer, headers):
            carrying = headers  # for the client to refuse, or to send as they are
        return (topic, value, key, carrying, partition, timestamp_ms, *rest), added

    kept = producer.__dict__.get(_KEPT) or _keep(producer)
    is_plain = key is None and partition is None and value is not None
    message = kept.plain if is_plain else kept.described(value, key, partition)
    return kept.endpoint(topic), message, headers, call


_KEPT = "_hopspan_sends"
"""The attribute in which a producer keeps what its sends have in common."""
_MOST_TOPICS = 256


class _Sends:
    """What the sends of one producer have in common: its configuration, read once."""

    __slots__ = ("_about", "endpoint", "is_acked", "plain")

    def __init__(self, config: Mapping[str, Any]) -> None:
        where = _kafka.server(config.get("bootstrap_servers"))
        self._about: dict[str, Any] = {names.CLIENT_ID: config.get("client_id")}
        self.endpoint: Callable[[str], Endpoint] = lru_cache(_MOST_TOPICS)(
            lambda topic: _kafka.endpoint(topic, where)
        )
        self.is_acked: bool = config.get("acks") != 0
        self.plain: MessageInfo = MessageInfo(attributes=self._about)
        """A message of which there is nothing to say."""

    def described(self, value: Any, key: Any, partition: Any) -> MessageInfo:
        """What is special to a message."""
        attributes = dict(self._about)
        if partition is not None:
            attributes[names.PARTITION_ID] = str(partition)
        if value is None:
            attributes[_kafka.TOMBSTONE] = True
        return MessageInfo(attributes=attributes, key=_kafka.key(key))


def _keep(producer: Any) -> _Sends:
    kept = producer.__dict__[_KEPT] = _Sends(producer.config)
    return kept


def _takes_headers(producer: Any, headers: Any) -> bool:
    version = producer.config.get("api_version")
    is_old = isinstance(version, tuple) and version < _HEADERS_SINCE
    return (headers is None or isinstance(headers, list)) and not is_old


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
            operation.end(failure(answer))
            return
        attributes: dict[str, Any] = {names.PARTITION_ID: str(answer.partition)}
        if is_acked and answer.offset is not None and answer.offset >= 0:
            attributes[_kafka.OFFSET] = answer.offset
        operation.end(attributes=attributes)
    except Exception:  # noqa: BLE001 - or the client would log it as one of the application's
        faults.report("ending a send")


_traced: Any = sends(_kafka.SEND, send, completes)


def traced_send(producer: Any, instrumenter: Instrumenter) -> Callable[..., Any]:
    """The `send` of a producer that need not be wrapped or instrumented."""
    if binding_of(producer) is not None or hasattr(type(producer).send, INTERCEPTED):
        bare: Callable[..., Any] = producer.send
        return bare
    intercepted = _traced(type(producer).send, Binding(adapter_of(type(producer)), instrumenter))
    return partial(intercepted, producer)
