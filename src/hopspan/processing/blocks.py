"""`process`: handle a message, or a batch as one, in a `with` or `async with` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.processing.adapting import adapter_among, unknown
from hopspan.processing.holding import Hold
from hopspan.processing.opening import NOTHING, begin, started
from hopspan.telemetry import face_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Unpack

    from hopspan.config import Settings
    from hopspan.processing.adapting import Adapter
    from hopspan.processing.delivery import Processing
    from hopspan.telemetry import Face


class Block:
    """A `with` block in which one message is handled. Single use; made by `process`."""

    __slots__ = ("_adapter", "_face", "_hold", "_natives")

    def __init__(self, adapter: Adapter | None, natives: Sequence[Any], face: Face) -> None:
        self._adapter = adapter
        self._natives = natives
        self._face = face
        self._hold: Hold | None = None

    def __enter__(self) -> Processing:
        return self._begin(plain="hopspan.process(...)")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            try:
                self._hold.conclude(error)
            finally:
                self._hold.release()

    async def __aenter__(self) -> Processing:
        return self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            try:
                await self._hold.conclude_async(error)
            finally:
                self._hold.release()

    def _begin(self, plain: str = "") -> Processing:
        if self._adapter is None or not self._natives:
            return NOTHING
        processing = started(self._open, plain)
        if processing:
            self._hold = Hold(processing)
        return processing

    def _open(self, plain: str) -> Processing:
        assert self._adapter is not None  # noqa: S101 - for type checkers
        return begin(self._adapter, self._natives, pushed=False, face=self._face, plain=plain)


def process(
    message: Any, *, via: Any = None, adapter: Adapter | None = None, **settings: Unpack[Settings]
) -> Block:
    """Handle a message, or a list of messages as one, in a `with` (or `async with`) block.

    The block is inside the process span. Leaving it normally is success, an exception is a failure
    and is always raised again, and the policy decides what becomes of the message::

        method, properties, body = channel.basic_get("orders")
        message = method, properties, body
        with hopspan.process(message, via=channel, policy=hopspan.reject_on_error) as op:
            if not valid(body):
                op.fail("invalid order", type="invalid_order")

    A span that is current here is the parent, and the message is linked; with none current the
    message is the parent (`correlation="auto"`). A list makes one span with a link for each
    message. Nothing happens for an empty list, nor for what an empty `basic_get` returns.

    Args:
        message: What the client handed out: for pika the `(method, properties, body)` tuple.
        via: The channel or consumer that it came from, where the message does not know it.
        adapter: For doubles and mocks; found by type otherwise.
        settings: See `hopspan.Config`.

    Raises:
        ConfigurationError: a setting is unknown or invalid.
        PolicyError: on entering, the policy cannot work here.
        UnknownMessageError: the message is of no client that hopspan knows.
    """
    face = face_for(settings)
    if callable(via) and adapter_among((via,)) is None:
        via = via()
    found = adapter or adapter_among((via, message))
    try:
        natives = found.given(message, via) if found is not None else None
    except Exception:  # noqa: BLE001 - the block is run, and the message stays unsettled
        faults.report("reading what process was given")
        return Block(None, (), face)
    empty = isinstance(message, list | tuple | dict) and not message
    if natives is None and not empty:
        raise unknown(
            "process", (message, via), "give it what the client handed out, and the channel as via="
        )
    return Block(found, natives or (), face)
