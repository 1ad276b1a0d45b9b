"""How hopspan gets between user and client: interceptors, written once, for classes and instances.

An adapter describes each intercepted method by a *reader* with the method's own signature, so that
Python binds the arguments: a reader names the parameters it needs, in the method's order, and takes
the others as they come. Parameters that a newer client adds pass through untouched; a client whose
method lost or moved a parameter that we name is not intercepted there, and is told so.

Rules: an interceptor calls the client exactly once, with the user's arguments or with ours that
differ in the headers only; an error in our code is logged once and the native call proceeds
unchanged; what is woven into a class can be taken out again without a trace.
"""

from hopspan.interception.points import Fetch, Point, Registration
from hopspan.interception.receives import (
    consumes,
    iterates,
    iterates_async,
    notifies,
    receives,
    receives_async,
    refuse_handler,
)
from hopspan.interception.replacing import subclass
from hopspan.interception.sends import end_send, sends, sends_async
from hopspan.interception.weaving import INTERCEPTED, owner_of, unweave, weave
from hopspan.interception.wrapping import (
    bind,
    bind_child,
    returns_wrapped,
    wrap,
)

__all__ = [
    "INTERCEPTED",
    "Fetch",
    "Point",
    "Registration",
    "bind",
    "bind_child",
    "consumes",
    "end_send",
    "iterates",
    "iterates_async",
    "notifies",
    "owner_of",
    "receives",
    "receives_async",
    "refuse_handler",
    "returns_wrapped",
    "sends",
    "sends_async",
    "subclass",
    "unweave",
    "weave",
    "wrap",
]
