"""Three faces, one behaviour: how they come together, whose settings hold, how they go."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest import mock

import pytest

import hopspan
from hopspan import instrumentation, interception
from hopspan.adapters import adapter_named
from tests.contract.client import Client, Message, Ran, succeeds
from tests.contract.suite import needs, over
from tests.contract.telemetry import Span

Layers = Mapping[str, Mapping[str, Any]]

ACKS: Any = hopspan.ack_always


def _combinations(*parts: str) -> tuple[str, ...]:
    """Every choice of one or more, as text."""
    return tuple(
        "+".join(each)
        for size in range(1, len(parts) + 1)
        for each in itertools.combinations(parts, size)
    )


def _subscribe(client: Client, handler: Callable[[Message], Any], layers: Layers) -> Ran:
    """Subscribe a handler under exactly these faces, each with settings of its own."""
    if "instrumented" in layers:
        client.instrument(**layers["instrumented"])
    if "wrapped" in layers:
        client.wrap_consumer(**layers["wrapped"])
    ran = Ran()
    decorated = "decorated" in layers
    receive = client.receiver(
        ran.watched(handler), decorated=decorated, **layers.get("decorated", {})
    )
    client.register(receive)
    return ran


def _handle(client: Client, handler: Callable[[Message], Any], layers: Layers) -> Ran:
    ran = _subscribe(client, handler, layers)
    client.drive(lambda: ran.times)
    client.sync()
    return ran


def _in_block(client: Client, message: Message, **settings: Any) -> Any:
    with client.block(message, **settings) as operation:
        assert operation is hopspan.current()
    return operation


# -- several faces make one span -------------------------------------------------------------------


@over(
    faces=_combinations("decorated", "wrapped", "instrumented"), inside=("nothing more", "a block")
)
@needs("settles")
def however_many_faces_a_handler_has_it_has_one_span(
    client: Client, faces: str, inside: str
) -> None:
    def handler(message: Message) -> None:
        if inside == "a block":
            _in_block(client, message)
        with client.span("work"):
            pass

    client.send()
    outermost, *others = faces.split("+")
    layers = {outermost: {"policy": ACKS}, **{face: {} for face in others}}
    _handle(client, handler, layers)
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )
    assert ["ack"] == client.settlements()


@over(faces=_combinations("instrumented", "wrapped", "each"), inside=("nothing more", "a block"))
@needs("loops")
def however_many_faces_a_loop_has_each_turn_has_one_span(
    client: Client, faces: str, inside: str
) -> None:
    client.send()
    if "instrumented" in faces:
        client.instrument()
    if "wrapped" in faces:
        client.wrap_consumer()
    loop = client.own_loop()
    if "each" in faces:
        loop = hopspan.each(loop, via=client.via, **client.settings())
    for item in loop:
        if inside == "a block":
            _in_block(client, client.message(item), policy=ACKS)
        with client.span("work"):
            pass
        break
    del loop
    settled = {"settlement": "ack"} if inside == "a block" else {}
    client.expect_spans(
        client.a_publish(), client.a_process(**settled), Span("work", parent=client.processes)
    )


@over(faces=_combinations("instrumented", "wrapped"))
def however_many_faces_a_sender_has_a_message_has_one_span(client: Client, faces: str) -> None:
    client.face = "instrumented" if faces == "instrumented" else "wrapped"
    if "instrumented" in faces:
        client.instrument()
    client.sender()(b"order", None)
    client.fetch()
    assert [client.publishes] == [
        span.name for span in client.telemetry.spans() if span.kind == "producer"
    ]


@over(faces=_combinations("instrumented", "wrapped"))
def however_many_faces_a_get_has_it_has_one_span(client: Client, faces: str) -> None:
    client.send_untraced()
    if "instrumented" in faces:
        client.instrument()
    if "wrapped" in faces:
        client.wrap_consumer()
    _in_block(client, client.fetch())
    client.expect_spans(
        client.a_receive(links=()), client.a_process(parent=None, links=(), trace=1)
    )


# -- whose settings hold ---------------------------------------------------------------------------

LAYERS = ("environment", "instrumented", "wrapped", "decorated", "block")
"""From the outermost to the innermost."""


@contextmanager
def _environment(client: Client, layers: Layers) -> Iterator[None]:
    if "environment" in layers:
        with client.environment(HOPSPAN_POLICY=layers["environment"]["policy"].name):
            yield
    else:
        yield


def _handle_in_layers(client: Client, layers: Layers) -> Ran:
    def handler(message: Message) -> None:
        if "block" in layers:
            _in_block(client, message, **layers["block"])

    with _environment(client, layers):
        return _handle(client, handler, layers)


@over(innermost=LAYERS, faces=("all", "only two"))
@needs("settles")
def the_innermost_policy_holds(client: Client, innermost: str, faces: str) -> None:
    client.send()
    beneath = LAYERS[: LAYERS.index(innermost)]
    if faces == "only two":
        beneath = beneath[:1]
    winner = ACKS if innermost == "environment" else client.rejecting
    layers = {**{name: {"policy": ACKS} for name in beneath}, innermost: {"policy": winner}}
    if innermost == "environment" or set(layers) == {"environment", "block"}:
        layers["wrapped"] = {}
    _handle_in_layers(client, layers)
    assert ["ack" if winner is ACKS else "reject"] == client.settlements()


@over(outermost=LAYERS)
@needs("settles")
def a_face_without_a_policy_has_that_of_the_next_one_out(client: Client, outermost: str) -> None:
    client.send()
    above: dict[str, Any] = {name: {} for name in LAYERS[LAYERS.index(outermost) + 1 :]}
    _handle_in_layers(client, {outermost: {"policy": ACKS}, **above})
    assert ["ack"] == client.settlements()


@needs("settles")
def manual_inside_takes_back_a_policy_from_outside(client: Client) -> None:
    client.send()
    layers = {"instrumented": {"policy": ACKS}, "decorated": {"policy": hopspan.manual}}
    _handle(client, succeeds, layers)
    assert [] == client.settlements()


@over(faces=_combinations("decorated", "wrapped", "instrumented"))
@needs("settles")
def without_any_policy_nothing_is_settled(client: Client, faces: str) -> None:
    client.send()
    _handle(client, succeeds, {face: {} for face in faces.split("+")})
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process())


LATE = (
    "{} of an inner handler or block had no effect: the handling had begun with the settings of the "
    "outer one. Set them there"
)


@over(metrics=(True, False))
def a_setting_that_comes_too_late_is_said_to_have_no_effect(client: Client, metrics: bool) -> None:
    client.send()
    client.handle(
        lambda message: _in_block(client, message, metrics=metrics, policy=hopspan.manual)
    )
    assert ([] if metrics else [LATE.format("metrics")]) == client.lines.take()
    client.expect_spans(client.a_publish(), client.a_process())
    assert 4 == len(client.telemetry.instruments())


@needs("settles")
def what_is_wrapped_before_the_process_is_instrumented_has_its_policy_too(client: Client) -> None:
    client.send()
    client.wrap_consumer()
    client.instrument(policy=ACKS)
    _handle(client, succeeds, {})
    assert ["ack"] == client.settlements()


# -- instrumenting ---------------------------------------------------------------------------------


def _attributes(client: Client) -> dict[type, dict[str, Any]]:
    return {each: dict(vars(each)) for each in client.classes}


def _assert_same(before: dict[type, dict[str, Any]], after: dict[type, dict[str, Any]]) -> None:
    for owner, attributes in before.items():
        assert list(attributes) == list(after[owner])
        assert [] == [name for name in attributes if attributes[name] is not after[owner][name]]


def _changed(before: dict[type, dict[str, Any]], after: dict[type, dict[str, Any]]) -> set[str]:
    return {
        f"{owner.__name__}.{name}"
        for owner in before
        for name in before[owner]
        if before[owner][name] is not after[owner][name]
    }


def _woven(client: Client) -> set[str]:
    """The methods that are replaced when the process is instrumented."""
    return {_method(point) for point in adapter_named(client.NAME).points}


def _method(point: Any) -> str:
    return f"{point.owner.partition(':')[2]}.{point.method}"


@over(face=("instrumented",))
@needs("settles")
def instrumenting_twice_is_once(client: Client) -> None:
    before = _attributes(client)
    hopspan.instrument(client.NAME)
    hopspan.instrument()
    _assert_same(before, _attributes(client))
    assert [] == client.lines.take()
    client.send()
    ran = client.handle(succeeds, policy=ACKS)
    assert 1 == ran.times
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(face=("instrumented",))
@needs("settles")
def instrumenting_again_with_other_settings_changes_nothing_and_says_so(client: Client) -> None:
    client.instrument(policy=ACKS)
    hopspan.instrument(client.NAME, **client.settings(policy=ACKS))
    assert [] == client.lines.take()
    hopspan.instrument(client.NAME, policy=client.rejecting)
    expected = f"{client.NAME} is instrumented already; these settings have no effect"
    assert [expected] == client.lines.take()
    client.send()
    _handle(client, succeeds, {})
    assert ["ack"] == client.settlements()


def the_zero_code_launcher_instruments_and_uninstruments(client: Client) -> None:
    before = _attributes(client)
    kinds = vars(instrumentation).values()
    (kind,) = (each for each in kinds if getattr(each, "_client", None) == client.NAME)
    kind().instrument(skip_dep_check=True, **client.telemetry.providers)
    assert _woven(client) == _changed(before, _attributes(client))
    client.send()
    _handle(client, succeeds, {})
    client.expect_spans(client.a_publish(), client.a_process())
    kind().uninstrument()
    _assert_same(before, _attributes(client))


def the_zero_code_launcher_passes_over_what_is_not_installed(client: Client) -> None:
    before = _attributes(client)
    kinds = vars(instrumentation).values()
    (kind,) = (each for each in kinds if getattr(each, "_client", None) == client.NAME)
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
        kind().instrument()
        hopspan.instrument()
    _assert_same(before, _attributes(client))


# -- uninstrumenting -------------------------------------------------------------------------------


def after_uninstrument_the_classes_are_what_they_were(client: Client) -> None:
    before = _attributes(client)
    client.instrument(policy=ACKS)
    assert _woven(client) == _changed(before, _attributes(client))
    hopspan.uninstrument(client.NAME)
    _assert_same(before, _attributes(client))
    client.instrument()
    hopspan.uninstrument()
    _assert_same(before, _attributes(client))
    hopspan.uninstrument(client.NAME)
    hopspan.uninstrument("nobody's client")
    _assert_same(before, _attributes(client))


class Heir:
    """Stands for a class that inherits what is replaced; made anew by its scenario."""


def a_method_that_was_inherited_is_inherited_again(client: Client) -> None:
    adapter = adapter_named(client.NAME)
    point = adapter.points[0]
    parent = interception.owner_of(point.owner)
    heir = type("Heir", (parent,), {})
    inheriting = [point._replace(owner=f"{__name__}:Heir")]
    with mock.patch.dict(globals(), Heir=heir), mock.patch.object(adapter, "points", inheriting):
        client.instrument()
        assert point.method in vars(heir)
        hopspan.uninstrument()
    assert point.method not in vars(heir)
    assert getattr(heir, point.method) is vars(parent)[point.method]


@needs("pushes", "settles")
def after_uninstrument_a_registered_handler_runs_as_if_there_were_no_hopspan(
    client: Client,
) -> None:
    seen: list[bool] = []
    client.send()
    ran = _subscribe(
        client, lambda _: seen.append(bool(hopspan.current())), {"instrumented": {"policy": ACKS}}
    )
    client.drive(lambda: ran.times == 1)
    hopspan.uninstrument()
    client.send()
    client.drive(lambda: ran.times == 2)
    client.sync()
    assert [True, False] == seen
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(), client.a_process(settlement="ack"), client.a_publish(trace=1)
    )


@over(face=("instrumented",))
def after_uninstrument_a_live_sender_sends_messages_as_they_are(client: Client) -> None:
    send = client.sender()
    hopspan.uninstrument()
    with client.span("order"):
        send(b"order", client.carrier({"color": "red"}))
    assert {"color": "red"} == client.fetch().headers
    client.expect_spans(Span("order"))


@over(face=("instrumented",))
def after_uninstrument_a_live_consumer_is_asked_without_a_span(client: Client) -> None:
    client.send_untraced(b"1")
    client.send_untraced(b"2")
    client.fetch().ack()
    hopspan.uninstrument()
    client.fetch()
    client.expect_spans(client.a_receive(links=()))


@needs("loops")
def after_uninstrument_a_live_loop_goes_on_by_itself(client: Client) -> None:
    for body in (b"1", b"2"):
        client.send(body)
    client.instrument()
    loop = client.own_loop()
    client.message(next(loop)).ack()
    assert hopspan.current()
    hopspan.uninstrument()
    assert b"2" == client.message(next(loop)).body
    assert not hopspan.current()
    assert client.is_current_nothing()
    client.end_loop()
    client.expect_spans(
        client.a_publish(), client.a_publish(trace=1), client.a_process(settlement="ack")
    )


@over(face=("instrumented",))
@needs("pushes", "settles")
def after_uninstrument_a_message_from_before_is_settled_without_a_span(client: Client) -> None:
    client.send_untraced()
    ran = client.handle(succeeds)
    hopspan.uninstrument()
    ran.messages[0].reject()
    client.sync()
    assert ["reject"] == client.settlements()
    client.expect_spans(client.a_process(parent=None, links=()))


@over(faces=("decorated", "wrapped", "decorated+wrapped"))
@needs("settles")
def after_uninstrument_what_was_asked_for_by_itself_goes_on(client: Client, faces: str) -> None:
    client.send()
    own = {face: {"policy": ACKS} for face in faces.split("+")}
    ran = _subscribe(client, succeeds, {"instrumented": {"policy": client.rejecting}, **own})
    client.drive(lambda: ran.times == 1)
    hopspan.uninstrument()
    client.send()
    client.drive(lambda: ran.times == 2)
    client.sync()
    assert ["ack", "ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        client.a_publish(trace=1),
        client.a_process(settlement="ack", trace=1),
    )


@over(faces=("decorated", "wrapped", "decorated+wrapped"))
@needs("settles")
def after_uninstrument_what_goes_on_no_longer_has_its_policy(client: Client, faces: str) -> None:
    client.send()
    own: dict[str, Any] = {face: {} for face in faces.split("+")}
    ran = _subscribe(client, succeeds, {"instrumented": {"policy": ACKS}, **own})
    client.drive(lambda: ran.times == 1)
    assert ["ack"] == client.settlements()
    hopspan.uninstrument()
    client.send()
    client.drive(lambda: ran.times == 2)
    client.sync()
    assert ["ack"] == client.settlements()
    assert [client.processes] * 2 == [
        span.name for span in client.telemetry.spans() if span.kind == "consumer"
    ]


@needs("settles")
def what_was_uninstrumented_can_be_instrumented_again(client: Client) -> None:
    before = _attributes(client)
    for policy in (client.rejecting, ACKS):
        client.instrument(policy=policy)
        hopspan.uninstrument()
    client.instrument(policy=ACKS)
    client.send()
    _handle(client, succeeds, {})
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))
    hopspan.uninstrument()
    _assert_same(before, _attributes(client))


@over(face=("instrumented",))
def a_live_sender_is_traced_again_when_the_process_is_instrumented_again(client: Client) -> None:
    hopspan.uninstrument()
    client.send()
    client.instrument()
    client.send()
    client.expect_spans(client.a_publish())


# -- wrapping --------------------------------------------------------------------------------------


@needs("settles")
def wrapping_twice_is_once_and_the_second_settings_hold(client: Client) -> None:
    first = client.wrap_consumer(policy=client.rejecting)
    attributes = dict(vars(first))
    assert first is client.wrap_consumer(policy=ACKS)
    assert attributes == vars(first)
    client.send()
    _handle(client, succeeds, {})
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


def wrapping_keeps_an_object_what_it_is(client: Client) -> None:
    before, kind = _attributes(client), type(client.via)
    wrapped = client.wrap_consumer()
    assert wrapped is client.via
    assert isinstance(wrapped, kind)
    assert (kind.__name__, kind.__doc__) == (type(wrapped).__name__, type(wrapped).__doc__)
    _assert_same(before, _attributes(client))


def wrapping_one_object_leaves_the_others_alone(client: Client) -> None:
    client.wrap_consumer()
    client.face = "instrumented"  # a sender that is not wrapped
    client.sender()(b"order", None)
    assert {} == client.fetch().headers


@needs("connections", "pushes", "settles")
def a_wrapped_connections_channels_are_wrapped(client: Client) -> None:
    client.use_wrapped_connection(policy=ACKS)
    client.send()
    _handle(client, succeeds, {})
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(style="senders")
@needs("connections")
def the_channels_of_every_kind_of_wrapped_connection_send_traced(
    client: Client, style: str
) -> None:
    client.send_by_wrapped_connection(style)
    client.handle(succeeds)
    client.expect_spans(client.a_publish(), client.a_process())


# -- next to other instrumentations ----------------------------------------------------------------


def _like_functools(method: Any) -> Any:
    @functools.wraps(method)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return theirs


class _like_wrapt:  # noqa: N801 - used as a function
    """An object in the place of a method, which looks like it in all respects."""

    def __init__(self, method: Any) -> None:
        self.__wrapped__ = method

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


RIVALS = (_like_functools, _like_wrapt)


@contextmanager
def _rival(path: str, method: str, wrapping: Callable[[Any], Any]) -> Iterator[None]:
    """Another instrumentation has been here first."""
    owner = interception.owner_of(path)
    with mock.patch.object(owner, method, wrapping(vars(owner)[method])):
        yield
        hopspan.uninstrument()  # before theirs is taken out again


def _declined(method: str, wrapped: str) -> str:
    return (
        f"hopspan leaves {method} alone: another instrumentation wraps {wrapped} already; "
        "use one of the two, or spans are doubled"
    )


@over(rival=RIVALS)
def a_method_that_another_instrumentation_wraps_is_left_alone(
    client: Client, rival: Callable[[Any], Any]
) -> None:
    adapter = adapter_named(client.NAME)
    point = adapter.points[0]
    wrapped = f"{point.owner}.{point.method}"
    # One by which another instrumentation of this client is known: it has the whole client.
    whole = wrapped in adapter.rivals
    left = [_method(each) for each in adapter.points] if whole else [_method(point)]
    with _rival(point.owner, point.method, rival):
        before = _attributes(client)
        client.instrument()
        said = [_declined(each, wrapped if whole else _method(point)) for each in left]
        assert said == client.lines.take()
        assert _woven(client) - set(left) == _changed(before, _attributes(client))
        client.face = "instrumented"  # a sender that is not wrapped
        client.sender()(b"order", client.carrier({"color": "red"}))
        assert {"color": "red"} == client.take_untraced()
        client.expect_spans()
        hopspan.uninstrument()
        _assert_same(before, _attributes(client))


@over(rival=RIVALS)
@needs("pushes", "settles")
def a_policy_that_would_be_lost_to_another_instrumentation_is_refused(
    client: Client, rival: Callable[[Any], Any]
) -> None:
    point = next(each for each in adapter_named(client.NAME).points if each.carries_policy)
    with _rival(point.owner, point.method, rival):
        before = _attributes(client)
        with pytest.raises(hopspan.ConfigurationError) as refused:
            client.instrument(policy=ACKS)
        _assert_same(before, _attributes(client))
        client.instrument()  # without one, it is only left alone
        assert [_declined(_method(point), _method(point))] == client.lines.take()
    assert (
        f"{_method(point)} cannot be instrumented, so policy ack_always would be lost: another "
        f"instrumentation wraps {_method(point)} already; use one of the two, or spans are doubled"
    ) == str(refused.value)


@over(rival=RIVALS)
@needs("connections")
def where_another_instrumentation_wraps_every_channel_everything_is_left_alone(
    client: Client, rival: Callable[[Any], Any]
) -> None:
    adapter = adapter_named(client.NAME)
    path, _, method = adapter.rivals[0].rpartition(".")
    with _rival(path, method, rival):
        before = _attributes(client)
        client.instrument()
        _assert_same(before, _attributes(client))
        assert [
            _declined(_method(point), adapter.rivals[0]) for point in adapter.points
        ] == client.lines.take()
        with pytest.raises(
            hopspan.ConfigurationError, match="cannot be instrumented, so policy ack_always"
        ):
            client.instrument(policy=ACKS)
        _assert_same(before, _attributes(client))


def a_method_that_was_replaced_on_an_instance_is_left_alone_when_it_is_wrapped(
    client: Client,
) -> None:
    native = client.via
    point = next(
        each
        for each in adapter_named(client.NAME).points
        if isinstance(native, interception.owner_of(each.owner)) and not each.carries_policy
    )
    theirs = _like_functools(getattr(native, point.method))
    vars(native)[point.method] = theirs
    client.wrap_consumer()
    assert theirs is vars(native)[point.method]
    assert [
        f"hopspan leaves {_method(point)} alone: another instrumentation replaced it on this "
        "instance"
    ] == client.lines.take()


# -- mistakes --------------------------------------------------------------------------------------


def an_unknown_client_is_an_error(client: Client) -> None:
    before = _attributes(client)
    for names in (("rabbit",), (client.NAME, "rabbit")):
        with pytest.raises(hopspan.ConfigurationError) as error:
            hopspan.instrument(*names)
        assert str(error.value).startswith("unknown client 'rabbit'; hopspan knows ")
        assert client.NAME in str(error.value)
        _assert_same(before, _attributes(client))


def a_client_that_is_not_installed_is_an_error(client: Client) -> None:
    with (
        mock.patch.object(importlib.util, "find_spec", return_value=None),
        pytest.raises(hopspan.ConfigurationError) as error,
    ):
        hopspan.instrument(client.NAME)
    assert f"{client.NAME} is not installed: pip install 'hopspan[{client.NAME}]'" == str(
        error.value
    )


def _by_instrument(client: Client, **settings: Any) -> None:
    hopspan.instrument(client.NAME, **settings)


def _by_wrap(client: Client, **settings: Any) -> None:
    hopspan.wrap(client.via, **settings)


def _by_consumer(_client: Client, **settings: Any) -> None:
    hopspan.consumer(**settings)


def _by_process(client: Client, **settings: Any) -> None:
    hopspan.process([], via=client.via, **settings)


SETTINGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "misspelt": (
        {"polcy": None},
        hopspan.ConfigurationError,
        "unknown setting polcy; did you mean policy?",
    ),
    "unheard of": (
        {"colour": "red"},
        hopspan.ConfigurationError,
        "unknown setting colour; known settings: baggage_allow, baggage_attributes, "
        "baggage_metrics, capture_headers, commits, correlation, ignore, keep_context, "
        "logger_provider, message_key, meter_provider, metrics, on_end, on_start, policy, reraise, "
        "settle_spans, tracer_provider, trust",
    ),
    "of no such value": (
        {"correlation": "sometimes"},
        hopspan.ConfigurationError,
        "correlation='sometimes' is not valid: it takes one of auto, parent, link, none",
    ),
    "no policy": (
        {"policy": "ack"},
        hopspan.PolicyError,
        "policy='ack' is no policy: give one of hopspan's (hopspan.requeue_once, ...) or a function "
        "of (outcome, delivery) that returns a hopspan.Verdict",
    ),
}


@over(face_=(_by_instrument, _by_wrap, _by_consumer, _by_process), mistake=SETTINGS)
def a_mistaken_setting_is_an_error_where_it_is_given(
    client: Client, face_: Callable[..., None], mistake: str
) -> None:
    before, held = _attributes(client), dict(vars(client.via))
    settings, kind, message = SETTINGS[mistake]
    with pytest.raises(kind) as error:
        face_(client, **settings)
    assert message == str(error.value)
    _assert_same(before, _attributes(client))
    assert held == vars(client.via)


def a_mistaken_variable_is_an_error_that_names_it(client: Client) -> None:
    with (
        client.environment(HOPSPAN_POLCY="ack_always"),
        pytest.raises(hopspan.ConfigurationError) as error,
    ):
        hopspan.instrument(client.NAME)
    assert "unknown setting HOPSPAN_POLCY; did you mean HOPSPAN_POLICY?" == str(error.value)


def what_nobody_knows_cannot_be_wrapped(_client: Client) -> None:
    with pytest.raises(hopspan.UnknownMessageError) as error:
        hopspan.wrap(object())
    assert str(error.value).startswith(
        "wrap: no message of a client that hopspan knows in what it was given (object); "
    )


# -- what became of a message that was sent --------------------------------------------------------


@over(outcome="outcomes", style="senders", face=("wrapped", "instrumented"))
@needs("reports_completion")
def the_span_of_a_publish_tells_what_became_of_it(client: Client, outcome: str, style: str) -> None:
    with client.span("order"):
        sent = client.send_so_that(outcome, style)
    expected = Span(sent.name, "producer", parent="order")
    if sent.error is not None:
        expected = expected._replace(status="error", error=sent.error, description=sent.description)
    expected = expected._replace(exceptions=_classes(sent.raised))
    spans = [span for span in client.telemetry.spans() if span.kind != "client"]
    assert [Span("order"), expected] == spans


def _classes(error: BaseException | None) -> tuple[str, ...]:
    """How an exception is recorded."""
    return () if error is None else (f"{type(error).__module__}.{type(error).__qualname__}",)


@over(style="confirmers", face=("wrapped", "instrumented"))
@needs("reports_completion")
def each_of_many_publishes_ends_as_it_was_told(client: Client, style: str) -> None:
    first, *others = client.features.awaited
    outcomes = (first, "untraced", *others, first, *reversed(others), "untraced", *others)
    _expect_sent(client, client.send_at_once(outcomes, style))


@over(style="confirmers", face=("wrapped", "instrumented"))
@needs("reports_completion", "event_loops")
def every_publish_that_waits_ends_with_its_channel(client: Client, style: str) -> None:
    _expect_sent(client, client.send_at_once(["nowhere"] * 3, style))


def _expect_sent(client: Client, sent: list[Any]) -> None:
    spans = [
        Span(
            each.name,
            "producer",
            trace=number,
            status="error" if each.error else "unset",
            error=each.error,
            description=each.description,
            exceptions=_classes(each.raised),
        )
        for number, each in enumerate(sent)
    ]
    client.expect_spans(*spans)


@over(style="confirmers", face=("wrapped", "instrumented"))
@needs("event_loops", "settles")
def a_connection_with_a_loop_of_its_own_sends_and_consumes(client: Client, style: str) -> None:
    with client.span("order"):
        client.send_so_that("confirmed", style)
    client.consume_by(style, succeeds, policy=ACKS)
    client.sync()
    client.expect_spans(
        Span("order"), client.a_publish(parent="order"), client.a_process(settlement="ack")
    )
    assert ["ack"] == client.settlements()


@over(style="confirmers")
@needs("event_loops")
def a_publish_that_nobody_confirms_has_ended_when_the_call_returns(
    client: Client, style: str
) -> None:
    client.send_at_once(["unconfirmed", "untraced"], style)
    client.expect_spans(client.a_publish())
