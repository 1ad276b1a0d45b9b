"""A Java that is new enough, and jars from Maven Central, fetched once and kept for good."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from integration.brokers.processes import run, say
from integration.brokers.services import BrokerError, NotHereError

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
FETCH_SECONDS = 600.0
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>hopspan</groupId>
  <artifactId>brokers</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>{dependencies}
  </dependencies>
</project>
"""
DEPENDENCY = """
    <dependency>
      <groupId>{}</groupId>
      <artifactId>{}</artifactId>
      <version>{}</version>
    </dependency>"""


def find_java(oldest: int) -> str:
    """Return the first java of JAVA_HOME and PATH that is new enough, or raise `NotHereError`."""
    home = os.environ.get("JAVA_HOME")
    known = [shutil.which(str(Path(home, "bin", "java"))) if home else None, shutil.which("java")]
    versions = {java: java_version(java) for java in known if java}
    for java, version in versions.items():
        if version >= oldest:
            return java
    advice = f"install a JDK {oldest} or newer"
    for java, version in versions.items():
        if version:
            lack = f"{java} is Java {version}, too old for it"
            raise NotHereError(lack, f"{advice} and set JAVA_HOME to it")
    raise NotHereError("there is no Java in JAVA_HOME or on PATH", advice)


def java_version(java: str) -> int:
    """Return the feature release of a java, 0 when it does not run: macOS has one that only asks."""
    try:
        command = [java, "-version"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    # Before Java 9 they counted 1.7, 1.8.
    found = re.search(r'version "(?:1\.)?(\d+)', told.stderr)
    return int(found[1]) if found else 0


def cache_folder() -> Path:
    """Return the folder in the user's cache for what is fetched once."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "hopspan"


def fetch_jars(folder: Path, artifacts: tuple[str, ...]) -> None:
    """Have the artifacts (`group:name:version`) and all they need at run time in `folder`.

    It is there whole or not at all, also when two checkouts fetch at the same time. Raises
    `NotHereError` when it cannot be had.
    """
    if folder.exists():
        return
    mvn = shutil.which("mvn")
    if not mvn:
        raise NotHereError(
            "there is no Maven (mvn) on PATH to fetch its jars with", "install maven"
        )
    say(f"{artifacts[0]}: fetching it into {folder}, once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
        jars = Path(scratch, "jars")
        copy_dependencies(mvn, artifacts, jars)
        try:
            jars.rename(folder)
        except OSError:
            if not folder.exists():  # else another checkout was faster
                raise


def copy_dependencies(mvn: str, artifacts: tuple[str, ...], jars: Path) -> None:
    """Let Maven resolve the artifacts and copy them and their dependencies to `jars`."""
    pom = jars.with_name("pom.xml")
    dependencies = "".join(DEPENDENCY.format(*each.split(":")) for each in artifacts)
    pom.write_text(POM.format(dependencies=dependencies))
    quietly = ("--batch-mode", "--quiet", "-Dstyle.color=never", f"--file={pom}")
    goal = (f"{PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}")
    try:
        run(mvn, *quietly, *goal, failure="Maven", seconds=FETCH_SECONDS)
    except BrokerError:
        lack = f"Maven could not fetch {artifacts[0]}, see its output above"
        advice = "give Maven a repository to fetch from, once (the jars are kept)"
        raise NotHereError(lack, advice) from None
