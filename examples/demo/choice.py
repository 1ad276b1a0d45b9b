"""Which broker is meant, by name or by URL, and the stage on it.

Rules of this module: it imports a client only for the broker that is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stage import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from .stage import Stage

EMBEDDED, RABBITMQ, KAFKA = "embedded", "rabbitmq", "kafka"
DEFAULT_RABBITMQ = "amqp://guest:guest@localhost:5672/%2F"
DEFAULT_KAFKA = "localhost:9092"

_KINDS = {"amqp": RABBITMQ, "amqps": RABBITMQ, "kafka": KAFKA}


def stage_on(broker: str, environ: Mapping[str, str]) -> AbstractContextManager[Stage]:
    """The broker that is meant; entered, it answers and has names for this run.

    Args:
        broker: `embedded`, `rabbitmq` or `kafka` for the one in the environment or else on this
            machine, or a URL.
        environ: Where that one is: TEST_RABBITMQ_URL, TEST_KAFKA_BOOTSTRAP.

    Raises:
        DemoError: nothing like that is known. Entered: it cannot be had; the text says what to do.
        ImportError: its client is not installed.
    """
    kind, url = _meant(broker, environ)
    if kind == RABBITMQ:
        from . import rabbitmq  # noqa: PLC0415

        return rabbitmq.connected(url)
    if kind == KAFKA:
        from . import kafka  # noqa: PLC0415

        return kafka.connected(kafka.servers_in(url))
    from . import embedded  # noqa: PLC0415

    return embedded.connected()


def _meant(broker: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The kind of broker, and its URL."""
    if broker == EMBEDDED:
        return EMBEDDED, ""
    if broker == RABBITMQ:
        return RABBITMQ, environ.get("TEST_RABBITMQ_URL") or DEFAULT_RABBITMQ
    if broker == KAFKA:
        return KAFKA, f"kafka://{environ.get('TEST_KAFKA_BOOTSTRAP') or DEFAULT_KAFKA}"
    kind = _KINDS.get(broker.partition("://")[0] if "://" in broker else "")
    if kind is None:  # not repeated: there may be a password in it
        raise DemoError(
            "--broker must be embedded, rabbitmq, kafka, or a URL like\n"
            "  amqp://user:password@host:5672/%2F or kafka://host:9092"
        )
    return kind, broker
