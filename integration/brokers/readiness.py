"""Waiting until a broker answers, and what it said when it does not."""

from __future__ import annotations

from pathlib import Path

from integration.brokers.processes import is_alive, say
from integration.brokers.services import BrokerError, DiedError, Service, wait_until
from integration.brokers.state import Running

START_SECONDS = 120.0


def await_answer(service: Service, running: Running, folder: Path) -> None:
    """Return when the service answers; raise with its last words when it died or time is over."""

    def died() -> bool:
        return not all(map(is_alive, running.processes))

    say(f"{service.name}: waiting for it to answer")
    wait_until(lambda: died() or service.answers(running.endpoint), START_SECONDS)
    log = last_lines(folder)
    if died():
        raise DiedError(f"{service.name}: ended while starting; its last words:\n{log}")
    if not service.answers(running.endpoint):
        raise BrokerError(
            f"{service.name}: did not answer within {START_SECONDS:.0f} seconds. "
            f"Run scripts/brokers up again, or set {service.variable}; its last words:\n{log}"
        )


def last_lines(folder: Path, count: int = 15) -> str:
    """Return the end of each log in a node's folder, for an error message."""
    logs = {path.name: path.read_text(errors="replace") for path in sorted(folder.glob("*.log"))}
    return "\n".join(
        line
        for name, text in logs.items()
        if text.strip()
        for line in (f"--- {name}", *text.splitlines()[-count:])
    )
