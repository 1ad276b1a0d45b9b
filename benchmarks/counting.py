"""What a row makes the interpreter do: Python functions entered and bytecodes run, of one message.

Free of noise, and so good for telling which of two versions does less. It says nothing of what is
written in C, and no goal is about it.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterable
from types import FrameType
from typing import Any, NamedTuple

from benchmarks.groups import BARE, Group
from benchmarks.sampling import Row, take

_SETTLED = 200
"""Messages before the one that is counted: what is learnt once is learnt by then."""


class Counts(NamedTuple):
    """Of one message."""

    calls: int
    bytecodes: int
    functions: Counter[str]
    """The bytecodes of each."""


def count(row: Row) -> Counts:
    """Run one message, looking at every bytecode on this thread."""
    take(row, _SETTLED)
    functions: Counter[str] = Counter()
    calls = 0

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal calls
        calls += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)  # Python 3.11
        function = f"{frame.f_globals.get('__name__', '?')}:{name}"

        def look(_frame: FrameType, event: str, _argument: object) -> Any:
            if event == "opcode":
                functions[function] += 1
            return look

        return look

    before = sys.gettrace()
    row.enter()
    try:
        given = row.prepare(1)
        gc.collect()  # what it would finalise is another message's
        gc.disable()
        sys.settrace(enter)
        row.run(given)
    finally:
        sys.settrace(before)
        gc.enable()
        row.leave()
    return Counts(calls - 1, functions.total(), functions)


def report(groups: Iterable[Group], most: int = 25) -> str:
    """A table of the rows of groups; below each the functions of hopspan's that do the most."""
    lines = []
    for group in groups:
        found = {row.name: count(row) for row in group.rows}
        bare = found.get(BARE, Counts(0, 0, Counter()))  # of a batch there is none
        lines += [f"{group.name:<42}calls  bytecodes  (beyond bare)"]
        for name, counts in found.items():
            beyond = f"{counts.calls - bare.calls:>10}{counts.bytecodes - bare.bytecodes:>11}"
            lines.append(f"  {name:<40}{counts.calls:>5}{counts.bytecodes:>11}{beyond}")
        if "hopspan" in found:
            ours = found["hopspan"].functions.most_common()
            of_hopspan = [each for each in ours if each[0].startswith("hopspan.")]
            lines += [f"  {number:>6}  {name}" for name, number in of_hopspan[:most]]
    return "\n".join(lines)
