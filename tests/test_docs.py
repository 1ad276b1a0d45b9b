"""The documentation holds: blocks run, links resolve, every name and setting is in it.

A page runs in a process of its own, its Python blocks in order and in one namespace, with warnings
as errors, and with `AMQP_URL` and `KAFKA_BOOTSTRAP` leading to brokers in this process, and Celery to
a broker in the page's own. A `text`
block that follows a Python block is what it prints, with "..." for what differs from run to run. A
block that begins with a comment naming a file is that file: it is put where the page says, and
imported.

`start_consuming` ends as it does in real life, when the consumer is cancelled: a queue that has
been emptied and settled is deleted. (So pages publish first, and consume then.)
"""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hopspan
import hopspan.sdk
import hopspan.testing
from hopspan import config
from hopspan.config import settings

pika = pytest.importorskip("pika")
pytest.importorskip("kafka")

from tests.fakes.amqp import FakeRabbit  # noqa: E402 - needs pika
from tests.fakes.kafka import FakeKafka  # noqa: E402
from tests.test_third_party import install  # noqa: E402

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERYTHING = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
DEADLINE = 60

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ((?:\w+/)*\w+\.py)\n")
MARK = "-- end of block --"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    source: str
    line: int
    output: str | None
    """The `text` block that follows it."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for fence in FENCE.finditer(text):
        language, source = fence.groups()
        follows = found and not text[end : fence.start()].strip()
        if language == "text" and follows and found[-1].language == "python":
            found[-1] = found[-1]._replace(output=source)
        else:
            found.append(Block(language, source, text.count("\n", 0, fence.start(1)) + 1, None))
        end = fence.end()
    return found


def python(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# All are errors, but for what kafka-python 3.0 says while it is imported.
WARNINGS = [
    "-Werror",
    *(f"-Wignore:{each}_text is deprecated:DeprecationWarning" for each in ("read", "open")),
]

# Runs in the page's own process: what it executes is `__main__`, and tracebacks name the page.
RUN = f"""
import faulthandler, json, sys

def _run():
    faulthandler.dump_traceback_later({DEADLINE}, exit=True)
    page = json.load(sys.stdin)
    sys.path.insert(0, page["folder"])
    for source, line in page["blocks"]:
        exec(compile("\\n" * line + source, page["name"], "exec"), globals())
        print({MARK!r}, flush=True)

_run()
"""


class Attendant:
    """Deletes each queue that a page's handlers consume from, once it is empty and settled."""

    def __init__(self, broker: FakeRabbit, page: Path) -> None:
        self._broker = broker
        self._names = set(re.findall(r'basic_consume\("([\w.-]+)"', page.read_text("utf-8")))
        self._over = False
        self._thread = threading.Thread(target=self._attend, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over = True
        with self._broker._state.changed:
            self._broker._state.changed.notify_all()
        self._thread.join()

    def _attend(self) -> None:
        while not self._over:
            self._broker.until(lambda: self._over or bool(self._finished()), DEADLINE)
            with self._broker._state.changed:
                finished = self._finished()
            for queue in finished:
                with pika.BlockingConnection(pika.URLParameters(self._broker.url)) as connection:
                    connection.channel().queue_delete(queue)

    def _finished(self) -> list[str]:
        return [
            name
            for name, queue in self._broker._state.queues.items()
            if name in self._names
            and queue.consumers
            and self._broker.log
            and not self._broker.ready(name)
            and not self._broker.unacked(name)
        ]


def written(page: Path, folder: Path) -> list[Block]:
    """The blocks of a page that are to be executed; those that are files are put into `folder`."""
    rest = []
    for block in python(page):
        file = FILE.match(block.source)
        if file is None:
            rest.append(block)
            continue
        path = folder / file[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.source, encoding="utf-8")
    return rest


ADAPTERS = re.compile(
    r'^\[project\.entry-points\."hopspan\.adapters"\]\n((?:[\w.]+ = "[\w.]+"\n)+)', re.MULTILINE
)


def registered(page: Path, folder: Path) -> None:
    """Install the entry points that a page writes, so that its adapters are found by them alone."""
    project = "".join(block.source for block in blocks(page) if block.language == "toml")
    lines = "".join(ADAPTERS.findall(project)).replace('"', "").splitlines()
    if lines:
        install(folder, f"hopspan-{page.stem}", *lines)


@pytest.mark.parametrize("page", [page for page in PAGES if python(page)], ids=named)
def test_every_python_block_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    executed = written(page, tmp_path)
    registered(page, tmp_path)
    task = {
        "name": named(page),
        "folder": str(tmp_path),
        "blocks": [(block.source, block.line) for block in executed],
    }
    with FakeRabbit() as broker, FakeKafka(join_delay=0.05) as kafka:
        attendant = Attendant(broker, page)
        try:
            done = subprocess.run(
                [sys.executable, *WARNINGS, "-c", RUN],
                input=json.dumps(task),
                env={
                    **os.environ,
                    **{f"OTEL_{each}_EXPORTER": "none" for each in ("TRACES", "METRICS", "LOGS")},
                    "AMQP_URL": broker.url,
                    "CELERY_BROKER_URL": "memory://",
                    "CELERY_RESULT_BACKEND": "cache+memory://",
                    "KAFKA_BOOTSTRAP": kafka.bootstrap,
                },
                capture_output=True,
                text=True,
                timeout=2 * DEADLINE,
                check=False,
            )
        finally:
            attendant.close()
        assert done.returncode == 0, done.stderr
        assert broker.until(lambda: not broker._connections)
        assert unsettled(broker) == [], "the page says that all of it was settled"
        assert kafka.until(lambda: not kafka.connections())
        assert uncommitted(kafka) == [], "the page says that all of it was committed"
    assert "hopspan failed" not in done.stderr
    printed = done.stdout.split(f"{MARK}\n")
    for block, output in zip(executed, printed, strict=False):
        if block.output is not None:
            assert_prints(block.output, output, f"{named(page)}:{block.line}")


def test_the_adapter_on_the_page_is_the_one_that_is_tested() -> None:
    page = ROOT / "docs" / "adding-a-broker.md"
    files = {file[1]: block.source for block in python(page) if (file := FILE.match(block.source))}
    assert files == {
        path.name: f"# {path.name}\n{path.read_text(encoding='utf-8')}"
        for path in (ROOT / "tests" / "third_party").glob("*.py")
    }


def unsettled(broker: FakeRabbit) -> list[str]:
    """Queues to which messages went back when the page's connections closed."""
    return [name for name in broker._state.queues if broker.ready(name)]


def uncommitted(kafka: FakeKafka) -> list[str]:
    """Groups that have committed something of a topic, and not all of it."""
    return [
        group
        for group in kafka._state.groups
        for (topic, partition), offset in kafka.committed(group).items()
        if offset < kafka.end(topic, partition)
    ]


def assert_prints(expected: str, actual: str, where: str) -> None:
    if not doctest.OutputChecker().check_output(expected, actual, doctest.ELLIPSIS):
        assert expected == actual, where


# -- links and paths -------------------------------------------------------------------------------

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HTML_LINK = re.compile(r'(?:src|href|srcset)="([^"]+)"')
LINKED_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md"]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED_PAGES, ids=named)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)) + HTML_LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


PATH = re.compile(r"(?<![\w./])((?:scripts|src|tests|integration|examples|docs)/[\w./<>-]*\w)")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_in_the_repository_exists(page: Path) -> None:
    own = {FILE.match(block.source)[1] for block in python(page) if FILE.match(block.source)}  # type: ignore[index]
    paths = {path for path in PATH.findall(page.read_text(encoding="utf-8")) if "<" not in path}
    assert sorted(path for path in paths - own if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_script_in_a_shell_block_can_be_run(page: Path) -> None:
    shell = "\n".join(block.source for block in blocks(page) if block.language in {"bash", "sh"})
    scripts = set(re.findall(r"\bscripts/\w+", shell))
    assert sorted(each for each in scripts if not os.access(ROOT / each, os.X_OK)) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_fence_says_its_language_and_is_closed(page: Path) -> None:
    assert "```" not in prose(page)
    assert [block.line for block in blocks(page) if not block.language] == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(ROOT / link).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}
    assert sorted(named(page) for page in PAGES[1:] if page not in linked) == []


# -- settings and names ----------------------------------------------------------------------------

SETTINGS = ROOT / "docs" / "getting-started.md"
ROW = re.compile(r"^\| `(\w+)` \| (?:`(\w+)`)? *\| `([^`]+)` \|", re.MULTILINE)


def shown_default(value: Any) -> str:
    if value == config.METRICS:
        return "all"
    return getattr(value, "name", None) or str(value)


def table() -> dict[str, tuple[str, str]]:
    """From a setting to its variable and default, as the page has them."""
    return {name: (variable, default) for name, variable, default in ROW.findall(prose(SETTINGS))}


def test_the_table_of_settings_is_the_configuration() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(hopspan.Config)}
    assert {name: default for name, (_, default) in table().items()} == {
        name: shown_default(default) for name, default in fields.items()
    }


def test_every_variable_is_in_the_table_and_is_read() -> None:
    variables = {name: variable for name, (variable, _) in table().items() if variable}
    read = {name: f"HOPSPAN_{name.upper()}" for name in settings.READERS}
    assert variables == {**read, "exceptions": config._EXCEPTIONS_VARIABLE}


def test_no_page_names_a_variable_that_is_not_read() -> None:
    read = {f"HOPSPAN_{name.upper()}" for name in settings.READERS}
    by_the_sdk = {"HOPSPAN_PRESET"}
    misspelt_on_purpose = {"HOPSPAN_POLCY"}
    known = read | by_the_sdk | misspelt_on_purpose
    assert set(re.findall(r"HOPSPAN_[A-Z_]+[A-Z]", EVERYTHING)) <= known


@pytest.mark.parametrize(
    "module", [hopspan, hopspan.sdk, hopspan.testing], ids=lambda module: module.__name__
)
def test_every_public_name_is_documented(module: Any) -> None:
    assert [name for name in module.__all__ if not re.search(rf"\b{name}\b", EVERYTHING)] == []


def test_every_metric_is_documented() -> None:
    assert sorted(name for name in config.METRICS if name not in EVERYTHING) == []
