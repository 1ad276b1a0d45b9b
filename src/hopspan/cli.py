"""The command `hopspan`: `hopspan demo` shows what it does, on a real broker in real processes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from hopspan.model import HopspanError
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEMO = """\
Run the three services of examples/orders, each in a process of its own, send
orders through a broker, and show the trace of each as a tree: some succeed, one
is tried again, one is dead-lettered. Nothing is left behind.
"""
_BROKERS = """\
brokers:
  embedded                     speaks Kafka, comes with hopspan[demo], and lives in
                               memory for as long as the demo
  kafka, kafka://HOST:PORT     yours; without a URL that in TEST_KAFKA_BOOTSTRAP, or
                               else the one on localhost
  rabbitmq, amqp://HOST:PORT   yours; without a URL that in TEST_RABBITMQ_URL, or
                               else the one on localhost. In a checkout of hopspan,
                               scripts/demo --broker rabbitmq starts one

environment:
  NO_COLOR, FORCE_COLOR        never, or always, use colours
  OTEL_EXPORTER_OTLP_ENDPOINT  export the spans there as well, for example to
                               http://localhost:4318, where Jaeger listens
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
        help="send orders through a broker and show their traces",
        description=_DEMO,
        epilog=_BROKERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--broker",
        default="embedded",
        help="embedded, kafka or rabbitmq, or the URL of one; embedded by default",
    )
    demo.add_argument("--plain", action="store_true", help="no colours, ASCII only")
    return parser


def _demo(broker: str, *, plain: bool) -> int:
    # Asked to end, we end as after Ctrl-C: nothing stays on the broker, and no broker.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from hopspan import demo  # noqa: PLC0415 - needs what the bare package does not
        from hopspan.terminal import terminal_of  # noqa: PLC0415

        demo.run(broker, _say, terminal_of(sys.stdout, os.environ, plain=plain))
    except ImportError as error:
        return _fail(
            "the demo needs the OpenTelemetry SDK and the broker's client "
            f"({error}): pip install 'hopspan[demo]'"
        )
    except HopspanError as error:  # a DemoError, which can only be named with the SDK at hand
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
