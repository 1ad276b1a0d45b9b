"""From scenarios to tests: which ones run for a client, and in which cases each of them runs.

    @needs("settles", "redelivers")
    @over(face=FACES, sampling=SAMPLINGS)
    def a_scenario(client): ...

`face` and `sampling` shape the client; what else `over` names is an argument of the scenario. A
module's `NEEDS` and `OVER` hold for all of its scenarios.
"""

from __future__ import annotations

import contextvars
import importlib
import inspect
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

if TYPE_CHECKING:
    from tests.contract.client import Client
    from tests.contract.features import Features

FACES = ("decorated", "wrapped", "instrumented", "together")
"""How hopspan comes in: decorated handler, wrapped channel, instrumented process, all three."""
SAMPLINGS = ("sampled", "unsampled", "no SDK")
EVERYWHERE = (
    "scenarios_propagation",
    "scenarios_scope",
    "scenarios_core",
    "scenarios_settlement",
    "scenarios_refusals",
    "scenarios_robustness",
    "scenarios_instrumentation",
    "scenarios_logs",
    "scenarios_metrics",
    "scenarios_privacy",
    "scenarios_baggage",
)
"""The scenarios of every client, by module."""

Scenario = TypeVar("Scenario", bound=Callable[..., None])
_SHAPE = ("face", "sampling")


def needs(*features: str) -> Callable[[Scenario], Scenario]:
    """Run a scenario only where the client has these features."""

    def mark(scenario: Scenario) -> Scenario:
        vars(scenario)["needs"] = features
        return scenario

    return mark


def over(**choices: Iterable[Any] | str) -> Callable[[Scenario], Scenario]:
    """Run a scenario once for every combination; a text names the feature that lists the choices.

    But face and sampling go hand in hand: each face and each sampling has its turn, and not each
    with each of the other, unless the scenario asks for that with `each_with_each`.
    """

    def mark(scenario: Scenario) -> Scenario:
        vars(scenario)["over"] = choices
        return scenario

    return mark


def each_with_each(scenario: Scenario) -> Scenario:
    """Run a scenario with each face in each sampling."""
    vars(scenario)["each_with_each"] = True
    return scenario


class Play(NamedTuple):
    """A scenario in one case. Called with what makes a client, it plays."""

    scenario: Callable[..., None]
    features: Features
    case: Mapping[str, Any]

    def __call__(self, client: Callable[..., AbstractContextManager[Client]]) -> None:
        contextvars.copy_context().run(self._play, client)  # what leaks there is lost there

    def _play(self, client: Callable[..., AbstractContextManager[Client]]) -> None:
        shape = {name: self.case[name] for name in _SHAPE if name in self.case}
        arguments = {name: self.case[name] for name in self.case if name not in _SHAPE}
        with client(self.features, **shape) as opened:
            self.scenario(opened, **arguments)

    @property
    def name(self) -> str:
        """What the test is called in a report."""
        cases = ", ".join(_named(choice) for choice in self.case.values())
        return f"{self.scenario.__name__}[{cases}]" if cases else self.scenario.__name__


def _named(choice: Any) -> str:
    return str(getattr(choice, "__name__", choice))


def scenarios(features: Features, *modules: str, but: Collection[str] = ()) -> pytest.MarkDecorator:
    """Parametrise a test by `play`: every scenario of these modules that the features allow.

    All `but` those of these names; each of them must be one that would run.
    """
    plays = [play for name in modules for play in _plays(name, features)]
    missing = {*but} - {play.scenario.__name__ for play in plays}
    assert not missing, f"no such scenarios: {missing}"
    plays = [play for play in plays if play.scenario.__name__ not in but]
    return pytest.mark.parametrize("play", [pytest.param(play, id=play.name) for play in plays])


def _plays(name: str, features: Features) -> Iterator[Play]:
    module = importlib.import_module(f"tests.contract.{name}")
    for scenario in _scenarios_in(module):
        wanted = {*getattr(module, "NEEDS", ()), *getattr(scenario, "needs", ())}
        if all(getattr(features, each) for each in wanted):
            for case in _cases(scenario, module, features):
                yield Play(scenario, features, case)


def _scenarios_in(module: ModuleType) -> list[Callable[..., None]]:
    """Public functions of the module itself that take a client first."""
    functions = [
        each
        for each in vars(module).values()
        if inspect.isfunction(each) and each.__module__ == module.__name__
    ]
    return [
        each
        for each in functions
        if not each.__name__.startswith("_")
        and next(iter(inspect.signature(each).parameters), "") == "client"
    ]


def _cases(
    scenario: Callable[..., None], module: ModuleType, features: Features
) -> Iterator[Mapping[str, Any]]:
    choices = {**getattr(module, "OVER", {}), **getattr(scenario, "over", {})}
    listed = {
        name: getattr(features, each) if isinstance(each, str) else tuple(each)
        for name, each in choices.items()
    }
    shapes = _shapes(listed, each_with_each=getattr(scenario, "each_with_each", False))
    others = [name for name in listed if name not in _SHAPE]
    for combination in itertools.product(*(listed[name] for name in others)):
        for shape in shapes:
            yield {**dict(zip(others, combination, strict=True)), **shape}


def _shapes(listed: Mapping[str, Sequence[Any]], *, each_with_each: bool) -> list[dict[str, Any]]:
    """Faces and samplings that a scenario runs with."""
    named = [name for name in _SHAPE if name in listed]
    choices = [listed[name] for name in named]
    if each_with_each or len(named) < 2:
        combinations = list(itertools.product(*choices))
    else:
        turns = range(max(map(len, choices)))
        combinations = [tuple(each[turn % len(each)] for each in choices) for turn in turns]
    return [dict(zip(named, combination, strict=True)) for combination in combinations]
