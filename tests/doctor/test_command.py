"""The command as people and pipelines call it: a table, JSON, an exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hopspan import cli
from hopspan.doctor import CHECKS, Finding, Level, healthy, report
from hopspan.terminal import ASCII, BOX, Terminal
from hopspan.version import VERSION
from tests.doctor.programs import DEADLINE, Doctor, clean
from tests.doctor.test_receivers import listening

WELL = {
    "OTEL_SERVICE_NAME": "orders",
    "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.4,deployment.environment.name=production",
    "HOPSPAN_BAGGAGE_ALLOW": "tenant_id",
}

FINDINGS = [
    Finding(Level.OK, "tracecontext, baggage", "", "propagators"),
    Finding(
        Level.ERROR,
        "localhost:4317 cannot be reached: Connection refused",
        "start a collector there, or OTEL_EXPORTER_OTLP_ENDPOINT=https://HOST:PORT",
        "exporter",
    ),
    Finding(
        Level.WARNING,
        "the queue holds 100 spans, the preset production 2048: a burst is dropped",
        "OTEL_BSP_MAX_QUEUE_SIZE=2048 or more",
        "queue",
    ),
    Finding(Level.WARNING, "a second", "mend it", "queue"),
    Finding(Level.HINT, "could be better", "make it so", "sampler"),
]


# -- the table -------------------------------------------------------------------------------------


def test_the_table_has_levels_checks_findings_and_how_to_mend_them() -> None:
    assert report.table(FINDINGS, Terminal(BOX, coloured=False, columns=60)) == [
        "ok       propagators  tracecontext, baggage",
        "error    exporter     localhost:4317 cannot be reached:",
        "                      Connection refused",
        "                      → start a collector there, or",
        "                        OTEL_EXPORTER_OTLP_ENDPOINT=https://HOST:PORT",
        "warning  queue        the queue holds 100 spans, the preset",
        "                      production 2048: a burst is dropped",
        "                      → OTEL_BSP_MAX_QUEUE_SIZE=2048 or more",
        "warning  queue        a second",
        "                      → mend it",
        "hint     sampler      could be better",
        "                      → make it so",
        "",
        "1 error · 2 warnings · 1 hint · 1 ok",
    ]


def test_the_table_needs_nothing_but_ascii() -> None:
    lines = report.table(FINDINGS, Terminal(ASCII))
    assert [line for line in lines if not line.isascii()] == []
    assert lines[-1] == "1 error, 2 warnings, 1 hint, 1 ok"


@pytest.mark.parametrize("columns", [0, 50, 72, 100, 200])
def test_the_table_is_as_wide_as_the_terminal_and_a_hundred_at_most(columns: int) -> None:
    """But for what must be left whole, so that it can be copied."""
    lines = report.table(FINDINGS, Terminal(BOX, coloured=False, columns=columns))
    most = min(columns or 100, 100)
    assert [
        line for line in lines if len(line) > most and " HOST" not in line and "=" not in line
    ] == []


def test_colours_are_for_levels_and_remedies_alone() -> None:
    lines = report.table(FINDINGS[1:2], Terminal(BOX, coloured=True, columns=100))
    assert lines == [
        "\033[31merror\033[0m    exporter  localhost:4317 cannot be reached: Connection refused",
        " " * 19 + "\033[1m→ start a collector there, or "
        "OTEL_EXPORTER_OTLP_ENDPOINT=https://HOST:PORT\033[0m",
        "",
        "1 error",
    ]


@pytest.mark.parametrize(
    ("levels", "strict", "expected"),
    [
        ([], False, True),
        ([Level.OK, Level.HINT, Level.WARNING], False, True),
        ([Level.OK, Level.HINT], True, True),
        ([Level.WARNING], True, False),
        ([Level.ERROR], False, False),
    ],
    ids=["nothing", "a warning", "a hint, strict", "a warning, strict", "an error"],
)
def test_only_errors_fail_and_warnings_where_it_is_strict(
    levels: list[Level], strict: bool, expected: bool
) -> None:
    found = [Finding(level, "") for level in levels]
    assert healthy(found, strict=strict) is expected


# -- the process -----------------------------------------------------------------------------------


def console_script() -> str:
    """The command that `pip` has installed beside this interpreter."""
    script = Path(sys.executable).with_name("hopspan")
    if not script.exists():
        pytest.skip("hopspan is not installed as a command")
    return str(script)


def command(
    *arguments: str, variables: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [console_script(), "doctor", *arguments],
        capture_output=True,
        text=True,
        env=clean(variables),
        cwd=cwd,
        timeout=DEADLINE,
        check=False,
    )


def test_the_console_script_fails_with_an_error_and_says_so(tmp_path: Path) -> None:
    variables = {**WELL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = command(variables=variables, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "error exporter 127.0.0.1:9 cannot be reached: Connection refused" in lines
    assert "\033" not in done.stdout


def test_the_console_script_finds_an_application_in_the_folder_where_it_is_called(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text("def set_up():\n    pass\n")
    done = command("--app", "shop:set_up", "--json", variables=WELL, cwd=tmp_path)
    found = {each["check"]: each["what"] for each in json.loads(done.stdout)["findings"]}
    assert found["application"] == "set up, in this process"


def test_all_is_well_is_zero(doctor: Doctor) -> None:
    with listening() as port:
        done = doctor.run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **WELL)
    assert (done.status, done.stderr) == (0, "")


def test_a_warning_is_zero_and_strictly_one(doctor: Doctor) -> None:
    with listening() as port:
        variables = {
            **WELL,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_MAX_QUEUE_SIZE": "600",
        }
        status = [doctor.run(*each, **variables).status for each in ((), ("--strict",))]
    assert status == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--app", "shop:"], "'shop:' is not module:callable"),
        (["--app", "./shop.py"], "'./shop.py' is not module:callable"),
        (["--timeout", "soon"], "'soon' is no number of seconds"),
        (["--timeout", "0"], "'0' is no number of seconds"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_what_is_not_understood_is_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(said)


def test_json_is_all_that_is_on_standard_output(doctor: Doctor) -> None:
    done = doctor.on("print('imported')\ndef set_up():\n    print('called')\n")
    assert done.stderr.splitlines() == ["imported", "called"]
    assert list(done.document) == ["hopspan", "healthy", "counts", "findings"]
    assert (done.document["hopspan"], done.document["healthy"]) == (VERSION, False)
    counts = done.document["counts"]
    assert list(counts) == ["ok", "hint", "warning", "error"]
    levels = [each["level"] for each in done.document["findings"]]
    assert counts == {level: levels.count(level) for level in counts}
    assert {tuple(each) for each in done.document["findings"]} == {
        ("check", "level", "what", "mend")
    }
    known = [check.name for check in CHECKS]
    order = [known.index(each["check"]) for each in done.document["findings"]]
    assert order == sorted(order)


def test_a_module_alone_is_imported(doctor: Doctor) -> None:
    (doctor.folder / "wsgi.py").write_text("import sys\nprint('imported')\n")
    done = doctor.run("--app", "wsgi", "--json")
    assert done.of("application") == [("ok", "set up, in this process", "")]
    assert done.stderr == "imported\n"


def test_it_works_where_the_encoding_has_no_arrows(doctor: Doctor) -> None:
    done = doctor.run(PYTHONIOENCODING="ascii", COLUMNS="80")
    assert done.stdout.isascii()
    assert "-> " in done.stdout
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80 and "OTEL_" not in line] == []
    assert [line for line in lines if len(line) > 72], "or it is not the width that counts"


def test_who_stops_reading_hears_no_complaint(doctor: Doctor) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with io.FileIO(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "hopspan", "doctor"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            env=clean({}),
            cwd=doctor.folder,
            timeout=DEADLINE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_misspelt_propagator_does_not_keep_the_doctor_from_saying_so(doctor: Doctor) -> None:
    """OpenTelemetry refuses to be imported with it."""
    report = doctor.run("--json", OTEL_PROPAGATORS="tracecontex,baggage")
    assert report.of("propagators") == [
        (
            "error",
            "OTEL_PROPAGATORS names 'tracecontex', which is misspelt or not installed: hopspan and "
            "OpenTelemetry refuse to start",
            "OTEL_PROPAGATORS=tracecontext,baggage",
        )
    ]
    report = doctor.on(
        "import hopspan\ndef set_up():\n    hopspan.instrument('pika')",
        OTEL_PROPAGATORS="tracecontex,baggage",
    )
    assert report.of("application")[0][1] == (
        "its set-up failed: ConfigurationError: OTEL_PROPAGATORS='tracecontex,baggage' is not "
        "valid: Propagator tracecontex not found. It is either misspelled or not installed."
    )
