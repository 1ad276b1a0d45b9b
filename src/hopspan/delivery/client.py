"""A client library as the core sees it: the constants that differ from client to client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hopspan import conventions as names
from hopspan.model import Outcome, Verdict
from hopspan.propagation import MAPPING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hopspan.propagation import Codec


def _no_word(error: BaseException) -> str | None:  # noqa: ARG001
    return None


class Client:
    """The constants of one client library. Immutable."""

    __slots__ = (
        "codec", "control_flow", "error_type", "is_awaited", "name", "settle_names",
        "settled_already", "system",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        system: str,
        codec: Codec = MAPPING,
        is_awaited: bool = False,
        settle_names: Mapping[Verdict, str] | None = None,
        settled_already: str = "the broker settles its messages when it hands them out",
        control_flow: tuple[type[BaseException], ...] = (),
        error_type: Callable[[BaseException], str | None] = _no_word,
    ) -> None:
        """All that differs from client to client and never from message to message.

        Args:
            name: The name that users give to `hopspan.instrument`.
            system: `messaging.system`.
            codec: The shape of the client's headers.
            is_awaited: Whether `Delivery.settle` returns an awaitable.
            settle_names: The client's word for each verdict, the `messaging.operation.name` of
                settle spans. A verdict that is missing is no operation of its own.
            settled_already: Why nothing is left to settle where a delivery says so, and what to
                change.
            control_flow: Exceptions that the client raises through a handler without a failure.
            error_type: The client's own low-cardinality word for an error, or None.
        """
        self.name: str = name
        self.system: str = system
        self.codec: Codec = codec
        self.is_awaited: bool = is_awaited
        self.settle_names: Mapping[Verdict, str] = (
            {verdict: verdict.value for verdict in Verdict}
            if settle_names is None
            else settle_names
        )
        self.settled_already: str = settled_already
        self.control_flow: tuple[type[BaseException], ...] = control_flow
        self.error_type: Callable[[BaseException], str | None] = error_type

    def __repr__(self) -> str:
        return f"<client {self.name}>"


def failure(client: Client, error: BaseException) -> Outcome:
    """The outcome of an exception: its `error.type` in the client's words, or its class name."""
    kind = _guarded(client.error_type, error) or names.error_type(error)
    return Outcome(failed=True, error=error, error_type=kind, description=_guarded(str, error))


def _guarded(describe: Callable[[BaseException], str | None], error: BaseException) -> str | None:
    try:
        return describe(error)
    except Exception:  # noqa: BLE001 - a hostile __str__, say
        return None
