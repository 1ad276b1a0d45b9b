"""What the shop does, whichever broker its services meet at. It knows nothing of messages."""

from __future__ import annotations

import time
from typing import TypedDict

from opentelemetry import trace

tracer = trace.get_tracer("orders.shop")


class Order(TypedDict):
    """What a customer asks for."""

    id: int
    item: str
    address: str


class WarehouseTimeout(Exception):
    """The warehouse did not answer; it may the next time."""


class UnknownAddress(Exception):
    """Nobody can ship to there, however often it is tried."""


PRICES = {"kettle": 39, "teapot": 24, "tea": 6}

# The fulfilment ships 1 and 2 at once, 3 at the second attempt, and 4 never.
INCOMING: list[tuple[str, Order]] = [
    ("acme", {"id": 1, "item": "kettle", "address": "1 Harbour Road"}),
    ("globex", {"id": 2, "item": "tea", "address": "22 Mill Lane"}),
    ("acme", {"id": 3, "item": "teapot", "address": "1 Harbour Road"}),
    ("initech", {"id": 4, "item": "tea", "address": ""}),
]


@tracer.start_as_current_span("validate")
def validate(order: Order) -> None:
    """Refuse what the shop does not sell. The address it does not look at: a bug."""
    if order["item"] not in PRICES:
        raise ValueError(f"no such item: {order['item']}")


@tracer.start_as_current_span("price")
def price(order: Order) -> int:
    """Look up what the item costs."""
    return PRICES[order["item"]]


@tracer.start_as_current_span("charge")
def charge(order: Order, amount: int) -> None:
    """Ask the payment provider for the money."""
    attributes = {"order.id": order["id"], "payment.amount": amount}
    trace.get_current_span().set_attributes(attributes)
    time.sleep(0.01)  # stands for the provider's answer


_searched: set[int] = set()


@tracer.start_as_current_span("reserve")
def reserve(order: Order) -> None:
    """Set the item aside in the warehouse, which has to search for a teapot at first."""
    time.sleep(0.005)
    if order["item"] == "teapot" and order["id"] not in _searched:
        _searched.add(order["id"])
        raise WarehouseTimeout("no answer from the warehouse")


@tracer.start_as_current_span("ship")
def ship(order: Order) -> None:
    """Hand the parcel over."""
    time.sleep(0.005)
    if not order["address"]:
        raise UnknownAddress("the order has no address")
