"""Class scope: methods replaced for the whole process, restored exactly, or declined."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hopspan
from hopspan.interception import Point, owner_of, sends, unweave, weave
from hopspan.interception.weaving import INTERCEPTED, why_not_intercept
from hopspan.model import ConfigurationError, Outgoing
from hopspan.telemetry import Binding
from hopspan.testing.memory import ADAPTER
from tests.unit.interception import client
from tests.unit.interception.client import PUBLISH, Channel, small
from tests.unit.support import Telemetry

HERE = "tests.unit.interception.client:Channel"
PUBLISHING = Point(HERE, "publish", sends(PUBLISH, client.publish), client.publish)
Weave = Callable[..., Any]


@pytest.fixture
def woven(telemetry: Telemetry) -> Iterator[Weave]:
    """Weave points into the small client; afterwards its class must be as before."""
    before = dict(vars(Channel))
    done: list[Any] = []

    def make(*points: Point, adapter: Any = ADAPTER, **settings: Any) -> Any:
        done.append(weave(points, Binding(adapter, telemetry.instrumenter(**settings))))
        return done[-1]

    yield make
    for each in reversed(done):
        unweave(each)
    assert dict(vars(Channel)) == before


def test_a_class_is_named_as_text() -> None:
    assert owner_of(HERE) is Channel


def test_a_woven_method_is_intercepted_on_every_instance(
    woven: Weave, telemetry: Telemetry
) -> None:
    woven(PUBLISHING)
    Channel().publish("orders", b"body")
    Channel().publish("orders", b"body")
    assert [span.name for span in telemetry.spans] == ["publish orders", "publish orders"]


def test_an_instance_made_before_is_intercepted_too(woven: Weave, telemetry: Telemetry) -> None:
    channel = Channel()
    woven(PUBLISHING)
    channel.publish("orders", b"body")
    assert len(telemetry.spans) == 1


def test_a_woven_method_remembers_what_it_replaces(woven: Weave) -> None:
    original = Channel.publish
    woven(PUBLISHING)
    assert getattr(Channel.publish, INTERCEPTED) is original


def test_unweaving_restores_the_class_exactly(woven: Weave) -> None:
    original = vars(Channel)["publish"]
    unweave(woven(PUBLISHING))
    assert vars(Channel)["publish"] is original


class Inheriting(Channel):
    """A user's subclass: the method is not its own."""


def test_an_inherited_method_is_inherited_again(telemetry: Telemetry) -> None:
    before = dict(vars(Inheriting))
    point = PUBLISHING._replace(owner=f"{__name__}:Inheriting")
    given = point._replace(owner=point.owner)

    def owner(path: str) -> type:
        return Inheriting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hopspan.interception.weaving.owner_of", owner)
        woven = weave([given], Binding(ADAPTER, telemetry.instrumenter()))
    Inheriting().publish("orders", b"body")
    assert len(telemetry.spans) == 1
    unweave(woven)
    assert dict(vars(Inheriting)) == before


# -- newer clients ---------------------------------------------------------------------------------


def added(self: Any, queue: str, body: Any, headers: Any = None, mandatory: bool = False, *,
          priority: int = 0) -> Any:  # fmt: skip
    return queue, body, bool(headers), mandatory, priority


def appended(
    self: Any,
    queue: str,
    body: Any,
    headers: Any = None,
    mandatory: bool = False,
    priority: int = 0,
) -> Any:
    return queue, body, bool(headers), mandatory, priority


@pytest.mark.parametrize(
    ("newer", "args", "kwargs"),
    [
        (added, ("orders", b"body"), {"priority": 5}),
        (appended, ("orders", b"body"), {"priority": 5}),
        (appended, ("orders", b"body", None, False, 5), {}),
    ],
)
def test_a_parameter_that_a_newer_client_added_is_passed_through(
    newer: Any, args: Any, kwargs: Any, woven: Weave, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Channel.publish
    Channel.publish = newer  # type: ignore[method-assign]
    done = woven(PUBLISHING)
    found = Channel().publish(*args, **kwargs)
    unweave(done)
    done.clear()
    Channel.publish = original  # type: ignore[method-assign]
    assert found == ("orders", b"body", True, False, 5)


def removed(self: Any, queue: str, body: Any) -> Any: ...
def renamed(self: Any, topic: str, body: Any, headers: Any = None) -> Any: ...
def reordered(self: Any, body: Any, queue: str, headers: Any = None) -> Any: ...
def inserted(self: Any, queue: str, priority: int, body: Any, headers: Any = None) -> Any: ...
def keyword_only(self: Any, queue: str, *, body: Any, headers: Any = None) -> Any: ...


@pytest.mark.parametrize(
    ("newer", "theirs"),
    [
        (removed, "queue, body"),
        (renamed, "topic, body, headers"),
        (reordered, "body, queue, headers"),
        (inserted, "queue, priority, body, headers"),
        (keyword_only, "queue"),
    ],
)
def test_a_parameter_that_was_lost_or_moved_is_a_why_not_intercept(newer: Any, theirs: str) -> None:
    assert why_not_intercept(newer, client.publish) == (
        f"this version of the client has ({theirs}) where hopspan knows (queue, body, headers); "
        "look for a newer hopspan"
    )


def test_a_method_that_is_gone_is_a_why_not_intercept() -> None:
    assert why_not_intercept(None, client.publish) == (
        "this version of the client has no such method; look for a newer hopspan"
    )


@pytest.mark.parametrize("known", [Channel.publish, added, appended])
def test_a_method_that_has_what_we_name_is_no_why_not_intercept(known: Any) -> None:
    assert why_not_intercept(known, client.publish) is None


def reader_of_lost(channel: Any, topic: str) -> Outgoing:
    raise AssertionError("it must not be asked")


LOST = Point(HERE, "publish", sends(PUBLISH, reader_of_lost), reader_of_lost)
GONE = Point(HERE, "vanished", sends(PUBLISH, client.publish), client.publish)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            LOST,
            "hopspan leaves Channel.publish alone: this version of the client has (queue, body, "
            "headers, mandatory) where hopspan knows (topic); look for a newer hopspan",
        ),
        (
            GONE,
            "hopspan leaves Channel.vanished alone: this version of the client has no such method; "
            "look for a newer hopspan",
        ),
    ],
)
def test_a_declined_method_is_left_alone_with_one_warning(
    point: Point, message: str, woven: Weave, logged: pytest.LogCaptureFixture
) -> None:
    before = dict(vars(Channel))
    assert woven(point, point, policy=hopspan.ack_always) == []
    assert dict(vars(Channel)) == before
    assert [(record.levelname, record.message) for record in logged.records] == [
        ("WARNING", message)
    ]


def test_the_other_methods_are_woven_all_the_same(woven: Weave) -> None:
    assert [each.method for each in woven(GONE, PUBLISHING)] == ["publish"]


def test_a_policy_that_would_be_lost_is_an_error_and_nothing_is_woven(woven: Weave) -> None:
    before = dict(vars(Channel))
    with pytest.raises(ConfigurationError) as raised:
        woven(PUBLISHING, GONE._replace(carries_policy=True), policy=hopspan.ack_always)
    assert str(raised.value) == (
        "Channel.vanished cannot be instrumented, so policy ack_always would be lost: this version "
        "of the client has no such method; look for a newer hopspan"
    )
    assert dict(vars(Channel)) == before


def test_without_a_policy_nothing_is_lost(woven: Weave) -> None:
    assert woven(GONE._replace(carries_policy=True)) == []


# -- other instrumentations ------------------------------------------------------------------------


@pytest.fixture
def wrapped_by_another() -> Iterator[None]:
    original = Channel.publish

    @functools.wraps(original)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    Channel.publish = theirs  # type: ignore[method-assign]
    yield
    Channel.publish = original  # type: ignore[method-assign]


RIVALRY = "another instrumentation wraps {} already; use one of the two, or spans are doubled"


@pytest.mark.usefixtures("wrapped_by_another")
def test_a_method_that_another_instrumentation_wraps_is_declined(
    woven: Weave, logged: pytest.LogCaptureFixture
) -> None:
    assert woven(PUBLISHING) == []
    assert [record.message for record in logged.records] == [
        "hopspan leaves Channel.publish alone: " + RIVALRY.format("Channel.publish")
    ]


@pytest.mark.usefixtures("wrapped_by_another")
def test_a_rival_at_a_place_of_its_own_declines_everything(
    woven: Weave, logged: pytest.LogCaptureFixture
) -> None:
    """Some wrap the connection, and replace the channels' methods from there."""
    adapter = small(rivals=(f"{HERE}.publish",))
    point = Point(HERE, "get", sends(PUBLISH, client.get), client.get)
    assert woven(point, adapter=adapter) == []
    assert [record.message for record in logged.records] == [
        "hopspan leaves Channel.get alone: " + RIVALRY.format(f"{HERE}.publish")
    ]


def test_without_a_rival_there_is_no_why_not_intercept(woven: Weave) -> None:
    adapter = small(rivals=(f"{HERE}.publish", f"{HERE}.vanished"))
    assert len(woven(PUBLISHING, adapter=adapter)) == 1


def test_we_are_not_our_own_rival(woven: Weave) -> None:
    """What we wove ourselves is recognised: in a second client, or after a reload."""
    woven(PUBLISHING)
    adapter = small(rivals=(f"{HERE}.publish",))
    assert len(woven(PUBLISHING, adapter=adapter)) == 1
