"""The handle that `setup` returns: flush, shut down within a deadline, and count what was lost."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.metrics import Observation

from hopspan.conventions import ERROR_TYPE, SPANS_DROPPED
from hopspan.faults import logger
from hopspan.sdk.working import Call, Worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from opentelemetry.metrics import CallbackOptions
    from typing_extensions import Self

    from hopspan.sdk.tally import Tally

__all__ = ["Providers", "Telemetry"]

_SHARE_OF_SPANS = 0.7
"""Of the time to shut down, before metrics are asked for, which tell of the spans lost by then."""


class Providers(NamedTuple):
    """What was set up, or was there; None for a signal that is off."""

    tracer: Any = None
    meter: Any = None
    logger: Any = None


class Telemetry:
    """What `hopspan.sdk.setup` has set up. Also a context manager, which shuts down at its end.

    It is shut down by itself when the process ends: see `setup`. All of it may be called from any
    thread, as often as you like; in a forked child it is the child's own.
    """

    def __init__(
        self,
        providers: Providers,
        tallies: Iterable[Tally] = (),
        *,
        preset: str | None = None,
        shutdown_seconds: float = 10.0,
        is_ours: bool = True,
    ) -> None:
        self.preset = preset
        """`development` or `production`; None where somebody else has set the SDK up."""
        self.is_ours = is_ours
        """Whether `setup` made the providers; those of others are flushed, never shut down."""
        self.providers = providers
        self.shutdown_seconds = shutdown_seconds
        self._tallies = tuple(tallies)
        self._workers = {
            signal: Worker(f"hopspan-{signal}")
            for signal, provider in providers._asdict().items()
            if provider is not None
        }
        self._is_reported = False
        self._ends = {
            signal: Call(getattr(self.providers, signal).shutdown, f"shutting down the {signal}")
            for signal in self._workers
        }

    @property
    def dropped_spans(self) -> int:
        """How many sampled spans this process has lost so far; see `dropped_by_reason`."""
        return sum(self.dropped_by_reason.values())

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Lost spans by reason: `queue_full`, `export_failed`, `shut_down`.

        With several exporters, a span that each of them loses is counted for each.
        """
        return dict(sum((each.losses() for each in self._tallies), Counter()))

    def flush(self, seconds: float = 10.0) -> bool:
        """Export all that has ended by now.

        Call it where a process is frozen or ends without Python's help: a serverless function,
        before `os._exit`.

        Args:
            seconds: How long to wait at most.

        Returns:
            Whether all was exported, in that time.
        """
        before = self.dropped_spans
        calls = [
            self._workers[signal].do(Call(provider.force_flush, f"flushing the {signal}"))
            for signal in self._workers
            if hasattr(provider := getattr(self.providers, signal), "force_flush")
        ]
        return wait_for(calls, seconds) and self.dropped_spans == before

    def shutdown(self, seconds: float | None = None) -> bool:
        """Export all that has ended by now, and end. Later spans are lost, and counted.

        Args:
            seconds: How long to wait at most; `shutdown_seconds` of `setup` when omitted. An
                exporter that hangs is left behind, in a thread that does not keep the process.

        Returns:
            Whether all was exported, in that time.
        """
        limit = self.shutdown_seconds if seconds is None else seconds
        if not self.is_ours:
            return self.flush(limit)
        until = time.monotonic() + limit
        first = [self._end(signal) for signal in self._workers if signal != "meter"]
        wait_for(first, limit * _SHARE_OF_SPANS)
        every = [*first, *(self._end(signal) for signal in self._workers if signal == "meter")]
        is_done = wait_for(every, until - time.monotonic())
        return self._report(limit) and is_done

    def _end(self, signal: str) -> Call:
        return self._workers[signal].do(self._ends[signal])

    def _report(self, limit: float) -> bool:
        """Say what is lost, once; whether nothing is."""
        left = sum(each.give_up() for each in self._tallies)
        lost = self.dropped_by_reason
        if lost and not self._is_reported:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(lost.items()))
            late = f"; {left} were not exported within {limit:g} s" if left else ""
            logger.warning("this process lost %d spans (%s)%s", sum(lost.values()), reasons, late)
        self._is_reported = True
        return not lost

    def observe(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002
        """The lost spans so far, for an observable counter."""
        return [
            Observation(count, {ERROR_TYPE: reason})
            for reason, count in self.dropped_by_reason.items()
        ]

    def publish_losses(self) -> None:
        """Have `hopspan.spans.dropped` exported."""
        self.providers.meter.get_meter("hopspan.sdk").create_observable_counter(
            SPANS_DROPPED,
            callbacks=[self.observe],
            unit="{span}",
            description="Sampled spans lost to a full queue, a failed export or the end.",
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Shut down."""
        self.shutdown()

    def __repr__(self) -> str:
        return f"<Telemetry {self.preset or 'of somebody else'}, {self.dropped_spans} spans lost>"
