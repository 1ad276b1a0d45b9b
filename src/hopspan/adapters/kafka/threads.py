"""Which thread is the consumer's, before anybody has seen it polling."""

from __future__ import annotations

import threading


def is_alone() -> bool:
    """Whether this is most likely the consumer's thread: the application has no other.

    Where it has, that may be a pool's or the one that polls, and the next poll has to tell. Daemons
    are taken for the libraries' own: those of clients, exporters and metric readers.
    """
    here = threading.current_thread()
    return all(each is here or each.daemon for each in threading.enumerate())
