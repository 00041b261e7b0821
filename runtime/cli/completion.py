"""`pumice completion SHELL`: a script by shtab that completes commands, flags, choices and paths.

Enters: the parser of all commands. Leaves: the script, on standard output. Nothing of it runs when `pumice` does.
"""

from __future__ import annotations

import argparse
from typing import Any

from pumice.cli import vocabulary
from pumice.errors import UsageError

SHELLS = ("bash", "zsh", "fish")

_FILES = ("FILE", "FILE|text", "NAME|FILE")
_FOLDERS = ("DIR",)
_WORDS = {"bundle": "folder", "others": "folder", "checkpoint": "folder", "inputs": "file"}
"""What a command's words, which have no metavars, are."""


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice completion bash|zsh|fish`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to complete in (docs/command-line.md)")
    vocabulary.add_verbosity(parser)


def run_completion(args: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise UsageError(
            "completion needs shtab, which is not installed: pip install 'pumice[completion]'"
        ) from None
    from pumice.cli.parsing import build

    parser, commands = build()
    kinds = {"file": shtab.FILE, "folder": shtab.DIRECTORY}
    for command in commands.values():
        for action in command._actions:
            kind = path_kind(action)
            if kind is not None:
                _complete(action, kinds[kind])
    print(shtab.complete(parser, args.shell), end="")
    return 0


def path_kind(action: argparse.Action) -> str | None:
    """`file` or `folder` where a flag or a word takes one."""
    if not action.option_strings:
        return _WORDS.get(action.dest)
    if action.metavar in _FILES:
        return "file"
    return "folder" if action.metavar in _FOLDERS else None


def _complete(action: Any, how: dict[str, str]) -> None:
    action.complete = how  # where shtab looks for it
