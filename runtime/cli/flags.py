"""Options of generation as flags: `--temperature 0.7` for `temperature=0.7`.

Enters: a parser, then its arguments. Leaves: the options that were given, by name; their values are checked by
`pumice.generation.options`, like everybody's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pumice.errors import UsageError

_NUMBERS: tuple[tuple[str, type, str, str], ...] = (
    ("max_new_tokens", int, "N", "tokens of an answer at most (the model's default, or 256)"),
    ("min_new_tokens", int, "N", "tokens of an answer at least"),
    ("temperature", float, "X", "sample, with scores divided by X; 0 takes the likeliest"),
    ("top_k", int, "N", "sample, from the N likeliest tokens"),
    ("top_p", float, "P", "sample, from the likeliest tokens that have probability P together"),
    ("min_p", float, "P", "sample, from tokens at least P times as likely as the likeliest"),
    ("repetition_penalty", float, "X", "make what was said less likely (above 1)"),
    ("no_repeat_ngram_size", int, "N", "say no N tokens in a row twice"),
    ("num_beams", int, "N", "beam search over N continuations"),
    ("seed", int, "N", "sample the same tokens every time"),
)
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, in a group of their own."""
    group = parser.add_argument_group("how answers are chosen (names and meanings are transformers')")
    for name, kind, metavar, text in _NUMBERS:
        group.add_argument(_flag(name), type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--do-sample", action="store_true", default=None, help="sample instead of taking the likeliest"
    )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end an answer before TEXT; repeatable"
    )
    group.add_argument("--json-schema", metavar="FILE", help="answers are JSON that fits the schema in FILE")
    group.add_argument("--regex", metavar="REGEX", help="answers match REGEX from beginning to end")


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given; a sampling setting asks for sampling, unless the temperature is 0.

    Raises:
        UsageError: the schema's file cannot be read.
    """
    options = {name: value for name, *_ in _NUMBERS if (value := getattr(args, name)) is not None}
    if args.do_sample or (options.get("temperature") != 0 and any(name in options for name in _SAMPLING)):
        options["do_sample"] = True
    if args.stop:
        options["stop_strings"] = args.stop
    if args.regex is not None:
        options["regex"] = args.regex
    if args.json_schema is not None:
        options["json_schema"] = _read(args.json_schema)
    return options


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the schema {path!r} cannot be read: {reason}") from None
