"""What a handler logs joins the trace of whoever sent the message, in every style."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hopspan import logs
from tests.contract.client import Client, Message
from tests.contract.suite import FACES, needs, over

Log = Callable[[str], Any]
"""Logs a text."""
JOINED = ("message", "trace_id", "span_id", "trace_flags", "tenant", "secret")
"""What is compared of a line."""


@contextmanager
def _by_logging(stream: io.StringIO) -> Iterator[Log]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("application")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logs.install(baggage=["tenant"])
    try:
        yield logger.info
    finally:
        logs.uninstall()
        logger.removeHandler(handler)


@contextmanager
def _by_structlog(stream: io.StringIO) -> Iterator[Log]:
    structlog = pytest.importorskip("structlog")
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            logs.structlog_processor(baggage=["tenant"]),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )
    yield logger.info


LIBRARIES = {"logging": _by_logging, "structlog": _by_structlog}


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged, as far as it is compared."""
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{key: line[key] for key in JOINED if key in line} for line in lines]


def _line_of(client: Client, span: str, **more: Any) -> dict[str, Any]:
    """What a line looks like that was logged in the only span of this name."""
    (found,) = client.telemetry.named(span)
    assert found.context is not None
    return {
        "trace_id": format(found.context.trace_id, "032x"),
        "span_id": format(found.context.span_id, "016x"),
        "trace_flags": format(found.context.trace_flags, "02x"),
        **more,
    }


@over(style="styles", library=LIBRARIES)
def what_a_handler_logs_joins_the_trace_of_the_producer(
    client: Client, style: str, library: str
) -> None:
    stream = io.StringIO()
    with LIBRARIES[library](stream) as log:

        def body(_message: Message) -> None:
            log("handled")

        with client.baggage(tenant="acme", secret="private"), client.span("request"):
            log("sending")
            client.send()
        client.consume_by(style, body)
        log("over")
    request = _line_of(client, "request", tenant="acme")
    process = _line_of(client, client.processes, tenant="acme")
    assert request["trace_id"] == process["trace_id"], "one trace on both sides of the broker"
    assert [
        {"message": "sending", **request},
        {"message": "handled", **process},
        {"message": "over"},
    ] == _lines(stream)


@over(face=FACES, sampling=("unsampled", "no SDK"), library=LIBRARIES)
def a_trace_that_is_not_sampled_is_logged_as_such(client: Client, library: str) -> None:
    stream = io.StringIO()
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    client.send_untraced(headers=headers)
    with LIBRARIES[library](stream) as log:
        client.handle(lambda _message: log("handled"))
    (line,) = _lines(stream)
    assert ("a" * 32, "00") == (line["trace_id"], line["trace_flags"])


@needs("settles")
@over(face=FACES)
def what_hopspan_says_about_a_failure_is_in_the_trace_of_the_handler(client: Client) -> None:
    stream = io.StringIO()
    client.send()
    with _by_logging(stream):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logs.JsonFormatter())
        logging.getLogger("hopspan").addHandler(handler)
        try:

            def fail(_message: Message) -> None:
                raise ValueError("no")

            client.handle(fail, policy=client.reject_on_error)
        finally:
            logging.getLogger("hopspan").removeHandler(handler)
    (line,) = [json.loads(each) for each in stream.getvalue().splitlines()]
    process = _line_of(client, client.processes)
    assert process == {key: line.get(key) for key in process}
    assert line["exception"].endswith("ValueError: no")
