"""An adapter for tinyq, as a third party writes it: as little as an adapter can be."""

from tinyq import Letter

from hopspan.conventions import Action
from hopspan.interception import Point, Subscription, consumes, sends
from hopspan.model import Delivery, Endpoint, MessageInfo, OperationType, Outgoing, Verdict
from hopspan.propagation import MAPPING

NAME = SYSTEM = "tinyq"
CODEC = MAPPING
ASYNCHRONOUS = False
SETTLE_NAMES = {Verdict.ACK: "done", Verdict.REJECT: "drop"}
SETTLED_ALREADY = ""
CONTROL_FLOW = RIVALS = INSTANCE_POINTS = ()
RAISES = SIGNALS = None


def handed(args, via=None):
    return [each for each in args if isinstance(each, Letter)] or None


def given(message, via=None):
    return [message] if isinstance(message, Letter) else None


def delivery(letter):
    return Delivery(Endpoint(SYSTEM, letter.box.name), MessageInfo(), letter.headers, letter)


def owner(letter):
    return letter.box


def same(letter, other):
    return letter is other


def is_open(letter):
    return True


def settle(letter, settlement):
    getattr(letter, SETTLE_NAMES[settlement.verdict])()


def nothing(*_):
    """Where tinyq has nothing to tell, to prepare or to refuse."""


opened = closed = hop = refusal = prepare = settles_by_itself = error_type = nothing


def send(box, body, headers=None):
    return Outgoing(
        Endpoint(SYSTEM, box.name), MessageInfo(), headers, lambda carrying: ((body, carrying), {})
    )


def listen(box, handler):
    return Subscription(
        handler, lambda traced: ((traced,), {}), lambda letter: letter, True, "a listener"
    )


POINTS = (
    Point("tinyq:Box", "send", sends(Action("send", OperationType.SEND), send), send),
    Point("tinyq:Box", "listen", consumes(listen), listen, carries_policy=True),
)
