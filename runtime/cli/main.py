"""Arguments in, one call, an exit code out.

Enters: `sys.argv`. Leaves: 0; 2 for bad use, 3 for an unusable device, 1 for any other failure, 130 for Ctrl-C.
A failure is one line on standard error; `PUMICE_DEBUG=1` shows where it came from.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import pumice
from pumice.cli.batch import add_batch_arguments, run_batch
from pumice.cli.bench import add_bench_arguments, run_bench
from pumice.cli.compare import add_compare_arguments, run_compare
from pumice.cli.export import add_export_arguments, add_verify_arguments, run_export, run_verify
from pumice.cli.failures import guarded
from pumice.cli.info import add_info_arguments, run_info
from pumice.cli.optimize import add_optimize_arguments, run_optimize
from pumice.cli.run import add_run_arguments, run_run
from pumice.errors import UsageError

COMMANDS: dict[
    str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
] = {
    "run": ("ask a bundle about images; without a prompt, chat with it", add_run_arguments, run_run),
    "batch": ("answer all records of a file, or images of a folder", add_batch_arguments, run_batch),
    "info": ("show what is inside a bundle", add_info_arguments, run_info),
    "bench": ("measure how quick a bundle is here, or what takes the time", add_bench_arguments, run_bench),
    "optimize": (
        "make a copy of a bundle that loads quickly on this machine",
        add_optimize_arguments,
        run_optimize,
    ),
    "export": ("turn a LLaVA checkpoint into a bundle", add_export_arguments, run_export),
    "verify": ("compare a bundle with its checkpoint in transformers", add_verify_arguments, run_verify),
    "compare": (
        "measure what recipes make of a checkpoint, so as to choose one",
        add_compare_arguments,
        run_compare,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""

    def parse_and_run() -> int:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
        return COMMANDS[args.command][2](args)

    code = guarded(parse_and_run)
    if argv is None and "torch" in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End a process of our own at once: taking torch and its exporter apart takes two seconds and serves nobody."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or whoever read it is gone
            stream.flush()
    os._exit(code)


class _Parser(argparse.ArgumentParser):
    """Bad use is a `UsageError` of one line, like every other failure."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="pumice", description="LLaVA-style vision-language models on ONNX Runtime, without PyTorch."
    )
    parser.add_argument("--version", action="version", version=f"pumice {pumice.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (summary, add_arguments, _) in COMMANDS.items():
        description = summary[0].upper() + summary[1:] + "."
        add_arguments(commands.add_parser(name, help=summary, description=description))
    args, rest = parser.parse_known_args(argv)
    if args.command == "run" and args.prompt is None and len(rest) == 1 and not rest[0].startswith("--"):
        args.prompt = (
            rest.pop()
        )  # argparse overlooks an optional PROMPT after an option: run BUNDLE -i IMAGE PROMPT
    if rest:
        commands.choices[args.command].error(f"unrecognized arguments: {' '.join(rest)}")
    return args
