"""The command line: what it takes, and what it hands on."""

from __future__ import annotations

from typing import Any

import pytest

from hopspan import cli, doctor
from hopspan.doctor import Environment, Finding, Level


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the doctor is asked; it finds a warning."""
    questions: list[Any] = []

    def this(app: str | None = None, *, seconds: float = 0.0) -> Environment:
        questions.append((app, seconds))
        return Environment()

    monkeypatch.setattr(doctor, "this", this)
    monkeypatch.setattr(
        doctor, "examine", lambda _: [Finding(Level.WARNING, "it hurts", "rest", "back")]
    )
    return questions


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        ([], (None, 3.0)),
        (["--app", "shop:set_up"], ("shop:set_up", 3.0)),
        (["--app", "shop.wsgi"], ("shop.wsgi", 3.0)),
        (["--app", "shop.main:App.set_up", "--timeout", "0.5"], ("shop.main:App.set_up", 0.5)),
    ],
)
def test_the_doctor_is_asked_about_the_application(
    arguments: list[str], question: Any, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--plain", *arguments]) == 0
    assert asked == [question]
    assert (
        capsys.readouterr().out == "warning  back  it hurts\n               -> rest\n\n1 warning\n"
    )


def test_strict_makes_a_warning_a_failure(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--strict", "--json"]) == 1
    assert '"healthy": false' in capsys.readouterr().out


def test_without_a_command_it_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hopspan {command} ")
