"""Baggage for a block or a function: set there, and nowhere else, whoever uses the scope."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.propagators.textmap import TextMapPropagator

import hopspan
from hopspan import carrying
from hopspan.model import ConfigurationError
from hopspan.telemetry import forget_defaults, set_for_client
from hopspan.testing import Queue
from tests.unit.support import DEADLINE, Telemetry, in_thread


def now() -> dict[str, object]:
    return dict(baggage.get_all())


@pytest.fixture(autouse=True)
def nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = get_current()
    yield
    assert before == get_current()
    assert [] == [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]


# -- blocks ----------------------------------------------------------------------------------------


def test_entries_hold_for_the_block() -> None:
    with hopspan.baggage({"customer.tier": "enterprise"}, tenant_id="t1"):
        assert now() == {"customer.tier": "enterprise", "tenant_id": "t1"}
    assert now() == {}


def test_entries_hold_for_an_async_block() -> None:
    async def block() -> None:
        async with hopspan.baggage(tenant_id="t1"):
            await asyncio.sleep(0)
            assert now() == {"tenant_id": "t1"}
        assert now() == {}

    asyncio.run(block())


def test_an_inner_block_replaces_adds_and_removes() -> None:
    with hopspan.baggage(a="1", b="2", c="3"):
        with hopspan.baggage(a="9", b=None, d="4", nowhere=None):
            assert now() == {"a": "9", "c": "3", "d": "4"}
        assert now() == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (1.5, "1.5"), (True, "True"), ("", ""), (b"\xc3\xa9\xff", "é\ufffd")],
)
def test_values_become_text(value: object, text: str) -> None:
    with hopspan.baggage(key=value):
        assert now() == {"key": text}


def test_an_exception_passes_through_and_leaves_nothing() -> None:
    with pytest.raises(KeyError), hopspan.baggage(a="1"):
        raise KeyError("a")
    assert now() == {}


def test_what_others_made_current_stays_so() -> None:
    token = attach(baggage.set_baggage("theirs", "yes", Context()))
    with hopspan.baggage(mine="yes"):
        assert now() == {"theirs": "yes", "mine": "yes"}
    assert now() == {"theirs": "yes"}
    detach(token)


# -- one scope, used more than once ----------------------------------------------------------------


def test_a_scope_can_be_used_again() -> None:
    scope = hopspan.baggage(a="1")
    for _ in range(2):
        with scope:
            assert now() == {"a": "1"}
        assert now() == {}


def test_a_scope_can_be_nested_in_itself() -> None:
    scope = hopspan.baggage(a="1")
    with scope, hopspan.baggage(a="2"):
        with scope:
            assert now() == {"a": "1"}
        assert now() == {"a": "2"}


def test_a_scope_can_be_shared_by_threads() -> None:
    scope, together = hopspan.baggage(a="1"), threading.Barrier(8, timeout=DEADLINE)
    seen: list[Any] = []

    def work() -> None:
        for _ in range(50):
            with scope:
                together.wait()
                seen.append(now())
            seen.append(now())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE)
    assert (seen.count({"a": "1"}), seen.count({}), len(seen)) == (400, 400, 800)


def test_a_scope_can_be_shared_by_tasks() -> None:
    scope = hopspan.baggage(a="1")

    async def work(number: int) -> list[Any]:
        async with scope:
            await asyncio.sleep(0)
            with hopspan.baggage(number=number):
                await asyncio.sleep(0)
                inside = now()
        return [inside, now()]

    async def main() -> list[Any]:
        return await asyncio.gather(*map(work, range(20)))

    assert asyncio.run(main()) == [[{"a": "1", "number": str(each)}, {}] for each in range(20)]


def test_a_task_that_is_begun_inside_leaves_its_own_block_alone() -> None:
    scope = hopspan.baggage(a="1")

    async def child() -> dict[str, object]:
        with scope, hopspan.baggage(b="2"):
            await asyncio.sleep(0)
        return now()

    async def main() -> None:
        with scope:
            assert await asyncio.create_task(child()) == {"a": "1"}
            assert now() == {"a": "1"}
        assert now() == {}

    asyncio.run(main())


# -- left in another context -----------------------------------------------------------------------


def test_leaving_in_another_context_changes_nothing_there() -> None:
    scope = hopspan.baggage(a="1")
    scope.__enter__()

    def leave() -> dict[str, object]:
        token = attach(baggage.set_baggage("theirs", "yes", Context()))
        scope.__exit__(None, None, None)
        seen = now()
        detach(token)
        return seen

    assert in_thread(leave) == {"theirs": "yes"}
    with hopspan.baggage(b="2"):  # where it was entered it is undone by whoever comes next
        assert now() == {"b": "2"}


def test_leaving_in_a_copy_of_the_context_changes_nothing_there() -> None:
    scope = hopspan.baggage(a="1")
    scope.__enter__()
    contextvars.copy_context().run(scope.__exit__, None, None, None)
    assert Queue("orders").publish(b"").headers == {}
    assert now() == {}


def test_what_was_left_elsewhere_is_not_remembered() -> None:
    for _ in range(3):
        scope = hopspan.baggage(a="1")
        scope.__enter__()
        contextvars.copy_context().run(scope.__exit__, None, None, None)
    with hopspan.baggage(b="2"):
        assert len(carrying._entered.get()) == 1


def test_an_abandoned_generator_leaves_nothing_where_it_is_finalised() -> None:
    async def endless() -> AsyncIterator[int]:
        with hopspan.baggage(a="1"):
            while True:
                yield 1

    async def main() -> None:
        numbers = endless()
        await asyncio.create_task(anext_of(numbers))
        del numbers
        gc.collect()
        await asyncio.sleep(0)
        assert now() == {}

    asyncio.run(main())


async def anext_of(numbers: AsyncIterator[int]) -> int:
    return await numbers.__anext__()


def test_leaving_twice_or_without_having_entered_is_nothing() -> None:
    scope = hopspan.baggage(a="1")
    scope.__exit__(None, None, None)
    with scope:
        pass
    scope.__exit__(None, None, None)
    assert now() == {}


def test_nothing_is_kept_of_what_was_left() -> None:
    scope = hopspan.baggage(a="1")
    for _ in range(3):
        with scope:
            pass
    scope.__enter__()
    in_thread(lambda: scope.__exit__(None, None, None))
    assert set(scope._open) == set()
    with hopspan.baggage():
        pass


# -- functions -------------------------------------------------------------------------------------


def test_a_function_runs_with_the_entries() -> None:
    @hopspan.baggage(a="1")
    def order(number: int, *, urgent: bool = False) -> Any:
        """Place an order."""
        return now(), number, urgent

    assert order(3, urgent=True) == ({"a": "1"}, 3, True)
    assert (order.__name__, order.__doc__) == ("order", "Place an order.")
    assert now() == {}


def test_an_async_function_runs_with_the_entries() -> None:
    @hopspan.baggage(a="1")
    async def order() -> Any:
        await asyncio.sleep(0)
        return now()

    assert inspect.iscoroutinefunction(order)
    waiting = order()
    assert now() == {}, "it does not run yet"

    async def main() -> Any:
        return await waiting, now()

    assert asyncio.run(main()) == ({"a": "1"}, {})


async def _order() -> dict[str, object]:
    await asyncio.sleep(0)
    return now()


class Asynchronous:
    async def __call__(self) -> dict[str, object]:
        return await _order()


@pytest.mark.parametrize(
    "function",
    [lambda: _order(), functools.partial(_order), Asynchronous()],
    ids=["returns a coroutine", "partial", "object"],
)
def test_whatever_is_awaited_runs_with_the_entries(function: Callable[[], Any]) -> None:
    async def main() -> Any:
        return await decorated(), now()

    decorated = hopspan.baggage(a="1")(function)
    assert asyncio.run(main()) == ({"a": "1"}, {})


def test_methods_run_with_the_entries() -> None:
    class Shop:
        @hopspan.baggage(a="1")
        def order(self) -> Any:
            return self, now()

        @classmethod
        @hopspan.baggage(a="2")
        def open(cls) -> Any:
            return now()

    shop = Shop()
    assert shop.order() == (shop, {"a": "1"})
    assert Shop.open() == {"a": "2"}


def test_a_decorated_function_may_call_itself() -> None:
    @hopspan.baggage(a="1")
    def order(left: int) -> list[Any]:
        return [now(), *(order(left - 1) if left else []), now()]

    assert order(2) == [{"a": "1"}] * 6
    assert now() == {}


def test_a_handler_can_be_decorated() -> None:
    queue, seen = Queue("orders"), []

    @hopspan.consumer
    @hopspan.baggage(mine="yes")
    def handle(message: Any) -> None:
        seen.append(now())

    with hopspan.baggage(theirs="yes"):
        message = queue.publish(b"")
    handle(message)
    assert seen == [{"theirs": "yes", "mine": "yes"}]


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "generator",
    [_generator, _async_generator, functools.partial(_generator)],
    ids=["generator", "async generator", "partial"],
)
def test_a_generator_is_refused(generator: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        hopspan.baggage(a="1")(generator)
    assert "cannot decorate the generator" in str(raised.value)


@pytest.mark.parametrize(
    "thing", [3, None, Asynchronous, classmethod(_order), staticmethod(_order)]
)
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        hopspan.baggage(a="1")(thing)
    assert f"decorates a function, not a {type(thing).__name__} object" in str(raised.value)


# -- outboxes --------------------------------------------------------------------------------------


class EntryByEntry(TextMapPropagator):
    """Baggage with a header for each entry, as Jaeger's format has it."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        for key, value in baggage.get_all(context).items():
            setter.set(carrier, f"item-{key}", value)

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Context:
        for key in getter.keys(carrier):
            if key.startswith("item-"):
                (value,) = getter.get(carrier, key)
                context = baggage.set_baggage(key.removeprefix("item-"), value, context)
        return context  # type: ignore[no-any-return]

    @property
    def fields(self) -> set[str]:
        return set()


@pytest.fixture
def entry_by_entry() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(EntryByEntry())
    yield
    propagate.set_global_textmap(before)


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOPSPAN_BAGGAGE_ALLOW", "tenant")
    forget_defaults()
    yield
    forget_defaults()


@pytest.mark.usefixtures("entry_by_entry", "restricted")
@pytest.mark.parametrize("make", [dict, list], ids=["mapping", "pairs"])
def test_an_outbox_holds_nothing_of_an_earlier_hop(make: Any) -> None:
    headers = make({"Item-secret": b"s", "item-tenant": b"t0", "color": b"red"}.items())
    with hopspan.baggage(tenant="t1", password="p"):
        carried = hopspan.inject(headers)
    plain = {key: value for key, value in dict(carried).items() if key != "item-tenant"}
    assert plain == {"color": b"red"}
    assert dict(carried)["item-tenant"] in {"t1", b"t1"}


@pytest.mark.usefixtures("entry_by_entry", "restricted")
@pytest.mark.parametrize("value", [b"x" * 9000, b"\xff", 7, None])
def test_one_entry_that_cannot_be_read_does_not_let_the_others_through(value: Any) -> None:
    headers = {"item-hostile": value, "item-secret": "s"}
    assert "item-secret" not in hopspan.inject(headers)


@pytest.mark.usefixtures("restricted")
def test_what_two_clients_are_allowed_is_what_both_are(telemetry: Telemetry) -> None:
    for name, allowed in (("one", ("tenant", "a")), ("other", ("a", "b")), ("third", None)):
        set_for_client(name, telemetry.instrumenter(baggage_allow=allowed))
    try:
        with hopspan.baggage(tenant="t1", a="1", b="2"):
            assert hopspan.inject() == {"baggage": "a=1"}
    finally:
        for name in ("one", "other", "third"):
            set_for_client(name, None)


@pytest.mark.usefixtures("restricted")
def test_the_environment_holds_where_nothing_is_instrumented() -> None:
    with hopspan.baggage(tenant="t1", a="1"):
        assert hopspan.inject() == {"baggage": "tenant=t1"}


def test_a_wrong_variable_is_an_error_and_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPSPAN_BAGGAGE_ALOW", "tenant")
    forget_defaults()
    with pytest.raises(ConfigurationError, match="did you mean HOPSPAN_BAGGAGE_ALLOW"):
        hopspan.inject()
    forget_defaults()


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["", "two words", "a=b", "a,b", "a;b", "é", "a\n", "a\0", 3, None, b"a"]
)
def test_a_name_that_w3c_does_not_take_is_an_error(key: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        hopspan.baggage({key: "1"})
    assert str(raised.value) == (
        f"{key!r} cannot be the name of an entry of baggage: it takes letters, digits and "
        "!#$%&'*+-.^_`|~, and no space"
    )


@pytest.mark.parametrize("entries", [_order, "tenant_id=t1", 3, [("a", "1")]])
def test_what_is_no_mapping_is_an_error_that_says_what_to_write(entries: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"hopspan\.baggage\(tenant_id=\.\.\.\)"):
        hopspan.baggage(entries)


def test_values_are_nobodys_business() -> None:
    assert repr(hopspan.baggage(a="secret", b=None)) == "<hopspan baggage a, b>"
