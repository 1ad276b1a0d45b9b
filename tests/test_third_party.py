"""An adapter that another package brings: installed, it is found, and works in every way in.

What installs it writes what an installer writes: modules, and the metadata beside them. Programs run
in interpreters of their own, because entry points are read once in a process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = Path(__file__).parent / "third_party"
DEADLINE = 60

# Two letters, the second of which is refused; what became of each, and the spans.
STORY = """
def on_letter(letter):
    if not letter.body:
        raise ValueError("empty letter")

def play(box, handler=on_letter):
    with capture_spans() as spans:
        box.listen(handler)
        box.send("dear Bob")
        box.send("")
        box.deliver()
    sent = {span.context.trace_id for span in spans if span.name.startswith("send")}
    print(box.settled)
    for span in spans:
        print(span.name, span.attributes.get("hopspan.settlement", ""), span.context.trace_id in sent)
"""
PLAYED = """\
[('done', 'dear Bob'), ('drop', '')]
send letters  True
send letters  True
process letters ack True
drop letters reject True
process letters reject True
"""


def install(folder: Path, name: str, *entries: str) -> None:
    """Write the metadata of a distribution that registers adapters."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[hopspan.adapters]", *entries]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with tinyq, and with an adapter for it that is not registered."""
    for part in PARTS.glob("*.py"):
        shutil.copy(part, tmp_path)
    return tmp_path


@pytest.fixture
def installed(site: Path) -> Path:
    """A folder with tinyq, and with a package that registers an adapter for it."""
    install(site, "hopspan-tinyq", "tinyq = hopspan_tinyq")
    return site


def run(site: Path, *arguments: str) -> str:
    """Run Python with a folder that packages are installed in; return what it prints, or why not."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "HOPSPAN_"))
    }
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.stdout or done.stderr


def said(site: Path, program: str, client: str = "tinyq") -> str:
    """What a program says that uses hopspan and tinyq."""
    start = f"""
import hopspan
from hopspan.testing import capture_spans
from {client} import Box
"""
    return run(site, "-c", start + STORY + program)


def test_without_the_package_the_client_is_unknown(site: Path) -> None:
    output = said(site, "hopspan.instrument('tinyq')")
    assert output.splitlines()[-1] == (
        "hopspan.model.ConfigurationError: unknown client 'tinyq'; hopspan knows "
        "aio-pika, celery, kafka, pika"
    )


def test_a_decorated_handler_on_a_wrapped_object(installed: Path) -> None:
    program = """
handler = hopspan.consumer(policy=hopspan.reject_on_error)(on_letter)
play(hopspan.wrap(Box("letters")), handler)
"""
    assert said(installed, program) == PLAYED


def test_a_wrapped_object(installed: Path) -> None:
    program = "play(hopspan.wrap(Box('letters'), policy=hopspan.reject_on_error))"
    assert said(installed, program) == PLAYED


def test_a_letter_is_handled_and_settled_once_whoever_settles_it(installed: Path) -> None:
    program = """
@hopspan.consumer(policy=hopspan.requeue_once)
def settle_or_fail(letter):
    with hopspan.process(letter) as op:
        assert op is hopspan.current()
        if letter.body:
            letter.done()
        else:
            raise ValueError("empty letter")

play(hopspan.wrap(Box("letters")), settle_or_fail)
"""
    assert (
        said(installed, program)
        == """\
[('done', 'dear Bob'), ('back', ''), ('drop', '')]
send letters  True
send letters  True
process letters ack True
back letters requeue True
process letters requeue True
drop letters reject True
process letters reject True
"""
    )


@pytest.mark.parametrize("named", ["'tinyq'", ""])
def test_the_whole_process(installed: Path, named: str) -> None:
    program = f"""
hopspan.instrument({named})
play(Box("letters"), hopspan.consumer(policy=hopspan.reject_on_error)(on_letter))
hopspan.uninstrument()
box = Box("letters")
box.listen(lambda letter: print("untraced:", letter.headers))
box.send("")
box.deliver()
"""
    assert said(installed, program) == PLAYED + "untraced: {}\n"


def test_the_launcher(installed: Path) -> None:
    program = """
import os
from hopspan.instrumentation import RegisteredInstrumentor
os.environ["HOPSPAN_POLICY"] = "reject_on_error"
instrumentor = RegisteredInstrumentor()
instrumentor.instrument(skip_dep_check=True)
play(Box("letters"))
instrumentor.uninstrument()
print(hasattr(Box.send, "__wrapped__"))
os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "x, hopspan_tinyq"
instrumentor.instrument(skip_dep_check=True)
print(hasattr(Box.send, "__wrapped__"))
"""
    assert said(installed, program) == PLAYED + "False\nFalse\n"


def test_a_name_that_is_unknown_is_told_with_all_that_are_known(installed: Path) -> None:
    output = said(installed, "hopspan.instrument('tinyque')")
    assert output.splitlines()[-1] == (
        "hopspan.model.ConfigurationError: unknown client 'tinyque'; hopspan knows "
        "aio-pika, celery, kafka, pika, tinyq"
    )


def test_a_client_that_is_missing_is_told(installed: Path) -> None:
    program = "import hopspan; hopspan.instrument(); hopspan.instrument('tinyq')"
    (installed / "tinyq.py").unlink()
    assert run(installed, "-c", program).splitlines()[-1] == (
        "hopspan.model.ConfigurationError: tinyq is not installed"
    )


def test_a_client_may_be_a_part_of_a_package(site: Path) -> None:
    (site / "post").mkdir()
    (site / "tinyq.py").rename(site / "post" / "tinyq.py")
    adapter = (site / "hopspan_tinyq.py").read_text()
    moved = adapter.replace("from tinyq", "from post.tinyq").replace("tinyq:Box", "post.tinyq:Box")
    (site / "hopspan_tinyq.py").write_text(moved)
    install(site, "hopspan-tinyq", "post.tinyq = hopspan_tinyq", "none.tinyq = hopspan_none")
    program = """
hopspan.instrument()
play(hopspan.wrap(Box("letters"), policy=hopspan.reject_on_error))
"""
    assert said(site, program, "post.tinyq") == PLAYED


def test_entry_points_are_read_once_and_only_when_something_unknown_comes(installed: Path) -> None:
    program = """
from importlib import metadata
kept, read = metadata.entry_points, []
metadata.entry_points = lambda **which: (read.append(which.get("group")), kept(**which))[1]

import hopspan
from hopspan.testing import Message
print(read)
handler = hopspan.consumer(policy=hopspan.reject_on_error)(lambda *_: None)
for given in (1, "one", [], object()):
    handler(given, Message())
print(read)
"""
    assert run(installed, "-c", program) == "[]\n['hopspan.adapters']\n"


# -- entry points that are no good -----------------------------------------------------------------


BAD = {
    "imports": ("raise RuntimeError('boom')", "RuntimeError: boom"),
    "misses": (None, "ModuleNotFoundError: No module named 'hopspan_bad'"),
    "lacks": (
        "from hopspan_tinyq import *\ndel ADAPTER",
        "hopspan_bad is no hopspan Adapter and has no ADAPTER",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_adapter_that_cannot_be_used_costs_a_line_and_no_message(site: Path, bad: str) -> None:
    source, reason = BAD[bad]
    if source is not None:
        (site / "hopspan_bad.py").write_text(source)
    install(site, "hopspan-bad", "tinyq = hopspan_bad")
    program = """
import logging, sys
from hopspan.instrumentation import RegisteredInstrumentor
from hopspan.testing import Message
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger().handlers[0].formatter.formatException = lambda _: "(where)"

hopspan.instrument()
RegisteredInstrumentor().instrument()
box = Box("letters")
box.listen(lambda letter: print(letter.body))
box.send("one")
box.deliver()

@hopspan.consumer(policy=hopspan.reject_on_error)
def on_message(box, message):
    print(message.body)

on_message(box, Message("two"))
for attempt in (lambda: hopspan.wrap(box), lambda: hopspan.instrument("tinyq")):
    try:
        attempt()
    except hopspan.HopspanError as error:
        print(error)
"""
    why = f"the adapter for tinyq that hopspan-bad registers cannot be used: {reason}"
    assert said(site, program).splitlines() == [
        f"hopspan leaves tinyq alone: {why}",
        "(where)",
        "one",
        "two",
        "wrap: <class 'tinyq.Box'> is nothing that hopspan can wrap; give it a channel, connection, "
        "producer or consumer of a client that it knows",
        why,
    ]


def test_hopspans_own_adapters_come_first_and_then_the_first_that_is_found(site: Path) -> None:
    install(site, "hopspan-a", "tinyq = hopspan_tinyq", "pika = hopspan_tinyq")
    install(site, "hopspan-b", "tinyq = hopspan_bad")
    program = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
hopspan.instrument()
print(hasattr(Box.send, "__wrapped__"))
from hopspan.adapters import adapter_named
print(adapter_named("pika").name)
"""
    taken = "the adapter for {} that {} registers is not used: {} has one already"
    assert said(site, program).splitlines() == [
        taken.format("pika", "hopspan-a", "hopspan"),
        taken.format("tinyq", "hopspan-b", "hopspan-a"),
        "True",
        "pika",
    ]


def test_the_doctor_says_whose_adapter_it_is_and_whether_it_can_be_used(installed: Path) -> None:
    output = run(installed, "-m", "hopspan.cli", "doctor", "--json")
    assert "tinyq, with the adapter that hopspan-tinyq registers" in output
    (installed / "hopspan_tinyq.py").write_text("")
    output = run(installed, "-m", "hopspan.cli", "doctor", "--json")
    assert "the adapter for tinyq that hopspan-tinyq registers cannot be used" in output
