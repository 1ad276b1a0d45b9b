"""Receivers with certificates, an environment without anybody's settings, and applications."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hopspan import faults
from tests.doctor.programs import Doctor


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith(("HOPSPAN_", "OTEL_")):
            monkeypatch.delenv(name)
    yield
    faults.forget()


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Files: the authority, a client's certificate and key, a server's, and a strange authority."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority"))
    stranger.cert_pem.write_to_path(str(folder / "stranger"))
    for name, issued in (
        ("server", authority.issue_cert("localhost")),
        ("client", authority.issue_cert("client")),
        ("impostor", stranger.issue_cert("client")),
    ):
        issued.private_key_pem.write_to_path(str(folder / f"{name}-key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / name))
    return {each.name: str(each) for each in folder.iterdir()}
