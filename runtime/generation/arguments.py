"""Arguments by name, each checked as it is read.

Enters: values as callers give them, of any type. Leaves: plain Python numbers, texts and tuples inside their interval,
or a `UsageError` that says what was got and what was expected. NumPy's scalars are taken for numbers, booleans are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pumice.errors import UsageError
from pumice.manifest.intervals import (
    LONGEST_BAD_WORD,
    LONGEST_CONSTRAINT,
    LONGEST_STOP_STRING,
    MOST_BAD_WORDS,
    MOST_STOP_STRINGS,
    Interval,
)


class Arguments:
    """Values by name; a value that is missing or None is the default. `vocab_size` bounds token ids.

    Every method raises `UsageError` for a value of another type or outside its interval.
    """

    def __init__(self, values: Mapping[str, Any], vocab_size: int) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._ids = Interval(low=0, high=vocab_size - 1)

    def whole(self, name: str, default: int | None, interval: Interval) -> int | None:
        """A whole number in `interval`."""
        value = self._values.get(name)
        if value is None:
            return default
        if not _is_whole(value) or value not in interval:
            raise _refusal(name, value, str(interval))
        return int(value)

    def number(self, name: str, default: float, interval: Interval) -> float:
        """A number in `interval`."""
        value = self._values.get(name)
        if value is None:
            return default
        if not _is_number(value) or value not in interval:
            raise _refusal(name, value, str(interval))
        return float(value)

    def flag(self, name: str, default: bool | None = False) -> bool | None:
        """True or False."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, (bool, np.bool_)):
            raise _refusal(name, value, "True or False")
        return bool(value)

    def early_stopping(self) -> Any:
        """True, False or "never"."""
        value = self._values.get("early_stopping", False)
        if isinstance(value, str) and value == "never":
            return value
        if not isinstance(value, (bool, np.bool_)):
            raise _refusal("early_stopping", value, 'True, False or "never"')
        return bool(value)

    def logprobs(self, interval: Interval) -> int | None:
        """How many; True is none beside the chosen token's, False is None."""
        value = self._values.get("logprobs")
        if isinstance(value, (bool, np.bool_)):
            return 0 if value else None
        return self.whole("logprobs", None, interval)

    def ids(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids, given as one or as several."""
        value = self._values.get(name)
        if value is None:
            return default
        values = [value] if _is_whole(value) else _items(value)
        if values is None or not all(self._is_id(one) for one in values):
            raise _refusal(name, value, f"a token id or a list of them, each {self._ids}")
        return tuple(int(one) for one in values)

    def bad_words(self) -> tuple[tuple[int, ...], ...]:
        """Sequences of token ids."""
        value = self._values.get("bad_words_ids", ())
        words = _items(value)
        allowed = f"at most {MOST_BAD_WORDS:,} lists of 1 to {LONGEST_BAD_WORD} token ids, each {self._ids}"
        if words is None or len(words) > MOST_BAD_WORDS:
            raise _refusal("bad_words_ids", value, allowed)
        checked = []
        for word in words:
            ids = _items(word)
            if not ids or len(ids) > LONGEST_BAD_WORD or not all(self._is_id(one) for one in ids):
                raise _refusal("bad_words_ids", value, allowed)
            checked.append(tuple(int(one) for one in ids))
        return tuple(checked)

    def biases(self, interval: Interval) -> tuple[tuple[int, float], ...]:
        """Pairs of a token id and its bias, by id; JSON's texts of digits are ids, too."""
        value = self._values.get("logit_bias", {})
        allowed = f"a mapping of token ids, each {self._ids}, to numbers, each {interval}"
        if not isinstance(value, Mapping):
            raise _refusal("logit_bias", value, allowed)
        biases: dict[int, float] = {}
        for token, bias in value.items():
            is_text = isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 19
            number = int(token) if is_text else token
            if not self._is_id(number) or not _is_number(bias) or bias not in interval:
                raise UsageError(f"logit_bias has {_shown(token)}: {_shown(bias)}, expected {allowed}")
            if int(number) in biases:
                raise UsageError(f"logit_bias has token id {number} twice, as a number and as a text")
            biases[int(number)] = float(bias)
        return tuple(sorted(biases.items()))

    def stop_strings(self) -> tuple[str, ...]:
        """Texts, each once."""
        value = self._values.get("stop_strings", ())
        strings = [value] if isinstance(value, str) else _items(value)
        if strings is None or len(strings) > MOST_STOP_STRINGS or not all(_is_stop(one) for one in strings):
            allowed = (
                f"a text or at most {MOST_STOP_STRINGS}, each of 1 to {LONGEST_STOP_STRING:,} characters"
            )
            raise _refusal("stop_strings", value, allowed)
        return tuple(dict.fromkeys(strings))

    def regex(self) -> str | None:
        """A text; whether it is a regular expression is for others to say."""
        value = self._values.get("regex")
        if value is not None and not (_is_text(value) and len(value) <= LONGEST_CONSTRAINT):
            raise _refusal("regex", value, f"a text of at most {LONGEST_CONSTRAINT:,} characters")
        return None if value is None else str(value)

    def json_schema(self) -> str | None:
        """A schema in canonical JSON; properties keep their order, in which they are also written."""
        value = self._values.get("json_schema")
        if value is None:
            return None
        allowed = (
            f"a JSON schema of at most {LONGEST_CONSTRAINT:,} characters: a dict or a bool, or its JSON text"
        )
        try:
            schema = json.loads(value) if isinstance(value, str) else value
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (ValueError, TypeError, RecursionError) as error:
            raise _refusal("json_schema", value, f"{allowed}; {error}") from None
        if not isinstance(schema, (dict, bool)) or len(text) > LONGEST_CONSTRAINT or not _is_text(text):
            raise _refusal("json_schema", value, allowed)
        return text

    def _is_id(self, value: Any) -> bool:
        return _is_whole(value) and value in self._ids


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, (float, np.floating))


def _is_text(value: Any) -> bool:
    """A text that UTF-8 can write: without halves of surrogate pairs, of which tokens never consist."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_stop(value: Any) -> bool:
    return _is_text(value) and 1 <= len(value) <= LONGEST_STOP_STRING


def _items(value: Any) -> list[Any] | None:
    """A list's items, or a tuple's, or a vector's; None of anything else."""
    if isinstance(value, np.ndarray):
        items: list[Any] = value.tolist() if value.ndim else [value.item()]
        return items
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
    return list(value) if is_list else None


def _refusal(name: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{name} is {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    """A value in a message: plain numbers without NumPy's wrapping."""
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except Exception:  # a caller's own object, or a whole number of thousands of digits
        return f"of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"
