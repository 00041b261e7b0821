"""`/set`: the options of `generate`, typed within a conversation.

Enters: an option's name as people spell it, and a value as text. Leaves: options by name, as Python callers give them;
whether they hold is for `pumice.generation.options` to say, as for everybody's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pumice.cli.conversation.paths import as_path, words
from pumice.errors import UsageError
from pumice.generation.option_table import OPTIONS, Option
from pumice.generation.options import GenerationOptions
from pumice.manifest.intervals import LONGEST_CONSTRAINT

DEFAULT = ("default", "none")
"""What takes a setting back."""

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_BY_FLAG = {option.flag.name: option for option in OPTIONS if option.flag is not None and option.flag.name}
_BY_NAME = {option.name: option for option in OPTIONS}
_LONGEST_SHOWN = 60


def option_named(name: str) -> Option:
    """The option of this name, or of this flag: `max_new_tokens`, `max-new-tokens`, `--max-new-tokens`, `stop`.

    Raises:
        UsageError: there is none.
    """
    bare = name.lstrip("-")
    option = _BY_NAME.get(bare.replace("-", "_")) or _BY_FLAG.get(f"--{bare}")
    if option is None:
        import difflib  # only a mistake needs it

        close = difflib.get_close_matches(bare.replace("-", "_"), _BY_NAME, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"there is no option {name!r:.80}: {hint}/set alone lists them")
    return option


def value_of(option: Option, text: str) -> Any:
    """A value as it was typed; None is the default.

    Raises:
        UsageError: it is not of the option's kind.
    """
    if text.lower() in DEFAULT:
        return None
    if option.kind in ("whole number", "number"):
        try:
            return int(text) if option.kind == "whole number" else float(text)
        except ValueError:
            raise UsageError(f"{option.name} is {text!r:.80}, expected a {option.kind}") from None
    if option.kind == "flag":
        if text.lower() not in (*_YES, *_NO):
            raise UsageError(f"{option.name} is {text!r:.80}, expected on or off")
        return text.lower() in _YES
    if option.kind == "texts":
        return [word.text for word in words(text)]
    if option.kind == "regex":
        return text
    if option.kind == "JSON schema":
        return text if text.startswith("{") or text in ("true", "false") else _schema(as_path(text))
    return _literal(text)


def asked_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat is given: as with flags, a sampling setting asks for sampling, unless the temperature is 0."""
    sampling = any(option.sampling and option.name in given for option in OPTIONS)
    asks = sampling and given.get("temperature") != 0 and "do_sample" not in given
    return {**given, "do_sample": True} if asks else dict(given)


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a person gave, of options in which `asked_for` has put its own."""
    rest = {name: value for name, value in options.items() if name != "do_sample"}
    return rest if asked_for(rest) == dict(options) else dict(options)


def described(option: Option, options: GenerationOptions, given: Mapping[str, Any]) -> str:
    """An option with the value that holds, and whether the person set it."""
    value = getattr(options, option.name)
    shown = "none" if value is None or value == () else str(value)
    text = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
    return f"{option.name} = {text}{' (set)' if option.name in given else ''}"


def _literal(text: str) -> Any:
    """Token ids, biases and the like: JSON, or a bare word."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _schema(path: str) -> str:
    try:
        if not Path(path).is_file():
            raise UsageError(f"the schema {path!r} is not a file, and no JSON that begins with {{")
        with Path(path).open("rb") as file:
            return file.read(4 * LONGEST_CONSTRAINT + 1).decode()
    except (OSError, ValueError) as error:
        reason = (
            os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is not UTF-8 text"
        )
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the schema {path!r} cannot be read: {reason}") from None
