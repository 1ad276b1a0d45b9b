"""Programs and peers that stand in for brokers: they speak just enough to be taken for one."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CONNECTION_START = b"\x01\x00\x00\x00\x00\x01\x00\x00\x0a\x00\x0a\x00\x09"
# The size, the correlation id that we send, one broker, then its node id.
KAFKA_REPLY = b"\x00\x00\x00\x0c\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x01"

# Notes how it was called, finds its port, and answers whoever asks.
PROGRAM = """#!{python} -IS
import socket, sys
from pathlib import Path
Path({calls!r}).open("a").write(" ".join(sys.argv[1:]) + "\\n")
port = ({port})(sys.argv)
if port:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1024)
                peer.sendall({reply!r})
"""
TANSU_PORT = "lambda argv: int(argv[argv.index('--listener-url') + 1].rpartition(':')[2])"
REDIS_PORT = "lambda argv: int(argv[argv.index('--port') + 1])"
# The first listener of the settings; a java that only formats needs none.
JAVA_PORT = (
    "lambda argv: 'kafka.Kafka' in argv and "
    "int(Path(argv[-1]).read_text().partition('PLAINTEXT://127.0.0.1:')[2].partition(',')[0])"
)


@contextlib.contextmanager
def server(reply: bytes) -> Iterator[int]:
    """Answer every connection with `reply`, once something was asked; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(1024)
                        peer.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def script(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def broker(path: Path, port: str, reply: bytes) -> Path:
    """Write a program that serves `reply`, and return the log of how it is called."""
    calls = path.with_name(f"{path.name}.calls")
    text = PROGRAM.format(python=sys.executable, calls=str(calls), port=port, reply=reply)
    script(path, text)
    return calls


def java_of(path: Path, version: str) -> str:
    """Write a java that only tells its version, and return its path."""
    told = f"echo 'openjdk version \"{version}\" 2025-04-15' >&2"
    return str(script(path, f"#!/bin/sh\n{told}\n"))
