"""Runs a command for as long as standard input is open: `python keeper.py COMMAND [ARGUMENT ...]`.

A broker reads no input, so it would outlive a demo that was killed. Its keeper does not: the
operating system closes the input when the demo's process is gone, however that went.

Rules of this module: it is run as a script, and imports the standard library only: the demo waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading


def main() -> int:
    """Run the command; return its exit code. When our input ends, so does the command."""
    # As bare as can be: a broker would take some of the environment's settings for its own.
    command = subprocess.Popen(sys.argv[1:], env={}, stdin=subprocess.DEVNULL)  # noqa: S603 - the demo's
    threading.Thread(target=_end_with_our_input, args=(command,), daemon=True).start()
    return command.wait()


def _end_with_our_input(command: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    command.kill()  # all it had was in memory


if __name__ == "__main__":
    sys.exit(main())
