"""A long-lived process that publishes, as a web server does: on demand, request after request.

Started as `python -m integration.celery_story.web`. It reads requests as lines of JSON from its
standard input, and answers each with one on its standard output. The end of its input is its end.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
from celery import chain, chord, group
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

import hopspan
from integration.celery_story import shop

TRACER = trace.get_tracer("web")
DEADLINE = 30.0
"""Seconds for a task to return its result."""


def burst(count: int, first: int = 0, seconds: float = 0.0) -> list[str]:
    """Publish many tasks, each with baggage of its own; return their ids."""
    ids = []
    for number in range(first, first + count):
        token = context.attach(baggage.set_baggage("order", str(number), Context()))
        try:
            ids.append(shop.work.delay(number, seconds).id)
        finally:
            context.detach(token)
    return ids


CANVASES: dict[str, Callable[[], Any]] = {
    "chain": lambda: chain(shop.add.s(1, 2), shop.add.s(3), shop.add.s(4)),
    "group": lambda: group(shop.add.s(number, number) for number in range(10)),
    "chord": lambda: chord([shop.add.s(number, number) for number in range(10)], shop.total.s()),
    "flaky": shop.flaky.s,
    "order": lambda: shop.order.s(1),
}


def canvas(name: str) -> Any:
    """Publish a canvas inside a span, and wait for its result."""
    with TRACER.start_as_current_span(name):
        result = CANVASES[name]().apply_async()
    return result.get(timeout=DEADLINE)


def send(task: str, args: list[Any], options: dict[str, Any]) -> str:
    """Publish one task; return its id."""
    published = shop.app.send_task(task, args, **options)
    return str(published.id)


def by_hand(number: int, task_id: str) -> None:
    """Publish a task as Celery's message protocol 2 says, with nothing but pika."""
    channel = pika.BlockingConnection(pika.URLParameters(shop.SETTINGS.broker)).channel()
    hopspan.wrap(channel)
    headers = {"lang": "py", "task": "work", "id": task_id, "root_id": task_id, "parent_id": None}
    token = context.attach(baggage.set_baggage("order", str(number)))
    try:
        channel.basic_publish(
            "",
            shop.SETTINGS.queue,
            json.dumps([[number], {}, {}]).encode(),
            pika.BasicProperties(
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=task_id,
                headers=headers,
            ),
        )
    finally:
        context.detach(token)
        channel.connection.close()


def control(command: str, **arguments: Any) -> Any:
    """Tell the only worker something, and wait until it has done so."""
    tell = getattr(shop.app.control, command)
    return tell(**arguments, reply=True, timeout=DEADLINE, limit=1)


def refused(count: int, rehearsals: int) -> dict[str, Any]:
    """Publish again and again what is refused; return what that left behind.

    The rehearsals are not counted: they fill caches, and start threads.
    """
    for _ in range(rehearsals):
        _refused()
    blocks, resident, left = _blocks(), _resident(), 0
    for _ in range(count):
        before = context.get_current()
        failure = _refused()
        left += context.get_current() is not before
    return {
        "left": left,
        "failure": failure,
        "blocks": _blocks() - blocks,
        "resident": _resident() - resident,
    }


def _refused() -> str:
    try:
        shop.work.apply_async((0,), retry=False, ignore_result=True)
    except Exception as error:  # noqa: BLE001 - each broker has one of its own
        return " from ".join(type(each).__name__ for each in (error, error.__cause__) if each)
    raise AssertionError("it was not refused")


def _blocks() -> int:
    """How many pieces of memory Python holds, when all is exported and collected.

    An object is one, or a few; nothing that is kept can hide from this, however small it is.
    """
    flush()
    gc.collect()
    return sys.getallocatedblocks()


def _resident() -> int:
    """Bytes of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def flush() -> None:
    """Write down all spans that have ended."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.force_flush()


COMMANDS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (burst, canvas, send, by_hand, control, refused, flush)
}


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](**arguments)), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
