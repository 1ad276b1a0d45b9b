"""Destinations that are left untraced."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hopspan.model import Endpoint


def ignoring(patterns: Sequence[str]) -> Callable[[Endpoint], bool] | None:
    """Whether an endpoint's destination or template is one of these; None where none can be."""
    if not patterns:
        return None
    matches = re.compile("|".join(map(fnmatch.translate, patterns))).match

    @lru_cache(maxsize=1024)  # reply queues and per-user keys are endless
    def is_ignored(endpoint: Endpoint) -> bool:
        told = (endpoint.destination, endpoint.template)
        return any(each is not None and matches(each) is not None for each in told)

    return is_ignored
