"""The command `hopspan`: `hopspan demo` shows what it does, on a real broker in real processes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BROKER = "amqp://guest:guest@localhost:5672/%2F"

_DEMO = """\
Run the three services of examples/orders, each in a process of its own, send
orders through RabbitMQ, and show the trace of each as a tree: some succeed, one
is requeued first, one is dead-lettered. Nothing is left on the broker.
"""
_ENVIRONMENT = """\
environment:
  TEST_RABBITMQ_URL            the broker, where --broker is not given
  NO_COLOR, FORCE_COLOR        never, or always, use colours
  OTEL_EXPORTER_OTLP_ENDPOINT  export the spans there as well, for example to
                               http://localhost:4318, where Jaeger listens

In a checkout of hopspan, scripts/demo starts a RabbitMQ for the demo and stops
it afterwards.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. An error is one message on standard error, and 1."""
    options = _parser().parse_args(argv)
    try:
        return _demo(options.broker, plain=options.plain)
    except BrokenPipeError:  # the reader of our output has seen enough
        # Python flushes standard output once more when it ends; now that finds no broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hopspan", description="Carry traces across message brokers, and settle messages."
    )
    parser.add_argument("--version", action="version", version=f"hopspan {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="send orders through RabbitMQ and show their traces",
        description=_DEMO,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = DEFAULT_BROKER.replace("%", "%%")  # argparse formats help texts
    demo.add_argument("--broker", metavar="URL", help=f"RabbitMQ, {default} by default")
    demo.add_argument("--plain", action="store_true", help="no colours, ASCII only")
    return parser


def _demo(broker: str | None, *, plain: bool) -> int:
    try:
        from hopspan import demo  # noqa: PLC0415 - needs what the bare package does not
        from hopspan.demo.terminal import terminal_of  # noqa: PLC0415
    except ImportError as error:
        return _fail(
            f"the demo needs pika and the OpenTelemetry SDK ({error}): pip install 'hopspan[demo]'"
        )
    url = broker or os.environ.get("TEST_RABBITMQ_URL") or DEFAULT_BROKER
    # Asked to end, we end as after Ctrl-C: nothing stays on the broker.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demo.run(url, _say, terminal_of(sys.stdout, os.environ, plain=plain))
    except demo.DemoError as error:
        return _fail(str(error))
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _say(line: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    # What a service prints may be beyond the terminal; a question mark is better than no demo.
    print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(f"hopspan: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
