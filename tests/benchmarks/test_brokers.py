"""The run through brokers, as far as it goes without one."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from benchmarks import brokers
from benchmarks.brokers import celery
from benchmarks.brokers.turns import ROWS, TURN, timed
from benchmarks.checks import WrongRowError
from benchmarks.modes import SAMPLED, Telemetry


@pytest.mark.parametrize("row", [ROWS[0], ROWS[-1]])
def test_celery_sends_and_runs_its_tasks_in_a_process_of_the_rows_own(row: str) -> None:
    turn = celery.Elsewhere("memory://", row)
    (wall, cpu), again = turn(), turn()
    assert 0 < cpu <= 2 * wall
    assert again != (wall, cpu)
    turn.close()


@pytest.mark.parametrize(("row", "spans"), [("bare", 1), ("hopspan", TURN)])
def test_a_row_that_emits_other_spans_than_it_claims_is_refused(row: str, spans: int) -> None:
    telemetry = Telemetry(SAMPLED)
    tracer = telemetry.tracer()

    def emit() -> None:
        for _ in range(spans):
            tracer.start_span("publish orders").end()

    with pytest.raises(WrongRowError, match=f"{row}: {spans} spans"):
        timed(row, telemetry, emit)
    telemetry.close()


def test_the_report_has_every_row_beside_bare() -> None:
    figures = {
        "bare": brokers.Figures([0.001, 0.002, 0.001], [0.0001, 0.0002, 0.0001]),
        "hopspan": brokers.Figures([0.002, 0.004, 0.002], [0.0003, 0.0006, 0.0003]),
    }
    (_, ours) = brokers.summaries({"RabbitMQ, pika": figures})
    assert ours[:2] == ("RabbitMQ, pika", "hopspan")
    assert ours[2:] == pytest.approx((500, 0.0003, 2, 3))
    assert "RabbitMQ, pika, hopspan" in brokers.report({"RabbitMQ, pika": figures})
