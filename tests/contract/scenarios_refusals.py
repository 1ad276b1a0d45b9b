"""What cannot work is refused where that is first known, before a handler runs, with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hopspan
from hopspan import ConfigurationError, HopspanError, PolicyError, UnknownMessageError, Verdict
from tests.contract.client import Client, Message, succeeds
from tests.contract.suite import FACES, needs, over


def refusal(kind: type[HopspanError], attempt: Callable[[], Any]) -> str:
    """What hopspan says when it refuses this."""
    try:
        attempt()
    except HopspanError as error:
        assert kind is type(error)
        return str(error)
    raise AssertionError("it was not refused")


def _refused_delivery(client: Client, **subscribe: Any) -> str:
    """What hopspan says at the first delivery; the handler never runs."""
    client.send()
    ran = client.subscribe(succeeds, **subscribe)
    client.drive(lambda: ran.escaped, ran)
    (error,) = ran.escaped
    assert isinstance(error, PolicyError)
    assert 0 == ran.times
    return str(error)


# -- policies that cannot settle -------------------------------------------------------------------


@over(face=("wrapped", "instrumented", "together"))
@needs("auto_acks")
def a_settling_policy_is_refused_when_its_consumer_acks_by_itself(client: Client) -> None:
    said = refusal(
        PolicyError,
        lambda: client.subscribe(succeeds, auto_ack=True, policy=hopspan.reject_on_error),
    )
    assert (
        f"policy reject_on_error cannot settle for a consumer of {client.queue!r}: it was given "
        "auto_ack=True, so the broker forgets a message when it hands it out. Consume with "
        "auto_ack=False, or use policy=hopspan.manual"
    ) == said
    client.expect_spans()


@over(face=("decorated",))
@needs("auto_acks")
def a_settling_decorator_is_refused_at_the_first_message_that_is_acked_already(
    client: Client,
) -> None:
    said = _refused_delivery(client, auto_ack=True, policy=hopspan.reject_on_error)
    assert (
        f"policy reject_on_error cannot settle for the consumer of {client.queue}: it was given "
        "auto_ack=True, so the broker forgets a message when it hands it out. Consume with "
        "auto_ack=False, or use policy=hopspan.manual"
    ) == said
    client.expect_spans(client.a_publish())


@over(face=FACES)
@needs("auto_acks")
def a_consumer_that_acks_by_itself_is_fine_without_a_policy(client: Client) -> None:
    client.send()
    client.handle(succeeds, auto_ack=True)
    client.expect_spans(client.a_publish(), client.a_process())
    assert [] == client.settlements()
    client.expect_queues()


@over(face=("wrapped", "instrumented"))
@needs("auto_acks")
def a_decorator_that_settles_is_refused_at_once_where_the_channel_sees_it(client: Client) -> None:
    said = refusal(
        PolicyError,
        lambda: client.subscribe_decorated(
            succeeds, {"policy": hopspan.requeue_once}, {}, auto_ack=True
        ),
    )
    assert said.startswith(f"policy requeue_once cannot settle for a consumer of {client.queue!r}")


@over(face=("wrapped", "instrumented"))
@needs("auto_acks")
def a_channels_policy_is_not_refused_where_the_decorator_takes_it_back(client: Client) -> None:
    client.send()
    ran = client.subscribe_decorated(
        succeeds, {"policy": hopspan.manual}, {"policy": hopspan.requeue_once}, auto_ack=True
    )
    client.drive(lambda: ran.times)
    assert [] == client.settlements()


@needs("auto_acks")
@over(face=("wrapped",))
def a_block_in_a_handler_of_acked_messages_cannot_settle(client: Client) -> None:
    client.send()
    said = []

    def handler(message: Message) -> None:
        said.append(
            refusal(
                PolicyError,
                lambda: client.block(message, policy=hopspan.requeue_once).__enter__(),
            )
        )

    client.handle(handler, auto_ack=True)
    assert said[0].startswith("policy requeue_once cannot settle for the consumer of ")
    client.expect_spans(client.a_publish(), client.a_process())


# -- a policy for another kind of broker -----------------------------------------------------------


DEAD_LETTER = hopspan.dead_letter("orders.dlt", producer=object())
RABBITMQ_DOES_IT = (
    "policy dead_letter('orders.dlt') cannot work with pika: RabbitMQ dead-letters by itself. "
    "Declare the queue with the argument x-dead-letter-exchange and use "
    "policy=hopspan.reject_on_error"
)


@over(face=("wrapped", "instrumented"))
@needs("dead_letters_by_itself")
def a_dead_letter_policy_is_refused_where_the_broker_does_it(client: Client) -> None:
    said = refusal(PolicyError, lambda: client.subscribe(succeeds, policy=DEAD_LETTER))
    assert RABBITMQ_DOES_IT == said


@over(face=("decorated",))
@needs("dead_letters_by_itself")
def a_dead_letter_decorator_is_refused_at_the_first_message(client: Client) -> None:
    assert RABBITMQ_DOES_IT == _refused_delivery(client, policy=DEAD_LETTER)
    client.expect_spans(client.a_publish())


@needs("dead_letters_by_itself")
def a_dead_letter_block_is_refused_on_entering(client: Client) -> None:
    client.send()
    block = client.block(client.fetch(), policy=DEAD_LETTER)
    assert RABBITMQ_DOES_IT == refusal(PolicyError, block.__enter__)
    client.expect_spans(client.a_publish())
    assert client.is_current_nothing()


@needs("dead_letters_by_itself")
def a_refused_policy_among_others_is_refused_too(client: Client) -> None:
    policy = hopspan.by_exception({ValueError: DEAD_LETTER}, default=hopspan.requeue_once)
    said = refusal(PolicyError, lambda: client.subscribe(succeeds, policy=policy))
    assert said.startswith("policy by_exception cannot work with pika: RabbitMQ dead-letters")


@over(face=("instrumented",))
@needs("dead_letters_by_itself")
def a_refused_instrument_call_instruments_nothing(client: Client) -> None:
    refusal(PolicyError, lambda: client.instrument(policy=DEAD_LETTER))
    client.send()
    client.expect_spans()


# -- loops cannot settle ---------------------------------------------------------------------------


def a_loop_over_messages_refuses_a_settling_policy(client: Client) -> None:
    said = refusal(PolicyError, lambda: hopspan.each([], policy=hopspan.requeue_once))
    assert (
        "each(policy=<policy requeue_once>): a loop cannot see whether its body failed, so it "
        "never settles. Put `with hopspan.process(message, via=..., policy=...)` into its body"
    ) == said


@over(style="loops")
def a_loop_takes_a_policy_that_settles_nothing(client: Client, style: str) -> None:
    client.send()
    for _ in client.loop(style, policy=hopspan.manual):
        break
    assert [] == client.settlements()


@over(face=("wrapped", "instrumented"))
def a_channels_policy_has_no_effect_in_a_loop_which_is_said_once(client: Client) -> None:
    client.send(b"1")
    client.send(b"2")
    policy = client.requeue_once
    for item in client.loop(client.features.loops[0], prefetch=2, policy=policy):
        if client.message(item).body == b"2":
            break
    assert [] == client.settlements()
    assert [
        f"a loop never settles: {policy!r} on {client.queue} did nothing. Put the "
        "loop's body into `with hopspan.process(message, via=..., policy=...)`"
    ] == client.lines.take()


# -- things that are no policy ---------------------------------------------------------------------


async def _decides_later(outcome: Any, delivery: Any) -> Verdict:
    return Verdict.ACK


NO_POLICIES: dict[str, tuple[Any, str]] = {
    "text": (
        "requeue",
        "policy='requeue' is no policy: give one of hopspan's (hopspan.requeue_once, ...) or a "
        "function of (outcome, delivery) that returns a hopspan.Verdict",
    ),
    "verdict": (
        Verdict.ACK,
        f"policy={Verdict.ACK!r} is no policy: give one of hopspan's (hopspan.requeue_once, ...) "
        "or a function of (outcome, delivery) that returns a hopspan.Verdict",
    ),
    "coroutine function": (
        _decides_later,
        "policy _decides_later is a coroutine function; a policy decides without waiting",
    ),
}


@over(given=NO_POLICIES, face=FACES)
def what_is_no_policy_is_refused_wherever_it_is_given(client: Client, given: str) -> None:
    policy, expected = NO_POLICIES[given]
    said = refusal(PolicyError, lambda: client.subscribe(succeeds, policy=policy))
    assert expected == said


def a_number_of_requeues_must_be_one(client: Client) -> None:
    for times in (0, -1, 1.5, True):
        said = refusal(PolicyError, lambda times=times: hopspan.requeue_times(times))  # type: ignore[misc]
        expected = (
            f"requeue_times({times!r}): how often to requeue must be a whole number of 1 or more"
        )
        assert expected == said


def choosing_by_exception_takes_exceptions(client: Client) -> None:
    table: Any = {"ValueError": Verdict.ACK}
    said = refusal(PolicyError, lambda: hopspan.by_exception(table, default=hopspan.manual))
    assert "by_exception: 'ValueError' is no exception class" == said


# -- settings --------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[Any, str]] = {
    "polcy": (hopspan.manual, "unknown setting polcy; did you mean policy?"),
    "correlation": (
        "sibling",
        "correlation='sibling' is not valid: it takes one of auto, parent, link, none",
    ),
    "settle_spans": (
        "some",
        "settle_spans='some' is not valid: it takes one of notable, all, none",
    ),
    "keep_context": ("yes", "keep_context='yes' is not valid: it takes True or False"),
    "reraise": (1, "reraise=1 is not valid: it takes True or False"),
    "on_start": (
        "hook",
        "on_start='hook' is not valid: it takes a function of (operation, native)",
    ),
    "metrics": (
        {"messaging.sent"},
        "metrics='messaging.sent' is not valid: it takes names out of "
        "messaging.client.consumed.messages, messaging.client.operation.duration, "
        "messaging.client.sent.messages, messaging.process.duration",
    ),
}


@over(setting=SETTINGS, face=FACES)
def a_wrong_setting_is_refused_where_it_is_given(client: Client, setting: str) -> None:
    value, expected = SETTINGS[setting]
    said = refusal(ConfigurationError, lambda: client.subscribe(succeeds, **{setting: value}))
    assert expected == said


@over(setting=SETTINGS)
def a_wrong_setting_of_a_block_is_refused(client: Client, setting: str) -> None:
    value, expected = SETTINGS[setting]
    client.send()
    message = client.fetch()
    assert expected == refusal(
        ConfigurationError, lambda: client.block(message, **{setting: value})
    )


VARIABLES = {
    "HOPSPAN_POLICY": ("once", "HOPSPAN_POLICY='once' is not valid: it takes one of manual, "),
    "HOPSPAN_POLICIES": (
        "manual",
        "unknown setting HOPSPAN_POLICIES; did you mean HOPSPAN_POLICY?",
    ),
    "HOPSPAN_KEEP_CONTEXT": (
        "maybe",
        "HOPSPAN_KEEP_CONTEXT='maybe' is not valid: it takes true or",
    ),
    "HOPSPAN_METRICS": ("some", "HOPSPAN_METRICS='some' is not valid: it takes names out of"),
}


@over(variable=VARIABLES)
def a_wrong_variable_is_refused_by_its_name(client: Client, variable: str) -> None:
    value, expected = VARIABLES[variable]
    with client.environment(**{variable: value}):
        said = refusal(ConfigurationError, lambda: client.subscribe(succeeds))
    assert said.startswith(expected)


# -- things that are no messages -------------------------------------------------------------------


def a_block_of_no_message_is_refused(client: Client) -> None:
    said = refusal(UnknownMessageError, lambda: hopspan.process({"id": 1}))
    assert (
        "process: no message of a client that hopspan knows in what it was given (dict); give it "
        "what the client handed out, and the channel as via="
    ) == said


def a_loop_over_no_messages_is_refused_at_the_first_one(client: Client) -> None:
    loop = hopspan.each([1, 2], via=client.via)
    said = refusal(UnknownMessageError, lambda: next(loop))
    assert said.startswith(
        "each: no message of a client that hopspan knows in what it was given (int, "
    )


def a_decorated_handler_refuses_to_be_called_without_a_message(client: Client) -> None:
    @hopspan.consumer
    def on_order(order: object) -> None: ...

    said = refusal(UnknownMessageError, lambda: on_order("order"))
    assert said.startswith("handler a_decorated_handler_refuses_to_be_called_without_a_message.")
    assert said.endswith(
        "no message of a client that hopspan knows in what it was given (str); call the plain "
        "handler in unit tests: it is the __wrapped__ of this one"
    )


def only_what_a_client_sends_and_receives_by_is_wrapped(client: Client) -> None:
    said = refusal(UnknownMessageError, lambda: hopspan.wrap(object()))
    assert (
        "wrap: <class 'object'> is nothing that hopspan can wrap; give it a channel, connection, "
        "producer or consumer of a client that it knows"
    ) == said


def an_unknown_client_is_not_instrumented(client: Client) -> None:
    said = refusal(ConfigurationError, lambda: hopspan.instrument("pikka"))
    assert said.startswith("unknown client 'pikka'; hopspan knows ")
