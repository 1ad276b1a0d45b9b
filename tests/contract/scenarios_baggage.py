"""Baggage under control: what leaves, what is recorded, whose is believed, what is left untraced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import SpanContext

import hopspan
from tests.contract.client import Client, Message, raises, succeeds
from tests.contract.scenarios_propagation import TRACEPARENT, Telegraph
from tests.contract.suite import FACES, SAMPLINGS, each_with_each, needs, over
from tests.contract.telemetry import Span

SENDING = ("wrapped", "instrumented", "together")
ENTRIES = {"tenant_id": "t1", "app.region": "eu", "user.email": "a@example.org", "apples": "3"}
ALLOW = ["tenant_id", "app.*"]
NO = ValueError("no stock")


def _baggage(_message: Message | None = None) -> Mapping[str, object]:
    return dict(baggage.get_all())


def _everywhere(client: Client, **settings: Any) -> None:
    """Whoever sends or consumes goes by these settings; a handler is given them besides."""
    if client.face in {"instrumented", "together"}:
        client.instrument(**settings)
    client.configure_sender(**settings)


# -- what leaves -----------------------------------------------------------------------------------


@over(face=SENDING, sampling=SAMPLINGS)
def only_what_is_allowed_is_in_the_headers(client: Client) -> None:
    client.configure_sender(baggage_allow=ALLOW)
    with client.baggage(**ENTRIES):
        client.send(b"order", client.carrier({"color": "red"}))
        assert ENTRIES == _baggage(), "it does not stay current"
    arrived = client.take_untraced()
    assert {"baggage", "color", "traceparent"} >= set(arrived)
    assert ("tenant_id=t1,app.region=eu", "red") == (arrived["baggage"], arrived["color"])


@over(face=SENDING)
def the_environment_restricts_every_sender(client: Client) -> None:
    with client.environment(HOPSPAN_BAGGAGE_ALLOW="tenant_id,app.*"):
        if client.face == "instrumented":
            client.instrument()
        with client.baggage(**ENTRIES):
            client.send()
    assert "tenant_id=t1,app.region=eu" == client.take_untraced()["baggage"]


@over(face=SENDING)
def an_instrumented_process_restricts_every_sender(client: Client) -> None:
    client.instrument(baggage_allow=ALLOW)
    with client.baggage(**ENTRIES):
        client.send()
    assert "tenant_id=t1,app.region=eu" == client.take_untraced()["baggage"]


@over(face=SENDING)
def nothing_leaves_where_nothing_is_allowed(client: Client) -> None:
    client.configure_sender(baggage_allow=[])
    with client.baggage(**ENTRIES):
        client.send()
    assert ["traceparent"] == list(client.take_untraced())


@over(face=SENDING)
def everything_leaves_where_nobody_says_otherwise(client: Client) -> None:
    with client.baggage(**ENTRIES):
        client.send()
    assert (
        "tenant_id=t1,app.region=eu,user.email=a%40example.org,apples=3"
        == client.take_untraced()["baggage"]
    )


def a_forwarder_sees_all_and_sends_on_what_is_allowed(client: Client) -> None:
    client.configure_sender(baggage_allow=ALLOW)
    client.send_untraced(headers={"Baggage": "tenant_id=t0,secret=s", "color": "red"})

    def forward(message: Message) -> Mapping[str, object]:
        client.send(b"forwarded", client.carrier(message.headers))
        return _baggage()

    ran = client.handle(forward)
    assert [{"tenant_id": "t0", "secret": "s"}] == ran.results
    arrived = client.take_untraced()
    arrived.pop("traceparent")
    assert {"baggage": "tenant_id=t0", "color": "red"} == arrived


def a_header_for_each_entry_is_held_back_as_well(client: Client) -> None:
    """Also what a forwarded message brings: such a propagator does not list these headers."""
    propagate.set_global_textmap(Telegraph())
    client.configure_sender(baggage_allow=ALLOW)
    client.send_untraced(
        headers={
            "x-telegraph": "1.1",
            "X-Item-secret": "s",
            "x-item-tenant_id": "t0",
            "x-color": "red",
        }
    )

    def forward(message: Message) -> None:
        with client.baggage(password="p"):
            client.send(b"forwarded", client.carrier(message.headers))

    client.handle(forward)
    arrived = client.take_untraced()
    arrived.pop("x-telegraph")
    assert {"x-item-tenant_id": "t0", "x-color": "red"} == arrived


@over(face=SENDING)
def a_context_that_is_kept_keeps_what_is_allowed(client: Client) -> None:
    with client.span("outbox"), client.baggage(**ENTRIES):
        headers = hopspan.inject({"color": "red"})
    client.configure_sender(keep_context=True, baggage_allow=ALLOW)
    client.send(b"order", client.carrier({**headers, "baggage": headers["baggage"] + ",bad entry"}))
    arrived = client.take_untraced()
    assert {
        "color": "red",
        "traceparent": headers["traceparent"],
        "baggage": "tenant_id=t1,app.region=eu",
    } == arrived
    assert any("bad entry" in line for line in client.lines.take())  # OpenTelemetry's own


def a_context_that_is_kept_without_a_list_is_left_alone(client: Client) -> None:
    headers = {"color": "red", "TraceParent": TRACEPARENT, "baggage": "secret = s;meta"}
    client.configure_sender(keep_context=True)
    client.send(b"order", client.carrier(headers))
    assert headers == client.take_untraced()
    # Older releases of OpenTelemetry complain about properties of an entry.
    assert all(line.startswith("Invalid baggage entry") for line in client.lines.take())


def an_outbox_holds_what_every_instrumented_client_allows(client: Client) -> None:
    client.instrument(baggage_allow=["tenant_id", "secret"])
    with client.baggage(**ENTRIES):
        assert {"baggage": "tenant_id=t1"} == hopspan.inject()


def an_outbox_holds_what_the_environment_allows(client: Client) -> None:
    with client.environment(HOPSPAN_BAGGAGE_ALLOW="app.*"), client.baggage(**ENTRIES):
        assert {"baggage": "app.region=eu"} == hopspan.inject({"Baggage": "secret=s"})


# -- how much leaves -------------------------------------------------------------------------------

DROPPED = (
    "some baggage does not leave in messages, for it is more than 64 entries, 8192 bytes in all or "
    "4096 bytes an entry: set fewer entries, or allow fewer with baggage_allow"
)


@over(allow=("all", "none said"))
def no_more_entries_leave_than_everybody_passes_on(client: Client, allow: str) -> None:
    if allow == "all":
        client.configure_sender(baggage_allow=["*"])
    with client.baggage(**{f"k{number}": "v" for number in range(70)}):
        client.send(b"1")
        client.send(b"2")
    expected = ",".join(f"k{number}=v" for number in range(64))
    assert [expected] * 2 == [client.take_untraced()["baggage"] for _ in range(2)]
    assert [DROPPED] == client.lines.take(), "once, for two messages"


@over(allow=("all", "none said"))
def whole_entries_are_dropped_where_they_are_too_long(client: Client, allow: str) -> None:
    if allow == "all":
        client.configure_sender(baggage_allow=["*"])
    entries = {"a": "x" * 4000, "huge": "%" * 1400, "b": "y" * 4000, "c": "z" * 300, "d": "!"}
    with client.baggage(**entries):
        client.send()
    kept = f"a={'x' * 4000},b={'y' * 4000},d=%21"
    assert kept == client.take_untraced()["baggage"]
    assert [DROPPED] == client.lines.take()


# -- entries for a block ---------------------------------------------------------------------------


@over(face=FACES)
def entries_that_are_set_for_a_block_reach_the_handler(client: Client) -> None:
    with client.baggage(kept="yes", removed="no"):
        with hopspan.baggage({"customer.tier": "enterprise"}, tenant_id=7, removed=None):
            client.send()
        assert {"kept": "yes", "removed": "no"} == _baggage()
    ran = client.handle(_baggage)
    assert [{"kept": "yes", "customer.tier": "enterprise", "tenant_id": "7"}] == ran.results


def entries_that_a_decorator_sets_reach_the_handler(client: Client) -> None:
    @hopspan.baggage(tenant_id="t1")
    def order() -> None:
        client.send()

    @hopspan.baggage(tenant_id="t2")
    async def order_async() -> None:
        await asyncio.sleep(0)
        headers.update(hopspan.inject())

    headers: dict[str, Any] = {}
    order()
    asyncio.run(order_async())
    ran = client.handle(_baggage)
    assert [{"tenant_id": "t1"}] == ran.results
    assert "tenant_id=t2" == headers["baggage"]


# -- what is recorded ------------------------------------------------------------------------------


@over(face=FACES)
def chosen_entries_are_attributes_of_spans(client: Client) -> None:
    chosen = {"baggage_attributes": ["tenant_id", "app.*"], "settle_spans": "all"}
    _everywhere(client, **chosen)
    with client.baggage(**ENTRIES):
        client.send()
    client.handle(succeeds, **chosen)
    for name in (client.publishes, client.processes):
        told = client.telemetry.attributes(name)
        found = {key: told[key] for key in ENTRIES if key in told}
        assert {"tenant_id": "t1", "app.region": "eu"} == found, name


def chosen_entries_are_attributes_of_a_receive(client: Client) -> None:
    client.wrap_consumer(baggage_attributes=["tenant_id"])
    with client.baggage(**ENTRIES):
        client.send()
    with client.span("asking"), client.baggage(whose="mine"):
        client.fetch()
    assert "t1" == client.telemetry.attributes(client.receives)["tenant_id"]
    client.expect_spans(
        client.a_publish(), Span("asking", trace=1), client.a_receive(parent="asking", trace=1)
    )


@over(face=FACES)
def nothing_of_baggage_is_recorded_unasked(client: Client) -> None:
    with client.baggage(**ENTRIES):
        client.send(b"order", client.carrier({"color": "red"}))
    client.handle(succeeds, settle_spans="all")
    told = {key for span in client.telemetry.recorded() for key in span.attributes or {}}
    measured = {key for _, attributes, _ in client.telemetry.all_points() for key in attributes}
    assert set() == (told | measured) & {*ENTRIES, "color", "messaging.header.color"}


@over(face=FACES)
@needs("settles")
def chosen_entries_are_attributes_of_metrics(client: Client) -> None:
    chosen = {"baggage_metrics": ["tenant_id"], "settle_spans": "all"}
    _everywhere(client, **chosen)
    with client.baggage(**ENTRIES):
        client.send()
    client.handle(succeeds, policy=client.reject_on_error, **chosen)
    points = {
        (metric, str(attributes["messaging.operation.name"]), attributes.get("tenant_id"))
        for metric, attributes, _ in client.telemetry.points()
    }
    publish = client.publishes.split()[0]
    expected = {
        ("messaging.client.operation.duration", publish, "t1"),
        ("messaging.client.sent.messages", publish, "t1"),
        ("messaging.process.duration", "process", "t1"),
    }
    assert expected <= points
    assert {"t1"} == {
        tenant for _, operation, tenant in points if operation in {publish, "process"}
    }
    assert not any(set(each) & {"app.region", "apples"} for _, each, _ in client.telemetry.points())


# -- whose messages are believed -------------------------------------------------------------------

STRANGE = {"traceparent": TRACEPARENT, "tracestate": "theirs=1", "baggage": "tenant_id=evil"}


@over(face=FACES, sampling=SAMPLINGS)
def a_strangers_message_is_linked_to_and_nothing_more(client: Client) -> None:
    client.send_untraced(headers=STRANGE)

    def handler(_message: Message) -> tuple[Mapping[str, object], bool]:
        return _baggage(), trace.get_current_span().get_span_context().trace_id == int("a" * 32, 16)

    ran = client.handle(handler, trust=False)
    assert [({}, False)] == ran.results
    client.expect_spans(client.a_process(parent=None, links=("elsewhere",)))
    for process in client.telemetry.named(client.processes):
        (link,) = process.links
        assert SpanContext(int("a" * 32, 16), int("b" * 16, 16), is_remote=True) == link.context


CORRELATIONS = {
    "auto": {"parent": "asking", "links": ("elsewhere",)},
    "parent": {"parent": None, "links": ("elsewhere",), "trace": 1},
    "link": {"parent": None, "links": ("elsewhere",), "trace": 1},
    "none": {"parent": "asking", "links": ()},
}


@over(correlation=CORRELATIONS)
def a_strangers_message_is_no_parent_in_a_block(client: Client, correlation: str) -> None:
    client.send_untraced(headers=STRANGE)
    message = client.fetch()
    with client.span("asking"), client.baggage(whose="mine"):
        with client.block(message, trust=False, correlation=correlation):
            seen = _baggage()
    assert {"whose": "mine"} == seen
    client.expect_spans(Span("asking"), client.a_process(**CORRELATIONS[correlation]))


@needs("batches")
def a_batch_of_strangers_messages_is_linked_to_them(client: Client) -> None:
    client.send_untraced(headers=STRANGE)
    message = client.fetch()
    with client.block([message, message], trust=False):
        assert {} == _baggage()
    client.expect_spans(client.a_process(parent=None, links=("elsewhere",) * 2))
    (process,) = client.telemetry.named(client.processes)
    assert {0} == {int(link.context.trace_flags) for link in process.links}


# -- destinations that are left untraced -----------------------------------------------------------


@each_with_each
@over(face=FACES, sampling=SAMPLINGS)
@needs("settles", "dead_letters")
def an_ignored_destination_is_left_untraced_and_settled_all_the_same(client: Client) -> None:
    ignore = {"ignore": [f"*{client.queue}*"]}
    _everywhere(client, **ignore)
    with client.baggage(tenant="acme"):
        client.send(b"good", client.carrier({"color": "red"}))
        client.send(b"bad", client.carrier({"color": "red"}))
    seen = []

    def handler(message: Message) -> None:
        seen.append((message.headers, _baggage(), bool(hopspan.current())))
        if message.body == b"bad":
            raises(NO)(message)

    ran = client.handle(
        handler, runs=2, policy=client.reject_on_error, settle_spans="all", **ignore
    )
    assert [({"color": "red"}, {}, True)] * 2 == seen
    assert [NO] == ran.raised
    assert ["ack", "reject"] == client.settlements()
    ours = [span.name for span in client.telemetry.recorded() if client.queue in span.name]
    assert [] == [name for name in ours if not name.endswith(".dead")]
    about = [each for _, each, _ in client.telemetry.points() if client.queue in str(each)]
    assert [] == [
        each for each in about if not str(each["messaging.destination.name"]).endswith(".dead")
    ]
    client.expect_queues(dead=1)


def what_is_not_ignored_is_traced(client: Client) -> None:
    client.configure_sender(ignore=["health.*"])
    client.send()
    client.handle(succeeds, ignore=["health.*"])
    client.expect_spans(client.a_publish(), client.a_process())


def a_handler_of_an_ignored_message_has_the_context_that_is_around_it(client: Client) -> None:
    client.send()
    message = client.fetch()
    with client.span("asking"), client.baggage(whose="mine"):
        around = trace.get_current_span().get_span_context()
        with client.block(message, ignore=["*"]):
            assert {"whose": "mine"} == _baggage()
            assert around == trace.get_current_span().get_span_context()
    assert [] == client.telemetry.named(client.processes)


# -- headers that are captured ---------------------------------------------------------------------

HEADERS = {"Color": "red", "X-Api-Key": "swordfish-42", "size": "7", "shape": "x" * 2000}


@over(face=FACES)
def chosen_headers_are_attributes_of_spans(client: Client) -> None:
    chosen = {"capture_headers": ["color", "x-api-key", "SHAPE", "absent"]}
    _everywhere(client, **chosen)
    client.send(b"order", client.carrier(HEADERS))
    client.handle(succeeds, settle_spans="all", **chosen)
    for name in (client.publishes, client.processes):
        told = client.telemetry.attributes(name)
        assert {
            "messaging.header.color": ("red",),
            "messaging.header.x-api-key": ("[REDACTED]",),
            "messaging.header.shape": ("x" * 1024,),
        } == {key: told[key] for key in told if key.startswith("messaging.header.")}, name
    assert "swordfish-42" not in str([span.to_json() for span in client.telemetry.recorded()])


def context_is_no_business_of_an_empty_block(client: Client) -> None:
    with hopspan.baggage():
        assert Context() == get_current()
