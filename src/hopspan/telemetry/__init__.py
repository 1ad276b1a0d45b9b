"""From values to spans: starting operations, choosing parents and links, recording exceptions.

It knows nothing of clients, policies or settlement. An `Instrumenter` is immutable and shared by
all threads and tasks.
"""

from hopspan.telemetry.faces import (
    CONSUMER,
    NO_SETTINGS,
    Binding,
    Face,
    binding_of,
    face_for,
    forget_defaults,
    in_force,
    install,
    instrumenter_for,
    keep_binding,
)
from hopspan.telemetry.instrumenter import Instrumenter
from hopspan.telemetry.internal import start_internal
from hopspan.telemetry.links import most as most_links
from hopspan.telemetry.parents import of_message
from hopspan.telemetry.several import Several, common_endpoint, uncounted
from hopspan.telemetry.spans import Operation
from hopspan.telemetry.suppression import is_suppressed, without_nested

__all__ = [
    "CONSUMER",
    "NO_SETTINGS",
    "Binding",
    "Face",
    "Instrumenter",
    "Operation",
    "Several",
    "binding_of",
    "common_endpoint",
    "face_for",
    "forget_defaults",
    "in_force",
    "install",
    "instrumenter_for",
    "is_suppressed",
    "keep_binding",
    "most_links",
    "of_message",
    "start_internal",
    "uncounted",
    "without_nested",
]
