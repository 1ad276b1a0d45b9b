"""A client that cannot be read, and what cannot be looked at, hinder no handling."""

from __future__ import annotations

from typing import Any

import pytest

import hopspan
from tests.unit.delivery.client import Illegible, Letter, Sealed
from tests.unit.delivery.ways import Way, handle, raises
from tests.unit.support import Telemetry


@pytest.mark.parametrize("kind", [Illegible, Sealed])
def test_a_message_that_cannot_be_read_is_handled_and_settled_and_that_is_said_once(
    kind: type[Letter], plain_way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letters = [kind(), kind()]
    for letter in letters:
        plain_way.run(letter, lambda _: None, policy=hopspan.ack_always, **telemetry.settings)
    assert [[("ack", "1")]] * 2 == [letter.channel.sent for letter in letters]
    assert ["ack"] * 2 == [span.attributes["hopspan.settlement"] for span in telemetry.seen]
    said = [record.message for record in logged.records]
    assert len({*said}) == len(said) > 0
    assert all(line.startswith("hopspan failed at ") for line in said)


class HiddenError(Exception):
    """One that cannot be looked at."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("lazy, and not there")


def test_where_it_cannot_be_told_how_it_went_the_message_is_left(
    way: Way, telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    letter, error = way.letter(), HiddenError()
    settings = {"policy": hopspan.ack_always, **telemetry.settings}
    assert error is handle(way, letter, raises(error), **settings)
    assert ([], 1, 1) == (letter.channel.sent, len(telemetry.spans), len(logged.records))
