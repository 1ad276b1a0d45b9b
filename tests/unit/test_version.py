"""The version of the installed distribution."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from typing import NoReturn

import pytest

import hopspan
from hopspan import version


def test_the_package_tells_it() -> None:
    assert hopspan.__version__ == version.VERSION


def test_a_source_tree_that_was_never_installed_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", missing)
        assert importlib.reload(version).VERSION == "0"
    importlib.reload(version)


def test_an_installed_distribution_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", {"hopspan": "1.2.3"}.__getitem__)
        assert importlib.reload(version).VERSION == "1.2.3"
    importlib.reload(version)
