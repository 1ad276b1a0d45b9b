from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from hopspan import ConfigurationError, logs
from tests.logs.conftest import TRACE, Within, recording

structlog = pytest.importorskip("structlog")


def logged(**about: Any) -> dict[str, Any]:
    """What structlog writes about an event, with baggage `tenant` chosen."""
    stream = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            logs.structlog_processor(baggage=["tenant"]),
            structlog.processors.JSONRenderer(),
        ],
    )
    logger.info("handled", **about)
    found: dict[str, Any] = json.loads(stream.getvalue())
    return found


def test_an_event_carries_the_trace_and_chosen_baggage() -> None:
    with Within(tenant="acme", secret="private"):
        assert logged(order=7) == {"event": "handled", "order": 7, **TRACE, "tenant": "acme"}


def test_an_event_names_the_service_that_the_span_is_exported_for() -> None:
    with Within(recording("orders")):
        assert logged()["service.name"] == "orders"


def test_without_a_span_nothing_is_added() -> None:
    assert logged(order=7) == {"event": "handled", "order": 7}


def test_what_the_event_has_already_stays() -> None:
    with Within(tenant="acme"):
        assert logged(trace_id="mine", tenant="mine") == {
            "event": "handled",
            **TRACE,
            "trace_id": "mine",
            "tenant": "mine",
        }


def test_a_wrong_list_is_refused_where_it_is_given() -> None:
    with pytest.raises(ConfigurationError):
        logs.structlog_processor(baggage="tenant")


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_fault_leaves_the_event_as_it_is_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with Within(tenant=Broken()):
        assert logged() == {"event": "handled"}
    assert [record.getMessage() for record in caplog.records] == [
        "hopspan failed at putting the trace on a structlog event (RuntimeError); the message went "
        "on without it. Further failures of this kind are silent"
    ]


def test_records_of_the_standard_library_that_structlog_formats_keep_their_own_trace() -> None:
    """They may have been made in another thread, with another span, or none."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[logs.structlog_processor(baggage=["tenant"])],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    logs.install()
    logger = logging.getLogger("orders")
    with Within():
        inside = logger.makeRecord("orders", 30, "f", 1, "handled", (), None)
    outside = logger.makeRecord("orders", 30, "f", 1, "handled", (), None)
    logs.uninstall()
    unknown = logger.makeRecord("orders", 30, "f", 1, "handled", (), None)
    with Within(recording("another"), tenant="acme") as _:
        lines = [json.loads(formatter.format(each)) for each in (inside, outside, unknown)]
    assert lines[:2] == [{"event": "handled", **TRACE}, {"event": "handled"}]
    assert (lines[2]["service.name"], lines[2]["tenant"]) == ("another", "acme")
