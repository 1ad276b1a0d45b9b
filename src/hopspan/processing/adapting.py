"""What the core asks of an adapter, and how the adapter of an object is found.

An adapter is a *module* that has these names; it reads native objects into values and performs one
settlement verb, and it decides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from hopspan import conventions as names
from hopspan.model import Outcome, UnknownMessageError

if TYPE_CHECKING:
    from hopspan.model import Delivery, Settlement, Verdict
    from hopspan.processing.delivery import Processing
    from hopspan.propagation import Codec
    from hopspan.settlement import Policy
    from hopspan.telemetry import Binding


class Signals(Protocol):
    """A client's signals. Modules satisfy this protocol."""

    def connect(self, binding: Binding, instance: Any = None) -> None:
        """Listen for one wrapped object, or for the whole process; once more changes nothing.

        Raises:
            PolicyError: the policy in force cannot work.
        """

    def disconnect(self, binding: Binding) -> None:
        """Listen for the whole process no more."""


class Raising(Protocol):
    """How a client settles by what a handler raises. Modules satisfy this protocol."""

    def instead(self, native: Any, error: BaseException | None) -> BaseException | None:
        """What to raise for a native that was settled, instead of what the handler raised."""

    def retries(self, error: BaseException) -> bool:
        """Whether the client tries again by itself, so that nothing has failed yet."""
        ...


class Adapter(Protocol):
    """One client library, as the core sees it. Modules satisfy this protocol."""

    NAME: str
    """What users call the client: `hopspan.instrument(NAME)`."""
    SYSTEM: str
    """`messaging.system`."""
    CODEC: Codec
    """The shape of the client's headers."""
    ASYNCHRONOUS: bool
    """Whether `settle` must be awaited."""
    SETTLE_NAMES: Mapping[Verdict, str]
    """What the client calls each verdict; `messaging.operation.name` of settle spans. A verdict
    that is missing is no operation of its own: nothing goes out for it at once."""
    SETTLED_ALREADY: str
    """Why nothing is left to settle where a delivery says so, and what to change."""
    POINTS: Sequence[Any]
    """The methods to intercept, on a class or on an instance."""
    INSTANCE_POINTS: Sequence[Any]
    """Further ones that make sense on a wrapped instance only."""
    RIVALS: Sequence[str]
    """Methods, as `module:Class.method`, that other instrumentations of this client wrap."""
    CONTROL_FLOW: tuple[type[BaseException], ...]
    """Exceptions that the client raises through a handler without anything having failed."""
    RAISES: Raising | None
    """For a client that settles by what the handler raises; None for one that is called to."""
    SIGNALS: Signals | None
    """For a client that tells by signals what it does; None for one that does not."""

    def handed(self, args: tuple[Any, ...], via: Any) -> Any:
        """The native deliveries among a handler's arguments, or None."""

    def given(self, message: Any, via: Any) -> Any:
        """The native deliveries in what the user gave to `process` or `each`, or None."""

    def delivery(self, native: Any) -> Delivery:
        """The native delivery as a value."""
        ...

    def owner(self, native: Any) -> Any:
        """The client's object that handed the delivery out, which may be a wrapped one."""

    def same(self, native: Any, other: Any) -> bool:
        """Whether two natives are one and the same delivery."""
        ...

    def opened(self, native: Any, processing: Processing) -> Verdict | None:
        """Remember who handles a delivery; return how it was settled already, if it was."""

    def closed(self, native: Any, processing: Processing) -> None:
        """The handling is over."""

    def is_open(self, native: Any) -> bool:
        """Whether the delivery can still be settled."""
        ...

    def settle(self, native: Any, settlement: Settlement) -> Awaitable[None] | None:
        """Perform a verdict on the client's own thread. Raises what the client raises."""

    def hop(self, native: Any) -> Callable[[Callable[[], None]], None] | None:
        """How to run something on the thread that may settle this; None when we are on it."""

    def refusal(self, policy: Policy, native: Any = None) -> str | None:
        """Why a policy cannot work with this client, or for this very delivery; or None."""

    def prepare(self, instance: Any) -> None:
        """Make an object ready to be wrapped, or to be the `via` of a handler."""

    def settles_by_itself(self, instance: Any) -> bool:
        """Whether a prepared object leaves nothing to settle, whatever it hands out."""
        ...

    def error_type(self, error: BaseException) -> str | None:
        """The client's own low-cardinality word for an error, or None."""


Locate = Callable[[type], "Adapter | None"]
Serving = Callable[[Any], "tuple[Adapter, Sequence[Any] | None] | None"]

_locators: list[Locate] = []
_serving: list[Serving] = []


def use_locator(locate: Locate, serving: Serving) -> None:
    """Say how adapters are found. The adapters package does: we do not know it.

    Args:
        locate: By the type of an object.
        serving: By a handler, where it is a client that runs it without handing it a message; with
            the native deliveries: none where it is called like any function, None where it is
            another handler that the client runs.
    """
    _locators[:] = [locate]
    _serving[:] = [serving]


def serving(handler: Any) -> tuple[Adapter, Sequence[Any] | None] | None:
    """The client that runs a handler without handing it a message, and the deliveries; or None."""
    return _serving[0](handler) if _serving else None


def adapter_of(kind: type) -> Adapter | None:
    """The adapter for instances of a class, or None."""
    return _locators[0](kind) if _locators else None


def adapter_among(candidates: tuple[Any, ...]) -> Adapter | None:
    """The adapter of the first object that has one; lists and tuples are looked into."""
    for candidate in candidates:
        if type(candidate) in {list, tuple}:
            found = adapter_among(tuple(candidate[:4]))
        elif type(candidate) is dict:  # what `KafkaConsumer.poll` returns
            found = adapter_among(tuple(islice(candidate.values(), 1)))
        else:
            found = adapter_of(type(candidate))
        if found is not None:
            return found
    return None


def unknown(verb: str, objects: tuple[Any, ...], remedy: str) -> UnknownMessageError:
    """An error that says what was given, why it does not do, and what to change."""
    kinds = ", ".join(type(each).__qualname__ for each in objects if each is not None) or "nothing"
    return UnknownMessageError(
        f"{verb}: no message of a client that hopspan knows in what it was given ({kinds}); "
        f"{remedy}"
    )


def failure(adapter: Adapter, error: BaseException) -> Outcome:
    """The outcome of an exception: its `error.type` in the client's words, or its class name."""
    kind = _guarded(adapter.error_type, error) or names.error_type(error)
    return Outcome(failed=True, error=error, error_type=kind, description=_guarded(str, error))


def _guarded(describe: Callable[[BaseException], str | None], error: BaseException) -> str | None:
    try:
        return describe(error)
    except Exception:  # noqa: BLE001 - a hostile __str__, say
        return None
