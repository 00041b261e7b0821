"""Options of generation as flags: `--temperature 0.7` for `temperature=0.7`.

Enters: a parser, then its arguments. Leaves: the options that were given, by name; their values are checked by
`pumice.generation.options`, like everybody's.
"""

from __future__ import annotations

import argparse
from typing import Any

from pumice.errors import UsageError
from pumice.generation.option_table import OPTIONS, Kind, Option

_FLAGGED = tuple((option, option.flag) for option in OPTIONS if option.flag is not None)
_PARSED: dict[Kind, dict[str, Any]] = {
    "whole number": {"type": int},
    "number": {"type": float},
    "flag": {"action": "store_true", "default": None},
    "texts": {"action": "append"},
    "logprobs": {"type": int},
    "JSON schema": {},
    "regex": {},
}
"""How argparse reads each kind."""
_NOTES: dict[Kind, str] = {
    "texts": "; repeatable",
    "JSON schema": ", a file",
    "logprobs": "; shown by --json",
}


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, in a group of their own."""
    group = parser.add_argument_group("how answers are chosen (names and meanings are transformers')")
    for option, flag in _FLAGGED:
        how = _PARSED[option.kind] | ({"metavar": flag.metavar} if flag.metavar else {})
        name = flag.name or "--" + option.name.replace("_", "-")
        group.add_argument(name, dest=option.name, help=_help(option), **how)


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given; a sampling setting asks for sampling, unless the temperature is 0.

    Raises:
        UsageError: the schema's file cannot be read.
    """
    options: dict[str, Any] = {}
    for option, _ in _FLAGGED:
        value = getattr(args, option.name)
        if value is not None:
            options[option.name] = _read(value) if option.kind == "JSON schema" else value
    if options.get("temperature") != 0 and any(o.sampling for o, _ in _FLAGGED if o.name in options):
        options["do_sample"] = True
    return options


def _help(option: Option) -> str:
    """The table's, as a terminal shows it."""
    text = option.help.replace("`", "").replace("%", "%%")
    return f"{'sample: ' if option.sampling else ''}{text}{_NOTES.get(option.kind, '')}"


def _read(path: str) -> str:
    from pumice.manifest.regular_file import named, read_regular  # with it comes msgspec

    try:
        return read_regular(named(path), 16 << 20).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the schema {path!r} cannot be read: {reason}") from None
