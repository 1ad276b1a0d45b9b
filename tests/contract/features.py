"""What a client and its broker can do. A scenario runs where it finds what it needs."""

from __future__ import annotations

from typing import NamedTuple


class Features(NamedTuple):
    """One client on one kind of broker. The defaults are those of one that can do nothing."""

    pushes: bool = False
    """The client itself calls a registered handler with each message."""
    calls_plainly: bool = False
    """It calls its handlers as plain functions: it awaits nothing, and iterates over nothing."""
    polls: bool = False
    """Every message that is handled was asked for, which is seen on a wrapped consumer."""
    settles: bool = False
    """Each message can be acked, given back or rejected by itself."""
    redelivers: bool = False
    """A message that was given back comes again while the same consumer goes on."""
    counts_deliveries: bool = False
    """There are queues that say how often a message was given back."""
    nacks: bool = False
    """A handler can give back or reject its message in the client's own words."""
    acks_on_the_wire: bool = False
    """Each ack goes out by itself; elsewhere one note says how far all is done."""
    dead_letters: bool = False
    """A rejected message can be found where dead letters go."""
    dead_letters_by_itself: bool = False
    """The broker sends it there; no policy has to say where."""
    generated_names: bool = False
    """Brokers and clients invent names of queues."""
    auto_acks: bool = False
    """A consumer can have its messages settled as they are handed out."""
    keeps_headers_on_requeue: bool = False
    """What comes again, and what was dead-lettered, still has the headers it was sent with."""
    batches: bool = False
    """Several messages can be handled as one."""
    reports_completion: bool = False
    """The sender can learn what became of a message that it sent."""
    tells_place: bool = False
    """The broker's answer to a message that was sent says where it lies."""
    ends_on_close: bool = False
    """Closing what a message came by ends its handling: it is left, and nobody is told again."""
    settles_on_its_own_thread: bool = False
    """The client must be settled on the thread that does its I/O."""
    asynchronous: bool = False
    """Settling is awaited."""
    styles: tuple[str, ...] = ()
    """Every way to consume: names for `client.consume_by`."""
    loops: tuple[str, ...] = ()
    """Those of them that are a `for` loop: names for `client.loop`."""
    typed_headers: bool = False
    """A header can hold a value of any type, not only text."""
    outcomes: tuple[str, ...] = ()
    """What can become of a message that is sent: names for `client.send_so_that`."""
    senders: tuple[str, ...] = ()
    """Every way to send: names for `client.send_so_that`."""
    confirmers: tuple[str, ...] = ()
    """Those of them that learn what became of a message later, while others are on their way."""
    awaited: tuple[str, ...] = ()
    """Those outcomes that a message meets while others are on their way, a good one first."""
    transactions: bool = False
    """Several messages can be sent as one, or not at all."""
    event_loops: bool = False
    """Some senders have an event loop of their own, which consumes as well."""
    connections: bool = False
    """Channels come from a connection, which can be wrapped as a whole."""
