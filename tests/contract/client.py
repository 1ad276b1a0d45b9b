"""The words in which scenarios speak to a client: a queue, a producer, a consumer, what came of it.

What is the same for every broker is here; a subclass fills in how its client does it. Messages are
the client's own objects, dressed as `Message`; settlements are told in the words `ack`, `requeue`
and `reject`.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from opentelemetry import context, propagate, trace
from typing_extensions import Self

import hopspan
from hopspan import Verdict, faults, telemetry
from tests.contract.features import Features
from tests.contract.telemetry import Lines, Span, Telemetry, baggage_of

DEADLINE = 5.0
"""Seconds until a scenario gives up; none of them waits that long when all is well."""

Handler = Callable[["Message"], Any]


class Message(NamedTuple):
    """A message in a handler, as its client hands it out."""

    body: bytes
    headers: dict[str, Any]
    native: Any
    """What `hopspan.process` takes."""
    via: Any
    ack: Callable[[], Any]
    requeue: Callable[[], Any]
    reject: Callable[[], Any]


class Sent(NamedTuple):
    """What became of a message that was sent."""

    name: str
    """Of its span."""
    error: str | None = None
    """`error.type`, where it was not taken."""
    description: str | None = None
    raised: BaseException | None = None
    """What the sender was told, where that is an exception."""


class Ran:
    """How the runs of a handler went."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        """What the handler was called with, in order."""
        self.results: list[Any] = []
        """What it returned."""
        self.raised: list[BaseException] = []
        """What it raised."""
        self.escaped: list[BaseException] = []
        """What came out of the client's own loop."""

    def __repr__(self) -> str:
        return f"ran {self.times} times, raised {self.raised}, escaped {self.escaped}"

    @property
    def times(self) -> int:
        """How often the handler was called."""
        return len(self.messages)

    @property
    def bodies(self) -> list[bytes]:
        """The messages it was called with."""
        return [message.body for message in self.messages]

    def watched(self, handler: Handler) -> Handler:
        """The handler, with its runs entered here."""

        def run(message: Message) -> Any:
            self.messages.append(message)
            try:
                self.results.append(handler(message))
            except BaseException as error:
                self.raised.append(error)
                raise
            return self.results[-1]

        return run


class Client(ABC):
    """A client of a broker for one scenario. Use it as a context manager."""

    def __init__(
        self, features: Features, *, face: str = "wrapped", sampling: str = "sampled"
    ) -> None:
        self.features = features
        self.face = face
        self.telemetry = Telemetry(sampling)
        self.lines = Lines()
        self.ends_closed = False
        """A scenario sets it where the consumer's channel is meant to be closed in the end."""
        self.settling_threads: list[int] = []
        self._before = context.get_current()
        self._variables = mock.patch.dict(os.environ, _variables_of_others(), clear=True)
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="scenario")

    # -- from the first to the last word -----------------------------------------------------------

    def __enter__(self) -> Self:
        self._variables.start()
        _fresh_hopspan()
        self.lines.__enter__()
        try:
            self.open()
            if self.face in {"instrumented", "together"}:
                self.instrument()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        try:
            if error is None:
                self._check()
        finally:
            self._leave(error)

    def _check(self) -> None:
        assert [] == self.lines.take()
        assert self.is_current_nothing()
        self.check()

    def _leave(self, error: BaseException | None) -> None:
        hopspan.uninstrument()
        self._variables.stop()
        propagate.set_global_textmap(_PROPAGATOR)
        self.lines.__exit__()
        self.close()
        self._workers.shutdown()
        self.telemetry.close()
        if error is None:
            assert [] == self.lines.take(), "logged while closing"
        _fresh_hopspan()

    # -- how a broker does it ----------------------------------------------------------------------

    operations_besides: tuple[str, ...] = ()
    """What the client does besides, in `messaging.operation.name`; most scenarios do not care."""
    doing_besides: tuple[str, ...] = ()
    """What hopspan is then about when it fails."""
    not_called: tuple[str, ...] = ()
    """Parts of an adapter that are there, but are not asked while a message is handled."""

    NAME: str
    """What users call the client: `hopspan.instrument(NAME)`."""
    passwords: tuple[str, ...] = ()
    """What must never be seen."""
    queue: str
    """Where this scenario's messages go, and come from."""

    @abstractmethod
    def open(self) -> None:
        """Connect a producer and a consumer, and make a queue for this scenario."""

    @abstractmethod
    def check(self) -> None:
        """All is well with the broker and the connections at the end of a scenario."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind, neither here nor on the broker."""

    @property
    @abstractmethod
    def publishes(self) -> str:
        """The name of a span that sends to the queue."""

    @property
    @abstractmethod
    def processes(self) -> str:
        """The name of a span that processes a message of the queue."""

    @property
    @abstractmethod
    def receives(self) -> str:
        """The name of a span that asks for a message of the queue."""

    @abstractmethod
    def settle_name(self, settlement: str) -> str:
        """What hopspan calls the operation by which it acks, requeues or rejects a message."""

    @property
    @abstractmethod
    def rejects(self) -> str:
        """The name of a span in which `Message.reject` rejects a message of the queue."""

    @property
    @abstractmethod
    def via(self) -> Any:
        """The consumer, as `hopspan.process` takes it."""

    @property
    @abstractmethod
    def reject_on_error(self) -> hopspan.Policy:
        """The shipped policy that acks what succeeded and rejects what failed."""

    @property
    @abstractmethod
    def requeue_once(self) -> hopspan.Policy:
        """The shipped policy that gives back what failed for the first time, and then rejects."""

    @property
    def refused_policy(self) -> hopspan.Policy:
        """A policy that cannot work with the client: its broker dead-letters by itself."""
        return hopspan.dead_letter("dead", producer=object())

    @abstractmethod
    def policy(
        self, name: str, decide: Callable[..., Any], verdicts: Iterable[Verdict] = tuple(Verdict)
    ) -> hopspan.Policy:
        """A policy of the user's own, with all that the client needs to carry it out."""

    @abstractmethod
    def fields(self, headers: Any) -> dict[str, Any]:
        """The headers of a native message as they were given to `carrier`."""

    @abstractmethod
    def body(self, native: Any) -> bytes:
        """The body of what `hopspan.current().delivery.native` is."""

    @abstractmethod
    def enter_face(self, **settings: Any) -> None:
        """Wrap the consumer or instrument the process, as the scenario's face is."""

    @abstractmethod
    def carrier(self, headers: dict[str, Any] | None) -> Any:
        """Headers as the client takes them: properties, a list of pairs; or None."""

    @abstractmethod
    def contents(self, carrier: Any) -> Any:
        """All that a carrier holds, to compare it with later."""

    @abstractmethod
    def send(self, body: bytes = b"order", carrier: Any = None) -> None:
        """Send a message, traced, from the scenario's own thread."""

    @abstractmethod
    def configure_sender(self, **settings: Any) -> None:
        """Let `send` go by these settings from now on."""

    @abstractmethod
    def sender(self) -> Callable[..., None]:
        """Another producer: a function `(body, carrier)` that sends, traced, from any thread."""

    @abstractmethod
    def send_untraced(self, body: bytes = b"order", headers: dict[str, Any] | None = None) -> None:
        """Send as a program would that knows nothing of hopspan."""

    @abstractmethod
    def take_untraced(self, *, dead: bool = False) -> dict[str, Any]:
        """Take the next message (or dead letter) off the broker; return its headers."""

    @abstractmethod
    def receiver(self, handler: Handler, *, decorated: bool = False, **settings: Any) -> Any:
        """A native handler that calls `handler` with a `Message`."""

    @abstractmethod
    def subscribe(
        self, handler: Handler, *, auto_ack: bool = False, prefetch: int = 1, **settings: Any
    ) -> Ran:
        """Have `handler` called with the queue's messages, under the scenario's face.

        At most `prefetch` messages are handed out unsettled.
        """

    @abstractmethod
    def drive(self, until: Callable[[], Any], ran: Ran | None = None) -> None:
        """Let the consumer work until something is so; what escapes from it goes to `ran`."""

    @abstractmethod
    def sync(self) -> None:
        """Return when the broker has done all that the consumer told it so far."""

    @abstractmethod
    def settlements(self) -> list[str]:
        """What went out on the wire for messages: `ack`, `requeue`, `reject`, in order."""

    @abstractmethod
    def expect_queues(self, *, waiting: int = 0, dead: int = 0) -> None:
        """When the consumer has gone, so many messages are in the queue, so many were dead-lettered."""

    @abstractmethod
    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        """Consume one message in one of the styles, and let `body` handle it."""

    @abstractmethod
    def loop(self, style: str, *, prefetch: int = 1, **settings: Any) -> Any:
        """The iterable of a `for` loop over the queue's messages, in one of the styles."""

    @abstractmethod
    def message(self, item: Any) -> Message:
        """A turn of such a loop, dressed."""

    @abstractmethod
    def end_loop(self) -> None:
        """Make the loop run out, from inside of its body."""

    @abstractmethod
    def fetch(self) -> Message:
        """The next message, asked for by the application itself."""

    @abstractmethod
    def block(
        self, message: Message | list[Message], **settings: Any
    ) -> AbstractContextManager[Any]:
        """`hopspan.process` of this message, or of several as one."""

    @abstractmethod
    def close_channel(self) -> None:
        """Close what the consumer settles through; a handler may do so too."""

    @abstractmethod
    def lose(self) -> None:
        """While a message is handled, what it came by is closed in another thread, or lost."""

    @abstractmethod
    def open_consumer(self) -> None:
        """Go on with a consumer that is opened now."""

    @abstractmethod
    def watch_threads(self) -> None:
        """From now on enter the thread of each settlement in `settling_threads`."""

    @abstractmethod
    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        """Subscribe a handler decorated with `inner` settings under a face with `outer` ones."""

    # -- what metrics and instrumentation ask for --------------------------------------------------

    @property
    @abstractmethod
    def metric_attributes(self) -> dict[str, Any]:
        """What every point of a metric says about the queue, whatever the operation."""

    @property
    @abstractmethod
    def consumer_metric_attributes(self) -> dict[str, Any]:
        """The same for points that are about consuming."""

    @property
    def is_asking_seen(self) -> bool:
        """Whether messages of a subscribed handler were asked for by a consumer that is traced."""
        return self.features.polls and self.face != "decorated"

    @abstractmethod
    def use_generated_queue(self, name: str) -> None:
        """Go on with a queue of this generated name; without one, the broker invents it."""

    @abstractmethod
    def ask_in_vain(self) -> None:
        """Ask for a message where there is none."""

    @abstractmethod
    def wrap_consumer(self, **settings: Any) -> Any:
        """Wrap what messages come from; return what `hopspan.wrap` returned."""

    @abstractmethod
    def register(self, receive: Callable[..., Any]) -> None:
        """Have a native handler called with the queue's messages; no face is entered."""

    @abstractmethod
    def registered(self) -> Callable[[Message], Any]:
        """What the client calls with each message, as hopspan has registered it."""

    @abstractmethod
    def own_loop(self) -> Any:
        """The client's own loop over the queue's messages; no face is entered."""

    @abstractmethod
    def send_so_that(self, outcome: str, style: str) -> Sent:
        """Send a message, traced, of which this becomes (`Features.outcomes`), in some style."""

    @abstractmethod
    def send_at_once(
        self, outcomes: Sequence[str], style: str, *, unseen: bool = False
    ) -> list[Sent]:
        """Send several in a row, which become this; an `untraced` one is taken, and left out.

        Returns when their spans have ended; where they never will (`unseen`), when the broker has
        said so.
        """

    @abstractmethod
    def send_wrongly(self, *, traced: bool) -> None:
        """Call what sends with arguments that it does not take."""

    @property
    @abstractmethod
    def classes(self) -> tuple[type, ...]:
        """The client's classes that users meet."""

    @abstractmethod
    def use_wrapped_connection(self, **settings: Any) -> None:
        """Send and consume from now on by channels of one wrapped connection."""

    @abstractmethod
    def send_by_wrapped_connection(self, style: str, **settings: Any) -> None:
        """Send by a channel of another wrapped connection, in a style of sending."""

    # -- what all brokers have in common -----------------------------------------------------------

    def settings(self, **settings: Any) -> dict[str, Any]:
        """The settings of a face, with this scenario's telemetry."""
        return {**self.telemetry.providers, **settings}

    def instrument(self, **settings: Any) -> None:
        """Instrument the process anew, with these settings."""
        hopspan.uninstrument(self.NAME)
        hopspan.instrument(self.NAME, **self.settings(**settings))

    def handle(self, handler: Handler, *, runs: int = 1, **settings: Any) -> Ran:
        """Subscribe a handler, and let the client work until it has run so often."""
        ran = self.subscribe(handler, **settings)
        self.drive(lambda: ran.times >= runs, ran)
        self.sync()
        return ran

    def span(self, name: str) -> AbstractContextManager[trace.Span]:
        """A span of the application's own."""
        return self.telemetry.tracer.start_as_current_span(name)

    def baggage(self, **entries: str) -> AbstractContextManager[None]:
        """Baggage of the application's own."""
        return baggage_of(**entries)

    @contextmanager
    def environment(self, **variables: str) -> Iterator[None]:
        """These variables are set, as if the process had begun with them."""
        with mock.patch.dict(os.environ, variables):
            telemetry.forget_defaults()
            if self.face == "together":
                self.instrument()
            yield
        telemetry.forget_defaults()

    def in_thread(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do something in another thread, which starts with an empty context."""
        return self._workers.submit(work, *args)

    def forget_context(self) -> None:
        """What is current now is meant to stay."""
        self._before = context.get_current()

    def is_current_nothing(self) -> bool:
        """Whether the OpenTelemetry context is the one in which the scenario began."""
        return context.get_current() == self._before

    def move_on(self) -> None:  # noqa: B027 - most clients do so by themselves
        """Have the client let go of the message that it has handed out last."""

    # -- what is expected --------------------------------------------------------------------------

    def expect_spans(self, *expected: Span) -> None:
        """These spans were recorded and no others, in the order in which they began; or none."""
        names = {span.name for span in expected}
        assert list(expected if self.telemetry.records else ()) == self.telemetry.spans(names)

    def a_publish(self, **more: Any) -> Span:
        """The span of a message that was sent to the queue."""
        return Span(self.publishes, "producer")._replace(**more)

    def a_process(self, **more: Any) -> Span:
        """The span of handling a message of the queue that was sent by a span of ours."""
        sent_here = {"parent": self.publishes, "links": (self.publishes,)}
        return Span(self.processes, "consumer")._replace(**{**sent_here, **more})

    def a_receive(self, **more: Any) -> Span:
        """The span of asking for a message of the queue that was sent by a span of ours."""
        return Span(self.receives, "client", links=(self.publishes,))._replace(**more)

    def a_settle(self, settlement: str, **more: Any) -> Span:
        """The span of giving back or rejecting a message, inside of its process span."""
        name = f"{self.settle_name(settlement)} {self.queue}"
        span = Span(name, "client", parent=self.processes, settlement=settlement)
        return span._replace(**more)

    @property
    def rejecting(self) -> hopspan.Policy:
        """A policy that rejects whatever happened."""
        return self.policy("reject", lambda outcome, delivery: Verdict.REJECT)


_PROPAGATOR = propagate.get_global_textmap()


def _variables_of_others() -> dict[str, str]:
    """The environment, without what is meant for hopspan and OpenTelemetry."""
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("HOPSPAN_", "OTEL_"))
    }


def _fresh_hopspan() -> None:
    """Nothing is instrumented, and everything that is said once can be said again."""
    hopspan.uninstrument()
    faults.forget()
    telemetry.forget_defaults()


def raises(error: BaseException) -> Handler:
    """A handler that fails, each time with this very error."""

    def fail(_message: Message) -> None:
        raise error.with_traceback(None)  # or it would grow from run to run

    return fail


def succeeds(_message: Message) -> str:
    """A handler that has nothing to complain about."""
    return "done"


def in_turn(*handlers: Handler) -> Handler:
    """A handler that does something else at each of its runs."""
    left = list(handlers)
    return lambda message: left.pop(0)(message)


def wait(event: threading.Event) -> None:
    """Wait in a worker thread for what the scenario says when."""
    assert event.wait(DEADLINE), "the scenario never said so"
