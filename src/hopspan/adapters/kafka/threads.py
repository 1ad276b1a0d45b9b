"""Which thread is the consumer's, before anybody has seen it polling."""

from __future__ import annotations

import threading


def is_alone() -> bool:
    """Whether this must be the consumer's thread: there is no other, but for the client's own.

    Where there is, it may be a pool's, and the next poll has to tell.
    """
    others = [each for each in threading.enumerate() if each is not threading.current_thread()]
    return all(each.name.startswith("kafka") or "-network-thread" in each.name for each in others)
