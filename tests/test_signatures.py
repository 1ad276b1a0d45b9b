"""Readers have the parameters of what they read: for the installed client, and for clients to come.

tox runs it with the oldest and with the newest pika.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

import hopspan
from hopspan.adapters import ADAPTERS, adapter_named
from hopspan.adapters.amqp_ledger import SETTLEMENTS
from hopspan.interception import Point, owner_of, unweave, weave
from hopspan.interception.weaving import why_not_intercept
from hopspan.model import ConfigurationError
from hopspan.telemetry import Binding, Instrumenter

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def points() -> Iterator[Any]:
    for name in ADAPTERS:
        adapter = adapter_named(name)
        for point in (*adapter.points, *adapter.instance_points):
            yield pytest.param(adapter, point, id=f"{point.owner.partition(':')[2]}.{point.method}")


EVERY_POINT = pytest.mark.parametrize(("adapter", "point"), list(points()))


def named(function: Callable[..., Any]) -> list[Parameter]:
    """What can be given by position, without the client itself."""
    found = inspect.signature(function).parameters.values()
    return [each for each in found if each.kind in POSITIONAL][1:]


def method_of(point: Point) -> Any:
    return getattr(owner_of(point.owner), point.method)


@EVERY_POINT
def test_a_reader_names_the_first_parameters_of_its_method(adapter: Any, point: Point) -> None:
    ours, theirs = named(point.reader), named(method_of(point))
    assert [each.name for each in ours] == [each.name for each in theirs[: len(ours)]]


@EVERY_POINT
def test_a_reader_has_the_defaults_of_its_method(adapter: Any, point: Point) -> None:
    """Or an argument that the user leaves out would be another one for us than for the client."""
    ours, theirs = named(point.reader), named(method_of(point))
    assert [each.default for each in ours] == [each.default for each in theirs[: len(ours)]]


@EVERY_POINT
def test_a_reader_takes_whatever_else_comes(adapter: Any, point: Point) -> None:
    kinds = {each.kind for each in inspect.signature(point.reader).parameters.values()}
    wanted = (
        set() if is_special(point.method) else {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    )
    assert wanted <= kinds


def is_special(method: str) -> bool:
    """Whether it is Python that calls it, so that no version of a client can add to it."""
    return method.startswith("__")


@pytest.mark.parametrize(("method", "reader"), SETTLEMENTS.items())
@pytest.mark.parametrize("owner", [Channel, BlockingChannel])
def test_a_settlements_reader_has_the_parameters_of_its_method(
    owner: type, method: str, reader: Callable[..., Any]
) -> None:
    """Bound: without the channel. With another default, what we note is not what was sent."""
    ours = [
        each for each in inspect.signature(reader).parameters.values() if each.kind in POSITIONAL
    ]
    theirs = named(getattr(owner, method))
    assert [(each.name, each.default) for each in ours] == [
        (each.name, each.default) for each in theirs[: len(ours)]
    ]


@pytest.mark.parametrize("reader", SETTLEMENTS.values())
def test_a_settlements_reader_takes_whatever_else_comes(reader: Callable[..., Any]) -> None:
    kinds = {each.kind for each in inspect.signature(reader).parameters.values()}
    assert {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= kinds


# -- clients to come -------------------------------------------------------------------------------


class Version:
    """One of the client's methods as another version may have it."""

    def __init__(self, parameters: list[Parameter]) -> None:
        self.__signature__ = Signature(parameters)
        self.__qualname__ = "Newer.method"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def version(method: Any, change: Callable[[list[Parameter]], list[Parameter]]) -> Version:
    self_, *others = inspect.signature(method).parameters.values()
    # Python wants them in the order of their kinds.
    return Version(sorted([self_, *change(others)], key=lambda each: each.kind))


NEW = Parameter("new", Parameter.POSITIONAL_OR_KEYWORD, default=None)
NEW_KEYWORD = Parameter("new", Parameter.KEYWORD_ONLY, default=None)


def keeps(parameters: list[Parameter]) -> list[Parameter]:
    return parameters


def appends(parameters: list[Parameter]) -> list[Parameter]:
    return [*parameters, NEW]


def adds_a_keyword(parameters: list[Parameter]) -> list[Parameter]:
    return [*parameters, NEW_KEYWORD]


@EVERY_POINT
@pytest.mark.parametrize("change", [keeps, appends, adds_a_keyword])
def test_a_version_that_only_adds_is_intercepted(change: Any, adapter: Any, point: Point) -> None:
    assert why_not_intercept(version(method_of(point), change), point.reader) is None


def removes(number: int) -> Any:
    return lambda parameters: [*parameters[:number], *parameters[number + 1 :]]


def renames(number: int) -> Any:
    return lambda parameters: [
        *parameters[:number],
        parameters[number].replace(name="renamed"),
        *parameters[number + 1 :],
    ]


def inserts(number: int) -> Any:
    return lambda parameters: [
        *(each.replace(default=Parameter.empty) for each in parameters[:number]),
        NEW.replace(default=Parameter.empty),
        *parameters[number:],
    ]


def broken_versions() -> Iterator[Any]:
    for param in points():
        _, point = param.values
        for number, parameter in enumerate(named(point.reader)):
            for change in (removes, renames, inserts):
                name = f"{param.id} {change.__name__} {parameter.name}"
                yield pytest.param(point, change(number), id=name)


@pytest.mark.parametrize(("point", "change"), list(broken_versions()))
def test_a_version_that_lost_or_moved_a_parameter_is_declined(point: Point, change: Any) -> None:
    reason = why_not_intercept(version(method_of(point), change), point.reader)
    assert reason is not None
    assert reason.startswith("this version of the client has (")
    assert reason.endswith("look for a newer hopspan")


def reorders(parameters: list[Parameter]) -> list[Parameter]:
    return [each.replace(default=Parameter.empty) for each in reversed(parameters)]


@EVERY_POINT
def test_a_version_that_reordered_is_declined(adapter: Any, point: Point) -> None:
    if len(named(point.reader)) > 1:
        assert why_not_intercept(version(method_of(point), reorders), point.reader) is not None


# -- what declining means --------------------------------------------------------------------------


def woven_into_a_changed_class(point: Point, policy: hopspan.Policy) -> list[Any]:
    """Weave one point into a class whose method has lost all its parameters."""
    changed = type("Changed", (), {point.method: version(method_of(point), lambda _: [])})
    adapter: Any = type("Adapter", (), {"name": "changed", "rivals": ()})
    binding = Binding(adapter, Instrumenter(hopspan.Config(policy=policy)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hopspan.interception.weaving.owner_of", lambda path: changed)
        return weave([point], binding)


@pytest.mark.parametrize(
    ("adapter", "point"), [each for each in points() if named(each.values[1].reader)]
)
def test_a_declined_method_is_warned_of_and_an_error_where_a_policy_would_be_lost(
    adapter: Any, point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    hopspan.faults.forget()
    assert woven_into_a_changed_class(point, hopspan.manual) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    if point.carries_policy:
        with pytest.raises(ConfigurationError, match="policy ack_always would be lost"):
            woven_into_a_changed_class(point, hopspan.ack_always)
    else:
        assert woven_into_a_changed_class(point, hopspan.ack_always) == []


def test_the_points_that_carry_a_policy_are_those_that_register_handlers() -> None:
    carrying = {
        f"{point.owner.partition(':')[2]}.{point.method}"
        for name in ADAPTERS
        for point in adapter_named(name).points
        if point.carries_policy
    }
    assert carrying == {
        "BlockingChannel.basic_consume",
        "Celery._task_from_fun",
        "Celery.register_task",
        "Channel.basic_consume",
        "Channel.basic_get",
        "Queue.consume",
    }


def test_weaving_into_the_installed_client_declines_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ADAPTERS:
        adapter = adapter_named(name)
        woven = weave(adapter.points, Binding(adapter, Instrumenter(hopspan.Config())))
        unweave(woven)
        assert len(woven) == len(adapter.points)
    assert caplog.records == []
