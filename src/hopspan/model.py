"""The vocabulary: immutable values that every other module speaks in.

Rules of this module: it imports the standard library only, performs nothing, and decides nothing.
Values are `NamedTuple`s, so they are immutable, hashable where their parts are, and cheap to build.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol, TypeVar


class HopspanError(Exception):
    """Every error that hopspan raises on purpose: a wrong setting, a policy that cannot work.

    hopspan raises it where the mistake is first known (decorating, wrapping, subscribing, the first
    delivery), always before a handler runs, and never for a fault of its own.
    """


class ConfigurationError(HopspanError, ValueError):
    """A setting that hopspan does not know, or a value that the setting does not take."""


class PolicyError(HopspanError):
    """A settlement policy that cannot do its work on the consumer or client it was given to."""


class UnknownMessageError(HopspanError, TypeError):
    """An object that is no message, channel or consumer of a client that hopspan knows."""


class OperationType(Enum):
    """`messaging.operation.type`: what an operation does to a message (messaging spans, 1.44)."""

    SEND = "send"
    RECEIVE = "receive"
    PROCESS = "process"
    SETTLE = "settle"
    INTERNAL = "internal"
    """None of the conventions': a call that only looks like a delivery, or a report of one that
    somebody else has had. It counts in no metric."""

    if not TYPE_CHECKING:  # Enum's is written in Python, and plans are looked up by it
        __hash__ = object.__hash__


class Verdict(Enum):
    """What becomes of a delivery on the broker.

    What each one means on the wire depends on the client:

    | verdict | AMQP | Kafka |
    | --- | --- | --- |
    | ACK | `basic.ack` | the offset is done |
    | REQUEUE | `basic.nack(requeue=True)` | seek back to the record |
    | REJECT | `basic.nack(requeue=False)`: dead-lettered, or dropped | a dead-letter topic |
    | LEAVE | nothing is sent | commits stop below it |
    """

    ACK = "ack"
    REQUEUE = "requeue"
    REJECT = "reject"
    LEAVE = "leave"

    if not TYPE_CHECKING:
        __hash__ = object.__hash__


class Settlement(NamedTuple):
    """A verdict with its reason: what a policy returns, and what the process span reports."""

    verdict: Verdict
    reason: str | None = None
    """Low-cardinality text for people; becomes `hopspan.settlement.reason`."""
    target: Any = None
    """Where a rejected message goes, for clients whose broker has no dead-lettering of its own."""
    pause: float = 0.0
    """Seconds before a requeued message is handed out again, for clients that can wait."""


class Endpoint(NamedTuple):
    """Where messages go to or come from: everything about it that is *low-cardinality*.

    Hashable, and the key under which span names and base attributes are cached.
    """

    system: str
    """`messaging.system`, for example `rabbitmq`."""
    destination: str = ""
    """`messaging.destination.name`."""
    template: str | None = None
    """`messaging.destination.template`, when a low-cardinality form of the name is known."""
    anonymous: bool = False
    """The broker or a client invented the name."""
    temporary: bool = False
    group: str | None = None
    """`messaging.consumer.group.name`."""
    server_address: str | None = None
    server_port: int | None = None


if TYPE_CHECKING:
    _Value = TypeVar("_Value", bound=tuple[Any, ...])

    class _Make(Protocol):
        def __call__(self, kind: type[_Value], fields: tuple[Any, ...], /) -> _Value: ...


make: _Make = tuple.__new__
"""Makes a value, given its class and a tuple of *all* of its fields.

The constructor of a `NamedTuple` is a Python function and takes twice as long: this is for values
that are made of each message."""


class MessageInfo(NamedTuple):
    """What differs from message to message on one endpoint: everything *high-cardinality*."""

    id: str | None = None
    conversation_id: str | None = None
    attributes: Mapping[str, Any] = {}
    """System-specific attributes, ready to be set on a span."""
    key: tuple[str, str] | None = None
    """The message's key with its attribute's name. Data of the application: set only on request."""


class SettledMessage(NamedTuple):
    """A message as the span of its settlement describes it: without its body and headers."""

    endpoint: Endpoint
    attributes: Mapping[str, Any]
    """The attributes of this message alone, as on its process span."""


if TYPE_CHECKING:
    Message = tuple[str | None, str | None, Mapping[str, Any], tuple[str, str] | None]
    Call = Callable[[Any], tuple[Sequence[Any], Mapping[str, Any]]]
    OutgoingFields = tuple[Any, Message, Any, Call]
    """An `Outgoing`, or a plain tuple like it, which is made in a fifth of the time. Its first
    field may be a `Route` instead of an endpoint: then the message's attributes are those that the
    route does not have."""


class Outgoing(NamedTuple):
    """One message about to leave, and how to call the client with other headers."""

    endpoint: Endpoint
    message: MessageInfo
    headers: Any
    call: Call
    """Given headers, the positional and keyword arguments of the native call that carries them."""


class Outcome(NamedTuple):
    """How the handling of a delivery went. Status, metrics and settlement all derive from it."""

    failed: bool = False
    error: BaseException | None = None
    """What escaped from the handler; None for a failure by `fail()` or by span status."""
    error_type: str | None = None
    """`error.type`: low-cardinality, the same on span and metrics. None on success."""
    description: str | None = None
    cancelled: bool = False
    """It was cancelled (`CancelledError`, `GeneratorExit`): neither success nor failure."""
    interrupted: bool = False
    """The interpreter is leaving (`SystemExit`, `KeyboardInterrupt`)."""


SUCCESS = Outcome()
