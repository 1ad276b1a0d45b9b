"""Reading a call: what a reader makes of it, or None where the call goes ahead without us."""

from __future__ import annotations

from typing import Any

import pytest

from hopspan.interception.points import Point, read_call


def reader(client: Any, queue: str, *, auto_ack: bool = False) -> Any:
    return client, queue, auto_ack


def cannot(client: Any, queue: str) -> Any:
    raise RuntimeError("a reader that cannot")


def test_the_reader_is_called_as_the_method_is() -> None:
    assert read_call(reader, "client", ("orders",), {"auto_ack": True}) == (
        "client",
        "orders",
        True,
    )


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("a", "b"), {}), (("a",), {"x": 1})])
def test_wrong_arguments_are_left_to_the_client_to_refuse(
    args: Any, kwargs: Any, logged: pytest.LogCaptureFixture
) -> None:
    assert read_call(reader, "client", args, kwargs) is None
    assert logged.records == []


def test_a_reader_that_fails_is_logged_once(logged: pytest.LogCaptureFixture) -> None:
    found = [read_call(cannot, "client", ("orders",), {}) for _ in range(2)]
    assert found == [None, None]
    assert [record.message.partition(";")[0] for record in logged.records] == [
        "hopspan failed at reading the arguments of cannot (RuntimeError)"
    ]


def test_a_point_loses_no_policy_unless_it_says_so() -> None:
    assert Point("module:Class", "method", None, reader).carries_policy is False
