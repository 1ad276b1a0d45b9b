"""What becomes of a message follows from how its handling went, sampled, unsampled or no SDK."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

import hopspan
from hopspan import Delivery, Outcome, Settlement, Verdict
from tests.contract.client import Client, Message, Ran, in_turn, raises, succeeds, wait
from tests.contract.suite import FACES, SAMPLINGS, each_with_each, needs, over
from tests.contract.telemetry import Span, types_of

NEEDS = ("settles",)
OVER = {"sampling": SAMPLINGS}

NO = ValueError("no stock")
REJECTED = {"settlement": "reject", "reason": "failed: ValueError"}


# -- the verdicts of the shipped policies ----------------------------------------------------------


@each_with_each
@over(face=FACES)
def without_a_policy_nothing_is_settled(client: Client) -> None:
    client.send()
    ran = client.handle(raises(NO))
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process().failed(NO))
    client.expect_queues(waiting=1)


@each_with_each
@over(face=FACES)
def a_handler_that_returns_has_its_message_acked(client: Client) -> None:
    client.send()
    ran = client.handle(succeeds, policy=client.reject_on_error)
    assert ["done"] == ran.results
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))
    client.expect_queues()


@each_with_each
@over(face=FACES)
@needs("dead_letters")
def a_handler_that_raises_has_its_message_rejected(client: Client) -> None:
    client.send()
    ran = client.handle(raises(NO), policy=client.reject_on_error)
    assert (1, [NO], []) == (ran.times, ran.raised, ran.escaped)
    assert ["reject"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(**REJECTED).failed(NO),
        client.a_settle(**REJECTED),
    )
    client.expect_queues(dead=1)


@each_with_each
@over(face=FACES)
@needs("redelivers")
def a_handler_that_raises_once_gets_its_message_again(client: Client) -> None:
    client.send()
    ran = client.handle(in_turn(raises(NO), succeeds), runs=2, policy=client.requeue_once)
    assert (2, []) == (ran.times, ran.escaped)
    assert ["requeue", "ack"] == client.settlements()
    given_back = {"settlement": "requeue", "reason": "failed: ValueError"}
    client.expect_spans(
        client.a_publish(),
        client.a_process(**given_back).failed(NO),
        client.a_settle(**given_back),
        client.a_process(settlement="ack"),
    )
    client.expect_queues()


@needs("redelivers", "dead_letters")
def a_handler_that_raises_twice_has_its_message_rejected_then(client: Client) -> None:
    client.send()
    client.handle(raises(NO), runs=2, policy=client.requeue_once)
    assert ["requeue", "reject"] == client.settlements()
    client.expect_queues(dead=1)


def a_message_that_is_not_worth_a_second_try_is_acked_whatever_happens(client: Client) -> None:
    client.send()
    client.handle(raises(NO), policy=hopspan.ack_always)
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack").failed(NO))
    client.expect_queues()


@needs("dead_letters")
def the_nearest_class_of_the_exception_decides(client: Client) -> None:
    policy = hopspan.by_exception(
        {LookupError: Verdict.REJECT, KeyError: Verdict.ACK, OSError: client.requeue_once},
        default=client.reject_on_error,
    )
    failures = [KeyError("k"), IndexError("i"), ValueError("v")]
    for number in range(3):
        client.send(str(number).encode())
    client.handle(in_turn(*map(raises, failures)), runs=3, policy=policy)
    assert ["ack", "reject", "reject"] == client.settlements()
    client.expect_queues(dead=2)


# -- ways to fail ----------------------------------------------------------------------------------


def _declares(_message: Message) -> None:
    hopspan.current().fail("no stock", type="no_stock")


def _declares_without_a_type(_message: Message) -> None:
    hopspan.current().fail("no stock")


def _sets_the_status(_message: Message) -> None:
    trace.get_current_span().set_status(Status(StatusCode.ERROR, "no stock"))


def _sets_the_status_from_below(client: Client) -> Callable[[Message], None]:
    def handler(_message: Message) -> None:
        operation = hopspan.current()
        with client.span("work"):
            operation.span.set_status(StatusCode.ERROR, "no stock")

    return handler


WAYS_TO_FAIL = {
    "declared": (_declares, "no_stock"),
    "declared, without a type": (_declares_without_a_type, "_OTHER"),
    "status": (_sets_the_status, "_OTHER"),
}


@over(sampling=SAMPLINGS, way=WAYS_TO_FAIL)
@needs("dead_letters")
def a_handler_fails_without_raising_just_the_same(client: Client, way: str) -> None:
    handler, error = WAYS_TO_FAIL[way]
    client.send()
    ran = client.handle(handler, policy=client.reject_on_error)
    assert (1, []) == (ran.times, ran.escaped)
    assert ["reject"] == client.settlements()
    verdict = {"settlement": "reject", "reason": f"failed: {error}"}
    failed = {"status": "error", "error": error, "description": "no stock"}
    client.expect_spans(
        client.a_publish(), client.a_process(**verdict, **failed), client.a_settle(**verdict)
    )
    client.expect_queues(dead=1)


def a_status_set_on_the_process_span_counts_wherever_it_is_set(client: Client) -> None:
    client.send()
    client.handle(_sets_the_status_from_below(client), policy=client.reject_on_error)
    assert ["reject"] == client.settlements()


@each_with_each
@over(face=FACES, sampling=SAMPLINGS)
def a_status_set_on_a_nested_span_does_not_count(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        with client.span("work") as work:
            work.set_status(StatusCode.ERROR, "only this part")
            if (
                work is trace.get_current_span()
            ):  # older releases of the API do without, with no SDK
                trace.get_current_span().set_status(StatusCode.ERROR, "only this part")

    client.handle(handler, policy=client.reject_on_error)
    assert ["ack"] == client.settlements()
    failed = {"status": "error", "description": "only this part"}
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes, **failed),
    )


def an_ok_status_is_final(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        trace.get_current_span().set_status(StatusCode.OK)
        trace.get_current_span().set_status(StatusCode.ERROR, "too late")

    client.handle(handler, policy=client.reject_on_error)
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack", status="ok"))


def an_ok_status_takes_an_error_back(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        trace.get_current_span().set_status(StatusCode.ERROR, "at first")
        trace.get_current_span().set_status(StatusCode.UNSET)
        trace.get_current_span().set_status(StatusCode.OK)

    client.handle(handler, policy=client.reject_on_error)
    assert ["ack"] == client.settlements()


def an_unset_status_takes_nothing_back(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        trace.get_current_span().set_status(StatusCode.ERROR, "no stock")
        trace.get_current_span().set_status(StatusCode.UNSET)

    client.handle(handler, policy=client.reject_on_error)
    assert ["reject"] == client.settlements()


def what_was_raised_counts_more_than_what_was_declared(client: Client) -> None:
    client.send()

    def handler(message: Message) -> None:
        _declares(message)
        raise NO

    client.handle(handler, policy=client.reject_on_error)
    client.expect_spans(
        client.a_publish(),
        client.a_process(**REJECTED).failed(NO),
        client.a_settle(**REJECTED),
    )


# -- where the handler's exception goes ------------------------------------------------------------


@each_with_each
@over(sampling=SAMPLINGS, face=FACES)
def a_failure_that_was_settled_stays_inside(client: Client) -> None:
    client.send(b"1")
    client.send(b"2")
    ran = client.handle(in_turn(raises(NO), succeeds), runs=2, policy=hopspan.ack_always)
    assert (2, []) == (ran.times, ran.escaped)


@over(face=FACES)
def a_failure_that_was_settled_comes_out_where_that_is_asked_for(client: Client) -> None:
    client.send()
    ran = client.handle(raises(NO), policy=client.reject_on_error, reraise=True)
    assert [NO] == ran.escaped
    assert ["reject"] == client.settlements()


def a_failure_that_was_declared_is_no_exception(client: Client) -> None:
    client.send()
    ran = client.handle(_declares, policy=client.reject_on_error, reraise=True)
    assert [] == ran.escaped


@over(face=FACES)
def a_failure_that_was_not_settled_always_comes_out(client: Client) -> None:
    client.send()
    leave = hopspan.Policy("leave_it", lambda outcome, delivery: Verdict.LEAVE, {Verdict.LEAVE})
    ran = client.handle(raises(NO), policy=leave)
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    client.expect_queues(waiting=1)


def a_block_always_raises(client: Client) -> None:
    client.send()
    try:
        with client.block(client.fetch(), policy=client.reject_on_error):
            raise NO
    except ValueError as error:
        assert NO is error
    client.sync()
    assert ["reject"] == client.settlements()
    client.expect_queues(dead=1)


# -- cancelled, interrupted ------------------------------------------------------------------------


@over(face=FACES)
@needs("redelivers")
def a_cancelled_handler_has_its_message_given_back(client: Client) -> None:
    client.send()
    handler = in_turn(raises(asyncio.CancelledError()), succeeds)
    ran = client.handle(handler, runs=2, policy=client.reject_on_error)
    assert ["CancelledError"] == types_of(ran.escaped)
    assert ["requeue", "ack"] == client.settlements()
    verdict = {"settlement": "requeue", "reason": "cancelled"}
    client.expect_spans(
        client.a_publish(),
        client.a_process(cancelled=True, **verdict),
        client.a_settle(**verdict),
        client.a_process(settlement="ack"),
    )


@needs("redelivers")
def a_cancelled_handler_has_its_message_given_back_even_where_all_is_acked(client: Client) -> None:
    client.send()
    handler = in_turn(raises(asyncio.CancelledError()), succeeds)
    client.handle(handler, runs=2, policy=hopspan.ack_always)
    assert ["requeue", "ack"] == client.settlements()


def a_cancelled_handler_is_not_settled_where_nobody_asked_for_it(client: Client) -> None:
    client.send()
    client.handle(raises(asyncio.CancelledError()))
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(cancelled=True))
    client.expect_queues(waiting=1)


def a_cancelled_handler_without_a_channel_leaves_its_message_to_the_broker(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        client.close_channel()
        raise asyncio.CancelledError

    ran = client.subscribe(handler, policy=client.reject_on_error)
    client.drive(lambda: ran.times, ran)
    assert ["CancelledError"] == types_of(ran.escaped)
    assert [] == client.settlements()
    client.expect_spans(
        client.a_publish(), client.a_process(**{"cancelled": True, **_left(client)})
    )
    client.expect_queues(waiting=1)


def _left(client: Client) -> dict[str, Any]:
    """What a span says of its message when the client was closed in the meantime."""
    closed = {"settlement": "leave", "reason": "closed", "cancelled": True}
    return closed if client.features.ends_on_close else {}


@over(sampling=SAMPLINGS, leaving=(SystemExit, KeyboardInterrupt))
def a_handler_in_a_process_that_exits_leaves_its_message_to_the_broker(
    client: Client, leaving: type[BaseException]
) -> None:
    client.send()
    ran = client.handle(raises(leaving()), policy=client.reject_on_error)
    assert [leaving.__name__] == types_of(ran.escaped)
    assert [] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(cancelled=True))
    client.expect_queues(waiting=1)


def a_cancelled_block_has_its_message_given_back(client: Client) -> None:
    client.send()
    ended = False
    try:
        with client.block(client.fetch(), policy=client.reject_on_error):
            raise asyncio.CancelledError
    except asyncio.CancelledError:
        ended = True
    client.sync()
    assert ended
    assert ["requeue"] == client.settlements()
    client.expect_queues(waiting=1)


# -- settled by the user, and never again ----------------------------------------------------------


@over(face=FACES, sampling=SAMPLINGS)
def a_message_that_the_handler_acked_is_not_settled_again(client: Client) -> None:
    client.send()
    client.handle(lambda message: message.ack(), policy=client.reject_on_error)
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))
    client.expect_queues()


@over(face=FACES, sampling=SAMPLINGS)
@needs("dead_letters", "nacks")
def a_message_that_the_handler_rejected_is_not_settled_again(client: Client) -> None:
    client.send()
    client.handle(lambda message: message.reject(), policy=client.reject_on_error)
    assert ["reject"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="reject"),
        client.a_settle("reject", name=client.rejects),
    )
    client.expect_queues(dead=1)


@over(face=FACES, sampling=SAMPLINGS)
@needs("redelivers", "nacks")
def a_message_that_the_handler_gave_back_is_not_settled_again(client: Client) -> None:
    client.send()
    client.handle(
        in_turn(lambda message: message.requeue(), succeeds), runs=2, policy=client.reject_on_error
    )
    assert ["requeue", "ack"] == client.settlements()


@over(face=FACES, sampling=SAMPLINGS)
def a_message_that_was_acked_is_not_settled_again_because_the_handler_raises(
    client: Client,
) -> None:
    client.send()

    def handler(message: Message) -> None:
        message.ack()
        raise NO

    ran = client.handle(handler, policy=client.reject_on_error)
    assert [] == ran.escaped
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack").failed(NO))
    client.expect_queues()


def a_message_that_the_block_acked_is_not_settled_again(client: Client) -> None:
    client.send()
    message = client.fetch()
    with client.block(message, policy=client.reject_on_error):
        message.ack()
    client.sync()
    assert ["ack"] == client.settlements()


def a_message_that_was_settled_before_the_block_is_not_settled_again(client: Client) -> None:
    client.send(b"1")
    client.send(b"2")
    with client.block(client.fetch(), policy=client.reject_on_error):
        pass  # from here on the channel is watched
    message = client.fetch()
    message.ack()
    with client.block(message, policy=client.reject_on_error):
        pass
    client.sync()
    assert ["ack", "ack"] == client.settlements()
    assert [too_late(client)] == client.lines.take()


def too_late(client: Client) -> str:
    """What is said where a policy finds a message settled by somebody else."""
    return (
        f"{client.reject_on_error!r} came too late for a message of {client.queue}: it was settled "
        "before this handler began. A handler that hands its message to a thread or task should "
        "take hopspan.current().defer() along"
    )


# -- somewhere else --------------------------------------------------------------------------------


@over(face=FACES, sampling=SAMPLINGS)
def deferred_work_in_a_thread_is_settled_when_it_is_done(client: Client) -> None:
    client.send()
    go, entered = threading.Event(), threading.Event()

    def work(deferred: Any) -> None:
        with deferred as operation:
            entered.set()
            wait(go)
            assert operation is hopspan.current()
            with client.span("work"):
                pass

    ran = client.subscribe(
        lambda _: client.in_thread(work, hopspan.current().defer()), policy=client.reject_on_error
    )
    client.drive(lambda: ran.times)
    wait(entered)
    client.sync()
    assert [] == client.settlements()
    go.set()
    client.drive(client.settlements)
    ran.results[0].result()
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )
    if client.telemetry.records:
        (process,), (inside,) = map(client.telemetry.named, (client.processes, "work"))
        assert (process.end_time or 0) >= (inside.end_time or 1)
    client.expect_queues()


@over(face=FACES, sampling=SAMPLINGS)
@needs("dead_letters")
def deferred_work_that_fails_in_a_thread_is_rejected(client: Client) -> None:
    client.send()

    def work(deferred: Any) -> None:
        with deferred:
            raise NO

    ran = client.subscribe(
        lambda _: client.in_thread(work, hopspan.current().defer()), policy=client.reject_on_error
    )
    client.drive(client.settlements, ran)
    assert NO is ran.results[0].exception()
    assert ["reject"] == client.settlements()
    client.drive(lambda: not client.telemetry.records or len(client.telemetry.finished()) == 3)
    client.expect_spans(
        client.a_publish(),
        client.a_process(**REJECTED).failed(NO),
        client.a_settle(**REJECTED),
    )
    client.expect_queues(dead=1)


def a_handler_that_defers_and_raises_before_the_work_began_has_failed(client: Client) -> None:
    client.send()
    kept = []

    def handler(_message: Message) -> None:
        kept.append(hopspan.current().defer())
        raise NO

    ran = client.handle(handler, policy=client.reject_on_error)
    assert [] == ran.escaped
    with kept.pop():
        pass  # too late
    client.sync()
    assert [
        f"deferred work on a message of {client.queue} begins after its handling was concluded, "
        "because the handler raised, the operation was used before, or the partition was lost; "
        "nothing more is settled"
    ] == client.lines.take()
    assert ["reject"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(**REJECTED).failed(NO),
        client.a_settle(**REJECTED),
    )


def deferred_work_settles_nothing_once_the_process_was_told_to_exit(client: Client) -> None:
    client.send()
    kept = []

    def handler(_message: Message) -> None:
        kept.append(hopspan.current().defer())
        raise KeyboardInterrupt

    ran = client.handle(handler, policy=client.reject_on_error)
    with kept.pop():
        pass  # too late
    client.sync()
    assert ["KeyboardInterrupt"] == types_of(ran.escaped)
    assert [] == client.settlements()
    (line,) = client.lines.take()
    assert line.endswith("; nothing more is settled")
    client.expect_queues(waiting=1)


def a_handler_that_raises_while_its_deferred_work_goes_on_leaves_it_to_the_work(
    client: Client,
) -> None:
    client.send()
    go, entered = threading.Event(), threading.Event()

    def work(deferred: Any) -> None:
        with deferred:
            entered.set()
            wait(go)

    def handler(_message: Message) -> None:
        client.in_thread(work, hopspan.current().defer())
        wait(entered)
        raise NO

    ran = client.handle(handler, policy=client.reject_on_error)
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    go.set()
    client.drive(client.settlements)
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(face=FACES, sampling=SAMPLINGS)
def deferred_work_that_nobody_does_is_reported_and_left(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        hopspan.current().defer()

    client.handle(handler, policy=client.reject_on_error)
    gc.collect()
    assert [] == client.settlements()
    (line,) = client.lines.take()
    assert line.startswith("a deferred operation of ")
    assert "was dropped; its message is left unsettled" in line
    client.expect_spans(client.a_publish(), client.a_process(cancelled=True))
    client.expect_queues(waiting=1)


def deferring_twice_is_deferring_once(client: Client) -> None:
    client.send()
    kept = []

    def handler(_message: Message) -> None:
        kept.extend((hopspan.current().defer(), hopspan.current().defer()))

    client.handle(handler, policy=client.reject_on_error)
    assert kept[0] is kept[1]
    with kept[0]:
        pass
    client.sync()
    assert ["ack"] == client.settlements()


def a_deferred_block_is_settled_where_the_work_is_done(client: Client) -> None:
    client.send()

    def work(deferred: Any) -> None:
        with deferred, client.span("work"):
            pass

    with client.block(client.fetch(), policy=client.reject_on_error) as operation:
        deferred = operation.defer()
    assert [] == client.settlements()
    done = client.in_thread(work, deferred)
    client.drive(client.settlements)
    done.result()
    client.drive(lambda: not client.telemetry.records or len(client.telemetry.finished()) == 3)
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )


@needs("settles_on_its_own_thread")
@over(face=FACES)
def deferred_work_is_settled_on_the_clients_own_thread(client: Client) -> None:
    client.send()
    client.watch_threads()

    def work(deferred: Any) -> None:
        with deferred:
            pass

    ran = client.subscribe(
        lambda _: client.in_thread(work, hopspan.current().defer()), policy=client.reject_on_error
    )
    client.drive(client.settlements, ran)
    assert [threading.get_ident()] == client.settling_threads


# -- whose policy it is ----------------------------------------------------------------------------

ACK = hopspan.ack_always


@over(face=("wrapped", "instrumented"))
def a_decorators_policy_comes_before_its_channels(client: Client) -> None:
    client.send()
    client.subscribe_decorated(succeeds, {"policy": ACK}, {"policy": client.rejecting})
    client.drive(client.settlements)
    assert ["ack"] == client.settlements()


@over(face=("wrapped", "instrumented"))
def a_decorator_may_take_a_channels_policy_back(client: Client) -> None:
    client.send()
    ran = client.subscribe_decorated(
        succeeds, {"policy": hopspan.manual}, {"policy": client.rejecting}
    )
    client.drive(lambda: ran.times)
    client.sync()
    assert [] == client.settlements()


@over(face=FACES)
def a_blocks_policy_comes_before_its_handlers(client: Client) -> None:
    client.send()

    def handler(message: Message) -> None:
        with client.block(message, policy=ACK):
            pass

    client.handle(handler, policy=client.rejecting)
    assert ["ack"] == client.settlements()


def a_wrapped_channels_policy_comes_before_the_processs(client: Client) -> None:
    client.send()
    client.instrument(policy=client.rejecting)
    client.handle(succeeds, policy=ACK)
    assert ["ack"] == client.settlements()


def a_wrapped_channel_goes_by_the_processs_policy_without_one_of_its_own(client: Client) -> None:
    client.send()
    client.instrument(policy=ACK)
    client.handle(succeeds)
    assert ["ack"] == client.settlements()


@over(face=("decorated",))
def a_decorated_handler_goes_by_the_processs_policy_without_one_of_its_own(client: Client) -> None:
    client.send()
    client.instrument(policy=ACK)
    client.handle(succeeds)
    assert ["ack"] == client.settlements()


@over(face=FACES)
def the_environments_policy_holds_where_there_is_no_other(client: Client) -> None:
    client.send()
    with client.environment(HOPSPAN_POLICY="ack_always"):
        client.handle(raises(NO))
    assert ["ack"] == client.settlements()


@over(face=FACES)
def a_faces_policy_comes_before_the_environments(client: Client) -> None:
    client.send()
    with client.environment(HOPSPAN_POLICY="ack_always"):
        client.handle(raises(NO), policy=client.rejecting)
    assert ["reject"] == client.settlements()


# -- who concludes -------------------------------------------------------------------------------


@over(face=FACES, sampling=SAMPLINGS)
@needs("dead_letters")
def what_comes_after_a_block_in_a_handler_counts_as_well(client: Client) -> None:
    client.send()

    def handler(message: Message) -> None:
        with client.block(message, policy=client.reject_on_error):
            pass
        assert [] == client.settlements()
        with client.span("after"):
            pass
        raise NO

    client.handle(handler)
    assert ["reject"] == client.settlements()
    after = Span("after", parent=client.processes)
    client.expect_spans(
        client.a_publish(),
        client.a_process(**REJECTED).failed(NO),
        after,
        client.a_settle(**REJECTED),
    )
    client.expect_queues(dead=1)


@over(face=FACES, sampling=SAMPLINGS)
@needs("dead_letters")
def a_block_that_failed_inside_of_a_handler_counts_though_the_handler_goes_on(
    client: Client,
) -> None:
    client.send()

    def handler(message: Message) -> str:
        with contextlib.suppress(ValueError), client.block(message, policy=client.reject_on_error):
            raise NO
        return "went on"

    ran = client.handle(handler)
    assert ["went on"] == ran.results
    assert ["reject"] == client.settlements()


@over(sampling=SAMPLINGS, style="loops")
def each_block_over_a_message_in_a_loop_is_a_handling_of_its_own(
    client: Client, style: str
) -> None:
    client.send()
    for item in client.loop(style):
        for name in ("first", "second"):
            with client.block(client.message(item)), client.span(name):
                pass
        break
    del item
    handled = [span.name for span in client.telemetry.spans() if span.kind != "client"]
    expected = [client.publishes, client.processes, "first", client.processes, "second"]
    assert (expected if client.telemetry.records else []) == handled


@over(face=("wrapped", "instrumented"), sampling=SAMPLINGS)
def a_decorator_that_the_channel_cannot_see_still_has_its_say(client: Client) -> None:
    client.send()
    decorated = client.receiver(raises(NO), decorated=True, policy=client.rejecting, reraise=True)
    client.enter_face(policy=ACK)
    client.register(lambda *args: decorated(*args))
    ran = Ran()
    client.drive(client.settlements, ran)
    client.drive(lambda: ran.escaped, ran)
    assert [NO] == ran.escaped
    assert ["reject"] == client.settlements()


@needs("settles_on_its_own_thread", "nacks")
def a_message_that_is_settled_while_its_settlement_is_on_the_way_is_not_settled_again(
    client: Client,
) -> None:
    client.send()

    def work(deferred: Any) -> None:
        with deferred:
            pass

    kept: list[Any] = []
    ran = client.handle(
        lambda _: kept.append(hopspan.current().defer()), policy=client.reject_on_error
    )
    client.in_thread(work, kept.pop()).result()
    ran.messages[0].reject()
    client.drive(lambda: not client.telemetry.records or len(client.telemetry.finished()) == 3)
    client.sync()
    assert ["reject"] == client.settlements()
    client.expect_queues(dead=1)


# -- policies that misbehave, settlements that fail ------------------------------------------------


def _cannot_decide(outcome: Outcome, delivery: Delivery) -> Verdict:
    raise LookupError("which?")


def _decides_nonsense(outcome: Outcome, delivery: Delivery) -> Any:
    return "ack"


def _decides_what_it_did_not_declare(outcome: Outcome, delivery: Delivery) -> Verdict:
    return Verdict.REJECT


UNABLE = (_cannot_decide, _decides_nonsense, _decides_what_it_did_not_declare)


@over(decide=UNABLE, sampling=SAMPLINGS)
def a_policy_that_cannot_decide_leaves_the_message_and_says_so(client: Client, decide: Any) -> None:
    client.send()
    ran = client.handle(raises(NO), policy=client.policy("unable", decide, {Verdict.ACK}))
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    (line,) = client.lines.take()
    assert "could not decide; the message is left unsettled" in line
    client.expect_spans(client.a_publish(), client.a_process().failed(NO))
    client.expect_queues(waiting=1)


def a_settlement_that_fails_never_hides_the_handlers_exception(client: Client) -> None:
    client.send()

    def handler(_message: Message) -> None:
        client.close_channel()
        raise NO

    ran = client.subscribe(handler, policy=client.reject_on_error)
    client.drive(lambda: ran.times, ran)
    assert [NO] == ran.escaped
    assert [] == client.settlements()
    client.expect_queues(waiting=1)
    if client.features.ends_on_close:
        client.expect_spans(client.a_publish(), client.a_process(**_left(client)))
        return
    (line,) = client.lines.take()
    assert line.startswith("could not ")
    assert line.endswith("; the broker will hand it out again")
    if client.telemetry.records:
        publish, process, settle = client.telemetry.spans()
        assert [client.a_publish(), client.a_process().failed(NO)] == [publish, process]
        assert (f"{client.settle_name('reject')} {client.queue}", "error", "reject") == (
            settle.name,
            settle.status,
            settle.settlement,
        )


def an_ack_that_fails_is_a_span_and_is_said(client: Client) -> None:
    client.send()
    ran = client.subscribe(lambda _: client.close_channel(), policy=client.reject_on_error)
    client.drive(lambda: ran.times, ran)
    assert [] == client.settlements()
    client.expect_queues(waiting=1)
    if client.features.ends_on_close:
        client.expect_spans(client.a_publish(), client.a_process(**_left(client)))
        return
    (line,) = client.lines.take()
    assert f"could not ack a message of {client.queue}; the broker will hand it out again" == line
    if client.telemetry.records:
        publish, process, settle = client.telemetry.spans()
        assert [client.a_publish(), client.a_process()] == [publish, process]
        assert ("client", "error", "ack") == (settle.kind, settle.status, settle.settlement)


def a_policy_may_give_its_reason(client: Client) -> None:
    policy = client.policy(
        "explains", lambda outcome, delivery: Settlement(Verdict.REJECT, "out of stock")
    )
    client.send()
    client.handle(succeeds, policy=policy)
    verdict = {"settlement": "reject", "reason": "out of stock"}
    client.expect_spans(client.a_publish(), client.a_process(**verdict), client.a_settle(**verdict))


def a_policy_is_asked_once_and_sees_how_it_went(client: Client) -> None:
    asked: list[Any] = []

    def policy(outcome: Outcome, delivery: Delivery) -> Verdict:
        asked.append((outcome, client.fields(delivery.headers), delivery.redelivered))
        return Verdict.ACK

    client.send_untraced(headers={"color": "red"})
    client.handle(raises(NO), policy=client.policy("asks", policy))
    assert [(Outcome(True, NO, "ValueError", "no stock"), {"color": "red"}, False)] == asked


# -- settle spans ----------------------------------------------------------------------------------

SETTLE_SPANS = {"notable": ["reject"], "all": ["ack", "reject"], "none": []}


def _settle_spans(client: Client, asked: str) -> list[str]:
    """Which settlements are spans: an ack is one only where it is a message to the broker."""
    seen = {"reject"} | ({"ack"} if client.features.acks_on_the_wire else set())
    return [each for each in SETTLE_SPANS[asked] if each in seen]


@over(settle_spans=SETTLE_SPANS, sampling=SAMPLINGS)
def as_many_settlements_are_spans_as_is_asked_for(client: Client, settle_spans: str) -> None:
    client.send(b"1")
    client.send(b"2")
    client.handle(
        in_turn(succeeds, raises(NO)),
        runs=2,
        policy=client.reject_on_error,
        settle_spans=settle_spans,
    )
    assert ["ack", "reject"] == client.settlements()
    spans = [span for span in client.telemetry.spans() if span.kind == "client"]
    expected = _settle_spans(client, settle_spans) if client.telemetry.records else []
    assert expected == [span.settlement for span in spans]
    assert {client.processes} >= {span.parent for span in spans}


@over(sampling=("sampled",), settle_spans=SETTLE_SPANS, face=("wrapped", "instrumented"))
@needs("nacks")
def the_handlers_own_settlements_are_spans_alike(client: Client, settle_spans: str) -> None:
    client.send(b"1")
    client.send(b"2")
    handler = in_turn(lambda message: message.ack(), lambda message: message.reject())
    client.handle(handler, runs=2, settle_spans=settle_spans)
    spans = [span for span in client.telemetry.spans() if span.kind == "client"]
    assert SETTLE_SPANS[settle_spans] == [span.settlement for span in spans]
    assert {client.processes} >= {span.parent for span in spans}


@needs("nacks")
def a_settlement_after_the_handler_has_returned_is_linked(client: Client) -> None:
    client.send()
    ran = client.handle(succeeds)
    ran.messages[0].reject()
    client.sync()
    client.expect_spans(
        client.a_publish(),
        client.a_process(),
        client.a_settle(
            "reject", name=client.rejects, parent=None, links=(client.processes,), trace=1
        ),
    )


# -- several as one --------------------------------------------------------------------------------


def _three(client: Client) -> list[Message]:
    for body in (b"1", b"2", b"3"):
        client.send(body)
    return [client.fetch() for _ in range(3)]


@needs("batches")
def each_message_of_a_batch_is_settled(client: Client) -> None:
    messages = _three(client)
    with client.block(messages, policy=client.reject_on_error):
        pass
    client.sync()
    assert ["ack"] * 3 == client.settlements()
    if client.telemetry.records:
        assert "ack" == client.telemetry.spans()[3].settlement
    client.expect_queues()


@needs("batches", "dead_letters")
def each_message_of_a_batch_that_failed_is_rejected(client: Client) -> None:
    messages = _three(client)
    with client.block(messages, policy=client.reject_on_error) as operation:
        operation.fail("no stock")
    client.sync()
    assert ["reject"] * 3 == client.settlements()
    client.expect_queues(dead=3)


@needs("batches", "nacks")
def what_the_user_settled_of_a_batch_is_not_settled_again(client: Client) -> None:
    messages = _three(client)
    with client.block(messages, policy=hopspan.ack_always):
        messages[1].reject()
    client.sync()
    assert ["reject", "ack", "ack"] == client.settlements()
    if client.telemetry.records:
        assert client.telemetry.spans()[3].settlement is None  # they have none in common
    client.expect_queues(dead=1)


@needs("batches", "dead_letters")
def a_policy_decides_for_each_message_of_a_batch(client: Client) -> None:
    def odd_ones(outcome: Outcome, delivery: Delivery) -> Verdict:
        number = client.fields(delivery.headers)["number"]
        return Verdict.REJECT if number in "13" else Verdict.ACK

    policy = client.policy("odd_ones", odd_ones)
    for number in "123":
        client.send_untraced(headers={"number": number})
    with client.block([client.fetch() for _ in range(3)], policy=policy):
        pass
    client.sync()
    assert ["reject", "ack", "reject"] == client.settlements()
    client.expect_queues(dead=2)


# -- tasks -----------------------------------------------------------------------------------------


def a_block_may_be_an_asynchronous_one(client: Client) -> None:
    client.send()
    message = client.fetch()

    async def work() -> None:
        async with client.block(message, policy=client.reject_on_error) as operation:
            await asyncio.sleep(0)
            assert operation is hopspan.current()

    asyncio.run(work())
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(client.a_publish(), client.a_process(settlement="ack"))


@over(sampling=SAMPLINGS, late=(True, False))
@needs("redelivers")
def a_block_in_a_task_that_is_cancelled_gives_its_message_back(client: Client, late: bool) -> None:
    client.send()
    message = client.fetch()

    async def work() -> None:
        async with client.block(message, policy=client.reject_on_error):
            await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(task, 0.01) if late else task.cancel()
            await task
        except (asyncio.CancelledError, asyncio.TimeoutError):
            pass

    asyncio.run(cancelled())
    client.sync()
    assert ["requeue"] == client.settlements()
    verdict = {"settlement": "requeue", "reason": "cancelled"}
    client.expect_spans(
        client.a_publish(), client.a_process(cancelled=True, **verdict), client.a_settle(**verdict)
    )
    client.expect_queues(waiting=1)


def deferred_work_may_be_a_task(client: Client) -> None:
    client.send()

    async def work(deferred: Any) -> None:
        async with deferred:
            with client.span("work"):
                await asyncio.sleep(0)

    with client.block(client.fetch(), policy=client.reject_on_error) as operation:
        deferred = operation.defer()
    asyncio.run(work(deferred))
    client.sync()
    assert ["ack"] == client.settlements()
    client.expect_spans(
        client.a_publish(),
        client.a_process(settlement="ack"),
        Span("work", parent=client.processes),
    )
