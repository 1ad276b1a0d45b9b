"""Settings: keyword, then variable, then default; a mistake is an error that names the setting."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import hopspan
from hopspan.config import Config, Settings, settings
from hopspan.conventions import METRICS, PROCESS_DURATION, SENT_MESSAGES
from hopspan.model import ConfigurationError, HopspanError, Outcome, PolicyError, Verdict
from tests.unit.support import delivery


def hook(operation: object, native: object) -> None:
    """A hook that does nothing."""


def test_the_defaults() -> None:
    """Nothing is settled, everything is measured, and contexts are replaced."""
    assert Config() == Config(
        policy=hopspan.manual,
        commits=hopspan.Commits(every=None, seconds=1.0, wait=False),
        correlation="auto",
        keep_context=False,
        settle_spans="notable",
        metrics=METRICS,
        message_key=False,
        reraise=False,
        baggage_allow=None,
        baggage_attributes=(),
        baggage_metrics=(),
        trust=True,
        ignore=(),
        capture_headers=(),
        exceptions="event",
        on_start=None,
        on_end=None,
        tracer_provider=None,
        meter_provider=None,
        logger_provider=None,
    )


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Config.from_environment({}) == Config()


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().reraise = True  # type: ignore[misc]


def test_every_keyword_of_the_faces_is_a_setting() -> None:
    """`Settings` is what type checkers see; `Config` is what there is."""
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields - set(Settings.__annotations__) == {"exceptions"}


PROVIDER = TracerProvider(shutdown_on_exit=False)

KEYWORDS: list[tuple[str, Any, Any]] = [
    ("policy", hopspan.requeue_once, hopspan.requeue_once),
    ("commits", hopspan.Commits(every=5), hopspan.Commits(every=5)),
    ("correlation", "auto", "auto"),
    ("correlation", "parent", "parent"),
    ("correlation", "link", "link"),
    ("correlation", "none", "none"),
    ("keep_context", True, True),
    ("keep_context", False, False),
    ("settle_spans", "notable", "notable"),
    ("settle_spans", "all", "all"),
    ("settle_spans", "none", "none"),
    ("metrics", True, METRICS),
    ("metrics", False, frozenset()),
    ("metrics", [PROCESS_DURATION], frozenset({PROCESS_DURATION})),
    ("metrics", (), frozenset()),
    ("message_key", True, True),
    ("message_key", False, False),
    ("reraise", True, True),
    ("reraise", False, False),
    ("baggage_allow", None, None),
    ("baggage_allow", [], ()),
    ("baggage_allow", ["tenant_id", "app.*", "tenant_id"], ("app.*", "tenant_id")),
    ("baggage_allow", {"*"}, ("*",)),
    ("baggage_attributes", ["app.*", " tenant_id "], ("app.*", "tenant_id")),
    ("baggage_attributes", iter(["app.*"]), ("app.*",)),
    ("baggage_metrics", ("tenant_id",), ("tenant_id",)),
    ("trust", False, False),
    ("trust", True, True),
    ("ignore", ["health.*", "*.ping?"], ("*.ping?", "health.*")),
    ("capture_headers", ["X-Request-Id", "x-request-id", "color"], ("color", "x-request-id")),
    ("on_start", hook, hook),
    ("on_start", None, None),
    ("on_end", hook, hook),
    ("on_end", None, None),
    ("tracer_provider", PROVIDER, PROVIDER),
    ("meter_provider", None, None),
    ("logger_provider", None, None),
]


@pytest.mark.parametrize(("name", "value", "kept"), KEYWORDS)
def test_a_keyword_overrides(name: str, value: Any, kept: Any) -> None:
    assert getattr(Config().override({name: value}), name) == kept


def test_every_keyword_has_its_test() -> None:
    assert {name for name, _, _ in KEYWORDS} == set(Settings.__annotations__)


def test_overriding_leaves_the_original_as_it_was() -> None:
    before = Config()
    before.override({"reraise": True})
    assert before == Config()


def test_what_is_not_overridden_stays() -> None:
    assert Config(correlation="link").override({"reraise": True}) == Config(
        correlation="link", reraise=True
    )


def test_a_function_is_made_into_a_policy() -> None:
    def decide(outcome: Outcome, delivery: hopspan.Delivery) -> Verdict:
        return Verdict.ACK

    assert Config().override({"policy": decide}).policy.name == "decide"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "correlation",
            "child",
            "correlation='child' is not valid: it takes one of auto, parent, link, none",
        ),
        (
            "correlation",
            None,
            "correlation=None is not valid: it takes one of auto, parent, link, none",
        ),
        (
            "settle_spans",
            True,
            "settle_spans=True is not valid: it takes one of notable, all, none",
        ),
        ("keep_context", "yes", "keep_context='yes' is not valid: it takes True or False"),
        ("message_key", "yes", "message_key='yes' is not valid: it takes True or False"),
        ("reraise", 1, "reraise=1 is not valid: it takes True or False"),
        *(
            (
                "commits",
                value,
                f"commits={value!r} is not valid: it takes "
                "hopspan.Commits(every=..., seconds=..., wait=...)",
            )
            for value in (None, 5, (None, 1.0, False), hopspan.Commits, {"every": 5})
        ),
        (
            "on_start",
            "hook",
            "on_start='hook' is not valid: it takes a function of (operation, native)",
        ),
        ("on_end", 3, "on_end=3 is not valid: it takes a function of (operation, native)"),
        (
            "metrics",
            "all",
            "metrics='all' is not valid: it takes True, False or a set of "
            "messaging.client.consumed.messages, messaging.client.operation.duration, "
            "messaging.client.sent.messages, messaging.process.duration",
        ),
        (
            "metrics",
            3,
            "metrics=3 is not valid: it takes True, False or a set of "
            "messaging.client.consumed.messages, messaging.client.operation.duration, "
            "messaging.client.sent.messages, messaging.process.duration",
        ),
        (
            "metrics",
            ["messaging.nonsense", PROCESS_DURATION, "a"],
            "metrics='a, messaging.nonsense' is not valid: it takes names out of "
            "messaging.client.consumed.messages, messaging.client.operation.duration, "
            "messaging.client.sent.messages, messaging.process.duration",
        ),
        (
            "tracer_provider",
            "otlp",
            "tracer_provider='otlp' is not valid: it takes a provider, which has get_tracer, "
            "or None",
        ),
        (
            "meter_provider",
            PROVIDER,
            f"meter_provider={PROVIDER!r} is not valid: it takes a provider, which has get_meter, "
            "or None",
        ),
        (
            "logger_provider",
            3,
            "logger_provider=3 is not valid: it takes a provider, which has get_logger, or None",
        ),
        ("trust", "no", "trust='no' is not valid: it takes True or False"),
        *(
            (
                "baggage_allow",
                value,
                f"baggage_allow={shown!r} is not valid: it takes a list of names and prefixes such "
                'as ["tenant_id", "app.*"]; None allows all',
            )
            for value, shown in (
                ("tenant_id", "tenant_id"),
                (b"x", b"x"),
                (True, True),
                ({"tenant_id": "t1"}, {"tenant_id": "t1"}),
                (["a*b"], "a*b"),
                (["*a"], "*a"),
                (["a**"], "a**"),
                ([" "], " "),
                ([3], 3),
            )
        ),
        (
            "baggage_attributes",
            None,
            "baggage_attributes=None is not valid: it takes a list of names and prefixes such as "
            '["tenant_id", "app.*"]',
        ),
        (
            "baggage_metrics",
            ["app.*"],
            "baggage_metrics='app.*' is not valid: it takes a list of names such as "
            '["tenant_id"], without *',
        ),
        (
            "ignore",
            "health.*",
            "ignore='health.*' is not valid: it takes a list of destinations such as "
            '["health.*"]',
        ),
        (
            "ignore",
            [""],
            """ignore='' is not valid: it takes a list of destinations such as ["health.*"]""",
        ),
        (
            "capture_headers",
            ["x-*"],
            "capture_headers='x-*' is not valid: it takes a list of names such as "
            '["x-request-id"], without *',
        ),
        ("reraises", True, "unknown setting reraises; did you mean reraise?"),
        (
            "color",
            "red",
            "unknown setting color; known settings: baggage_allow, baggage_attributes, "
            "baggage_metrics, capture_headers, commits, correlation, ignore, keep_context, "
            "logger_provider, message_key, meter_provider, metrics, on_end, on_start, policy, "
            "reraise, settle_spans, tracer_provider, trust",
        ),
        ("exceptions", "logs", None),
    ],
    ids=itertools.count(),  # of a value's text the address is another in each process
)
def test_a_wrong_keyword_is_an_error_that_names_it(
    name: str, value: Any, message: str | None
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Config().override({name: value})
    assert message is None or str(raised.value) == message


def test_a_wrong_policy_is_a_policy_error() -> None:
    with pytest.raises(PolicyError):
        Config().override({"policy": "requeue_once"})


def test_commits_that_can_never_be_are_a_policy_error() -> None:
    with pytest.raises(PolicyError) as raised:
        Config().override({"commits": hopspan.Commits(every=0)})
    assert str(raised.value) == "Commits(every=0): a whole number of 1 or more, or None"


VARIABLES: list[tuple[str, str, str, Any]] = [
    ("HOPSPAN_POLICY", "manual", "policy", hopspan.manual),
    ("HOPSPAN_POLICY", "ack_always", "policy", hopspan.ack_always),
    ("HOPSPAN_POLICY", "reject_on_error", "policy", hopspan.reject_on_error),
    ("HOPSPAN_POLICY", " requeue_once ", "policy", hopspan.requeue_once),
    ("HOPSPAN_CORRELATION", "link", "correlation", "link"),
    ("HOPSPAN_CORRELATION", " none ", "correlation", "none"),
    ("HOPSPAN_SETTLE_SPANS", "all", "settle_spans", "all"),
    ("HOPSPAN_KEEP_CONTEXT", "true", "keep_context", True),
    ("HOPSPAN_KEEP_CONTEXT", "1", "keep_context", True),
    ("HOPSPAN_KEEP_CONTEXT", " FALSE ", "keep_context", False),
    ("HOPSPAN_MESSAGE_KEY", "true", "message_key", True),
    ("HOPSPAN_MESSAGE_KEY", " 0 ", "message_key", False),
    ("HOPSPAN_COMMITS", "every=100", "commits", hopspan.Commits(every=100, seconds=None)),
    ("HOPSPAN_COMMITS", "seconds=5", "commits", hopspan.Commits(seconds=5.0)),
    ("HOPSPAN_COMMITS", "seconds=0.25", "commits", hopspan.Commits(seconds=0.25)),
    ("HOPSPAN_COMMITS", "seconds=0", "commits", hopspan.Commits(seconds=0.0)),
    ("HOPSPAN_COMMITS", "wait", "commits", hopspan.Commits(seconds=1.0, wait=True)),
    ("HOPSPAN_COMMITS", " every=1 , wait ", "commits", hopspan.Commits(1, None, wait=True)),
    (
        "HOPSPAN_COMMITS",
        "wait,seconds=2,every=10",
        "commits",
        hopspan.Commits(every=10, seconds=2.0, wait=True),
    ),
    ("HOPSPAN_RERAISE", "True", "reraise", True),
    ("HOPSPAN_RERAISE", "0", "reraise", False),
    ("HOPSPAN_METRICS", "all", "metrics", METRICS),
    ("HOPSPAN_METRICS", " None ", "metrics", frozenset()),
    ("HOPSPAN_BAGGAGE_ALLOW", "tenant_id, app.*,", "baggage_allow", ("app.*", "tenant_id")),
    ("HOPSPAN_BAGGAGE_ALLOW", " None ", "baggage_allow", ()),
    ("HOPSPAN_BAGGAGE_ALLOW", "*", "baggage_allow", ("*",)),
    ("HOPSPAN_BAGGAGE_ATTRIBUTES", "app.*", "baggage_attributes", ("app.*",)),
    ("HOPSPAN_BAGGAGE_METRICS", "tenant_id", "baggage_metrics", ("tenant_id",)),
    ("HOPSPAN_TRUST", "false", "trust", False),
    ("HOPSPAN_IGNORE", "health.*,*.ping", "ignore", ("*.ping", "health.*")),
    ("HOPSPAN_IGNORE", "none", "ignore", ()),
    ("HOPSPAN_CAPTURE_HEADERS", "X-Id", "capture_headers", ("x-id",)),
    (
        "HOPSPAN_METRICS",
        f"{PROCESS_DURATION} , {SENT_MESSAGES},",
        "metrics",
        frozenset({PROCESS_DURATION, SENT_MESSAGES}),
    ),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), VARIABLES)
def test_a_variable_sets(variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(Config.from_environment({variable: text}), name) == value


def test_every_variable_has_its_test() -> None:
    assert {variable for variable, _, _, _ in VARIABLES} == {
        f"HOPSPAN_{name.upper()}" for name in settings.READERS
    }


def test_a_policy_with_a_number_is_read_from_a_variable() -> None:
    policy = Config.from_environment({"HOPSPAN_POLICY": "requeue_times(3)"}).policy
    failed = Outcome(failed=True, error_type="ValueError")
    verdicts = [policy.decide(failed, delivery(attempt=attempt)).verdict for attempt in range(1, 5)]
    assert verdicts == [Verdict.REQUEUE] * 3 + [Verdict.REJECT]


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSPAN_RERAISE", "true")
    assert Config.from_environment().reraise is True


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert Config.from_environment({"HOPSPAN_POLICY": "", "HOPSPAN_NONSENSE": ""}) == Config()


def test_variables_of_hopspan_sdk_are_for_it_to_judge() -> None:
    environment = {"HOPSPAN_PRESET": "production", "HOPSPAN_SDK_DEADLINE": "3"}
    assert Config.from_environment(environment) == Config()


def test_a_wrong_list_in_a_variable_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Config.from_environment({"HOPSPAN_BAGGAGE_METRICS": "app.*"})
    assert str(raised.value) == (
        "HOPSPAN_BAGGAGE_METRICS='app.*' is not valid: it takes a list of names such as "
        '["tenant_id"], without *'
    )


def test_variables_of_others_are_not_ours() -> None:
    assert Config.from_environment({"MY_HOPSPAN_POLICY": "x", "HOPSPAN": "y"}) == Config()


def test_a_keyword_wins_over_a_variable() -> None:
    configured = Config.from_environment({"HOPSPAN_CORRELATION": "link"})
    assert configured.override({"correlation": "parent"}).correlation == "parent"


POLICIES = "manual, ack_always, reject_on_error, requeue_once, requeue_times(N)"


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        *(
            (
                "HOPSPAN_POLICY",
                text,
                f"HOPSPAN_POLICY={text!r} is not valid: it takes one of {POLICIES}",
            )
            for text in (
                "always",
                "requeue_times",
                "requeue_times()",
                "requeue_times(0)",
                "requeue_times(-1)",
                "requeue_times(x)",
                "requeue_times(²)",
                "requeue_times(3",
                "requeue_times(3))",
                "dead_letter",
            )
        ),
        (
            "HOPSPAN_CORRELATION",
            "links",
            "HOPSPAN_CORRELATION='links' is not valid: it takes one of auto, parent, link, none",
        ),
        (
            "HOPSPAN_SETTLE_SPANS",
            "some",
            "HOPSPAN_SETTLE_SPANS='some' is not valid: it takes one of notable, all, none",
        ),
        (
            "HOPSPAN_KEEP_CONTEXT",
            "yes",
            "HOPSPAN_KEEP_CONTEXT='yes' is not valid: it takes true or false",
        ),
        ("HOPSPAN_RERAISE", "2", "HOPSPAN_RERAISE='2' is not valid: it takes true or false"),
        (
            "HOPSPAN_MESSAGE_KEY",
            "all",
            "HOPSPAN_MESSAGE_KEY='all' is not valid: it takes true or false",
        ),
        *(
            (
                "HOPSPAN_COMMITS",
                text,
                f"HOPSPAN_COMMITS={text!r} is not valid: it takes every=N, seconds=T, wait, or "
                "several of them",
            )
            for text in (
                "100",
                "every",
                "every=",
                "every=x",
                "every=-1",
                "every=1.5",
                "every=1 wait",
                "seconds=1s",
                "seconds=.5",
                "seconds=-1",
                "seconds=inf",
                "seconds=1e3",
                "wait=true",
                "every=1,,wait",
                "every=1,",
            )
        ),
        (
            "HOPSPAN_METRICS",
            "process",
            "HOPSPAN_METRICS='process' is not valid: it takes names out of "
            "messaging.client.consumed.messages, messaging.client.operation.duration, "
            "messaging.client.sent.messages, messaging.process.duration",
        ),
        (
            "HOPSPAN_CORELATION",
            "link",
            "unknown setting HOPSPAN_CORELATION; did you mean HOPSPAN_CORRELATION?",
        ),
        (
            "HOPSPAN_X",
            "1",
            "unknown setting HOPSPAN_X; known settings: HOPSPAN_BAGGAGE_ALLOW, "
            "HOPSPAN_BAGGAGE_ATTRIBUTES, HOPSPAN_BAGGAGE_METRICS, HOPSPAN_CAPTURE_HEADERS, "
            "HOPSPAN_COMMITS, HOPSPAN_CORRELATION, HOPSPAN_IGNORE, HOPSPAN_KEEP_CONTEXT, "
            "HOPSPAN_MESSAGE_KEY, HOPSPAN_METRICS, HOPSPAN_POLICY, HOPSPAN_RERAISE, "
            "HOPSPAN_SETTLE_SPANS, HOPSPAN_TRUST",
        ),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Config.from_environment({variable: text})
    assert str(raised.value) == message


def test_a_variable_for_commits_that_can_never_be_is_an_error() -> None:
    with pytest.raises(PolicyError) as raised:
        Config.from_environment({"HOPSPAN_COMMITS": "every=0"})
    assert str(raised.value) == "Commits(every=0): a whole number of 1 or more, or None"


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        (None, "event"),
        ("", "event"),
        ("http", "event"),
        ("logs", "logs"),
        ("logs/dup", "logs/dup"),
        ("logs,logs/dup", "logs/dup"),
        ("http, logs", "logs"),
    ],
)
def test_how_exceptions_are_recorded_follows_the_standard_variable(
    text: str | None, signal: str
) -> None:
    environ = {} if text is None else {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": text}
    assert Config.from_environment(environ).exceptions == signal


def test_a_configuration_error_can_be_caught_as_ours() -> None:
    with pytest.raises(HopspanError):
        Config().override({"nonsense": 1})
