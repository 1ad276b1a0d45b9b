"""The copies that aio-pika is given of messages: what a message is, with other headers."""

from __future__ import annotations

from typing import Any

import pytest
from aio_pika import Message

from hopspan.adapters.aio_pika.calls import _carrying

SENT = {"traceparent": f"00-{1:032x}-{2:016x}-01"}


class Shouted(Message):
    """A message with a property over a slot, a slot that is never set, and a dictionary."""

    __slots__ = ("__dict__", "never")

    @property
    def correlation_id(self) -> Any:
        return f"{_correlation_id.__get__(self)}!"

    @correlation_id.setter
    def correlation_id(self, value: Any) -> None:
        _correlation_id.__set__(self, value)


_correlation_id: Any = Message.__dict__["correlation_id"]


@pytest.mark.parametrize("kind", [Message, Shouted])
@pytest.mark.parametrize("locked", [False, True])
def test_a_copy_is_its_message_with_other_headers(kind: type[Message], locked: bool) -> None:
    message = kind(b"order", headers={"color": "red"}, correlation_id="c-1", priority=3)
    if locked:
        message.lock()
    copied = _carrying(message, SENT)
    assert (kind, locked, SENT) == (type(copied), copied.locked, copied.headers)
    assert {**message.info(), "headers": SENT} == copied.info()
    assert (b"order", {"color": "red"}) == (copied.body, message.headers)


def test_a_copy_has_what_its_message_was_given_and_no_more() -> None:
    message: Any = Shouted(b"order")
    message.note = "kept"
    copied = _carrying(message, SENT)
    copied.other = "its own"
    assert {"note": "kept"} == vars(message)
    assert ("kept", False) == (copied.note, hasattr(copied, "never"))


def test_what_is_no_message_of_the_client_is_copied_as_python_does() -> None:
    class Double:
        def __init__(self) -> None:
            self.body, self.headers = b"order", {"color": "red"}

    message: Any = Double()
    copied = _carrying(message, SENT)
    assert (b"order", SENT, {"color": "red"}) == (copied.body, copied.headers, message.headers)
