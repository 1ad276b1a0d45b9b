"""The chaos on Kafka: many records, a group of consumers, and faults until all is dealt with.

Faults strike when the ledgers say that so many runs have ended, never at a point in time:

- `kill`: a consumer gets SIGKILL from outside, whatever it is doing, and another one joins;
- `kill at POINT`: SIGKILL at a point of a handler run, see `integration.faults.kafka_worker`;
- `freeze`: a consumer stands still until the group has gone on without it, then wakes up;
- `join`, `leave`: one consumer more; one leaves in good order, and is replaced unless there are
  more than planned;
- `broker stop`, `broker kill`: the broker ends, by SIGTERM or SIGKILL, and comes back with its
  address and its data.

As a command, `python -m integration.faults.kafka_chaos --records 20000`, it prints a report:
duplicates for each commit strategy, and what each costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from integration.brokers.kafka import KafkaNode
from integration.brokers.processes import say
from integration.faults.journal import Tail
from integration.faults.kafka_ledger import Plan, Records, runs_of
from integration.faults.kafka_rates import rates
from integration.faults.kafka_sampler import Sampler
from integration.faults.kafka_topics import Topics
from integration.faults.kafka_verdict import Verdict
from integration.faults.kafka_worker import Settings
from integration.faults.waiting import STEP_SECONDS, OverdueError, wait

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (
    "kill", "broker stop", "kill at ended", "freeze", "join",
    "kill at exporting", "broker kill", "kill at started", "leave", "kill", "leave",
)  # fmt: skip
STRATEGIES = {
    "default": ("iterator default",),
    "every": ("iterator every",),
    "record": ("iterator record",),
    "mixed": (
        "iterator default", "poll record", "deferred default", "batch every", "each default",
        "decorated every",
    ),
    "bare": ("bare record",),
}  # fmt: skip
"""What the consumers of a group are: all with one commit strategy, all ways to work side by side, or
without hopspan, by hand."""
STUCK_SECONDS = 30.0
"""Without progress for so long, consumers are replaced: what was left is handed out anew."""
UNASKED_SECONDS = 15.0
"""A consumer that is to die in a handler run, and gets no record for so long, dies without one."""


class Member(NamedTuple):
    """One life of a consumer."""

    life: int
    way: str
    process: subprocess.Popen[str]
    tail: Tail
    errors: Path

    def tell(self, command: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def complaint(self) -> str:
        """The end of what it wrote to its standard error."""
        return self.errors.read_text()[-3000:]

    def has(self, what: str) -> list[dict[str, Any]]:
        """Its lines of this kind."""
        return [entry for entry in self.tail.entries if entry["what"] == what]


class Chaos:
    """One go at a plan."""

    def __init__(self, plan: Plan, node: KafkaNode, topics: Topics, folder: Path) -> None:
        self._plan, self._node, self._topics, self._folder = plan, node, topics, folder
        self._random = random.Random(plan.seed)  # noqa: S311
        self._all: list[Member] = []
        self._members: list[Member] = []
        """Those that are to be in the group."""
        self._killed: set[int] = set()
        self._struck: list[str] = []
        self._ended = 0
        self._strikes: dict[str, Callable[[str], None]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "join": lambda _: self.join(),
            "leave": self._leave,
            "broker": self._strike_broker,
        }

    # Members

    def join(self) -> None:
        """Begin the next life of a consumer."""
        plan, topics, life = self._plan, self._topics, len(self._all) + 1
        way, ledger = plan.ways[(life - 1) % len(plan.ways)], self._folder / f"life-{life}.jsonl"
        settings = Settings(
            topics.bootstrap,
            topics.topic,
            topics.dead,
            topics.group,
            str(ledger),
            life,
            str(plan.seed),
            way,
            plan.requeues,
            plan.poison,
            plan.session,
        )
        errors = self._folder / f"life-{life}.stderr"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "integration.faults.kafka_worker",
                    json.dumps(settings._asdict()),
                ],
                stdin=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                text=True,
            )
        member = Member(life, way, process, Tail(ledger), errors)
        self._all.append(member)
        self._members.append(member)

    def part(self, member: Member) -> None:
        """Let a consumer leave in peace."""
        self._members.remove(member)
        member.tell("stop")
        code = member.process.wait(STEP_SECONDS)
        assert code == 0, f"{member.way} left with {code}: {member.complaint()}"

    def end(self) -> None:
        """Leave no consumer behind."""
        for member in self._all:
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()
            if member.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    member.process.stdin.close()

    def _follow(self) -> None:
        for member in self._members:
            self._ended += sum(entry["what"] == "end" for entry in member.tail.follow())

    def _expect_alive(self) -> None:
        for member in self._members:
            code = member.process.poll()
            assert code is None, f"{member.way} left with {code}: {member.complaint()}"

    def _has_ended(self, runs: int) -> bool:
        self._follow()
        self._expect_alive()
        return self._ended >= runs

    # Faults

    def rage(self, settled: Callable[[], bool]) -> None:
        """Start the consumers, and strike again and again while the records go down."""
        faults = list(self._plan.faults)
        self._random.shuffle(faults)
        for _ in range(self._plan.members):
            self.join()
        for index, fault in enumerate(faults):
            share = (index + self._random.uniform(0.5, 1.0)) / len(faults) * 0.9
            threshold = max(self._ended + 1, int(share * self._plan.records))
            wait(lambda: self._has_ended(threshold) or settled(), f"{threshold} runs", pause=0.02)  # noqa: B023
            kind, _, detail = fault.partition(" ")
            self._strikes[kind](detail)
            self._struck.append(fault)

    def _kill(self, detail: str) -> None:
        member = self._random.choice(self._members)
        if point := detail.removeprefix("at "):
            member = max(self._members, key=_last_start)
            member.tell(f"die {point}")
            with contextlib.suppress(OverdueError):
                wait(lambda: member.process.poll() is not None, point, UNASKED_SECONDS)
        member.process.kill()
        assert member.process.wait(STEP_SECONDS) == -signal.SIGKILL, member.complaint()
        member.tail.follow()
        self._members.remove(member)
        self._killed.add(member.life)
        self.join()

    def _freeze(self, _: str) -> None:
        member = self._random.choice(self._members)
        before = self._assignments()
        member.process.send_signal(signal.SIGSTOP)
        wait(lambda: self._assignments() > before, "the group without it", pause=0.02)
        member.process.send_signal(signal.SIGCONT)

    def _leave(self, _: str) -> None:
        self.part(self._random.choice(self._members))
        if len(self._members) < self._plan.members:
            self.join()

    def _strike_broker(self, how: str) -> None:
        (self._node.stop if how == "stop" else self._node.kill)()
        self._node.start()

    def _assignments(self) -> int:
        self._follow()
        return sum(len(member.has("assigned")) for member in self._all)

    # The rest

    def calm(self, settled: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Let the consumers go on undisturbed until everything is committed."""
        while not settled():
            before = progress()
            try:
                wait(
                    lambda: self._has_ended(sys.maxsize) or progress() > before or settled(),  # noqa: B023
                    "progress",
                    STUCK_SECONDS,
                    0.02,
                )
            except OverdueError:
                self._replace()
        for member in list(self._members):
            self.part(member)

    def _replace(self) -> None:
        self._struck.append("stuck")
        for member in list(self._members):
            self.part(member)
            self.join()

    def records(self, **known: Any) -> Records:
        """Everything that is known."""
        for member in self._all:
            member.tail.follow()
        return Records(
            plan=self._plan,
            topic=self._topics.topic,
            ways={member.life: member.way for member in self._all},
            runs=[run for each in self._all for run in runs_of(each.life, each.tail.entries)],
            spans=[{**span, "life": each.life} for each in self._all for span in each.has("span")],
            dead=self._topics.dead_letters(),
            commits=self._topics.commits(),
            killed=frozenset(self._killed),
            struck=tuple(self._struck),
            assignments=self._assignments(),
            lost=sum(len(member.has("lost")) for member in self._all),
            troubles=[each["text"] for member in self._all for each in member.has("trouble")],
            **known,
        )


def _last_start(member: Member) -> float:
    starts = member.has("start")
    return starts[-1]["at"] if starts else 0.0


def run(plan: Plan, node: KafkaNode, folder: Path) -> Records:
    """Carry out a plan on a broker of our own, which is running."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = Topics(node.bootstrap, plan.partitions)
    published = topics.publish(plan.records)
    ends = {partition: offset + 1 for partition, offset in sorted(published)}
    began = time.monotonic()
    chaos = Chaos(plan, node, topics, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(chaos.end)
        sampler = stack.enter_context(Sampler(node.bootstrap, topics.group, folder))
        chaos.rage(lambda: sampler.has_all(ends))
        chaos.calm(lambda: sampler.has_all(ends), sampler.total)
        seconds = time.monotonic() - began
    return chaos.records(published=published, samples=sampler.samples, seconds=seconds)


def line(name: str, plan: Plan, node: KafkaNode, folder: Path) -> str:
    """Carry out a plan, judge it, and say what came of it in one line."""
    return f"{name:12}{Verdict(run(plan, node, folder / name)).report()}"


def main(arguments: list[str] | None = None) -> None:
    """Carry out the chaos with each commit strategy, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m integration.faults.kafka_chaos")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="0 for a new one")
    parser.add_argument("--folder", type=Path, help="where to leave what was written down")
    parser.add_argument("--only", choices=STRATEGIES, action="append", help="not all strategies")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kafka-chaos-"))
    seed = options.seed or secrets.randbelow(1_000_000)
    say(f"seed {seed}; what is written down stays in {folder}")
    with KafkaNode(folder / "node") as node:
        for name in options.only or STRATEGIES:
            plan = Plan(options.records, seed, STRATEGIES[name], FAULTS)
            say(line(name, plan, node, folder))
        for rate in rates(node.bootstrap, options.records):
            say(str(rate))


if __name__ == "__main__":
    main()
