"""Production set-up of the OpenTelemetry SDK: `setup`, with samplers in `samplers`.

::

    import hopspan.sdk

    telemetry = hopspan.sdk.setup(service_name="orders", service_version="1.4")

Needs `pip install 'hopspan[sdk]'`; the rest of hopspan does without, and never imports this.
"""

try:
    import opentelemetry.sdk.trace  # noqa: F401 - only to say clearly that it is missing
except ImportError as _error:
    raise ImportError(
        "hopspan.sdk needs the OpenTelemetry SDK, which is not installed: "
        "pip install 'hopspan[sdk]'"
    ) from _error

from hopspan.sdk.presets import PRESETS, Preset
from hopspan.sdk.samplers import Rule, keep, parent_based_ratio, rule
from hopspan.sdk.setting_up import current, setup
from hopspan.sdk.telemetry import Telemetry

__all__ = [
    "PRESETS",
    "Preset",
    "Rule",
    "Telemetry",
    "current",
    "keep",
    "parent_based_ratio",
    "rule",
    "setup",
]
