"""An adapter for tinyq, as a third party writes it: one class and two points."""

from functools import partial
from weakref import WeakValueDictionary

from tinyq import Letter

from hopspan.conventions import ATTEMPT, PROCESS, Action, route
from hopspan.delivery import Adapter, Client, Delivery
from hopspan.interception import Point, Registration, consumes, sends
from hopspan.model import Endpoint, MessageInfo, OperationType, Outgoing, Verdict

SETTLE_NAMES = {Verdict.ACK: "done", Verdict.REQUEUE: "back", Verdict.REJECT: "drop"}
in_hand = WeakValueDictionary()


def endpoint(box):
    return Endpoint("tinyq", box.name)


class LetterDelivery(Delivery):
    """A letter in hand."""

    __slots__ = ("letter",)
    client = Client("tinyq", system="tinyq", settle_names=SETTLE_NAMES)

    def __init__(self, letter):
        self.letter = letter

    @classmethod
    def of(cls, message, via):
        return cls(message) if isinstance(message, Letter) else None

    def read(self):
        return route(PROCESS, endpoint(self.letter.box)), self.letter.headers

    def describe(self, attributes):
        if self.letter.attempt > 1:
            attributes[ATTEMPT] = self.letter.attempt

    @property
    def attempt(self):
        return self.letter.attempt

    @property
    def source(self):
        return self.letter.box

    def ongoing(self):
        return in_hand.get(id(self.letter))

    def opened(self):
        in_hand[id(self.letter)] = self
        for verdict, name in SETTLE_NAMES.items():
            setattr(self.letter, name, partial(self.note, verdict, getattr(self.letter, name)))

    def note(self, verdict, settle):
        settle()
        self.verdict = verdict

    def closed(self):
        in_hand.pop(id(self.letter), None)
        for name in SETTLE_NAMES.values():
            vars(self.letter).pop(name, None)

    def settle(self, settlement):
        getattr(self.letter, SETTLE_NAMES[settlement.verdict])()


def send(box, body, headers=None, *rest, **added):
    def call(carrying):
        return (body, carrying, *rest), added

    return Outgoing(endpoint(box), MessageInfo(), headers, call)


def listen(box, handler, *rest, **added):
    def call(traced):
        return (traced, *rest), added

    return Registration(handler, call, LetterDelivery, True, f"a listener of {box.name}")


ADAPTER = Adapter(
    LetterDelivery,
    points=(
        Point("tinyq:Box", "send", sends(Action("send", OperationType.SEND), send), send),
        Point("tinyq:Box", "listen", consumes(listen), listen, carries_policy=True),
    ),
)
