"""Samplers: the parent-based ratio, and rules that always keep what matters.

A decision follows from the trace id, the attributes at start and the baggage alone. So whoever sees
the same trace decides the same, in the producer and in the consumer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import baggage as api
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from hopspan.conventions import SAMPLING_REASON
from hopspan.model import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind
    from opentelemetry.trace.span import TraceState
    from opentelemetry.util.types import Attributes

__all__ = ["Keep", "Rule", "keep", "parent_based_ratio", "rule"]


class Rule(NamedTuple):
    """What to keep always; see `rule`."""

    attribute: tuple[tuple[str, Any], ...]
    baggage: tuple[tuple[str, Any], ...]
    reason: str

    def matches(self, attributes: Mapping[str, Any], context: Context | None) -> bool:
        """Whether all that the rule names is there, with a wanted value."""
        return all(
            key in attributes and _wants(wanted, attributes[key]) for key, wanted in self.attribute
        ) and all(
            (value := api.get_baggage(key, context)) is not None and _wants(wanted, str(value))
            for key, wanted in self.baggage
        )


def rule(
    *,
    attribute: Mapping[str, Any] | None = None,
    baggage: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> Rule:
    """What `keep` keeps always: spans with these attributes at their start, and this baggage.

    ::

        rule(baggage={"customer.tier": "enterprise"})
        rule(attribute={"messaging.destination.name": {"payments", "refunds"}})
        rule(baggage={"order.total": lambda total: float(total) > 1000}, reason="large order")

    Args:
        attribute: Attribute names and wanted values. Only what is set when the span starts is
            seen; hopspan sets there all that it knows by then.
        baggage: Baggage keys and wanted values, which are strings. Whoever may set baggage decides
            over your sampling: do not trust a stranger's.
        reason: What `hopspan.sampling.reason` says; made from the rule when omitted. Keep it the
            same for all that matches.

    A wanted value is one value, a set, list or tuple of them, or a function of the value. All that
    one rule names must match. A function that raises does not match.

    Raises:
        ConfigurationError: the rule names nothing, and would keep everything.
    """
    if not attribute and not baggage:
        raise ConfigurationError("a rule names an attribute or a baggage entry; this names neither")
    named = {"attribute": attribute or {}, "baggage": baggage or {}}
    for kind, given in named.items():
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"rule({kind}={given!r}) is not valid: it takes a mapping from names to values"
            )
    made = "; ".join(
        f"{kind} {key}{_shown(wanted)}"
        for kind, each in named.items()
        for key, wanted in each.items()
    )
    attributes = tuple((key, _fixed(wanted)) for key, wanted in named["attribute"].items())
    entries = tuple((key, _as_text(_fixed(wanted))) for key, wanted in named["baggage"].items())
    return Rule(attributes, entries, reason or made)


def _fixed(wanted: Any) -> Any:
    if not isinstance(wanted, (list, tuple, set, frozenset)):
        return wanted
    try:
        return frozenset(wanted)
    except TypeError:
        raise ConfigurationError(
            f"rule: {wanted!r} is not valid: wanted values are plain"
        ) from None


def _as_text(wanted: Any) -> Any:
    """What is wanted of baggage: its values are text once they have been in a message."""
    if callable(wanted):
        return wanted
    return frozenset(map(str, wanted)) if isinstance(wanted, frozenset) else str(wanted)


def _shown(wanted: Any) -> str:
    if callable(wanted):
        return ""
    fixed = _fixed(wanted)
    several = sorted(map(str, fixed)) if isinstance(fixed, frozenset) else [str(fixed)]
    return "=" + "|".join(several)


def _wants(wanted: Any, value: Any) -> bool:
    if callable(wanted):
        try:
            return bool(wanted(value))
        except Exception:  # noqa: BLE001 - the value may come from anywhere
            return False
    if isinstance(wanted, frozenset):
        return isinstance(value, (str, bool, int, float)) and value in wanted
    try:
        return bool(value == wanted)
    except Exception:  # noqa: BLE001 - so may its comparison
        return False


class Keep(Sampler):
    """Keeps what a rule matches, and of the rest a ratio by trace id; asks no parent.

    `keep` is this with respect for the parent. By itself it decides about each span anew: the same
    for all spans of a trace that no rule matches, which is what the SDK's `TraceIdRatioBased` does.
    """

    def __init__(self, rules: Sequence[Rule], ratio: float) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.ratio: float = ratio
        self._rest = TraceIdRatioBased(ratio)

    def should_sample(  # noqa: PLR0917 - the signature is the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide, and say why in `hopspan.sampling.reason`. The tracestate stays the parent's."""
        reason = self._reason(attributes or {}, parent_context)
        result = (self._rest if reason is None else ALWAYS_ON).should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )
        if result.decision is not Decision.RECORD_AND_SAMPLE:
            return result
        said = {**(result.attributes or {}), SAMPLING_REASON: reason or "ratio"}
        return SamplingResult(result.decision, said, result.trace_state)

    def _reason(self, attributes: Mapping[str, Any], context: Context | None) -> str | None:
        return next((each.reason for each in self.rules if each.matches(attributes, context)), None)

    def get_description(self) -> str:
        """Such as `Keep{baggage customer.tier=enterprise, else 0.05}`."""
        said = [*(each.reason for each in self.rules), f"else {self.ratio}"]
        return f"Keep{{{', '.join(said)}}}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keep) and (self.rules, self.ratio) == (other.rules, other.ratio)

    def __hash__(self) -> int:
        return hash((self.rules, self.ratio))


class _ParentBased(ParentBased):
    """Parent based, and equal to one that is made of the same."""

    def __init__(self, root: Sampler, *, unsampled: Sampler = ALWAYS_OFF) -> None:
        super().__init__(
            root, remote_parent_not_sampled=unsampled, local_parent_not_sampled=unsampled
        )
        # The SDK's own samplers are not comparable; what they say of themselves is.
        self._made_of = tuple(
            each if isinstance(each, Keep) else each.get_description() for each in (root, unsampled)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ParentBased) and self._made_of == other._made_of

    def __hash__(self) -> int:
        return hash(self._made_of)


def keep(*rules: Rule, ratio: float, rescue: bool = False) -> Sampler:
    """A sampler that always keeps what the rules match, and a ratio of the rest. Parent based.

    ::

        hopspan.sdk.setup(
            sampler=keep(rule(baggage={"customer.tier": "enterprise"}), ratio=0.05)
        )

    Args:
        rules: See `rule`. One that matches is enough.
        ratio: How much of the rest is kept, from 0 to 1, decided by the trace id as the SDK's
            `TraceIdRatioBased` does it: services with the same ratio keep the same traces.
        rescue: What happens to a span that a rule matches, and whose parent was not sampled. False:
            the parent's decision stands, and the trace is whole or not there at all. True: it is
            kept, and the trace begins in its middle.

    A kept root says why in `hopspan.sampling.reason`: the rule's reason, or `ratio`.

    Raises:
        ConfigurationError: the ratio is none.
    """
    _check(ratio)
    for each in rules:
        if not isinstance(each, Rule):
            raise ConfigurationError(
                f"keep({each!r}) is not valid: it takes what rule(...) returns"
            )
    return _ParentBased(Keep(rules, ratio), unsampled=Keep(rules, 0.0) if rescue else ALWAYS_OFF)


def parent_based_ratio(ratio: float) -> Sampler:
    """A sampler that does what the parent did, and keeps a ratio of the traces that begin here.

    Raises:
        ConfigurationError: the ratio is none.
    """
    _check(ratio)
    return _ParentBased(TraceIdRatioBased(ratio))


def _check(ratio: Any) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise ConfigurationError(f"ratio={ratio!r} is not valid: it takes a number from 0 to 1")
