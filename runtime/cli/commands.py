"""The commands: what each is for, where it is, and a whole command from arguments to exit code.

Enters: arguments. Leaves: an exit code. A command's module is imported when that command is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from pumice.cli.failures import guarded, tell
from pumice.cli.interrupts import end_at_once
from pumice.cli.main import INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: `add_…_arguments` and `run_…` of a module of this room."""

    name: str
    module: str
    summary: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Give a parser the command's flags."""
        add: Callable[[argparse.ArgumentParser], None] = self._of_module(f"add_{self.name}_arguments")
        add(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""
        run: Callable[[argparse.Namespace], int] = self._of_module(f"run_{self.name}")
        return run(args)

    def _of_module(self, name: str) -> Any:
        return getattr(import_module(f"pumice.cli.{self.module}"), name)


COMMANDS = {
    name: Command(name=name, module=module, summary=summary)
    for name, module, summary in (
        ("run", "run", "ask a bundle about images; without a prompt, chat with it"),
        ("batch", "batch", "answer all records of a file, or images of a folder"),
        ("serve", "serve", "answer over HTTP, as OpenAI's API and Ollama's do"),
        ("info", "info", "show what is inside a bundle"),
        ("bench", "bench", "measure how quick a bundle is here, or what takes the time"),
        ("optimize", "optimize", "make a copy of a bundle that loads quickly on this machine"),
        ("export", "export", "turn a LLaVA checkpoint into a bundle"),
        ("push", "push", "push a bundle to the Hugging Face hub"),
        ("verify", "export", "compare a bundle with its checkpoint in transformers"),
        ("compare", "compare", "measure what recipes make of a checkpoint, so as to choose one"),
        ("completion", "completion", "print a script that completes commands and flags in a shell"),
    )
}


def run_command(argv: Sequence[str] | None) -> int:
    """Run one command; returns the exit code. Without `argv` the process is ours, and ends next."""

    def parse_and_run() -> int:
        from pumice.cli.parsing import parse

        args = parse(sys.argv[1:] if argv is None else list(argv))
        tell_by(args)
        return COMMANDS[args.command].run(args)

    try:
        code = guarded(parse_and_run)
    finally:
        if argv is None:
            end_at_once()
    if argv is None and (code == INTERRUPTED or "torch" in sys.modules):
        _leave(code)
    return code


def tell_by(args: argparse.Namespace) -> None:
    """Show what is logged as `--verbose` asks for."""
    tell(logging.INFO if args.verbose else logging.WARNING)


def _leave(code: int) -> NoReturn:
    """End a process of our own at once: taking torch and its exporter apart takes two seconds and serves nobody."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or whoever read it is gone
            stream.flush()
    os._exit(code)
