"""The rules of the design, sections 3 and 5, held over the syntax trees.

Every rule is a function from the modules to the places that break it, and is shown here to find
what it is for. Imports for type checkers alone (`if TYPE_CHECKING:`) bind nothing at run time, but
a reader follows them as well: they point down like all others, and make no circles.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import hopspan

SOURCE = Path(hopspan.__file__).parent
ROOT = Path(__file__).parent.parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("model", "faults", "terminal", "version"),
    ("conventions", "propagation", "settlement"),
    ("config",),
    ("telemetry", "logs"),
    ("delivery",),
    ("interception", "carrying"),
    ("offsets",),
    ("adapters",),
    ("instrumentation", "testing", "examples", "doctor", "cli", "sdk", "", "__main__"),
)
"""From the lowest to the entry points; "" is the package. Those of one layer are siblings."""

MAY_USE_SIBLINGS = {
    "cli": {"doctor"},
    "doctor": {"instrumentation", "sdk"},
    "": {"instrumentation"},
    "__main__": {"cli"},
}
"""The command line runs the doctor, which looks at all that can be set up; the package offers the
verbs. The demo, a user of the package, is imported by its name only when it is asked for."""

CLIENTS = {
    "pika": "adapters.pika",
    "aio_pika": "adapters.aio_pika",
    "aiormq": "adapters.aio_pika",
    "kafka": "adapters.kafka",
    "celery": "adapters.celery",
    "kombu": "adapters.celery",
}
"""Each client library, and the one adapter that may import it."""

PROPAGATES = "propagation"
"""Where headers are read and written, and what of OpenTelemetry that takes."""

CORE = {
    "model", "faults", "conventions", "propagation", "settlement",
    "config", "telemetry", "delivery", "interception", "offsets",
}  # fmt: skip
"""What is for every client alike."""
NAMES_OF_CLIENTS = re.compile("pika|kafka|celery|aiormq|rabbitmq", re.IGNORECASE)

SHARED_BY_ADAPTERS = ("amqp", "amqp_ledger", "kafka_common")
"""The parts that clients of one system share; each begins with the system's name."""

MOST_LINES = 400
"""Lines of code in one file, documentation and comments not counted."""
MEDIAN_FUNCTION = 6

LONGER = {
    "delivery.delivery": "It is longer than a file here should be.",
    "adapters.celery.run": "Why is Celery's `run.py` one file of 500 lines?",
}
"""Files over the limit, and where docs/rationale.md begins to tell why."""

MOST_LINES_OF_ADAPTER = 450
MOST_LINES_OF_SECOND_CLIENT = 300
"""The adapter of one more client of a system, whose common parts are there already."""
SECOND_CLIENTS = {"aio_pika", "confluent", "aiokafka"}
FRAMEWORKS = {"celery"}
"""They run the application, and are not only called by it: their adapters are as long as they are."""

LONGER_ADAPTERS = {
    "pika": "pika has two kinds of channel, three ways to hand out a message, and confirms",
    "kafka": "a consumer is not only intercepted but followed",
}
"""Adapters over the limit, and where docs/rationale.md begins to tell why."""


class Module(NamedTuple):
    """One file of the package."""

    name: str
    """Without `hopspan.`; of a package, its own name."""
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return parsed(self.text)

    @property
    def unit(self) -> str:
        """What the layers are made of: the top-level module or package."""
        return self.name.partition(".")[0]


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def modules() -> list[Module]:
    """The package as it is."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] == "examples" and len(parts) > 2:  # a wheel's demo and its services are users
            continue
        is_package = parts[-1] == "__init__"
        found.append(
            Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package)
        )
    return found


class Import(NamedTuple):
    """One imported module, full name."""

    importer: Module
    imported: str
    line: int
    is_for_types: bool

    @property
    def target(self) -> str | None:
        """The imported module without `hopspan.`; None for another package's."""
        if self.imported != "hopspan" and not self.imported.startswith("hopspan."):
            return None
        return self.imported.removeprefix("hopspan").removeprefix(".")

    def __str__(self) -> str:
        return f"{self.importer.name or 'hopspan'}:{self.line} imports {self.imported}"


def imports(module: Module) -> Iterator[Import]:
    """Every import of a module, also those inside functions."""
    typed = {
        node
        for block in ast.walk(module.tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    names = {each.name for each in modules()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, node in typed)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.name}:{node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                ours = inner.startswith("hopspan.")
                is_module = not ours or inner.removeprefix("hopspan.") in names
                name = inner if is_module else str(node.module)
                yield Import(module, name, node.lineno, node in typed)


def layer(unit: str) -> int:
    """The number of a unit's layer; that of what is in none is above all."""
    return next((number for number, units in enumerate(LAYERS) if unit in units), len(LAYERS))


# -- the rules -------------------------------------------------------------------------------------


def unknown_units(all_modules: list[Module]) -> list[str]:
    """A new module has its place in the layers."""
    known = {unit for units in LAYERS for unit in units}
    return sorted({module.unit for module in all_modules} - known)


def upward_imports(all_modules: list[Module], *, for_types: bool = False) -> list[str]:
    """Imports that do not point down: to a higher layer, or to a sibling."""
    found = []
    for module in all_modules:
        for each in imports(module):
            if each.target is None or each.is_for_types is not for_types:
                continue
            theirs = each.target.partition(".")[0]
            if theirs == module.unit or theirs in MAY_USE_SIBLINGS.get(module.unit, ()):
                continue
            if layer(theirs) >= layer(module.unit):
                found.append(str(each))
    return found


def cycles(all_modules: list[Module]) -> list[str]:
    """Modules that import each other, in whatever way, for types as well; a package imports parts."""
    graph = {
        module.name: {
            each.target
            for each in imports(module)
            if each.target is not None and each.target != module.name
        }
        for module in all_modules
    }
    found = []
    for name, imported in graph.items():
        seen, pending = set[str](), [*imported]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                pending.extend(graph.get(current, ()))
        if name in seen:
            found.append(name or "hopspan")
    return found


def stray_clients(all_modules: list[Module]) -> list[str]:
    """Imports of a client outside of its adapter."""
    found = []
    for module in all_modules:
        for each in imports(module):
            home = CLIENTS.get(each.imported.partition(".")[0])
            if home is not None and module.name != home and not module.name.startswith(f"{home}."):
                found.append(str(each))
    return found


def entangled_adapters(all_modules: list[Module]) -> list[str]:
    """Adapters that import another's, rather than what they share."""
    found = []
    for module in all_modules:
        mine = module.name.split(".")[1] if module.name.startswith("adapters.") else None
        if mine is None:
            continue
        for each in imports(module):
            if each.target is not None and each.target.startswith("adapters."):
                theirs = each.target.split(".")[1]
                is_shared = theirs in SHARED_BY_ADAPTERS
                if (theirs != mine and not is_shared) or (
                    is_shared and mine in SHARED_BY_ADAPTERS and _system(theirs) != _system(mine)
                ):
                    found.append(str(each))
    return found


def _system(shared: str) -> str:
    """The system of a shared part: `amqp_ledger` and `kafka_common` are named after theirs."""
    return shared.split("_", maxsplit=1)[0]


def literals(module: Module) -> Iterator[tuple[int, str]]:
    """Strings of a module that are no documentation."""
    documentation = {
        node.value
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module.tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in documentation:
            assert isinstance(node, ast.Constant)
            yield node.lineno, str(node.value)


SYSTEMS = {
    "adapters.amqp": "rabbitmq",
    "adapters.kafka_common": "kafka",
    "adapters.celery": "celery",
}
"""Whose prefix a shared part or an adapter may spell."""


def spelled_conventions(all_modules: list[Module]) -> list[str]:
    """Attribute names spelled anywhere but in `conventions`; an adapter has its system's own."""
    found = []
    for module in all_modules:
        if module.name == "conventions":
            continue
        own = SYSTEMS.get(module.name)
        for line, text in literals(module):
            spells = text.startswith(("messaging.", "error.type", "exception."))
            if spells and not (own and text.startswith(f"messaging.{own}.")):
                found.append(f"{module.name}:{line} spells {text!r}")
    return found


def clients_named(all_modules: list[Module]) -> list[str]:
    """Strings of the core that name a client or a broker: what is special about one is its adapter's."""
    return [
        f"{module.name}:{line} names {text!r}"
        for module in all_modules
        if module.unit in CORE
        for line, text in literals(module)
        if NAMES_OF_CLIENTS.search(text)
    ]


def calls(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def span_keepers(all_modules: list[Module]) -> list[str]:
    """Code outside of telemetry that starts or ends a span."""
    found = []
    for module in all_modules:
        if module.unit == "telemetry":
            continue
        for line, function in calls(module):
            object_, _, name = function.rpartition(".")
            starts = name in {"start_span", "start_as_current_span", "use_span"}
            if starts or (name == "end" and object_.endswith("span")):
                found.append(f"{module.name}:{line} calls {function}")
    return found


_WRITING = (".replaced", ".with_traceparent", "propagate.inject", "get_global_textmap")


def header_writers(all_modules: list[Module]) -> list[str]:
    """Code outside of propagation that knows a propagator, or asks for an injection by itself."""
    found = []
    for module in all_modules:
        if module.unit == PROPAGATES:
            continue
        found.extend(
            str(each)
            for each in imports(module)
            if each.imported.startswith("opentelemetry.propagat")
        )
        for line, function in calls(module):
            if function.endswith(_WRITING):
                found.append(f"{module.name}:{line} calls {function}")
    return found


def code_lines(module: Module) -> set[int]:
    """The lines that are neither documentation nor comment nor blank."""
    documentation = {
        line
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    no_code = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type not in no_code
        for line in range(token.start[0], token.end[0] + 1)
    }
    return lines - documentation


def sizes(all_modules: list[Module]) -> dict[str, int]:
    """Lines of code of each file."""
    return {module.name: len(code_lines(module)) for module in all_modules}


def oversized(all_modules: list[Module]) -> list[str]:
    """Files that have outgrown one idea, and are not excused."""
    return [
        f"{name or 'hopspan'}: {lines} lines, of {MOST_LINES} at most"
        for name, lines in sizes(all_modules).items()
        if lines > MOST_LINES and name not in LONGER
    ]


def adapter_sizes(all_modules: list[Module]) -> dict[str, int]:
    """Lines of code of each adapter, with all of its files and without the shared parts."""
    found: dict[str, int] = {}
    for name, lines in sizes(all_modules).items():
        package, _, rest = name.partition(".")
        adapter = rest.partition(".")[0]
        if package == "adapters" and adapter and adapter not in SHARED_BY_ADAPTERS:
            found[adapter] = found.get(adapter, 0) + lines
    return found


def limit_of(adapter: str) -> int | None:
    """How many lines an adapter may have; None for a framework's."""
    if adapter in FRAMEWORKS:
        return None
    return MOST_LINES_OF_SECOND_CLIENT if adapter in SECOND_CLIENTS else MOST_LINES_OF_ADAPTER


def oversized_adapters(all_modules: list[Module]) -> list[str]:
    """Adapters that are more than reading and settling messages, and are not excused."""
    return [
        f"{adapter}: {lines} lines, of {most} at most"
        for adapter, lines in adapter_sizes(all_modules).items()
        if (most := limit_of(adapter)) is not None
        and lines > most
        and adapter not in LONGER_ADAPTERS
    ]


def function_lengths(all_modules: list[Module]) -> list[tuple[int, str]]:
    """Lines of code in the body of each function, with its name."""
    found = []
    for module in all_modules:
        lines = code_lines(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
                found.append((len(lines & set(body)), f"{module.name}.{node.name}"))
    return found


def clients_imported(all_modules: list[Module]) -> list[str]:
    """Packages besides OpenTelemetry and the standard library that the core imports at run time."""
    found = []
    for module in all_modules:
        if module.unit in {"adapters", "cli", "sdk", "testing"}:
            continue
        for each in imports(module):
            top = each.imported.partition(".")[0]
            known = top in {"hopspan", "opentelemetry"} or top in sys.stdlib_module_names
            if not known and not each.is_for_types:
                found.append(str(each))
    return found


Rule = Callable[[list[Module]], list[str]]
RULES: tuple[Rule, ...] = (
    unknown_units,
    upward_imports,
    cycles,
    stray_clients,
    entangled_adapters,
    spelled_conventions,
    clients_named,
    span_keepers,
    header_writers,
    clients_imported,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(modules()) == []


def test_imports_for_types_point_down_as_well() -> None:
    assert upward_imports(modules(), for_types=True) == []


def test_files_hold_one_idea_each() -> None:
    """Up to 400 lines of code, documentation and comments not counted."""
    table = "\n".join(
        f"{lines:5}  {name or 'hopspan'}"
        for name, lines in sorted(sizes(modules()).items(), key=lambda item: -item[1])
    )
    assert oversized(modules()) == [], f"\n{table}"


def test_every_longer_file_is_still_longer_and_explained() -> None:
    """An excuse that is not needed any more goes, and one that is needed is told."""
    lines = sizes(modules())
    for name, reason in LONGER.items():
        assert lines[name] > MOST_LINES, f"{name} has {lines[name]} lines and needs no excuse"
        assert reason in rationale(), f"docs/rationale.md does not tell why {name} is longer"


def test_an_adapter_reads_and_settles_and_does_little_else() -> None:
    """One of a client has up to 450 lines of code with all its files, a further one of a system 300."""
    table = "\n".join(f"{lines:5}  {name}" for name, lines in adapter_sizes(modules()).items())
    assert oversized_adapters(modules()) == [], f"\n{table}"


def test_every_longer_adapter_is_still_longer_and_explained() -> None:
    lines = adapter_sizes(modules())
    for name, reason in LONGER_ADAPTERS.items():
        limit = limit_of(name)
        assert limit is not None
        assert lines[name] > limit, f"{name} has {lines[name]} lines and needs no excuse"
        assert reason in rationale(), f"docs/rationale.md does not tell why {name} is longer"


def rationale() -> str:
    """The page that tells why, as one line."""
    return " ".join((ROOT / "docs" / "rationale.md").read_text().split())


def test_functions_are_a_few_lines() -> None:
    """Their median is about six."""
    lengths = function_lengths(modules())
    longest = "\n".join(f"{lines:5}  {name}" for lines, name in sorted(lengths)[-10:])
    assert statistics.median(lines for lines, _ in lengths) <= MEDIAN_FUNCTION, f"\n{longest}"


# -- the rules find what they are for --------------------------------------------------------------

BROKEN: list[tuple[Rule, Mapping[str, str], list[str]]] = [
    (unknown_units, {"helpers": ""}, ["helpers"]),
    (
        upward_imports,
        {"conventions": "from hopspan.telemetry import Operation"},
        ["conventions:1 imports hopspan.telemetry"],
    ),
    (
        upward_imports,
        {"settlement": "from hopspan import conventions"},
        ["settlement:1 imports hopspan.conventions"],
    ),
    (
        upward_imports,
        {"delivery.loop": "def f():\n    import hopspan.adapters.pika"},
        ["delivery.loop:2 imports hopspan.adapters.pika"],
    ),
    (
        upward_imports,
        {"delivery.loop": "from hopspan.processing import begin"},
        ["delivery.loop:1 imports hopspan.processing"],
    ),
    (upward_imports, {"telemetry.spans": "from hopspan.telemetry.scopes import Overrides"}, []),
    (upward_imports, {"model": "if TYPE_CHECKING:\n    from hopspan.config import Config"}, []),
    (upward_imports, {"cli": "import hopspan.doctor"}, []),
    (
        upward_imports,
        {"testing.memory": "import hopspan.doctor"},
        ["testing.memory:1 imports hopspan.doctor"],
    ),
    (
        cycles,
        {
            "delivery.loop": "from hopspan.delivery.entering import current",
            "delivery.entering": "from hopspan.delivery.loop import Loop",
        },
        ["delivery.loop", "delivery.entering"],
    ),
    (
        cycles,
        {
            "delivery.loop": "from hopspan.delivery.entering import current",
            "delivery.entering": (
                "if typing.TYPE_CHECKING:\n    from hopspan.delivery.loop import Loop"
            ),
        },
        ["delivery.loop", "delivery.entering"],
    ),
    (
        stray_clients,
        {"interception.points": "import pika.spec"},
        ["interception.points:1 imports pika.spec"],
    ),
    (
        stray_clients,
        {"adapters.pika_like": "from pika import spec"},
        ["adapters.pika_like:1 imports pika.spec"],
    ),
    (stray_clients, {"adapters.pika": "import pika", "adapters.pika.calls": "import pika"}, []),
    (
        entangled_adapters,
        {"adapters.kafka": "from hopspan.adapters.pika import hop"},
        ["adapters.kafka:1 imports hopspan.adapters.pika"],
    ),
    (
        entangled_adapters,
        {"adapters.kafka_common": "from hopspan.adapters import amqp"},
        ["adapters.kafka_common:1 imports hopspan.adapters.amqp"],
    ),
    (entangled_adapters, {"adapters.pika.points": "from hopspan.adapters import amqp"}, []),
    (entangled_adapters, {"adapters.amqp_ledger": "from hopspan.adapters import amqp"}, []),
    (
        spelled_conventions,
        {"telemetry.spans": 'X = "error.type"\nY = f"messaging.{x}"'},
        ["telemetry.spans:1 spells 'error.type'", "telemetry.spans:2 spells 'messaging.'"],
    ),
    (
        spelled_conventions,
        {"adapters.amqp": 'A = "messaging.rabbitmq.x"\nB = "messaging.kafka.x"'},
        ["adapters.amqp:2 spells 'messaging.kafka.x'"],
    ),
    (
        spelled_conventions,
        {"adapters.pika.calls": 'A = "messaging.rabbitmq.x"'},
        ["adapters.pika.calls:1 spells 'messaging.rabbitmq.x'"],
    ),
    (
        spelled_conventions,
        {"config": '"""messaging.system"""\nX = 1\n"""`error.type`"""'},
        [],
    ),
    (
        span_keepers,
        {"delivery.delivery": "tracer.start_span('x')\nself._span.end()\noperation.end()"},
        [
            "delivery.delivery:1 calls tracer.start_span",
            "delivery.delivery:2 calls self._span.end",
        ],
    ),
    (span_keepers, {"telemetry.spans": "self.span.end()"}, []),
    (
        header_writers,
        {"telemetry.instrumenter": "from opentelemetry import propagate"},
        ["telemetry.instrumenter:1 imports opentelemetry.propagate"],
    ),
    (
        header_writers,
        {"telemetry.instrumenter": "import opentelemetry.propagate\npropagate.inject({})"},
        [
            "telemetry.instrumenter:1 imports opentelemetry.propagate",
            "telemetry.instrumenter:2 calls propagate.inject",
        ],
    ),
    (header_writers, {"adapters.pika.calls": "codec.replaced({}, s, f)"}, [
        "adapters.pika.calls:1 calls codec.replaced",
    ]),
    (clients_imported, {"model": "import wrapt"}, ["model:1 imports wrapt"]),
    (clients_imported, {"model": "if TYPE_CHECKING:\n    import typing_extensions"}, []),
    (
        clients_named,
        {"delivery.loop": 'X = f"{y} of pika"\nY = "RabbitMQ"\nZ = "delivery"'},
        ["delivery.loop:2 names 'RabbitMQ'", "delivery.loop:1 names ' of pika'"],
    ),
    (clients_named, {"telemetry.spans": '"""As pika does."""\nX = 1\n"""Of kafka."""'}, []),
    (clients_named, {"adapters.pika": 'X = "pika"', "instrumentation": 'X = "celery"'}, []),
    (oversized, {"config": "x = 1\n" * 401}, ["config: 401 lines, of 400 at most"]),
    (oversized, {"config": "x = 1\n" * 400 + '"""no\ncode"""\n# none\n\n'}, []),
    (
        oversized_adapters,
        {"adapters.nats": "x = 1\n" * 200, "adapters.nats.reading": "x = 1\n" * 251},
        ["nats: 451 lines, of 450 at most"],
    ),
    (oversized_adapters, {"adapters.nats": "x = 1\n" * 450, "adapters.amqp": "x = 1\n" * 999}, []),
    (
        oversized_adapters,
        {"adapters.aiokafka": "x = 1\n" * 301},
        ["aiokafka: 301 lines, of 300 at most"],
    ),
    (oversized_adapters, {"adapters.celery": "x = 1\n" * 999}, []),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "texts", "broken"), BROKEN)
def test_the_rule_finds_what_it_is_for(
    rule: Rule, texts: Mapping[str, str], broken: list[str]
) -> None:
    assert rule([Module(name, text) for name, text in texts.items()]) == broken


def test_functions_are_measured_without_documentation() -> None:
    text = 'def f():\n    """One\n    two."""\n    # three\n    x = 1\n\n    return x\n'
    assert function_lengths([Module("config", text)]) == [(2, "config.f")]
