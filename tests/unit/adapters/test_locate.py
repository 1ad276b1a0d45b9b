"""Which adapter an object belongs to: by the module of its class, for subclasses too."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.spec import Basic

from hopspan import adapters
from hopspan.adapters import adapter_named, locate
from hopspan.delivery import adapter_of
from hopspan.testing import Message
from hopspan.testing.memory import ADAPTER as MEMORY


class MyChannel(BlockingChannel):
    """A user's subclass of a client's class."""


class MyMessage(Message):
    """A user's subclass of ours."""


@pytest.mark.parametrize(
    "kind",
    [BlockingChannel, Channel, BlockingConnection, SelectConnection, Basic.Deliver, MyChannel],
)
def test_objects_of_pika_have_its_adapter(kind: type) -> None:
    assert locate(kind) is adapter_named("pika")


@pytest.mark.parametrize("kind", [Message, MyMessage])
def test_in_memory_messages_have_theirs(kind: type) -> None:
    found: Any = locate(kind)
    assert found is MEMORY


class Pikant:
    """A class of a module whose name only begins like a client's."""

    __module__ = "pikant.channel"


class OfHopspan:
    __module__ = "hopspan.delivery"


@pytest.mark.parametrize("kind", [int, str, dict, type(None), Pikant, OfHopspan])
def test_others_have_none(kind: type) -> None:
    assert locate(kind) is None


def test_the_core_finds_adapters_by_it() -> None:
    assert adapter_of(pika.BlockingConnection) is adapter_named("pika")


def test_every_client_has_an_adapter_of_its_name() -> None:
    named = [adapter_named(name).name.replace("-", "_") for name in adapters.ADAPTERS]
    assert named == list(adapters.ADAPTERS)


def test_classes_are_looked_up_once() -> None:
    locate.cache_clear()
    for _ in range(3):
        locate(int)
    assert (locate.cache_info().misses, locate.cache_info().maxsize) == (1, 512)
