"""Methods of one instance are replaced, also where Python or the class does not let it."""

from __future__ import annotations

import gc
import inspect
import weakref
from types import MethodType
from typing import Any

import pytest

from hopspan.interception.replacing import replace_on


class Plain:
    def say(self, word: str) -> str:
        return word

    def __iter__(self) -> Any:
        return iter("ab")


class Slotted:
    __slots__ = ("__weakref__", "name")

    def say(self, word: str) -> str:
        return word

    async def wait(self) -> str:
        return "waited"

    def __iter__(self) -> Any:
        return iter("ab")


def louder(self: Any, word: str) -> str:
    return word.upper()


def other(self: Any) -> Any:
    return iter("cd")


def replaced_on(instance: Any, **functions: Any) -> Any:
    replace_on(instance, {name: MethodType(each, instance) for name, each in functions.items()})
    return instance


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_a_method_is_replaced_on_this_instance_only(kind: Any) -> None:
    instance, another = replaced_on(kind(), say=louder), kind()
    assert (instance.say("a"), another.say("a")) == ("A", "a")


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_so_is_a_special_one(kind: Any) -> None:
    instance, another = replaced_on(kind(), __iter__=other), kind()
    assert ("".join(instance), "".join(another)) == ("cd", "ab")


def test_two_instances_have_their_own() -> None:
    first = replaced_on(Slotted(), say=louder)
    second = replaced_on(Slotted(), say=lambda self, word: word * 2)
    assert (first.say("a"), second.say("a")) == ("A", "aa")
    assert type(first) is type(second)


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_the_instance_stays_what_it_was(kind: Any) -> None:
    instance = replaced_on(kind(), say=louder, __iter__=other)
    about = (type(instance).__name__, type(instance).__qualname__, type(instance).__module__)
    assert isinstance(instance, kind)
    assert about == (kind.__name__, kind.__qualname__, kind.__module__)


async def waits_no_more(self: Any) -> str:
    return "at once"


def test_a_coroutine_function_stays_one() -> None:
    instance = replaced_on(Slotted(), wait=waits_no_more)
    assert inspect.iscoroutinefunction(instance.wait)


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_an_instance_that_is_dropped_goes(kind: Any) -> None:
    instance = replaced_on(kind(), say=louder, __iter__=other)
    kept = weakref.ref(instance)
    del instance
    gc.collect()
    assert kept() is None
