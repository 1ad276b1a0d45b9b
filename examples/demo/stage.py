"""What a run needs of a broker, whichever it is: names for this run, and an end without leftovers.

Names of destinations become names of spans, so they must read well and be few: random ones would
be bad practice in the very demo of it. So there are nine fixed sets of names: `demo.orders` and so
on, and then `demo2.` to `demo9.`. A run takes the first set of which nothing exists: it never
touches what it did not make.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hopspan.model import HopspanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PREFIXES = ("demo.", *(f"demo{number}." for number in range(2, 10)))
SECONDS_TO_ANSWER = 3
"""For a broker that is asked for something. One on the same machine takes milliseconds."""


class DemoError(HopspanError):
    """The demo cannot go on. The text is for the person at the terminal: what, and what to do."""


class Stage(Protocol):
    """A broker that answers, and what this run may use on it. Leaving its `with` block clears it.

    Used by one thread.
    """

    shown: str
    """Which broker, and where, for people; without a password."""
    package: str
    """The example's services for this broker: their package in `examples`."""
    environ: Mapping[str, str]
    """What tells the services where the broker is, and which names are theirs."""
    introduction: str
    """What the traces show, said before them."""
    legend: str
    """The words in the traces, explained after them."""

    def dismiss(self, stop: Callable[[], None]) -> None:
        """Make the consumers end by themselves: the broker tells them, or `stop` does.

        Raises:
            DemoError: the broker is gone.
        """


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """Without the log of a client: what it logs of failures, our errors say."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
