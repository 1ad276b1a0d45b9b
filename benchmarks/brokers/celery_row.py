"""A row of Celery's in a process of its own: `python -m benchmarks.brokers.celery_row URL ROW`.

It does a turn for every line that it reads, and writes what the turn has taken.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.entity import Queue

import hopspan
from benchmarks.brokers.turns import READY, TURN, fresh_name, timed
from benchmarks.checks import WrongRowError
from benchmarks.clients.celery import instrument_by_contrib
from benchmarks.modes import SAMPLED, Telemetry

INSTRUMENT: dict[str, Callable[[Celery, Telemetry], Any]] = {
    "bare": lambda _app, _telemetry: None,
    "contrib": lambda _app, telemetry: instrument_by_contrib(telemetry, metrics=False),
    "hopspan": lambda app, telemetry: hopspan.wrap(app, **telemetry.providers, metrics=False),
    "hopspan + metrics": lambda app, telemetry: hopspan.wrap(app, **telemetry.providers),
}


def open_app(url: str) -> Celery:
    """An application with a queue of its own."""
    queue = fresh_name()
    return Celery(
        "bench",
        broker=url,
        changes={
            "task_default_queue": queue,
            "task_default_routing_key": queue,
            "task_default_exchange": "",
            "task_queues": [Queue(queue, routing_key=queue, auto_delete=True)],
            "task_ignore_result": True,
            "worker_enable_remote_control": False,
            "worker_redirect_stdouts": False,
        },
    )


def steps(app: Celery) -> Callable[[], None]:
    """Send a turn's tasks, and wait until the worker has run them."""
    left, done = 0, threading.Event()

    @app.task(name="orders.place")
    def place(_order: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    def turn() -> None:
        nonlocal left
        left = TURN
        done.clear()
        for number in range(TURN):
            place.apply_async((number,))
        done.wait()

    return turn


def answer(row: str, telemetry: Telemetry, work: Callable[[], None]) -> None:
    """Do a turn for every line on stdin."""
    try:
        turn = timed(row, telemetry, work)
        print(READY, flush=True)
        for _ in sys.stdin:
            print(json.dumps(turn()), flush=True)
    except WrongRowError as wrong:
        print(wrong, flush=True)
    finally:
        os._exit(0)  # the worker would wait for its connection


def main(url: str, row: str) -> None:
    """A worker has the main thread, as always; its tasks are sent from another one."""
    telemetry, app = Telemetry(SAMPLED), open_app(url)
    work = steps(app)
    INSTRUMENT[row](app, telemetry)
    threading.Thread(target=answer, args=(row, telemetry, work), daemon=True).start()
    app.Worker(
        pool="solo",
        loglevel="ERROR",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
    ).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
