"""Beginning to handle a delivery, joining a handling that goes on, and finding the current one."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry.trace import INVALID_SPAN

from hopspan import faults
from hopspan.model import SUCCESS, Delivery, Endpoint, HopspanError, MessageInfo, Verdict
from hopspan.processing.concluding import warn_of_late_settings, warn_of_settled_already
from hopspan.processing.delivery import Processing
from hopspan.processing.handled import CURRENT
from hopspan.processing.refusals import refuse, refuse_plain
from hopspan.processing.scope import undo_leftovers
from hopspan.processing.together import together
from hopspan.settlement import as_policy
from hopspan.telemetry import NO_SETTINGS, Face, binding_of, instrumenter_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from hopspan.processing.adapting import Adapter
    from hopspan.telemetry import Instrumenter


class _NotDeferred:
    """What `defer` gives outside a delivery: a block in which nothing happens."""

    def __enter__(self) -> Processing:
        return NOTHING

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None: ...

    async def __aenter__(self) -> Processing:
        return NOTHING

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None: ...


class _Nothing(Processing):
    """Outside a delivery: falsy, and nothing that is done to it has an effect."""

    __slots__ = ()

    def __init__(self) -> None:
        self.deliveries = ()
        self.outcome = SUCCESS
        self.settled = False

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<hopspan processing of nothing>"

    @property
    def is_over(self) -> bool:
        return True

    @property
    def span(self) -> Span:
        return INVALID_SPAN

    @property
    def delivery(self) -> Delivery:
        return _NO_DELIVERY

    def fail(self, reason: str, *, type: str | None = None) -> None: ...  # noqa: A002

    def defer(self) -> Any:
        return _NotDeferred()


NOTHING: Processing = _Nothing()
_NO_DELIVERY = Delivery(Endpoint(""), MessageInfo(), None, None)


def current() -> Processing:
    """The handling that goes on around the caller, or a falsy one outside a delivery. Never None.

    Follows the OpenTelemetry context: it is found in every function, task and (with a propagated
    context) thread that the handler calls, through nested spans. ::

        if invalid(order):
            hopspan.current().fail("invalid order", type="invalid_order")
    """
    return _within(otel.get_current())


def _within(context: Context) -> Processing:
    found = context.get(CURRENT)
    processing = found() if isinstance(found, weakref.ref) else None
    return processing if isinstance(processing, Processing) else NOTHING


def begin(
    adapter: Adapter,
    natives: Sequence[Any],
    *,
    pushed: bool,
    face: Face = NO_SETTINGS,
    base: Instrumenter | None = None,
    plain: str = "",
) -> Processing:
    """Begin to handle deliveries, or join a face further out that has begun with the same ones.

    Args:
        adapter: The client's.
        natives: One delivery, or several that are handled as one.
        pushed: The client called the handler.
        face: The settings that the user gave here.
        base: What lies beneath them; looked for when omitted.
        plain: How the user's block reads, where it cannot await a settlement.

    Raises:
        PolicyError: the policy in force cannot work here; nothing has been started.
    """
    undo_leftovers()
    ambient = otel.get_current()
    ongoing = _within(ambient) if ambient else NOTHING
    if ongoing is not NOTHING and ongoing.is_for(adapter, natives):
        _adopt(ongoing, face)
        refuse_plain(plain, ongoing.policy, adapter)
        return ongoing
    instrumenter = base or _base(adapter, natives[0])
    if face.settings:
        instrumenter = face.over(instrumenter)
    single = len(natives) == 1
    deliveries = [_read(adapter, natives[0])] if single else _read_all(adapter, natives)
    policy = instrumenter.config.policy
    if policy.settles:
        refuse(policy, adapter, deliveries)
        refuse_plain(plain, policy, adapter)
    operation = instrumenter.start_process(
        deliveries, adapter.CODEC, pushed=pushed, ambient=ambient
    )
    processing = Processing(adapter, natives, deliveries, instrumenter, operation)
    if "policy" in face.settings:
        processing.policy_rank = face.rank
    if single:
        _open(adapter, natives[0], processing)
    else:
        _open_all(adapter, natives, processing)
    operation.announce(natives[0] if single else natives)
    return processing


def _adopt(ongoing: Processing, face: Face) -> None:
    """Let a face further in have its say: what it sets explicitly, where it goes first.

    Raises:
        PolicyError: its policy cannot work here.
    """
    settings = face.settings
    if "policy" in settings and face.rank >= ongoing.policy_rank:
        policy = as_policy(settings["policy"])
        refuse(policy, ongoing.adapter, ongoing.deliveries)
        ongoing.policy, ongoing.policy_rank = policy, face.rank
    if "commits" in settings:
        ongoing.commits = settings["commits"]
    if "reraise" in settings:
        ongoing.reraise = settings["reraise"]
    warn_of_late_settings(settings, ongoing.instrumenter.config)


def _base(adapter: Adapter, native: Any) -> Instrumenter:
    """What lies beneath a face that no interceptor calls: the wrapped object, or the client."""
    try:
        bound = binding_of(adapter.owner(native))
    except Exception:  # noqa: BLE001
        faults.report("looking for the settings of a wrapped object")
        bound = None
    return instrumenter_for(adapter.NAME) if bound is None else bound.instrumenter


def started(start: Callable[..., Processing], *args: Any) -> Processing:
    """What `start` began; a falsy processing where hopspan is at fault, so that the handler runs.

    Raises:
        HopspanError: a mistake of the user's: a policy that cannot work, an unknown message.
    """
    try:
        return start(*args)
    except HopspanError:
        raise
    except Exception:  # noqa: BLE001 - the message stays unsettled, so nothing is lost
        faults.report("beginning to handle a delivery")
        return NOTHING


def _read(adapter: Adapter, native: Any) -> Delivery:
    try:
        return adapter.delivery(native)
    except Exception:  # noqa: BLE001 - it can be handled and settled without being understood
        faults.report("reading a delivery")
        return Delivery(Endpoint(adapter.SYSTEM), MessageInfo(), None, native)


def _read_all(adapter: Adapter, natives: Sequence[Any]) -> Sequence[Delivery]:
    batch = together(natives)
    if batch is None:
        return [_read(adapter, native) for native in natives]
    return batch.deliveries()


def _open(adapter: Adapter, native: Any, processing: Processing) -> None:
    try:
        settled: Verdict | None = adapter.opened(native, processing)
    except Exception:  # noqa: BLE001
        faults.report("opening a delivery")
        return
    if settled is not None:
        _is_settled(processing, native, settled)


def _open_all(adapter: Adapter, natives: Sequence[Any], processing: Processing) -> None:
    batch = together(natives)
    if batch is None:
        for native in natives:
            _open(adapter, native, processing)
        return
    try:
        for native, verdict in batch.opened(processing):
            _is_settled(processing, native, verdict)
    except Exception:  # noqa: BLE001
        faults.report("opening a batch")


def _is_settled(processing: Processing, native: Any, verdict: Verdict) -> None:
    """Somebody has settled the delivery before its handling begins."""
    processing.note(native, verdict)
    if processing.policy.settles:
        warn_of_settled_already(processing.policy, processing.delivery)
