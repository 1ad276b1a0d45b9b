"""The protocol's words for what went wrong."""

from __future__ import annotations

from kafka.errors import BrokerResponseError

from hopspan import conventions as names
from hopspan.model import Outcome


class RevokedError(Exception):
    """The partition is not ours any more: whoever has it now gets the record."""


def error_type(error: BaseException) -> str | None:
    """The protocol's own word for an error, where the broker said one."""
    return error.message if isinstance(error, BrokerResponseError) else None


def failure(error: BaseException) -> Outcome:
    """The outcome of something that the client or the broker refused."""
    kind = error_type(error) or names.error_type(error)
    return Outcome(failed=True, error=error, error_type=kind, description=str(error))
