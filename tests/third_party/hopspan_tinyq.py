"""An adapter for tinyq, as a third party writes it: one class and two points."""

from tinyq import Letter

from hopspan.conventions import PROCESS, Action, Route, plan
from hopspan.delivery import Adapter, Client, Delivery
from hopspan.interception import Point, Registration, consumes, sends
from hopspan.model import Endpoint, MessageInfo, OperationType, Outgoing, Verdict


class LetterDelivery(Delivery):
    __slots__ = ("letter",)
    client = Client(
        "tinyq", system="tinyq", settle_names={Verdict.ACK: "done", Verdict.REJECT: "drop"}
    )

    def __init__(self, letter):
        self.letter = letter

    @classmethod
    def of(cls, message, via):
        return cls(message) if isinstance(message, Letter) else None

    def read(self):
        box = Endpoint("tinyq", self.letter.box.name)
        return Route(plan(PROCESS, box)), self.letter.headers

    @property
    def source(self):
        return self.letter.box

    def settle(self, settlement):
        getattr(self.letter, self.client.settle_names[settlement.verdict])()


def send(box, body, headers=None):
    return Outgoing(
        Endpoint("tinyq", box.name), MessageInfo(), headers, lambda carrying: ((body, carrying), {})
    )


def listen(box, handler):
    return Registration(
        handler, lambda traced: ((traced,), {}), LetterDelivery, True, "a listener"
    )


ADAPTER = Adapter(
    LetterDelivery,
    points=(
        Point("tinyq:Box", "send", sends(Action("send", OperationType.SEND), send), send),
        Point("tinyq:Box", "listen", consumes(listen), listen, carries_policy=True),
    ),
)
