"""A trace crosses the broker: parents, links, baggage, and what happens to headers on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator

import hopspan
from tests.contract.client import Client, Message, succeeds
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Span

STALE = {
    "Traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
    "tracestate": "old=1",
    "baggage": "old=yes",
}
"""What an earlier hop left in the headers, with a letter case of its own."""

HEADERS: dict[str, dict[str, Any] | None] = {
    "None": None,
    "empty": {},
    "text": {"color": "red", "shape": "☃"},
    "stale": {"color": "red", **STALE},
}
TYPED = {"color": "red", "size": 7, "nested": {"deep": ["list", 1]}, "nothing": None}


def _baggage(_message: Message | None = None) -> Mapping[str, object]:
    return baggage.get_all()


def _ids(_message: Message | None = None) -> tuple[int, int]:
    current = trace.get_current_span().get_span_context()
    return current.trace_id, current.trace_flags


def _span_id(traceparent: str) -> int:
    return int(traceparent.split("-")[2], 16)


def _id_of(client: Client, name: str) -> int:
    (span,) = client.telemetry.named(name)
    assert span.context is not None
    return span.context.span_id


# -- joining the producer's trace ------------------------------------------------------------------


@over(face=FACES)
def a_consumer_joins_the_producers_trace_and_sees_its_baggage(client: Client) -> None:
    with client.span("order"), client.baggage(tenant="acme"):
        client.send()
    ran = client.handle(_baggage)
    assert [{"tenant": "acme"}] == ran.results
    client.expect_spans(Span("order"), client.a_publish(parent="order"), client.a_process())


@over(face=FACES, sampling=("sampled", "unsampled"))
def the_trace_is_joined_however_it_is_sampled(client: Client) -> None:
    with client.span("order") as order:
        client.send()
    ran = client.handle(_ids)
    sent = order.get_span_context()
    assert [(sent.trace_id, sent.trace_flags)] == ran.results


@over(face=FACES, sampling=SAMPLINGS)
def a_context_from_elsewhere_is_visible_even_without_an_sdk(client: Client) -> None:
    client.send_untraced(headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": "k=v"})
    ran = client.handle(lambda message: (_ids(message)[0], _baggage(message)))
    assert [(int("a" * 32, 16), {"k": "v"})] == ran.results
    client.expect_spans(client.a_process(parent="elsewhere", links=("elsewhere",)))


@over(face=FACES)
def a_handlers_parent_is_its_own_messages_publish_and_not_what_was_current_around_it(
    client: Client,
) -> None:
    for number in (b"1", b"2"):
        with client.span("order " + number.decode()):
            client.send(number)
    with client.span("subscribing"), client.baggage(whose="the subscriber's"):
        ran = client.subscribe(_baggage, prefetch=2)
    with client.span("consuming"), client.baggage(whose="the loop's"):
        client.drive(lambda: ran.times == 2)
    assert [{}, {}] == ran.results
    client.expect_spans(
        Span("order 1"),
        client.a_publish(parent="order 1"),
        Span("order 2", trace=1),
        client.a_publish(parent="order 2", trace=1),
        Span("subscribing", trace=2),
        Span("consuming", trace=3),
        client.a_process(trace=0),
        client.a_process(trace=1),
    )


@over(face=FACES)
def nothing_is_joined_where_the_message_carries_nothing(client: Client) -> None:
    client.send_untraced()
    client.handle(_baggage)
    client.expect_spans(client.a_process(parent=None, links=()))


TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@over(headers=({"TraceParent": TRACEPARENT}, {"traceparent": TRACEPARENT.encode()}))
def a_context_is_read_in_any_letter_case_and_as_bytes(
    client: Client, headers: dict[str, Any]
) -> None:
    client.send_untraced(headers=headers)
    ran = client.handle(_ids)
    assert [int("a" * 32, 16)] == [trace_id for trace_id, _ in ran.results]


# -- what a sender's headers look like, before and after -------------------------------------------


@over(headers=HEADERS, face=("wrapped", "instrumented"))
def a_callers_headers_are_never_touched(client: Client, headers: str) -> None:
    _never_touched(client, HEADERS[headers])


@over(face=("wrapped", "instrumented"))
@needs("typed_headers")
def headers_of_all_types_are_never_touched(client: Client) -> None:
    _never_touched(client, TYPED)


def _never_touched(client: Client, given: dict[str, Any] | None) -> None:
    carrier = client.carrier(given)
    before, held = client.contents(carrier), dict(given) if given is not None else None
    with client.span("order"), client.baggage(tenant="acme"):
        client.send(b"1", carrier)
        client.send(b"2", carrier)
    assert before == client.contents(carrier)
    assert held == given


@over(headers=HEADERS, face=("wrapped", "instrumented"))
def a_message_arrives_with_its_headers_and_one_context(client: Client, headers: str) -> None:
    _arrives_with_one_context(client, HEADERS[headers])


@over(face=("wrapped", "instrumented"))
@needs("typed_headers")
def a_message_arrives_with_its_headers_of_all_types(client: Client) -> None:
    _arrives_with_one_context(client, TYPED)


def _arrives_with_one_context(client: Client, headers: dict[str, Any] | None) -> None:
    given = headers or {}
    with client.span("order"), client.baggage(tenant="acme"):
        client.send(b"order", client.carrier(headers))
    arrived = client.take_untraced()
    kept = {key: value for key, value in given.items() if key not in STALE}
    traceparent = arrived.pop("traceparent")
    assert {**kept, "baggage": "tenant=acme"} == arrived
    assert _id_of(client, client.publishes) == _span_id(traceparent)


def a_message_without_any_carrier_gets_one(client: Client) -> None:
    client.send(b"order", None)
    assert ["traceparent"] == list(client.take_untraced())


@over(sampling=("no SDK",))
def a_message_is_sent_as_it_is_where_there_is_nothing_to_carry(client: Client) -> None:
    client.send(b"order", client.carrier({"color": "red"}))
    assert {"color": "red"} == client.take_untraced()


@over(sampling=SAMPLINGS)
def a_forwarded_message_carries_the_forwarders_context_once(client: Client) -> None:
    client.send_untraced(headers={**STALE, "color": "red"})

    def forward(message: Message) -> None:
        with client.baggage(hop="second"):
            client.send(b"forwarded", client.carrier(message.headers))

    ran = client.handle(forward)
    assert {**STALE, "color": "red"} == ran.messages[0].headers
    arrived = client.take_untraced()
    context_keys = sorted(
        key for key in arrived if key.lower() in {"traceparent", "tracestate", "baggage"}
    )
    assert ["baggage", "traceparent", "tracestate"] == context_keys
    assert "red" == arrived["color"]
    assert "old=yes,hop=second" == arrived["baggage"]
    assert "1" * 32 == arrived["traceparent"].split("-")[1]
    if client.telemetry.records:
        assert _id_of(client, client.publishes) == _span_id(arrived["traceparent"])


@over(face=("wrapped", "instrumented"))
def a_forwarded_message_loses_what_its_new_context_does_not_have(client: Client) -> None:
    client.send(
        b"order", client.carrier(STALE)
    )  # from outside of any delivery: no baggage, no state
    assert ["traceparent"] == list(client.take_untraced())


@over(face=("wrapped", "instrumented"))
def two_threads_may_send_one_shared_object(client: Client) -> None:
    shared = client.carrier({"color": "red"})
    before = client.contents(shared)

    def send_many(send: Callable[..., None], name: str) -> None:
        for _ in range(20):
            with client.span(name), client.baggage(sender=name):
                send(name.encode(), shared)

    senders = [client.sender(), client.sender()]
    sending = [client.in_thread(send_many, send, f"sender{i}") for i, send in enumerate(senders)]
    for each in sending:
        each.result()
    assert before == client.contents(shared)
    ran = client.handle(_baggage, runs=40, prefetch=40)
    assert [{"sender": body.decode()} for body in ran.bodies] == ran.results
    parents = [
        span.parent.span_id for span in client.telemetry.named(client.processes) if span.parent
    ]
    sent = [
        span.context.span_id for span in client.telemetry.named(client.publishes) if span.context
    ]
    assert sorted(sent) == sorted(parents)
    assert 40 == len(set(parents))


# -- a context that the user set on purpose --------------------------------------------------------


def a_context_set_on_purpose_is_kept_where_that_is_asked_for(client: Client) -> None:
    with client.span("outbox"):
        headers = hopspan.inject({"color": "red"})
    with client.span("relay"):
        _send_kept(client, headers)
    client.handle(succeeds)
    client.expect_spans(
        Span("outbox"),
        Span("relay", trace=1),
        Span(client.publishes, "client", parent="relay", links=("outbox",), trace=1),
        client.a_process(parent="outbox", links=("outbox",)),
    )


def a_context_that_is_asked_to_be_kept_is_given_where_there_is_none(client: Client) -> None:
    _send_kept(client, {"color": "red"})
    client.handle(succeeds)
    client.expect_spans(client.a_publish(), client.a_process())


def _send_kept(client: Client, headers: dict[str, Any]) -> None:
    client.configure_sender(keep_context=True)
    client.send(b"order", client.carrier(headers))


def an_outbox_can_inject_and_extract_by_itself(client: Client) -> None:
    with client.span("order"), client.baggage(tenant="acme"):
        headers = hopspan.inject()
    client.send_untraced(headers=headers)
    ran = client.handle(lambda message: hopspan.extract(message.headers))
    client.expect_spans(Span("order"), client.a_process(parent="order", links=("order",)))
    (context,) = ran.results
    assert {"tenant": "acme"} == baggage.get_all(context)
    assert _id_of(client, "order") == trace.get_current_span(context).get_span_context().span_id


# -- the propagator that is configured -------------------------------------------------------------


class Telegraph(TextMapPropagator):
    """A format of somebody's own: the ids in one header, and one more for each entry of baggage."""

    def inject(
        self, carrier: Any, context: Context | None = None, setter: Setter[Any] | None = None
    ) -> None:
        span = trace.get_current_span(context).get_span_context()
        carrier["x-telegraph"] = f"{span.trace_id}.{span.span_id}"
        carrier.update(
            {f"x-item-{key}": str(value) for key, value in baggage.get_all(context).items()}
        )

    def extract(
        self, carrier: Any, context: Context | None = None, getter: Getter[Any] | None = None
    ) -> Context:
        assert getter is not None
        assert context is not None
        (text,) = getter.get(carrier, "X-Telegraph") or ["1.1"]
        trace_id, span_id = map(int, text.split("."))
        span = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(1))
        for key in getter.keys(carrier):
            if key.startswith("x-item-"):
                (value,) = getter.get(carrier, key) or [""]
                context = baggage.set_baggage(key.removeprefix("x-item-"), value, context)
        return trace.set_span_in_context(trace.NonRecordingSpan(span), context)

    @property
    def fields(self) -> set[str]:
        return {"X-Telegraph"}


@over(face=FACES)
def the_configured_propagator_is_the_one_that_is_used(client: Client) -> None:
    propagate.set_global_textmap(Telegraph())
    client.send(b"1", client.carrier({"x-TELEGRAPH": "2.2", "color": "red"}))
    with client.baggage(tenant="acme"):
        client.send(b"2")
    assert ["color", "x-telegraph"] == sorted(client.take_untraced())
    ran = client.handle(_baggage)
    assert [{"tenant": "acme"}] == ran.results
    first, second = client.a_publish(), client.a_publish(trace=1)
    client.expect_spans(first, second, client.a_process(trace=1))


# -- correlation: parent, link or neither ----------------------------------------------------------

PUSHED = {
    "auto": {},
    "parent": {},
    "link": {"parent": None, "trace": 1},
    "none": {"parent": None, "links": (), "trace": 1},
}


@over(correlation=PUSHED, face=FACES)
def a_pushed_delivery_relates_to_its_message_as_it_is_told(
    client: Client, correlation: str
) -> None:
    with client.baggage(tenant="acme"):
        client.send()
    ran = client.subscribe(_baggage, correlation=correlation)
    with client.span("consuming"):
        client.drive(lambda: ran.times)
    assert [{} if correlation == "none" else {"tenant": "acme"}] == ran.results
    *before, process = client.telemetry.spans()
    assert client.a_process(**{**PUSHED[correlation], **_later(PUSHED[correlation])}) == process
    assert [client.a_publish(), Span("consuming", trace=1)] == before


def _later(change: Mapping[str, Any]) -> dict[str, Any]:
    """A trace of its own is the third, after the one in which the loop ran."""
    return {"trace": 2} if "trace" in change else {}


IN_BLOCKS = {
    "auto": {"parent": "asking", "trace": 1},
    "parent": {},
    "link": {"parent": None, "trace": 2},
    "none": {"parent": "asking", "links": (), "trace": 1},
}


@over(correlation=IN_BLOCKS)
def a_block_relates_to_its_message_as_it_is_told(client: Client, correlation: str) -> None:
    with client.baggage(tenant="acme"):
        client.send()
    message = client.fetch()
    with client.span("asking"), client.baggage(whose="mine"):
        with client.block(message, correlation=correlation):
            seen = _baggage()
    mine, theirs = {"whose": "mine"}, {"whose": "mine", "tenant": "acme"}
    assert (mine if correlation == "none" else theirs) == seen
    client.expect_spans(
        client.a_publish(), Span("asking", trace=1), client.a_process(**IN_BLOCKS[correlation])
    )


def a_block_with_nothing_around_it_is_the_messages_child(client: Client) -> None:
    client.send()
    with client.block(client.fetch()):
        pass
    client.expect_spans(client.a_publish(), client.a_process())


# -- batches ---------------------------------------------------------------------------------------


@needs("batches")
def a_batch_is_one_span_with_a_link_to_each_message(client: Client) -> None:
    messages = _three_messages(client)
    with client.block(messages):
        assert {} == _baggage()
    client.expect_spans(*_three_sent(client), _a_batch(client, parent=None, trace=3))
    attributes = client.telemetry.attributes(client.processes)
    assert 3 == attributes["messaging.batch.message_count"]
    assert "hopspan.links.omitted" not in attributes


@needs("batches")
@over(correlation=("auto", "parent", "link", "none"))
def a_batch_is_never_a_child_of_a_message(client: Client, correlation: str) -> None:
    messages = _three_messages(client)
    with client.span("asking"), client.block(messages, correlation=correlation):
        pass
    changes: dict[str, dict[str, Any]] = {
        "link": {"parent": None, "trace": 4},
        "none": {"parent": "asking", "links": (), "trace": 3},
    }
    expected = _a_batch(client, **changes.get(correlation, {"parent": "asking", "trace": 3}))
    client.expect_spans(*_three_sent(client), Span("asking", trace=3), expected)


@needs("batches")
def a_batch_of_more_messages_than_links_says_how_many_it_left_out(client: Client) -> None:
    client.send()
    message = client.fetch()
    with client.block([message] * 130):
        pass
    (process,) = client.telemetry.named(client.processes)
    attributes = process.attributes or {}
    assert 128 == len(process.links)
    assert 0 == process.dropped_links
    assert 2 == attributes["hopspan.links.omitted"]
    assert 130 == attributes["messaging.batch.message_count"]


@needs("batches")
def an_empty_batch_is_nothing(client: Client) -> None:
    with client.block([]) as operation:
        assert not operation
        assert get_current() == {}
    client.expect_spans()


def _three_messages(client: Client) -> list[Message]:
    for number in (b"1", b"2", b"3"):
        with client.baggage(number=number.decode()):
            client.send(number)
    return [client.fetch() for _ in range(3)]


def _three_sent(client: Client) -> list[Span]:
    return [client.a_publish(trace=number) for number in range(3)]


def _a_batch(client: Client, **more: Any) -> Span:
    return client.a_process(**{"links": (client.publishes,) * 3, **more})
