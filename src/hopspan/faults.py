"""hopspan's own faults: logged once per place, never raised into the user's message path."""

from __future__ import annotations

import logging
import sys
import traceback

__all__ = ["logger", "once", "report"]

logger: logging.Logger = logging.getLogger("hopspan")

_MOST_PLACES = 1024
_seen: set[tuple[object, ...]] = set()


def once(message: str, *args: object, level: int = logging.WARNING, exc_info: bool = False) -> None:
    """Log a message the first time that it is said with these arguments; forget it afterwards.

    Thread-safe: two threads that say the same for the first time may both log it.
    """
    place = (message, *args)
    if place in _seen or len(_seen) >= _MOST_PLACES:
        return
    _seen.add(place)
    logger.log(level, message, *args, exc_info=exc_info)


def report(doing: str, level: int = logging.ERROR) -> None:
    """Log the exception that is being handled, once for the line of code that raised it.

    Args:
        doing: What hopspan was about, for the log line; the message it belonged to went on
            unharmed.
        level: How grave it is.
    """
    kind, error, frames = sys.exc_info()
    last = traceback.extract_tb(frames)[-1] if frames else None
    place = (doing, kind, last and last.filename, last and last.lineno)
    if place in _seen or len(_seen) >= _MOST_PLACES:
        return
    _seen.add(place)
    logger.log(
        level,
        "hopspan failed at %s (%s); the message went on without it. "
        "Further failures of this kind are silent",
        doing,
        type(error).__name__,
        exc_info=True,
    )


def forget() -> None:
    """Forget what was logged. For tests."""
    _seen.clear()
