"""`process`: handle a message, or a batch as one, in a `with` or `async with` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan import faults
from hopspan.processing.adapting import adapter_among, unknown
from hopspan.processing.opening import NOTHING, begin, started
from hopspan.processing.scope import Attachment
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

    __slots__ = ("_adapter", "_attached", "_face", "_natives", "_processing")

    def __init__(self, adapter: Adapter | None, natives: Sequence[Any], face: Face) -> None:
        self._adapter = adapter
        self._natives = natives
        self._face = face
        self._processing: Processing = NOTHING
        self._attached: Attachment | None = None

    def __enter__(self) -> Processing:
        return self._begin(plain="hopspan.process(...)")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if self._processing and not self._processing.left_by(error):
                self._processing.finish(error)
        finally:
            self._leave()

    async def __aenter__(self) -> Processing:
        return self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        try:
            if self._processing and not self._processing.left_by(error):
                await self._processing.finish_async(error)
        finally:
            self._leave()

    def _begin(self, plain: str = "") -> Processing:
        if self._adapter is not None and self._natives:
            self._processing = started(self._open, plain)
        if self._processing:
            self._attached = Attachment(self._processing.context)
        return self._processing

    def _open(self, plain: str) -> Processing:
        assert self._adapter is not None  # noqa: S101 - for type checkers
        return begin(self._adapter, self._natives, pushed=False, face=self._face, plain=plain)

    def _leave(self) -> None:
        if self._attached is not None:
            self._attached.detach()


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
    empty = isinstance(message, list | tuple) and not message
    if natives is None and not empty:
        raise unknown(
            "process", (message, via), "give it what the client handed out, and the channel as via="
        )
    return Block(found, natives or (), face)
