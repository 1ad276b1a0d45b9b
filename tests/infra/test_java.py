"""What is needed to run Kafka, found or named: a Java that is new enough, Maven, and the jars."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.brokers import kafka
from integration.brokers.java import cache_folder, fetch_jars, find_java, java_version
from integration.brokers.services import NotHereError
from tests.infra.stand_ins import java_of, script

ARTIFACTS = ("org.example:broker:4.1.0", "org.example:logging:1.7")
# Does what is asked of the plugin, and keeps the question.
MAVEN = """#!/bin/sh
echo "$*" >>"{folder}/calls"
for argument; do case $argument in
    --file=*) cp "${{argument#*=}}" "{folder}/pom.xml" ;;
    -DoutputDirectory=*) mkdir "${{argument#*=}}"; echo >"${{argument#*=}}/broker-4.1.0.jar" ;;
esac; done
{then}
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the only programs there are, besides the system's own shell."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cp", "mkdir"):
        (programs / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return programs


def missing(error: pytest.ExceptionInfo[NotHereError]) -> tuple[str, str]:
    """Return what is missing and what to do about it."""
    return str(error.value), error.value.advice


# --- Java ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "version"), [("17.0.15", 17), ("21", 21), ("1.8.0_392", 8), ("25-ea", 25)]
)
def test_the_release_of_a_java_is_read(tmp_path: Path, told: str, version: int) -> None:
    assert java_version(java_of(tmp_path / "java", told)) == version


def test_a_java_that_does_not_run_has_no_release(tmp_path: Path) -> None:
    asks = script(tmp_path / "java", "#!/bin/sh\necho 'Unable to locate a Java Runtime.'; exit 1\n")
    assert (java_version(str(asks)), java_version("/nowhere/java")) == (0, 0)


def test_the_java_of_java_home_is_taken_before_the_one_on_path(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = java_of(machine / "java", "21")
    assert find_java(17) == on_path
    at_home = java_of(tmp_path / "jdk" / "bin" / "java", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java(17) == at_home
    assert find_java(18) == on_path


def test_without_java_one_is_to_be_installed(machine: Path) -> None:
    expected = ("there is no Java in JAVA_HOME or on PATH", "install a JDK 17 or newer")
    with pytest.raises(NotHereError) as error:
        kafka.provide_kafka()
    assert missing(error) == expected
    script(machine / "java", "#!/bin/sh\nexit 1\n")
    with pytest.raises(NotHereError) as error:
        kafka.provide_kafka()
    assert missing(error) == expected


def test_a_java_that_is_too_old_is_named(machine: Path) -> None:
    old = java_of(machine / "java", "1.8.0_392")
    with pytest.raises(NotHereError) as error:
        kafka.provide_kafka()
    assert missing(error) == (
        f"{old} is Java 8, too old for it",
        "install a JDK 17 or newer and set JAVA_HOME to it",
    )


# --- Maven and the jars --------------------------------------------------------------------------


def test_jars_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache" / "hopspan"
    assert kafka.jars_folder() == tmp_path / "cache" / "hopspan" / "kafka-4.1.0"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unusable in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == Path("/home/somebody/.cache/hopspan")


def test_jars_are_fetched_once_with_all_they_need_at_run_time(
    machine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script(machine / "mvn", MAVEN.format(folder=tmp_path, then=""))
    jars = tmp_path / "cache" / "hopspan" / "jars"
    fetch_jars(jars, ARTIFACTS)
    fetch_jars(jars, ARTIFACTS)
    assert [jar.name for jar in jars.iterdir()] == ["broker-4.1.0.jar"]
    assert list(jars.parent.iterdir()) == [jars]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert ":copy-dependencies -DincludeScope=runtime -DoutputDirectory=" in call
    pom = " ".join((tmp_path / "pom.xml").read_text().split())
    for artifact in ARTIFACTS:
        group, name, version = artifact.split(":")
        assert (
            f"<groupId>{group}</groupId> <artifactId>{name}</artifactId> "
            f"<version>{version}</version>"
        ) in pom
    said = f"org.example:broker:4.1.0: fetching it into {jars}, once\n"
    assert capfd.readouterr().err == said


def test_jars_that_are_there_need_no_maven(machine: Path) -> None:
    java = java_of(machine / "java", "17")
    kafka.jars_folder().mkdir(parents=True)
    assert kafka.provide_kafka() == java


def test_without_maven_it_is_to_be_installed(machine: Path) -> None:
    java_of(machine / "java", "17")
    with pytest.raises(NotHereError) as error:
        kafka.provide_kafka()
    assert missing(error) == (
        "there is no Maven (mvn) on PATH to fetch its jars with",
        "install maven",
    )


def test_jars_that_cannot_be_reached_leave_nothing_behind(machine: Path, tmp_path: Path) -> None:
    script(machine / "mvn", MAVEN.format(folder=tmp_path, then="exit 1"))
    jars = tmp_path / "cache" / "jars"
    with pytest.raises(NotHereError) as error:
        fetch_jars(jars, ARTIFACTS)
    assert missing(error) == (
        "Maven could not fetch org.example:broker:4.1.0, see its output above",
        "give Maven a repository to fetch from, once (the jars are kept)",
    )
    assert list(jars.parent.iterdir()) == []


def test_another_checkout_may_be_faster(machine: Path, tmp_path: Path) -> None:
    jars = tmp_path / "cache" / "jars"
    theirs = f'mkdir "{jars}"; echo >"{jars}/theirs.jar"'
    script(machine / "mvn", MAVEN.format(folder=tmp_path, then=theirs))
    fetch_jars(jars, ARTIFACTS)
    assert [jar.name for jar in jars.iterdir()] == ["theirs.jar"]
    assert list(jars.parent.iterdir()) == [jars]
