"""Attributes of a span at its start, besides those of its plan: captured headers, keys, baggage."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import OperationType
from hopspan.propagation.baggage import (
    LONGEST_VALUE,
    names_of,
    recorded,
    shortened,
    without_passwords,
)
from hopspan.propagation.headers import Codec, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from hopspan.config import Config
    from hopspan.conventions import Plan

REDACTED = "[REDACTED]"
_MOST_VALUES = 16

_SECRET = (
    "accesskey", "apikey", "authentic", "authoris", "authoriz", "bearer", "connectionstring",
    "cookie", "credential", "csrf", "encryptionkey", "hmac", "jwt", "oauth", "passcode",
    "passphrase", "passwd", "password", "privatekey", "secret", "sessid", "session", "signature",
    "sshkey", "token", "xsrf",
)  # fmt: skip
"""What makes a name a secret's, wherever in it, and however its words are separated."""
_SECRET_WORDS = frozenset(
    {"auth", "creds", "dsn", "otp", "pass", "pin", "pwd", "sas", "sid", "sig", "xauth"}
)
"""Likewise as a whole word: `x-auth-user`, but not `author`."""
_PLAIN = (bool, int, float, dt.date)
"""What has no parts that could be a secret."""


def is_secret(header: str) -> bool:
    """Whether the name of a header sounds like a secret's."""
    words = re.split(r"[^a-z0-9]+", header.lower())
    squeezed = "".join(words)
    return any(each in squeezed for each in _SECRET) or not _SECRET_WORDS.isdisjoint(words)


class Capture:
    """The headers to copy. Immutable; safe for all threads."""

    __slots__ = ("_attributes", "_secret")

    def __init__(self, headers: Sequence[str]) -> None:
        self._attributes = {each: names.header_attribute(each) for each in headers}
        self._secret = frozenset(filter(is_secret, headers))

    def attributes(self, codec: Codec, headers: Any) -> dict[str, list[str]]:
        """The attributes of a message with these headers. Never raises."""
        try:
            found = values_of(codec, headers, self._attributes)
            return {
                self._attributes[name]: [REDACTED]
                if name in self._secret
                else [text(each) for each in values[:_MOST_VALUES]]
                for name, values in found.items()
            }
        except Exception:  # noqa: BLE001 - what a broker hands out can be anything
            faults.report("capturing message headers")
            return {}


def text(value: Any) -> str:
    """A header's value as text, its beginning; a table or a list is named, and not looked into."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value[: 4 * LONGEST_VALUE]).decode("utf-8", "replace")
    if isinstance(value, str):
        return shortened(without_passwords(value[: 4 * LONGEST_VALUE], f"{REDACTED}@"))
    if value is None or isinstance(value, _PLAIN):
        return "" if value is None else shortened(str(value))
    return f"<{type(value).__name__}>"


_WITH_ENTRIES = frozenset({OperationType.SEND, OperationType.RECEIVE, OperationType.PROCESS})


class SpanAttributes:
    """The attributes that one `Config` asks for. Immutable; safe for all threads."""

    __slots__ = ("_captured", "_entries", "_with_key", "any")

    def __init__(self, config: Config) -> None:
        self._with_key = config.message_key
        self._captured = Capture(config.capture_headers) if config.capture_headers else None
        self._entries = names_of(config.baggage_attributes or None)
        self.any: bool = bool(self._with_key or self._captured or self._entries is not None)
        """Whether a message gets any attribute by these settings: most programs set none."""

    def for_message(
        self,
        plan: Plan,
        attributes: dict[str, Any],
        message: tuple[Any, tuple[str, str] | None],
        codec: Codec,
        carried: Context,
    ) -> dict[str, Any]:
        """Add to the attributes of a span about one message, given as `(headers, key)`."""
        headers, key = message
        if self._with_key and key is not None:
            attributes[key[0]] = key[1]
        if self._captured is not None and headers:
            attributes.update(self._captured.attributes(codec, headers))
        return self.for_any(plan, attributes, carried)

    def for_any(self, plan: Plan, attributes: dict[str, Any], carried: Context) -> dict[str, Any]:
        """Add baggage, which never wins where names are the same."""
        if self._entries is None or plan.action.type not in _WITH_ENTRIES:
            return attributes
        try:
            return {**recorded(carried, self._entries), **attributes}
        except Exception:  # noqa: BLE001 - a value that cannot be told, say
            faults.report("recording baggage on a span")
            return attributes
