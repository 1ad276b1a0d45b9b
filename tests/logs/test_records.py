from __future__ import annotations

import logging
import logging.config
import queue
from collections.abc import Callable
from logging.handlers import QueueHandler
from typing import Any

import pytest

from hopspan import ConfigurationError, logs
from tests.logs.conftest import TRACE, Lines, Within, recording

PLAIN = logging.Formatter("%(trace_id)s/%(span_id)s/%(trace_flags)s/%(service_name)s %(message)s")
LINE = f"{TRACE['trace_id']}/{TRACE['span_id']}/01/"
By = Callable[[logging.Formatter], tuple[logging.Logger, Lines]]


def named(record: logging.LogRecord, *names: str) -> dict[str, Any]:
    return {name: vars(record)[name] for name in names if name in vars(record)}


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_every_record_carries_the_trace_in_formats_of_any_style(logging_by: By) -> None:
    logs.install()
    logger, plain = logging_by(PLAIN)
    _, braces = logging_by(logging.Formatter("{trace_id}/{service_name} {message}", style="{"))
    with Within(recording("orders")) as _:
        logger.warning("inside")
    logger.warning("outside")
    assert plain.lines[1:] == ["/// outside"]
    assert braces.lines[1:] == ["/ outside"]
    assert plain.lines[0].endswith("/orders inside")
    assert braces.lines[0].endswith("/orders inside")


def test_baggage_is_an_attribute_of_its_own_name(logging_by: By) -> None:
    logs.install(baggage=["tenant", "app.*"])
    logger, lines = logging_by(logging.Formatter("%(tenant)s %(app.tier)s"))
    with Within(tenant="acme", app__tier="gold"):
        logger.warning("handled")
    assert lines.lines == ["acme gold"]


def test_installing_twice_is_once_and_uninstalling_restores(logging_by: By) -> None:
    before = logging.Logger.makeRecord
    assert not logs.installed()
    logs.install()
    installed = logging.Logger.makeRecord
    logs.install()
    assert logging.Logger.makeRecord is installed
    assert logs.installed()
    logs.uninstall()
    logs.uninstall()
    assert logging.Logger.makeRecord is before
    assert not logs.installed()


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (["tenant"], None, {"tenant": "acme"}),
        (["tenant"], ["user"], {"user": "jo"}),
        (None, ["user"], {"user": "jo"}),
        (["tenant"], [], {}),
    ],
)
def test_a_later_list_of_baggage_replaces_the_first(
    first: Any, second: Any, found: dict[str, str]
) -> None:
    logs.install(first)
    logs.install(second)
    kept = Kept()
    logger = logging.getLogger("orders")
    logger.addHandler(kept)
    with Within(tenant="acme", user="jo"):
        logger.warning("handled")
    logger.removeHandler(kept)
    assert named(kept.records[0], "tenant", "user") == found


def test_a_wrong_list_installs_nothing() -> None:
    with pytest.raises(ConfigurationError):
        logs.install(baggage="tenant")
    assert not logs.installed()


def test_who_wraps_it_later_goes_on_after_it_is_uninstalled(
    logging_by: By, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.install()
    inner = logging.Logger.makeRecord
    made = []

    def outer(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made.append("outer")
        return inner(*args, **kwargs)

    monkeypatch.setattr(logging.Logger, "makeRecord", outer)
    logs.uninstall()
    logger, lines = logging_by(logging.Formatter("%(message)s"))
    with Within():
        logger.warning("handled")
    assert (made, lines.lines) == (["outer"], ["handled"])
    (record,) = [logger.makeRecord("n", 30, "f", 1, "m", (), None)]
    assert named(record, "trace_id") == {}
    logs.install()
    with Within():
        logger.warning("again")
    assert made == ["outer", "outer", "outer"]
    logs.uninstall()
    assert logging.Logger.makeRecord is outer
    monkeypatch.undo()
    logging.Logger.makeRecord = inner.__wrapped__  # type: ignore[attr-defined, method-assign]


def test_a_record_factory_of_the_application_goes_on(logging_by: By) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.host = "kitchen"
        record.service_name = "mine"
        return record

    logging.setLogRecordFactory(factory)
    try:
        logs.install()
        logger, lines = logging_by(logging.Formatter("%(host)s %(service_name)s %(trace_id)s"))
        with Within(recording("another")), Within():
            logger.warning("handled")
        assert logging.getLogRecordFactory() is factory
    finally:
        logging.setLogRecordFactory(before)
    assert lines.lines == [f"kitchen mine {TRACE['trace_id']}"]


@pytest.mark.parametrize("name", ["trace_id", "span_id", "trace_flags", "service_name", "tenant"])
def test_extra_may_use_the_same_names_and_wins(logging_by: By, name: str) -> None:
    """A record factory would make logging raise a KeyError here, in the application."""
    logs.install(baggage=["tenant"])
    logger, lines = logging_by(logging.Formatter(f"%({name})s"))
    with Within(tenant="acme"):
        logger.warning("handled", extra={name: "mine"})
    assert lines.lines == ["mine"]


def test_baggage_cannot_change_what_logging_knows() -> None:
    logs.install(baggage=["*"])
    kept = Kept()
    logger = logging.getLogger("orders")
    logger.addHandler(kept)
    with Within(msg="forged", levelno="forged", args="forged", exc_info="forged", name="forged"):
        logger.warning("handled")
    logger.removeHandler(kept)
    (record,) = kept.records
    assert named(record, "msg", "levelno", "args", "exc_info", "name") == {
        "msg": "handled",
        "levelno": logging.WARNING,
        "args": (),
        "exc_info": None,
        "name": "orders",
    }


def test_where_a_line_was_logged_is_still_found(logging_by: By) -> None:
    logs.install()
    logger, lines = logging_by(logging.Formatter("%(filename)s %(funcName)s"))
    logger.warning("handled")
    assert lines.lines == ["test_records.py test_where_a_line_was_logged_is_still_found"]


class Broken:
    """Baggage of the application's own that cannot be text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_fault_leaves_the_line_without_its_trace_and_is_told_once(
    logging_by: By, caplog: pytest.LogCaptureFixture
) -> None:
    logs.install(baggage=["broken"])
    logger, lines = logging_by(PLAIN)
    with Within(broken=Broken()):
        logger.warning("first")
        logger.warning("second")
    assert lines.lines == ["/// first", "/// second"]
    assert [record.getMessage() for record in caplog.records if record.name == "hopspan"] == [
        "hopspan failed at putting the trace on a log record (RuntimeError); the message went on "
        "without it. Further failures of this kind are silent"
    ]


# -- the filter ------------------------------------------------------------------------------------


def test_a_filter_does_the_same_for_one_handler(logging_by: By) -> None:
    logger, lines = logging_by(PLAIN)
    lines.addFilter(logs.TraceFilter())
    with Within():
        logger.warning("inside")
    logger.warning("outside")
    assert lines.lines == [f"{LINE} inside", "/// outside"]
    assert not logs.installed()


def test_a_filter_can_be_configured_by_a_dictionary() -> None:
    logger = logging.getLogger("orders.configured")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"trace": {"()": "hopspan.logs.TraceFilter", "baggage": ["tenant"]}},
            "formatters": {"json": {"()": "hopspan.logs.JsonFormatter"}},
            "handlers": {"kept": {"()": Kept, "filters": ["trace"], "formatter": "json"}},
            "loggers": {"orders.configured": {"handlers": ["kept"], "propagate": False}},
        }
    )
    (handler,) = logger.handlers
    with Within(tenant="acme"):
        logger.warning("handled")
    assert isinstance(handler, Kept)
    assert isinstance(handler.formatter, logs.JsonFormatter)
    assert named(handler.records[0], "trace_id", "tenant") == {
        "trace_id": TRACE["trace_id"],
        "tenant": "acme",
    }


def test_a_record_keeps_the_trace_in_which_it_was_made() -> None:
    """What formats it later, behind a queue, may have another span current, or none."""
    waiting: queue.Queue[Any] = queue.Queue()
    logger = logging.getLogger("orders.queued")
    logger.propagate = False
    logger.addHandler(QueueHandler(waiting))
    logs.install(baggage=["tenant"])
    with Within():
        logger.warning("first")
    logger.warning("second")
    late = logs.TraceFilter(["tenant"])
    lines = []
    with Within(recording("another"), tenant="another"):
        while not waiting.empty():
            record = waiting.get()
            assert late.filter(record)
            lines.append((PLAIN.format(record), named(record, "tenant")))
    logger.handlers.clear()
    assert lines == [(f"{LINE} first", {}), ("/// second", {})]
