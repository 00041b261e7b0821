"""A task's `generation_kwargs` as options of `generate`.

Enters: what a task and `--gen_kwargs` say, in the words of transformers and of lmms-eval. Leaves: options of
`pumice.Model.generate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pumice.errors import UsageError
from pumice.generation.options import NAMES

MAX_NEW_TOKENS = 1024
"""Where a task does not say: what lmms-eval's own models take."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_NAMES_ELSEWHERE = {"max_gen_toks": "max_new_tokens", "max_tokens": "max_new_tokens", "until": "stop_strings"}
_SEVERAL = ("n", "best_of", "num_return_sequences")


def to_options(kwargs: Mapping[str, Any], context_length: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options, and the names of arguments that say nothing to pumice.

    Tokens are drawn where `do_sample` is true, or is not given beside a `temperature` above 0; a temperature of 0 takes
    the most likely token in either case. What is for sampling is left out elsewhere.

    Raises:
        UsageError: several answers to one request, for which lmms-eval has `repeats`.
    """
    given = {_NAMES_ELSEWHERE.get(name, name): value for name, value in kwargs.items() if value is not None}
    for name in _SEVERAL:
        if given.pop(name, 1) not in (1, None):
            raise UsageError(f"{name} is {kwargs[name]!r}, expected 1: ask for several answers by --repeats")
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    draws = bool(given.get("do_sample", temperature > 0)) and temperature > 0
    options = {name: value for name, value in given.items() if name in NAMES and name not in _SAMPLING}
    options |= {name: given[name] for name in _SAMPLING if draws and name in given}
    options["do_sample"] = draws
    options["num_beams"] = given.get("num_beams", 1)
    options["max_new_tokens"] = min(int(given.get("max_new_tokens", MAX_NEW_TOKENS)), context_length)
    options["stop_strings"] = _texts(given.get("stop_strings"))
    return options, tuple(sorted(set(given) - set(NAMES)))


def _texts(until: Any) -> list[str]:
    """Texts that end an answer; empty ones end nothing."""
    return [text for text in ([until] if isinstance(until, str) else until or ()) if text]
