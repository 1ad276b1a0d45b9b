"""Instance scope: the methods of one object replaced, and of nothing else."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import hopspan
from hopspan.delivery import adapter as adapters
from hopspan.interception import (
    Point,
    bind,
    consumes,
    returns_wrapped,
    sends,
    unweave,
    weave,
)
from hopspan.model import ConfigurationError, PolicyError, UnknownMessageError, Verdict
from hopspan.telemetry import Binding, Overrides, set_for_client
from hopspan.testing import Message
from tests.unit.interception import client
from tests.unit.interception.client import PUBLISH, Channel, SmallDelivery, small
from tests.unit.support import Telemetry

HERE = "tests.unit.interception.client:Channel"
PUBLISHING = Point(HERE, "publish", sends(PUBLISH, client.publish), client.publish)
CONSUMING = Point(HERE, "consume", consumes(client.consume), client.consume, carries_policy=True)
CLIENT: Any = small(points=(PUBLISHING, CONSUMING))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small client is one that hopspan knows."""
    monkeypatch.setattr(
        adapters, "_locators", [lambda kind: CLIENT if issubclass(kind, Channel) else None]
    )


class Mine(Channel):
    """A user's subclass."""


@pytest.mark.parametrize("kind", [Channel, Mine])
def test_the_object_itself_is_returned(kind: type[Channel], telemetry: Telemetry) -> None:
    channel = kind()
    assert hopspan.wrap(channel, **telemetry.settings) is channel
    assert type(channel) is kind


@pytest.mark.parametrize("kind", [Channel, Mine])
def test_its_methods_are_intercepted(kind: type[Channel], telemetry: Telemetry) -> None:
    hopspan.wrap(kind(), **telemetry.settings).publish("orders", b"body")
    assert [span.name for span in telemetry.spans] == ["publish orders"]


def test_other_objects_are_left_alone(telemetry: Telemetry) -> None:
    before = dict(vars(Channel))
    hopspan.wrap(Channel(), **telemetry.settings)
    Channel().publish("orders", b"body")
    assert (telemetry.spans, dict(vars(Channel))) == ([], before)


def test_its_settings_hold_for_its_handlers(telemetry: Telemetry) -> None:
    channel = hopspan.wrap(Channel(), policy=hopspan.ack_always, **telemetry.settings)
    channel.consume("orders", lambda message: None)
    message = Message()
    channel.handlers[0](message)
    assert message.verdict is Verdict.ACK


def test_wrapping_alone_settles_nothing(telemetry: Telemetry) -> None:
    channel = hopspan.wrap(Channel(), **telemetry.settings)
    channel.consume("orders", lambda message: None)
    message = Message()
    channel.handlers[0](message)
    assert message.verdict is None


def test_wrapping_twice_is_once_and_the_second_settings_hold(telemetry: Telemetry) -> None:
    channel = hopspan.wrap(Channel(), policy=hopspan.ack_always, **telemetry.settings)
    again = hopspan.wrap(channel, policy=hopspan.reject_on_error, **telemetry.settings)
    assert again is channel
    channel.publish("orders", b"body")
    assert len(telemetry.spans) == 1

    def fail(message: Message) -> None:
        raise ValueError("bad")

    channel.consume("orders", fail)
    message = Message()
    channel.handlers[0](message)
    assert message.verdict is Verdict.REJECT


def test_what_the_second_call_does_not_say_stays(telemetry: Telemetry) -> None:
    channel = hopspan.wrap(Channel(), policy=hopspan.ack_always, **telemetry.settings)
    hopspan.wrap(channel, correlation="link")
    channel.consume("orders", lambda message: None)
    message = Message()
    channel.handlers[0](message)
    assert (message.verdict, len(telemetry.spans)) == (Verdict.ACK, 1)


def test_its_settings_lie_over_what_was_instrumented(telemetry: Telemetry) -> None:
    set_for_client("small", telemetry.instrumenter(policy=hopspan.ack_always, reraise=True))
    channel: Any = hopspan.wrap(Channel(), reraise=False)
    set_for_client("small", None)
    channel.publish("orders", b"body")
    assert telemetry.spans == []
    set_for_client("small", telemetry.instrumenter())
    channel.publish("orders", b"body")
    set_for_client("small", None)
    assert len(telemetry.spans) == 1


def test_an_instrumented_class_and_a_wrapped_object_make_one_span(telemetry: Telemetry) -> None:
    woven = weave([PUBLISHING], Binding(CLIENT, telemetry.instrumenter()))
    try:
        hopspan.wrap(Channel(), **telemetry.settings).publish("orders", b"body")
    finally:
        unweave(woven)
    assert len(telemetry.spans) == 1


def test_what_is_wrapped_goes_on_when_the_class_is_restored(telemetry: Telemetry) -> None:
    binding = Binding(CLIENT, telemetry.instrumenter())
    woven = weave([PUBLISHING], binding)
    channel = hopspan.wrap(Channel(), **telemetry.settings)
    binding.instrumenter.switch.on = False
    unweave(woven)
    channel.publish("orders", b"body")
    assert len(telemetry.spans) == 1


# -- objects made by a wrapped one -----------------------------------------------------------------


class Connection:
    def channel(self) -> Channel:
        return Channel()


def open_channel(connection: Any, *rest: Any, **added: Any) -> None:
    """The reader of `Connection.channel`."""


def test_what_a_wrapped_object_makes_is_wrapped_like_it(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = f"{Connection.__module__}:Connection"
    adapter: Any = small(
        points=(PUBLISHING,),
        instance_points=(Point(owner, "channel", returns_wrapped, open_channel),),
    )
    monkeypatch.setattr(adapters, "_locators", [lambda kind: adapter])
    connection = hopspan.wrap(Connection(), **telemetry.settings)
    connection.channel().publish("orders", b"body")
    assert len(telemetry.spans) == 1
    assert connection.channel.__name__ == "channel"


# -- what cannot be wrapped ------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [None, 3, "text", object()])
def test_an_unknown_object_is_an_error(thing: Any) -> None:
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.wrap(thing)
    assert str(raised.value) == (
        f"wrap: {type(thing)!r} is nothing that hopspan can wrap; give it a channel, connection, "
        "producer or consumer of a client that it knows"
    )


def test_a_class_in_place_of_its_object_is_told_so() -> None:
    with pytest.raises(UnknownMessageError, match="wrap: the class Channel is nothing that"):
        hopspan.wrap(Channel)


class Slotted:
    """A client's value without a `__dict__`."""

    __slots__ = ()


class Plain:
    """A client's object that is no channel."""


@pytest.mark.parametrize("kind", [Slotted, Plain])
def test_another_object_of_a_known_client_is_an_error(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_locators", [lambda kind: CLIENT])
    with pytest.raises(UnknownMessageError) as raised:
        hopspan.wrap(kind())
    assert str(raised.value) == (
        f"wrap: {kind!r} is nothing that hopspan can wrap; give it a channel, connection, "
        "producer or consumer of a client that it knows"
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"nonsense": 1}, ConfigurationError), ({"policy": 3}, PolicyError)],
)
def test_a_wrong_setting_is_an_error_and_nothing_is_wrapped(
    settings: Any, error: type[Exception]
) -> None:
    channel = Channel()
    before = dict(vars(channel))
    with pytest.raises(error):
        hopspan.wrap(channel, **settings)
    assert vars(channel) == before


def test_a_policy_that_can_never_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallDelivery, "refusal", lambda *_: "it has no dead letters")
    with pytest.raises(PolicyError, match="cannot work with small: it has no dead letters"):
        hopspan.wrap(Channel(), policy=hopspan.reject_on_error)


# -- methods that are declined ---------------------------------------------------------------------


def bound_by_another(channel: Channel, method: str) -> None:
    original = getattr(channel, method)

    @functools.wraps(original)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    channel.__dict__[method] = theirs


def test_a_method_that_another_instrumentation_replaced_is_left_alone(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    channel = Channel()
    bound_by_another(channel, "publish")
    hopspan.wrap(channel, **telemetry.settings).publish("orders", b"body")
    assert telemetry.spans == []
    assert [record.message for record in logged.records] == [
        "hopspan leaves Channel.publish alone: another instrumentation replaced it on this instance"
    ]


def test_a_policy_that_would_be_lost_is_an_error_and_nothing_is_wrapped(
    telemetry: Telemetry,
) -> None:
    channel = Channel()
    bound_by_another(channel, "consume")
    before = dict(vars(channel))
    with pytest.raises(ConfigurationError) as raised:
        hopspan.wrap(channel, policy=hopspan.ack_always, **telemetry.settings)
    assert str(raised.value) == (
        "Channel.consume cannot be instrumented, so policy ack_always would be lost: another "
        "instrumentation replaced it on this instance"
    )
    assert vars(channel) == before


def test_a_method_that_the_client_no_longer_has_is_left_alone(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    gone = Point(HERE, "vanished", sends(PUBLISH, client.publish), client.publish)
    adapter: Any = small(points=(PUBLISHING, gone))
    channel = bind(Channel(), adapter, Overrides(telemetry.settings))
    channel.publish("orders", b"body")
    assert (len(telemetry.spans), len(logged.records)) == (1, 1)
