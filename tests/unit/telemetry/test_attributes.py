"""Message headers as attributes: by name, whatever their type, and no secrets."""

from __future__ import annotations

import datetime as dt
import logging
from decimal import Decimal
from typing import Any

import pytest

from hopspan.propagation import MAPPING, PAIRS
from hopspan.telemetry.attributes import Capture, is_secret, text


@pytest.mark.parametrize(
    "header",
    [
        "authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "token", "x-auth-token",
        "accessToken", "password", "db_password", "passwd", "pwd", "secret", "client-secret",
        "api-key", "x-api-key", "ApiKey", "api_key", "x.api.key", "AWS-Access-Key-Id",
        "private_key", "credentials", "session-id", "jwt", "x-signature", "x-auth-user", "auth",
        "passphrase", "bearer", "authentication", "x-oauth-code", "PHPSESSID", "x-otp", "csrf",
        "connection-string", "dsn", "x-sig", "ssh-key",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_name(header: str) -> None:
    assert is_secret(header)


@pytest.mark.parametrize(
    "header",
    [
        "x-request-id",
        "color",
        "author",
        "tenant",
        "message-key",
        "compass",
        "passenger",
        "traceparent",
    ],
)
def test_others_are_no_secrets(header: str) -> None:
    assert not is_secret(header)


def test_headers_are_found_in_any_letter_case() -> None:
    capture = Capture(["color", "x-id"])
    assert capture.attributes(MAPPING, {"Color": "red", "X-ID": 7, "other": "no"}) == {
        "messaging.header.color": ["red"],
        "messaging.header.x-id": ["7"],
    }


def test_every_value_of_a_header_is_there_in_order() -> None:
    headers = [("color", b"red"), ("COLOR", b"blue"), ("other", b"x"), ("color", None)]
    assert Capture(["color"]).attributes(PAIRS, headers) == {
        "messaging.header.color": ["red", "blue", ""]
    }


def test_there_are_not_endlessly_many_values() -> None:
    headers = [("color", str(number).encode()) for number in range(1000)]
    (values,) = Capture(["color"]).attributes(PAIRS, headers).values()
    assert values == [str(number) for number in range(16)]


def test_a_secret_is_redacted_whatever_it_is() -> None:
    headers = [("token", b"a"), ("Token", b"b")]
    assert Capture(["token"]).attributes(PAIRS, headers) == {
        "messaging.header.token": ["[REDACTED]"]
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("red", "red"),
        (b"red", "red"),
        (bytearray(b"red"), "red"),
        (memoryview(b"red"), "red"),
        (b"\xff\xfe\xc3\xa9", "��é"),
        ("x" * 5000, "x" * 1024),
        (b"x" * 5000, "x" * 1024),
        ("☃".encode() * 2000, "☃" * 1024),
        (7, "7"),
        (1.5, "1.5"),
        (True, "True"),
        (None, ""),
        (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05"),  # noqa: DTZ001
        ({"password": "p"}, "<dict>"),
        (["a"], "<list>"),
        (Decimal("1.5"), "<Decimal>"),
        (object(), "<object>"),
    ],
    ids=range(17),
)
def test_values_of_all_types_are_shown_as_text(value: Any, shown: str) -> None:
    assert text(value) == shown


@pytest.mark.parametrize("headers", [None, {}, {"other": "x"}, {b"color": 1, 3: 4}])
def test_headers_may_be_anything(headers: Any) -> None:
    found = Capture(["color"]).attributes(MAPPING, headers)
    assert found == ({"messaging.header.color": ["1"]} if b"color" in (headers or {}) else {})


def test_hostile_headers_are_reported_and_nothing_is_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert Capture(["color"]).attributes(MAPPING, 3) == {}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("amqp://user:hunter2@host/", "amqp://[REDACTED]@host/"),
        ("amqp://user:p@ss@host/", "amqp://[REDACTED]@host/"),
        ("see https://host/a@b", "see https://host/a@b"),
    ],
)
def test_a_url_is_told_without_its_password(value: str, told: str) -> None:
    assert text(value) == told
