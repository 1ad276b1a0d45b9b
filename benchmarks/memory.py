"""What is kept of messages that are settled: 100,000 of them, each with a destination of its own."""

from __future__ import annotations

import functools
import gc
import sys
import tracemalloc
from typing import Any, NamedTuple

import hopspan
from benchmarks.clients import pika
from benchmarks.modes import SAMPLED, Telemetry

MESSAGES, FULL = 100_000, 25_000
"""All messages, and after how many of them every cache is full."""
FEWER = 50_000, 25_000
"""The same, when there is less time."""
STEP = 1_000
"""After how many messages it is looked how much is kept."""
SLACK = 1024 * 1024
"""Bytes by which the most that is kept may still differ: at most 42 for each message.

The memory of settled messages and of routes is cleared in bulk, each at a number of its own,
so that the most of a while is seen more or less exactly.
"""


class Kept(NamedTuple):
    """Bytes that are still there."""

    messages: int
    full: int
    when_full: int
    """The most, until the caches were full."""
    at_the_end: int
    """The most since then."""
    caches: dict[str, tuple[int, int | None]]
    """Entries and limit of every cached function."""

    @property
    def is_bounded(self) -> bool:
        """Whether nothing has been added since the caches were full."""
        limits = all(most is not None and size <= most for size, most in self.caches.values())
        return limits and self.at_the_end <= self.when_full + SLACK


def measure_memory(messages: int = MESSAGES, full: int = FULL) -> Kept:
    """Publish and consume, every time to and from somewhere else, and settle."""
    telemetry = Telemetry(SAMPLED)
    settings: dict[str, Any] = {"tracer_provider": telemetry.tracer_provider}
    sender, receiver = pika.open_channel(), pika.open_channel()
    feed = pika.Feed(receiver, {})
    hopspan.wrap(sender, **settings)
    hopspan.wrap(receiver, policy=hopspan.reject_on_error, **settings)
    receiver.basic_consume(pika.QUEUE, lambda *_: None, consumer_tag=pika.TAG)
    for channel in (sender, receiver):
        pika.wire_of(channel).begun()

    def most(first: int, last: int) -> int:
        starts = range(first, last, STEP)
        return max(handle(start, min(start + STEP, last)) for start in starts)

    def handle(first: int, last: int) -> int:
        for number in range(first, last):
            sender.basic_publish(pika.EXCHANGE, f"key-{number}", pika.BODY)
            feed.run([feed.message(number, f"key-{number}")])
        telemetry.flush()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    handle(1, 100)
    tracemalloc.start()
    before = handle(100, 101)
    when_full = most(101, full) - before
    at_the_end = most(full, messages + 1) - before
    tracemalloc.stop()
    telemetry.close()
    return Kept(messages, full, when_full, at_the_end, caches())


def caches() -> dict[str, tuple[int, int | None]]:
    """Every cached function of hopspan, with its entries and its limit."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "hopspan":
            for each in vars(module).values():
                if isinstance(each, functools._lru_cache_wrapper):
                    about = each.cache_info()
                    found[f"{each.__module__}.{each.__name__}"] = (about.currsize, about.maxsize)
    return found


def report(kept: Kept) -> str:
    """For people."""
    lines = [
        f"{kept.messages:,} settled messages, each with a destination of its own",
        f"  kept at most until {kept.full:,}: {kept.when_full / 1024:,.0f} kB",
        f"  kept at most since: {kept.at_the_end / 1024:,.0f} kB",
    ]
    lines += [f"  {size:6} of {most}  {name}" for name, (size, most) in sorted(kept.caches.items())]
    return "\n".join([*lines, f"  {'bounded' if kept.is_bounded else 'NOT BOUNDED'}"])
