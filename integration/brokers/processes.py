"""Processes that outlive the command that starts them, and the ports they listen on."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from integration.brokers.services import PROBE_SECONDS, BrokerError, wait_until

STOP_SECONDS = 30.0


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    started: str


def process_table() -> dict[int, tuple[int, str]]:
    """Every live process: id -> (parent id, when it started). Zombies are not live."""
    if not Path("/proc/self/stat").exists():
        return parse_ps(output("ps", "-A", "-o", "pid=,ppid=,stat=,lstart="))
    table = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            row = parse_stat(entry.read_text(errors="replace"))
            if row:
                table[int(entry.parent.name)] = row
    return table


def parse_stat(line: str) -> tuple[int, str] | None:
    """Read a line of /proc/*/stat: parent and start; nothing for a process that has ended."""
    # The name is in parentheses and may hold anything, spaces and parentheses included.
    state, parent, *rest = line.rpartition(")")[2].split()
    return None if state in "ZX" else (int(parent), rest[17])


def parse_ps(listing: str) -> dict[int, tuple[int, str]]:
    """Read the lines `pid ppid stat lstart` of ps, on systems without /proc."""
    rows = (line.split(None, 3) for line in listing.splitlines())
    return {
        int(pid): (int(parent), start)
        for pid, parent, stat, start in rows
        if not stat.startswith("Z")
    }


def is_alive(process: Process) -> bool:
    """Whether this very process runs, not merely one that has got its id since."""
    return _is_in(process_table(), process)


def _is_in(table: Mapping[int, tuple[int, str]], process: Process) -> bool:
    # One that had ended before we saw it start has no start to compare.
    return bool(process.started) and table.get(process.pid, (0, ""))[1] == process.started


def with_descendants(processes: tuple[Process, ...]) -> list[Process]:
    """Return those of `processes` that live, and all that they started."""
    table = process_table()
    found = [process for process in processes if _is_in(table, process)]
    for parent in found:  # grows while it is walked: children, then theirs
        found += [Process(pid, at) for pid, (ppid, at) in table.items() if ppid == parent.pid]
    return list(dict.fromkeys(found))


def stop_processes(processes: tuple[Process, ...], patience: float = STOP_SECONDS) -> None:
    """Ask each process to end, in order, then insist; return when all their children are gone."""
    family = with_descendants(processes)
    for process in processes:
        send(process, signal.SIGTERM)
        own = with_descendants((process,))
        wait_until(lambda own=own: not any(map(is_alive, own)), patience)
    for process in family:
        send(process, signal.SIGKILL)
    if not wait_until(lambda: not any(map(is_alive, family)), STOP_SECONDS):
        left = ", ".join(str(p.pid) for p in family if is_alive(p))
        raise BrokerError(f"processes {left} do not end; stop them, then run scripts/brokers down")


def send(process: Process, number: int) -> None:
    """Send a signal to this very process, if it still runs."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def spawn(command: list[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a process that outlives us."""
    return identify(launch(command, env, log).pid)


def launch(command: list[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with nothing of ours open in it."""
    with log.open("ab") as stdout:
        return subprocess.Popen(
            command,
            env=env,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def identify(pid: int) -> Process:
    """Return the process that has this id now."""
    return Process(pid, process_table().get(pid, (0, ""))[1])


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing uses now, all different.

    From below the range the system takes ports for outgoing connections from: a broker listens
    seconds after we have looked.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = 20000 + secrets.randbelow(12000)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


_held: list[socket.socket] = []


def closed_port() -> int:
    """Return a loopback port where nobody answers, now or later.

    Bound and never listened at, so that the system gives it to nobody else while we live.
    """
    if not _held:
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        atexit.register(held.close)
        _held.append(held)
    port: int = _held[0].getsockname()[1]
    return port


def is_open(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(PROBE_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def succeeds(*command: str, seconds: float = 15) -> bool:
    """Whether a question put as a command is answered with success, soon, and in silence."""
    try:
        subprocess.run(command, capture_output=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def output(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run(
    *command: str,
    failure: str,
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> None:
    """Run a command for its effect, with its output on stderr: stdout is for the export lines."""
    nothing = subprocess.DEVNULL
    try:
        subprocess.run(
            command, stdout=sys.stderr, stdin=nothing, env=env, timeout=seconds, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(f"{failure}: {error}") from error


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, file=sys.stderr, flush=True)
