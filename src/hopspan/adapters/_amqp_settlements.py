"""What a call of an AMQP channel settles: readers of `basic_ack` and its like.

The AMQP clients of Python name these methods and their parameters alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hopspan.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from hopspan.adapters._amqp_ledger import Sent


# Each with the parameters of the method that it reads; what a newer client adds does not matter.


def _ack(delivery_tag: int = 0, multiple: bool = False, *_rest: Any, **_added: Any) -> Sent:
    return delivery_tag, multiple, Verdict.ACK


def _nack(
    delivery_tag: int = 0,
    multiple: bool = False,
    requeue: bool = True,
    *_rest: Any,
    **_added: Any,
) -> Sent:
    return delivery_tag, multiple, Verdict.REQUEUE if requeue else Verdict.REJECT


def _reject(delivery_tag: int = 0, requeue: bool = True, *_rest: Any, **_added: Any) -> Sent:
    return delivery_tag, False, Verdict.REQUEUE if requeue else Verdict.REJECT


def _recover(requeue: bool = False, *_rest: Any, **_added: Any) -> Sent | None:
    # Without `requeue` the broker redelivers to this very consumer, or refuses: nothing is settled.
    return (0, True, Verdict.REQUEUE) if requeue else None


SETTLEMENTS: dict[str, Callable[..., Sent | None]] = {
    "basic_ack": _ack,
    "basic_nack": _nack,
    "basic_reject": _reject,
    "basic_recover": _recover,
}
