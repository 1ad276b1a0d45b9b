"""Entering: the current delivery, the falsy one outside of any, and beginning without harm."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import INVALID_SPAN

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Route, plan
from hopspan.delivery.client import Client
from hopspan.delivery.delivery import CURRENT, Delivery
from hopspan.model import SUCCESS, Endpoint, HopspanError, Settlement
from hopspan.settlement import manual
from hopspan.telemetry import EMPTY, get_current

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from opentelemetry.context import Context


class _NotDeferred:
    """The answer of `defer` outside a delivery: a block in which nothing happens."""

    def __enter__(self) -> Delivery:
        return NO_DELIVERY

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None: ...

    async def __aenter__(self) -> Delivery:
        return NO_DELIVERY

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None: ...


class _NoDelivery(Delivery):
    """Outside a delivery: falsy, and nothing that is done to it has an effect."""

    __slots__ = ()
    client = Client("nothing", system="")

    def __init__(self) -> None:
        self.outcome = SUCCESS
        self.verdict = self._rare = self.plan = self.instrumenter = self._native = None
        self.settled_by_policy = self.is_turn = False
        self.span = INVALID_SPAN
        self._carried = EMPTY

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<hopspan delivery of nothing>"

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        return ()

    @property
    def policy(self) -> Any:
        return manual

    @property
    def native(self) -> None:
        return None

    @property
    def attempt(self) -> None:
        return None

    def read(self) -> tuple[Route, Any]:
        return Route(plan(names.PROCESS, Endpoint(""))), None

    def fail(self, reason: str, *, type: str | None = None) -> None: ...  # noqa: A002

    def defer(self) -> Any:
        return _NotDeferred()

    def settle(self, settlement: Settlement) -> None: ...


NO_DELIVERY: Delivery = _NoDelivery()


def current() -> Delivery:
    """The delivery that is handled around the caller, or a falsy one outside. Never None.

    Follows the OpenTelemetry context: it is found in every function, task and (with a propagated
    context) thread that the handler calls, through nested spans. ::

        if invalid(order):
            hopspan.current().fail("invalid order", type="invalid_order")
    """
    return delivery_in(get_current())


def delivery_in(context: Context) -> Delivery:
    """The delivery that a context is part of, or the falsy one."""
    found = context.get(CURRENT)
    delivery = found() if isinstance(found, weakref.ref) else None
    return delivery if isinstance(delivery, Delivery) else NO_DELIVERY


def safely(enter: Callable[..., Any], *args: Any) -> Any:
    """The scope that `enter` entered; None where hopspan is at fault, so that the handler runs.

    Raises:
        HopspanError: a mistake of the user's: a policy that cannot work, an unknown message.
    """
    try:
        return enter(*args)
    except HopspanError:
        raise
    except Exception:  # noqa: BLE001 - the message stays unsettled, so nothing is lost
        faults.report("beginning to handle a delivery")
        return None
