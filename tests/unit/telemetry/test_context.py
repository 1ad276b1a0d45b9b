"""The current context: made current and put back, directly and by the public calls alike."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import pytest
from opentelemetry import context as otel
from opentelemetry.context import Context, get_current
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

from hopspan.telemetry import context
from hopspan.telemetry.context import Attachment, find_variable, revert, whereabouts
from tests.unit.support import in_thread


class Way(NamedTuple):
    """One way to make a context current."""

    attach: Callable[[Context], Any]
    detach: Callable[[Any], bool]
    restore: Callable[[Any], None]


DIRECTLY = Way(context.attach, context.detach, context.restore)
PUBLICLY = Way(context.attach_publicly, context.detach_publicly, context.restore_publicly)
BOTH = pytest.mark.parametrize("way", [DIRECTLY, PUBLICLY], ids=["directly", "publicly"])

RED, BLUE = Context({"color": "red"}), Context({"color": "blue"})


def elsewhere(work: Callable[[], Any]) -> Any:
    """What `work` returns in another task's context."""
    return contextvars.Context().run(work)


ELSEWHERE = pytest.mark.parametrize("elsewhere", [elsewhere, in_thread], ids=["task", "thread"])


def test_the_installed_api_is_used_directly() -> None:
    """Or every message pays for the public calls."""
    assert context.get_current() is get_current()
    assert find_variable(otel._RUNTIME_CONTEXT) is not None
    assert isinstance(context.attach.__self__, ContextVar)  # type: ignore[attr-defined]


@BOTH
def test_a_context_is_current_until_it_is_put_back(way: Way) -> None:
    before = get_current()
    token = way.attach(RED)
    assert get_current() is context.get_current() is RED
    assert way.detach(token) is True
    assert get_current() is before


@BOTH
def test_contexts_are_put_back_in_the_order_of_a_stack(way: Way) -> None:
    outer, inner = way.attach(RED), way.attach(BLUE)
    assert way.detach(inner) is True
    assert get_current() is RED
    assert way.detach(outer) is True


@BOTH
def test_nothing_is_put_back_a_second_time(way: Way, logged: pytest.LogCaptureFixture) -> None:
    outer = way.attach(RED)
    token = way.attach(BLUE)
    way.detach(token)
    assert (way.detach(token), get_current()) == (False, RED)
    assert way.detach(outer) is True
    assert logged.records == []


@BOTH
@ELSEWHERE
def test_nothing_is_put_back_elsewhere_and_nothing_is_logged(
    way: Way, elsewhere: Any, logged: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry's own `detach` logs an error then, each time."""
    token = way.attach(RED)
    assert elsewhere(lambda: way.detach(token)) is False
    assert get_current() is RED
    assert way.detach(token) is True
    assert logged.records == []


@BOTH
@ELSEWHERE
def test_restoring_is_detaching_that_says_by_an_error_that_it_cannot(
    way: Way, elsewhere: Any
) -> None:
    before, token = get_current(), way.attach(RED)
    with pytest.raises((ValueError, RuntimeError)):
        elsewhere(lambda: way.restore(token))
    assert get_current() is RED
    way.restore(token)
    assert get_current() is before
    with pytest.raises((ValueError, RuntimeError)):
        way.restore(token)


@pytest.mark.parametrize(("ours", "theirs"), [(DIRECTLY, PUBLICLY), (PUBLICLY, DIRECTLY)])
def test_both_ways_can_be_nested(ours: Way, theirs: Way) -> None:
    before = get_current()
    outer, inner = ours.attach(RED), theirs.attach(BLUE)
    assert (theirs.detach(inner), get_current()) == (True, RED)
    assert (ours.detach(outer), get_current()) == (True, before)


@BOTH
def test_whatever_others_left_attached_on_top_is_put_back_with_it(way: Way) -> None:
    before, token = get_current(), way.attach(RED)
    otel.attach(BLUE)
    assert way.detach(token) is True
    assert get_current() is before


# -- the guard -------------------------------------------------------------------------------------


class Named(ContextVarsRuntimeContext):
    """A runtime of another name."""


def renamed(**attributes: Any) -> Any:
    """A runtime of the known name with these attributes."""
    return type("ContextVarsRuntimeContext", (), attributes)()


class Boxed:
    """A variable that is none of Python's."""

    def __init__(self) -> None:
        self.value: Any = None

    def get(self, default: Any = None) -> Any:
        return default


@pytest.mark.parametrize(
    "runtime",
    [
        None,
        object(),
        renamed(),
        renamed(_current_context=None),
        renamed(_current_context=Boxed()),
        renamed(_current_context=ContextVar("another")),
        Named(),
    ],
    ids=["none", "other", "without", "nothing", "no variable", "another variable", "other class"],
)
def test_a_runtime_that_is_laid_out_otherwise_is_left_to_the_public_calls(runtime: Any) -> None:
    before = get_current()
    assert find_variable(runtime) is None
    assert get_current() is before


def test_the_variable_of_the_runtime_is_the_one_that_the_api_reads() -> None:
    found = find_variable(otel._RUNTIME_CONTEXT)
    assert found is not None
    token = otel.attach(RED)
    assert found.get() is RED
    otel.detach(token)


# -- contexts that are current elsewhere -----------------------------------------------------------


def test_a_context_that_is_still_current_elsewhere_can_be_made_like_the_one_before() -> None:
    mine = Context({"color": "red", "shape": "round"})
    token = otel.attach(mine)
    revert(mine, BLUE)
    assert (dict(get_current()), get_current() is mine) == ({"color": "blue"}, True)
    otel.detach(token)


def test_reverting_changes_nothing_but_the_one_context() -> None:
    mine, other = Context(RED), Context(RED)
    revert(mine, Context())
    assert (dict(mine), dict(other), dict(RED)) == ({}, {"color": "red"}, {"color": "red"})


@pytest.fixture
def attachment() -> Iterator[Attachment]:
    made = Attachment(Context({"color": "red"}))
    yield made
    made.leave()


def test_an_attachment_is_undone_where_it_was_made(attachment: Attachment) -> None:
    assert (get_current(), attachment.is_done) == (attachment.context, False)
    assert (attachment.detach(), attachment.is_done) == (True, True)
    assert get_current() == Context()


@pytest.mark.parametrize("undo", [Attachment.detach, Attachment.leave])
def test_an_attachment_is_undone_once(undo: Any, attachment: Attachment) -> None:
    attachment.detach()
    token = otel.attach(BLUE)
    undo(attachment)
    assert get_current() is BLUE
    otel.detach(token)


@ELSEWHERE
def test_elsewhere_an_attachment_is_not_undone_by_detaching(
    elsewhere: Any, attachment: Attachment
) -> None:
    assert elsewhere(attachment.detach) is False
    assert (attachment.is_done, dict(get_current())) == (False, {"color": "red"})


@ELSEWHERE
def test_leaving_undoes_an_attachment_from_anywhere(elsewhere: Any, attachment: Attachment) -> None:
    elsewhere(attachment.leave)
    assert (attachment.is_done, dict(get_current())) == (True, {})
    otel.detach(attachment._token)


# -- where we are ----------------------------------------------------------------------------------


def test_a_thread_is_somewhere_else() -> None:
    here = whereabouts()
    assert here == whereabouts() == (threading.get_ident(), None)
    assert in_thread(whereabouts) != here


def test_a_task_is_somewhere_else() -> None:
    async def tasks() -> list[Any]:
        async def where() -> Any:
            return whereabouts(), asyncio.current_task()

        return [await where(), *(await asyncio.gather(where(), where()))]

    found = asyncio.run(tasks())
    assert [place for place, _ in found] == [(threading.get_ident(), task) for _, task in found]
    assert len({task for _, task in found}) == 3


# -- an API that is laid out otherwise -------------------------------------------------------------

PROGRAM = """
import asyncio
from opentelemetry import context, trace
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

class Other(ContextVarsRuntimeContext):
    pass

context._RUNTIME_CONTEXT = Other()

import hopspan
from hopspan.telemetry import context as ours
from hopspan.testing import Message, capture_spans

print(ours.attach is ours.attach_publicly, ours.get_current is context.get_current)

@hopspan.consumer(policy=hopspan.reject_on_error)
def handler(message):
    with hopspan.process(message):
        seen.append((message.body, trace.get_current_span() is hopspan.current().span))
    if not message.body:
        raise ValueError("empty")

@hopspan.consumer
async def handler_async(message):
    await asyncio.sleep(0)
    seen.append((message.body, trace.get_current_span() is hopspan.current().span))

async def in_tasks():
    await asyncio.gather(*(handler_async(Message(body)) for body in "ab"))

def generate():
    with hopspan.process(Message("left")):
        yield

seen, before = [], context.get_current()
with capture_spans() as spans:
    messages = Message("one"), Message("")
    for message in messages:
        handler(message)
    for message in hopspan.each([Message("two"), Message("three")]):
        context.attach(context.set_value("left", "by the body"))
        seen.append((message.body, bool(hopspan.current())))
    asyncio.run(in_tasks())
    left = generate()
    next(left)
    import contextvars
    contextvars.Context().run(left.close)
print([message.verdict.value for message in messages], spans.names())
print(seen)
print(dict(context.get_current()) == dict(before), bool(hopspan.current()))
"""


def test_with_another_runtime_messages_are_handled_alike() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    log = [line for line in done.stderr.splitlines() if "hopspan" in line and "File" not in line]
    assert (done.stdout.splitlines(), log) == (
        [
            "True True",
            f"['ack', 'reject'] {['process test', 'reject test'] + ['process test'] * 6}",
            "[('one', True), ('', True), ('two', True), ('three', True), ('a', True), ('b', True)]",
            "True False",
        ],
        [],
    ), done.stderr
