"""The contract: what must hold for every client on every broker, told once as scenarios.

    @suite.scenarios(FEATURES, *suite.EVERYWHERE)
    def test_pika_on_the_fake(play):
        play(on_fake)

- `scenarios_*.py` hold the scenarios: functions whose names are sentences, which take a `client`.
- A `client` (`client.py`) is a broker, a queue of our own on it, a producer and a consumer, spoken
  to in words that hold for any broker. A new broker is one module that says how it does these
  things (`pika_client.py`), and a `Features` value (`features.py`) that says what it can do.
- `telemetry.py` shows what was recorded as values: whole spans, metrics, log lines.
- `suite.py` turns scenarios into tests: for each face of hopspan, sampled, unsampled and without
  an SDK, as each scenario asks.

After every scenario the client checks that nothing was logged unasked, that the channel is still
open, and that the OpenTelemetry context is what it was.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            "aio_pika_client",
            "aio_pika_loop",
            "amqp_client",
            "celery_client",
            "client",
            "kafka_client",
            "pika_client",
            "scenarios_aio_pika",
            "scenarios_amqp",
            "scenarios_baggage",
            "scenarios_celery",
            "scenarios_core",
            "scenarios_instrumentation",
            "scenarios_kafka",
            "scenarios_metrics",
            "scenarios_pika",
            "scenarios_privacy",
            "scenarios_propagation",
            "scenarios_refusals",
            "scenarios_robustness",
            "scenarios_scope",
            "scenarios_settlement",
        )
    )
)
