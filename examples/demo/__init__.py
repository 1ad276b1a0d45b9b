"""`hopspan demo`: runs the services of examples/orders as processes, and shows their traces.

Layers, each importing only those before it: `spans`, `traces`, `terminal`, `otlp`, `stage`; `tree`,
`services`, `rabbitmq`, `kafka`; `embedded`; `choice`; this. `launch` runs in the services'
processes, `keeper` in the embedded broker's.

Imported as `hopspan.examples.demo`, from a wheel or from a checkout. It is an application: it talks
to a broker by itself, and imports its own parts relatively, because it is no part of the package.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import otlp
from .choice import stage_on
from .services import Ended, Services
from .spans import Exported, FinishedSpan
from .stage import DemoError
from .traces import DEAD_LETTERED, WORDS, traces_of
from .tree import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hopspan.terminal import Terminal

    from .services import Heard
    from .stage import Stage
    from .traces import Trace

__all__ = ["DemoError", "run"]

CONSUMERS = ("fulfilment", "dead-letters")
PRODUCER = "order-service"
SECONDS = 30.0
"""From the first process that starts to the last that ends. Usually it takes two to five."""


def run(broker: str, say: Callable[[str], None], terminal: Terminal) -> None:
    """Run the demo on a broker, and say line by line what happens.

    Whatever happens, no process, no queue and no topic is left.

    Args:
        broker: `embedded`, `rabbitmq`, `kafka`, or the URL of one.
        say: Takes each line.
        terminal: What the lines may look like.

    Raises:
        DemoError: it could not be run; the text says why and what to do.
        ImportError: the client for that broker is not installed.
    """
    with stage_on(broker, os.environ) as stage:
        with Services(examples(), stage.package, stage.environ, SECONDS) as services:
            scene = Scene(services, say, terminal)
            say(f"Three processes and {stage.shown}:\n")
            scene.play(stage)
        for line in report(stage, scene.spans, scene.exported, terminal):
            say(line)


def examples() -> Path:
    """The folder of the example, `orders`: the demo is beside it, in a wheel and in a checkout."""
    return Path(__file__).resolve().parents[1]


class Scene:
    """One run: what was said and recorded by now."""

    def __init__(self, services: Services, say: Callable[[str], None], terminal: Terminal) -> None:
        self._services = services
        self._say = say
        self._terminal = terminal
        self._ended: set[str] = set()
        self.spans: list[FinishedSpan] = []
        self.exported: Exported = Exported()

    def play(self, stage: Stage) -> None:
        """Start the services, wait until every order is done, and let them end."""
        ready: set[str] = set()
        for name in CONSUMERS:
            self._services.start(name)
        # A consumer's first line says that it consumes, so no order waits for one.
        while not ready.issuperset(CONSUMERS):
            heard = self._next(f"{' and '.join(CONSUMERS)} were ready")
            if isinstance(heard.what, str):
                ready.add(heard.service)
        self._services.start(PRODUCER)
        while PRODUCER not in self._ended or not all(
            trace.is_over for trace in traces_of(self.spans)
        ):
            self._next("every order was acked or dead-lettered")
        # Before the broker goes: consumers that end by themselves export their last spans.
        stage.dismiss(lambda: self._services.stop(CONSUMERS))
        while not self._ended.issuperset(CONSUMERS):
            self._next("the services had ended")

    def _next(self, until: str) -> Heard:
        heard = self._services.hear(until)
        if isinstance(heard.what, str):
            self._say(self._line(heard.service, heard.what))
        elif isinstance(heard.what, FinishedSpan):
            self.spans.append(heard.what)
        elif isinstance(heard.what, Exported):
            sent, lost = heard.what
            self.exported = Exported(self.exported.sent + sent, self.exported.lost + lost)
        elif isinstance(heard.what, Ended):
            self._ended.add(heard.service)
        return heard

    def _line(self, service: str, text: str) -> str:
        return f"  {self._terminal.paint(service.ljust(len(PRODUCER)), 'dim')}  {text}"


def report(
    stage: Stage, spans: Sequence[FinishedSpan], exported: Exported, terminal: Terminal
) -> Iterator[str]:
    """What happened in words, the traces as trees, the sums, and where to see more."""
    found = traces_of(spans)
    yield ""
    yield from terminal.wrap(stage.introduction)
    yield from draw(found, terminal)
    yield ""
    yield terminal.paint(summary(found), "bold")
    yield from (terminal.paint(line, "dim") for line in terminal.wrap(stage.legend))
    yield ""
    yield from elsewhere(exported)


TRACING_UI = """\
To see them in a tracing UI, start one, for example Jaeger, and run the demo again:
  docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger:2.5.0
  export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
  and look at http://localhost:16686"""


def summary(found: Sequence[Trace]) -> str:
    """The sums in one line."""
    paths = [trace.path for trace in found if trace.path]
    acked, requeued, dead = (
        sum(word in path for path in paths)
        for word in (WORDS["ack"], WORDS["requeue"], DEAD_LETTERED)
    )
    return (
        f"{len(paths)} orders: {acked} acked, {dead} dead-lettered; {requeued} requeued on the way."
    )


def elsewhere(exported: Exported) -> Iterator[str]:
    """Where else the traces are to be seen, or could be."""
    endpoint = otlp.shown()
    if endpoint is None:
        yield from TRACING_UI.splitlines()
    elif not otlp.is_installed():
        missing = f"the exporter for {otlp.protocol()} is not installed"
        yield f"Not exported to {endpoint}: {missing}. pip install 'hopspan[demo]'"
    elif exported.lost:
        lost = f"{exported.lost} of {sum(exported)} spans"
        yield f"Not exported to {endpoint}: {lost}. Does it take OTLP there?"
    else:
        yield f"Exported to {endpoint}: {exported.sent} spans."
