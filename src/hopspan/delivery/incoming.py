"""A message as its client hands it out: the part of a delivery that an adapter writes.

A subclass for each client reads the client's own objects when it is asked, and performs one
verdict. It decides nothing. Most methods have a default. A client needs `of`, `read` and `settle`;
one whose users settle by themselves also needs `opened`, `closed` and `ongoing`, and has to
intercept its settling methods and set `verdict` there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hopspan.telemetry import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from hopspan.conventions import Route
    from hopspan.delivery.client import Client
    from hopspan.model import Settlement, Verdict
    from hopspan.settlement import Policy


class Incoming(Operation):
    """One message of one client: what is read of it, and how it is settled."""

    __slots__ = ()

    client: ClassVar[Client]
    """The constants of the client that this is a delivery of."""
    is_batch: ClassVar[bool] = False
    """Whether several messages are handled as one."""
    said_at_start: Verdict | None = None
    """The verdict that the attributes of the message's route say already."""
    tells_loss: ClassVar[bool] = False
    """Whether `was_open` tells by an error whether a settlement has lost the channel."""

    # -- finding it ------------------------------------------------------------------------------

    @classmethod
    def of(cls, message: Any, via: Any) -> Incoming | None:  # noqa: ARG003
        """The delivery of one native message, or None for what is none.

        Args:
            message: What the client handed out.
            via: The channel or consumer that it came from, as the user gave it, or None.
        """
        return None

    @classmethod
    def given(cls, message: Any, via: Any) -> Incoming | tuple[()] | None:
        """The delivery in what the user gave to `process` or `each`: `()` for no message at all.

        None for what is no message. Lists of messages need no answer: they become a batch of what
        `of` finds in them. An adapter overrides this where its client hands out other shapes.
        """
        return cls.of(message, via)

    @classmethod
    def handed(cls, args: tuple[Any, ...], via: Any) -> Incoming | None:  # noqa: ARG003
        """The delivery of a client that passes one message as several arguments; else None."""
        return None

    @classmethod
    def refusal(cls, policy: Policy) -> str | None:  # noqa: ARG003
        """Why a policy can never work with this client, and what to change; or None."""
        return None

    def unfit(self, policy: Policy) -> str | None:  # noqa: ARG002
        """Why a policy cannot work for this very delivery; or None."""
        return None

    # -- reading it ------------------------------------------------------------------------------

    def read(self) -> tuple[Route, Any]:
        """The route of the message, and its headers. The only reader for every message."""
        raise NotImplementedError

    def describe(self, attributes: dict[str, Any]) -> None:
        """Add to a span's attributes what is special to this message."""

    @property
    def native(self) -> Any:
        """The object that hooks and users get: the delivery itself, or the client's own message."""
        return self

    @property
    def source(self) -> Any:
        """The client's object that handed the delivery out, which may be a wrapped one."""
        return None

    @property
    def headers(self) -> Any:
        """The client's own headers (a mapping, a list of pairs, or None); never changed."""
        return self.read()[1]

    @property
    def key(self) -> tuple[str, str] | None:
        """The message's key with its attribute's name: data of the application."""
        return None

    @property
    def redelivered(self) -> bool:
        """Whether the broker says that it has handed this message out before."""
        return False

    @property
    def attempt(self) -> int | None:
        """1 for the first attempt; None where the broker does not count."""
        return 1

    @property
    def settles(self) -> bool:
        """False when the broker settled it already by handing it over (`auto_ack`)."""
        return True

    @property
    def counted(self) -> bool:
        """Whether a receive operation has counted this message for the metrics already."""
        return False

    # -- handling it -----------------------------------------------------------------------------

    def ongoing(self) -> Any:
        """The `Delivery` of this very message that goes on, in whatever thread or task; or None."""
        return None

    def finished_turn(self) -> SpanContext | None:
        """The span of a loop's turn that this message has had, and that left it unsettled."""
        return None

    def opened(self) -> Verdict | None:
        """Remember that this delivery is handled; return how it was settled already, if it was."""
        return None

    def closed(self) -> None:
        """Forget it: the handling is over."""

    def settle(self, settlement: Settlement) -> Any:
        """Perform a verdict, on a thread for which `is_here()` is true.

        Raises what the client raises. Returns an awaitable for a client whose settlement is
        awaited, or None.
        """
        raise NotImplementedError

    def is_open(self) -> bool:
        """Whether the delivery can still be settled."""
        return True

    def was_open(self, error: Exception) -> bool:  # noqa: ARG002
        """Whether the channel was still open when a settlement failed with this error.

        Asked only where the subclass `tells_loss`; else `is_open` is asked before each settlement.
        """
        return True

    def is_here(self) -> bool:
        """Whether this is a thread that may settle it."""
        return True

    def post(self, errand: Callable[[], None]) -> None:
        """Run something on the thread that may settle this. Raises what the client raises."""
        errand()
