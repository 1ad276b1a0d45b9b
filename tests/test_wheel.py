"""hopspan as it installs: what it needs, what it imports, and what it brings along.

Runs with nothing installed but pytest and hopspan, and says something in every fuller environment
as well: each snippet runs in an interpreter of its own, in which the modules it is to do without
cannot be imported.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

import pytest

CLIENTS = {"pika", "aio_pika", "aiormq", "kafka", "celery", "kombu", "aiokafka", "confluent_kafka"}
SDK = {"opentelemetry.sdk", "opentelemetry.instrumentation", "opentelemetry.exporter"}
DEADLINE = 60

_REPORT = """
import json
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""


def python(snippet: str, missing: set[str] = frozenset()) -> str:
    """Run a snippet where some modules are missing; return what it prints."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({sorted(missing)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block + snippet],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(snippet: str, missing: set[str] = frozenset()) -> set[str]:
    """Which clients, and which parts of the SDK, a snippet imports, directly or not."""
    modules = set(json.loads(python(snippet + _REPORT, missing)))
    return modules & (CLIENTS | SDK)


def needs(module: str) -> None:
    """Skip where a module is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed here")


@pytest.fixture
def metadata() -> Any:
    """What the installed distribution says of itself."""
    try:
        return distribution("hopspan")
    except PackageNotFoundError:
        pytest.skip("hopspan runs from its source tree here, it is not installed")


def test_it_is_imported_with_no_client_and_no_sdk_at_all() -> None:
    assert imported("import hopspan", CLIENTS | SDK) == set()


def test_it_imports_no_client_that_is_there_and_no_sdk() -> None:
    assert imported("import hopspan, hopspan.testing, hopspan.cli") == set()


def test_without_a_client_everything_that_needs_none_works() -> None:
    snippet = """
import hopspan
from hopspan.testing import Message
from opentelemetry import baggage

@hopspan.consumer(policy=hopspan.reject_on_error)
def on_order(message):
    assert baggage.get_baggage("tenant") == "acme"
    assert hopspan.current().delivery.headers is message.headers
    if message.body == b"bad":
        raise ValueError(message.body)

headers = hopspan.inject({}, baggage.set_baggage("tenant", "acme"))
for body in (b"good", b"bad"):
    message = Message(body, headers)
    on_order(message)
    print(message.verdict.value)
hopspan.instrument()
hopspan.uninstrument()
"""
    assert python(snippet, CLIENTS | SDK).split() == ["ack", "reject"]


def test_a_client_that_is_missing_is_named_with_its_remedy() -> None:
    snippet = """
import hopspan
for attempt in (lambda: hopspan.instrument("pika"), lambda: hopspan.wrap(object())):
    try:
        attempt()
    except hopspan.HopspanError as error:
        print(error)
"""
    missing, unknown = python(snippet, CLIENTS).splitlines()
    assert missing == "pika is not installed: pip install 'hopspan[pika]'"
    assert unknown.startswith("wrap: <class 'object'> is nothing that hopspan can wrap")


def test_each_client_that_is_missing_is_named_with_its_own_remedy() -> None:
    snippet = """
import hopspan
try:
    hopspan.instrument("kafka")
except hopspan.HopspanError as error:
    print(error)
"""
    assert python(snippet, CLIENTS) == "kafka is not installed: pip install 'hopspan[kafka]'\n"


@pytest.mark.parametrize(
    "need",
    [
        "hopspan.instrument()",
        "hopspan.instrument('pika')",
        "import pika.channel; hopspan.wrap(object.__new__(pika.channel.Channel))",
    ],
)
def test_with_pika_alone_only_pika_is_imported_and_only_when_it_is_needed(need: str) -> None:
    needs("pika")
    before = "import hopspan; hopspan.consumer(print); hopspan.inject(); hopspan.extract({})\n"
    assert imported(before, (CLIENTS | SDK) - {"pika"}) == set()
    assert imported(before + need, (CLIENTS | SDK) - {"pika"}) == {"pika"}
    if "()" not in need:  # which is for all that there are
        assert imported(before + need) == {"pika"}


@pytest.mark.parametrize(
    "need",
    [
        "hopspan.instrument()",
        "hopspan.instrument('kafka')",
        "from kafka import KafkaProducer; hopspan.wrap(object.__new__(KafkaProducer))",
    ],
)
def test_with_kafka_alone_only_kafka_is_imported_and_only_when_it_is_needed(need: str) -> None:
    needs("kafka")
    before = (
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)  # kafka-python 3.0\n"
        "import hopspan; hopspan.consumer(print); hopspan.inject(); hopspan.extract({})\n"
    )
    assert imported(before, (CLIENTS | SDK) - {"kafka"}) == set()
    assert imported(before + need, (CLIENTS | SDK) - {"kafka"}) == {"kafka"}


@pytest.mark.parametrize(
    "need",
    [
        "hopspan.instrument()",
        "hopspan.instrument('aio-pika')",
        "from aio_pika import Channel; hopspan.wrap(object.__new__(Channel))",
    ],
)
def test_with_aio_pika_alone_only_aio_pika_is_imported_and_only_when_it_is_needed(
    need: str,
) -> None:
    needs("aio_pika")
    before = "import hopspan; hopspan.consumer(print); hopspan.inject(); hopspan.extract({})\n"
    mine = {"aio_pika", "aiormq"}
    assert imported(before, (CLIENTS | SDK) - mine) == set()
    assert imported(before + need, (CLIENTS | SDK) - mine) == mine


@pytest.mark.parametrize(
    "need",
    [
        "hopspan.instrument()",
        "hopspan.instrument('celery')",
        "from celery import Celery; hopspan.wrap(Celery())",
    ],
)
def test_with_celery_alone_only_celery_is_imported_and_only_when_it_is_needed(need: str) -> None:
    needs("celery")
    before = "import hopspan; hopspan.consumer(print); hopspan.inject(); hopspan.extract({})\n"
    mine = {"celery", "kombu"}
    assert imported(before, (CLIENTS | SDK) - mine) == set()
    assert imported(before + need, (CLIENTS | SDK) - mine) == mine


def test_celerys_worker_is_not_imported_by_who_only_publishes() -> None:
    needs("celery")
    snippet = (
        "import hopspan, sys; hopspan.instrument('celery'); print('celery.worker' in sys.modules)"
    )
    assert python(snippet) == "False\n"


def test_the_command_says_its_version(metadata: Any) -> None:
    command = Path(sys.executable).with_name("hopspan")
    said = subprocess.run(
        [command, "--version"], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert said.stdout == f"hopspan {metadata.version}\n"
    assert python("import hopspan; print(hopspan.__version__)") == f"{metadata.version}\n"


def test_the_demo_says_what_it_is_missing() -> None:
    snippet = "import hopspan.cli; sys.stderr = sys.stdout; print(hopspan.cli.main(['demo']))"
    assert python(snippet, CLIENTS | SDK).endswith("pip install 'hopspan[demo]'\n1\n")


def test_it_brings_the_example_and_the_demo_along() -> None:
    snippet = """
from importlib.util import find_spec
from pathlib import Path
for name in ("demo", "orders"):
    print(Path(find_spec(f"hopspan.examples.{name}").origin).parts[-3:])
"""
    assert python(snippet, CLIENTS | SDK).splitlines() == [
        "('examples', 'demo', '__init__.py')",
        "('examples', 'orders', '__init__.py')",
    ]


@pytest.mark.parametrize("client", ["aio_pika", "celery", "kafka", "pika", "registered"])
def test_the_zero_code_launcher_finds_an_instrumentor(client: str, metadata: Any) -> None:
    found = entry_points(group="opentelemetry_instrumentor", name=f"hopspan_{client}")
    (entry,) = {each.value for each in found}
    assert entry == f"hopspan.instrumentation:{client.title().replace('_', '')}Instrumentor"
    snippet = f"""
from importlib.metadata import entry_points
(entry, *_) = entry_points(group="opentelemetry_instrumentor", name="hopspan_{client}")
instrumentor = entry.load()()
instrumentor.instrument(skip_dep_check=True)
instrumentor.uninstrument()
"""
    assert imported(snippet, CLIENTS | SDK) == set()


def test_it_requires_the_api_and_the_conventions_only_and_pins_nothing(metadata: Any) -> None:
    tools = ('extra == "bench"', 'extra == "dev"')
    requirements = [
        each
        for each in metadata.requires
        if not any(extra in each.replace("'", '"') for extra in tools)
    ]
    always = sorted(
        each.split(">")[0].split(";")[0].strip() for each in requirements if ";" not in each
    )
    assert always == ["opentelemetry-api", "opentelemetry-semantic-conventions"]
    pinned = [each for each in requirements if any(mark in each.split(";")[0] for mark in "<~=!")]
    assert [each for each in pinned if ">=" not in each or "," in each] == []


def test_it_says_that_it_is_typed(metadata: Any) -> None:
    import hopspan  # noqa: PLC0415 - the others import it in interpreters of their own

    assert (Path(hopspan.__file__).parent / "py.typed").exists()
