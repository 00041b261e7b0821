"""Words become arguments: flags and words in any order, and words that look like flags.

Enters: `sys.argv[1:]`. Leaves: a namespace with `command`; a `UsageError` of one line for bad use.

argparse takes `--what?` for a flag wherever it stands, and overlooks an optional word behind a flag. So the words of a
command are sorted first:

    run B -i a.png --system "- be brief" -- "--what?"
    run -i a.png "--system=- be brief" -- B "--what?"
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pumice.cli.commands import COMMANDS
from pumice.errors import UsageError

_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")
_BEHIND = "a word that begins with - goes behind --, as in: pumice run BUNDLE -- '--what is it?'"


class Parser(argparse.ArgumentParser):
    """Bad use is a `UsageError` of one line, like every other failure."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UsageError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Reads the version where it is asked for, which takes as long as all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        import pumice

        print(f"pumice {pumice.__version__}")
        parser.exit()


def build(names: Iterable[str] = COMMANDS) -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    """The parser of all commands, and by name those of their flags, which only `names` have."""
    parser = Parser(
        prog="pumice", description="LLaVA-style vision-language models on ONNX Runtime, without PyTorch."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show pumice's version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        described = command.summary[0].upper() + command.summary[1:] + "."
        of_command = commands.add_parser(name, help=command.summary, description=described)
        if name in names:
            command.add_arguments(of_command)
    return parser, dict(commands.choices)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command.

    Raises:
        UsageError: bad use.
        SystemExit: help or the version was asked for, and is printed.
    """
    name = argv[0] if argv else ""
    parser, commands = build([name])
    if name not in COMMANDS:
        return parser.parse_args(argv)
    args, unknown = commands[name].parse_known_args(sorted_words(commands[name], argv[1:]))
    if unknown:
        hint = f" ({_BEHIND})" if name == "run" and any(word.startswith("-") for word in unknown) else ""
        commands[name].error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    args.command = name
    return args


def sorted_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The same words with all flags first, each in one word with its value, and all others behind `--`."""
    flags: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            others += rest
            break
        if not _is_flag(parser, word):
            others.append(word)
            continue
        joint = _joint(parser, word)
        if (
            joint is None or not rest or _names_flag(parser, rest[0])
        ):  # a value that was forgotten is argparse's to tell
            flags.append(word)
        elif rest[0].startswith("-"):
            flags.append(word + joint + rest.pop(0))
        else:
            flags += [word, rest.pop(0)]
    return [*flags, "--", *others] if others else flags


def _is_flag(parser: argparse.ArgumentParser, word: str) -> bool:
    """Whether a word is to be read as flags: those that cannot be are refused, unless they are plainly a text."""
    if len(word) < 2 or word[0] != "-" or _NUMBER.match(word):
        return False
    return bool(_action(parser, word)) or not re.search(r"\s", word)


def _names_flag(parser: argparse.ArgumentParser, word: str) -> bool:
    """Whether a word is a flag by its full name, or `--`."""
    return word == "--" or word.partition("=")[0] in _flags(parser)


def _joint(parser: argparse.ArgumentParser, word: str) -> str | None:
    """What goes between a flag and its value in one word; None where the next word is no value of this one's."""
    action = _action(parser, word)
    if action is None or action.nargs == 0:
        return None
    if word.startswith("--"):
        return None if "=" in word else "="
    return "" if f"-{word[-1]}" in action.option_strings and _are_switches(parser, word[1:-1]) else None


def _are_switches(parser: argparse.ArgumentParser, letters: str) -> bool:
    """Whether these are flags of one letter that take no value."""
    flags = _flags(parser)
    return all((action := flags.get(f"-{letter}")) is not None and action.nargs == 0 for letter in letters)


def _action(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    """What a flag sets; of `-qi` the last one. A long one may be shortened where that is unambiguous."""
    flags = _flags(parser)
    if not word.startswith("--"):
        letters = word[1:]
        while letters and (action := flags.get(f"-{letters[0]}")) is not None:
            if action.nargs != 0 or len(letters) == 1:
                return action
            letters = letters[1:]
        return None
    name = word.partition("=")[0]
    found = {id(flags[flag]): flags[flag] for flag in flags if flag.startswith(name)}
    return flags.get(name) or (next(iter(found.values())) if len(found) == 1 else None)


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {flag: action for action in parser._actions for flag in action.option_strings}
