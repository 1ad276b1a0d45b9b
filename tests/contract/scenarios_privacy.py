"""Nothing of a message's contents and nothing secret is ever recorded."""

from __future__ import annotations

from typing import Any

import hopspan
from tests.contract.client import Client, Message, succeeds
from tests.contract.suite import FACES, over

SECRET = "swordfish-42"


def _recorded(client: Client) -> str:
    """All that was recorded, as text."""
    spans = [
        (
            span.name,
            dict(span.attributes or {}),
            [dict(event.attributes or {}) for event in span.events],
        )
        for span in client.telemetry.recorded()
    ]
    points = [(name, dict(attributes)) for name, attributes, _ in client.telemetry.all_points()]
    return repr((spans, points))


@over(face=FACES)
def no_body_and_no_header_is_recorded(client: Client) -> None:
    with client.baggage(token=SECRET):
        client.send(SECRET.encode(), client.carrier({"token": SECRET, SECRET: "token"}))

    def handler(_message: Message) -> None:
        raise ValueError("no stock")

    client.handle(handler, policy=client.reject_on_error, settle_spans="all")
    assert SECRET not in _recorded(client)
    assert "token" not in _recorded(client)


@over(face=FACES)
def no_password_is_recorded_or_logged(client: Client) -> None:
    client.send()
    client.handle(succeeds, policy=client.reject_on_error)
    recorded = _recorded(client)
    for password in client.passwords:
        assert f":{password}" not in recorded
        assert f"{password}@" not in recorded


def what_a_user_asks_for_by_name_is_recorded(client: Client) -> None:
    def enrich(operation: Any, _native: Any) -> None:
        delivery = hopspan.current().delivery
        operation.span.set_attribute(
            "order.color", client.fields(delivery.headers).get("color", "?")
        )

    client.send(b"order", client.carrier({"color": "red"}))
    client.handle(succeeds, on_end=enrich)
    assert "red" == client.telemetry.attributes(client.processes)["order.color"]
