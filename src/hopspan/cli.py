"""The command `hopspan`: `demo` shows what it does, `doctor` says what is wrong with a set-up."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from hopspan.model import HopspanError
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEMO_MODULE = "hopspan.examples.demo"
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
_DOCTOR = """\
Look at this environment, and say what is wrong with its telemetry and how to mend it.
Nothing is changed and nothing is sent. Without --app only variables and what is
installed can be looked at.
"""
_STATUS = """\
exit status:
  0   nothing is wrong
  1   there is an error, or with --strict a warning
  2   the command was not understood
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. An error is one message on standard error, and 1."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
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
    _add_demo(commands)
    _add_doctor(commands)
    return parser


def _add_demo(commands: Any) -> None:
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
    demo.set_defaults(run=lambda options: _demo(options.broker, plain=options.plain))


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with the telemetry of this environment",
        description=_DOCTOR,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "--app",
        type=_module,
        metavar="MODULE:CALLABLE",
        help="import the application and call its set-up first, in this process",
    )
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.add_argument("--strict", action="store_true", help="warnings fail too")
    doctor.add_argument("--plain", action="store_true", help="no colours, ASCII only")
    doctor.add_argument(
        "--timeout",
        type=_seconds,
        default=3.0,
        metavar="SECONDS",
        help="how long a receiver may take to answer; 3 by default",
    )
    doctor.set_defaults(run=_doctor)


def _module(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.\w+)*(:[^\W\d]\w*(\.\w+)*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not module:callable")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _doctor(options: argparse.Namespace) -> int:
    from hopspan import doctor  # noqa: PLC0415 - the demo does without
    from hopspan.doctor import report  # noqa: PLC0415
    from hopspan.terminal import terminal_of  # noqa: PLC0415

    findings = doctor.examine(doctor.this(options.app, seconds=options.timeout))
    healthy = doctor.healthy(findings, strict=options.strict)
    if options.json:
        _say(report.as_json(findings, healthy=healthy))
    else:
        terminal = terminal_of(sys.stdout, os.environ, plain=options.plain)
        _say("\n".join(report.table(findings, terminal)))
    return 0 if healthy else 1


def _demo(broker: str, *, plain: bool) -> int:
    # Asked to end, we end as after Ctrl-C: nothing stays on the broker, and no broker.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from hopspan.terminal import terminal_of  # noqa: PLC0415

        demo = importlib.import_module(_DEMO_MODULE)  # needs what the bare package does not
        demo.run(broker, _say, terminal_of(sys.stdout, os.environ, plain=plain))
    except ImportError as error:
        return _fail(_missing(error))
    except HopspanError as error:  # a DemoError, which can only be named with the SDK at hand
        return _fail(str(error))
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _missing(error: ImportError) -> str:
    if error.name == _DEMO_MODULE:
        return (
            "the demo's files are missing; install hopspan again, or run it from a whole checkout"
        )
    return (
        "the demo needs the OpenTelemetry SDK and the broker's client "
        f"({error}): pip install 'hopspan[demo]'"
    )


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
