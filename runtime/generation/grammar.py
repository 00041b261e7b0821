"""Structured output: a JSON schema or a regular expression decides which tokens may come next.

Enters: a schema or an expression, and the logits of a token. Leaves: those logits with −inf where the grammar forbids.

    compiler (tokenizer, once a model) ─compile─▶ Grammar ─start─▶ Matcher ─mask─▶ scores ─ token ─accept─▶ …

llguidance does the work (docs/decisions/structured-output.md), but for blanks in JSON (`json_blanks.py`). An end token
may come exactly when the text is complete; special tokens may never come inside.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from pumice.errors import BundleError, GenerationError, UsageError
from pumice.generation.json_blanks import BlankFollower, BlankTable
from pumice.generation.json_schema import checked_schema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Floats = NDArray[np.float32]

LONGEST_REGEX = 16 * 1024
"""Characters."""

_WHITESPACE = r"[ \n\t]{0,40}"
"""Room for indented JSON, but no answer of blanks without end. Between any parts, as far as llguidance is concerned."""

_CACHED = 32
"""Grammars that a compiler keeps, the latest used ones."""

_PROBED = 3
"""Tokens tried when a grammar is compiled: what is too complex mostly shows at once."""

_NO_TOKEN = "\ue000 end of structured output \ue000"
"""A special token that no checkpoint has, which llguidance takes for its end token: ours are kept apart from it."""


class Matcher:
    """Follows one answer through its grammar, and its blanks if `blanks` is given. Not for several threads at once."""

    def __init__(
        self, matcher: LLMatcher, end_token: int, eos_ids: Collection[int], blanks: BlankTable | None
    ) -> None:
        self._matcher, self._end_token = matcher, end_token
        self._blanks = BlankFollower(blanks, matcher.validate_tokens) if blanks else None
        self._eos = np.fromiter(eos_ids, np.int64, len(eos_ids))
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing can be added but an end token, or one has come."""
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    def mask(self, logits_V: Floats) -> Floats:
        """A copy of the logits, shape = (V,), with −inf where a token is not allowed.

        V may be larger than the tokenizer's vocabulary: what pads it is never allowed.

        Raises:
            GenerationError: no token is allowed, or the grammar has become too complex.
        """
        allowed_V = self._allowed(len(logits_V))
        if not allowed_V.any():
            raise GenerationError(
                "the grammar allows no token here: the tokenizer cannot spell what it asks for"
            )
        return np.where(allowed_V, logits_V, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """Go on behind `token`.

        Raises:
            GenerationError: it is not allowed here.
        """
        if token in self._eos:
            if not self._may_end():
                raise GenerationError(f"the grammar does not allow end token {token} here")
            self._ended = True
        elif self._ended or not self._consume(token):
            raise GenerationError(f"the grammar does not allow token {token} here")

    def _consume(self, token: int) -> bool:
        if self._matcher.validate_tokens([token]) == 1 and (not self._blanks or self._blanks.accept(token)):
            return self._matcher.consume_token(token)
        return False

    def _allowed(self, vocab_size: int) -> NDArray[np.bool_]:
        allowed_V = np.zeros(vocab_size, np.bool_)
        if not self.finished:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            if self._matcher.is_error():
                raise GenerationError(f"the grammar cannot go on: {_reason(self._matcher.get_error())}")
            tokens = np.unpackbits(bits, bitorder="little", count=min(vocab_size, 8 * len(bits)))
            allowed_V[: len(tokens)] = tokens
            if self._blanks:
                self._blanks.restrict(allowed_V[: len(tokens)])
            allowed_V[self._end_token :][:1] = False
        allowed_V[self._eos[self._eos < vocab_size]] = self._may_end()
        return allowed_V

    def _may_end(self) -> bool:
        return self._ended or self._matcher.is_accepting()


class Grammar:
    """A compiled schema or expression; makes a matcher for every answer. Can be shared by threads."""

    def __init__(
        self, matcher: LLMatcher, end_token: int, eos_ids: Collection[int], blanks: BlankTable | None
    ) -> None:
        self._matcher, self._end_token, self._eos_ids, self._blanks = matcher, end_token, eos_ids, blanks

    def start(self, eos_ids: Collection[int] | None = None) -> Matcher:
        """A matcher at the beginning; `eos_ids` if other tokens than the model's end this answer.

        An end token is never text, whatever it says.
        """
        eos_ids = self._eos_ids if eos_ids is None else eos_ids
        return Matcher(self._matcher.deep_copy(), self._end_token, eos_ids, self._blanks)


class GrammarCompiler:
    """Compiles grammars for one tokenizer; for all threads. Its tables are made at the first call (about 1.5 s and
    150 MB for 152,000 tokens).

    `eos_ids` are the tokens that end an answer.
    """

    def __init__(self, tokenizer_json: bytes, eos_ids: Collection[int]) -> None:
        self._tokenizer_json, self._eos_ids = tokenizer_json, tuple(eos_ids)
        self._vocabulary: _Vocabulary | None = None
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, *, json_schema: str | None = None, regex: str | None = None) -> Grammar:
        """The grammar of one of the two: a JSON schema as text, or a regular expression that all of an answer matches.

        Raises:
            UsageError: both or none; invalid, unsupported, too complex; or llguidance is not installed.
        """
        if (json_schema is None) == (regex is None):
            raise UsageError("json_schema and regex are both given or both missing, expected one of them")
        key = f"json {json_schema}" if regex is None else f"regex {regex}"
        with self._lock:
            if key in self._grammars:
                self._grammars.move_to_end(key)
                return self._grammars[key]
            if self._vocabulary is None:
                self._vocabulary = _Vocabulary(self._tokenizer_json)
            grammar = self._compiled(self._vocabulary, json_schema, regex)
            self._grammars[key] = grammar
            if len(self._grammars) > _CACHED:
                self._grammars.popitem(last=False)
            return grammar

    def _compiled(self, vocabulary: _Vocabulary, json_schema: str | None, regex: str | None) -> Grammar:
        if json_schema is not None:
            what, lark = "JSON schema", _json_lark(json_schema, vocabulary.drops_first_space)
            blanks = vocabulary.blanks
        else:
            assert regex is not None
            what, lark = "regular expression", _regex_lark(regex, vocabulary.drops_first_space)
            blanks = None
        matcher = vocabulary.matcher(lark)
        if matcher.is_error():
            raise UsageError(f"the {what} cannot be used: {_reason(matcher.get_error())}")
        problem = _probe(matcher.deep_copy())
        if problem:
            raise UsageError(f"the {what} {problem}")
        return Grammar(matcher, vocabulary.end_token, self._eos_ids, blanks)


class _Vocabulary:
    """llguidance's view of a tokenizer: the bytes of every token, as a tree."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self._llguidance = _import_llguidance()
        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        tokenizer.add_special_tokens([AddedToken(_NO_TOKEN, special=True, normalized=False)])
        self.end_token: int = tokenizer.get_vocab(with_added_tokens=True)[_NO_TOKEN]
        tokenizer.no_padding()
        tokenizer.no_truncation()
        try:
            self._tokenizer: LLTokenizer = self._llguidance.LLTokenizer(
                tokenizer.to_str(), eos_token=[self.end_token]
            )
        except BaseException as error:  # Rust's panics are no Exceptions
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleError(
                f"this bundle's tokenizer does not support structured output: {str(error)[:200]}"
            ) from None
        self.drops_first_space = _drops_first_space(tokenizer, self._tokenizer.decode_bytes)

    @cached_property
    def blanks(self) -> BlankTable:
        """Made when the first schema is compiled."""
        return BlankTable(
            [self._tokenizer.decode_bytes([token]) for token in range(self._tokenizer.vocab_size)]
        )

    def matcher(self, lark: str) -> LLMatcher:
        """At the beginning of a grammar, or in an error state."""
        limits = self._llguidance.LLParserLimits(
            initial_lexer_fuel=200_000,  # a fifth of the default: expressions that need more repeat too much
            step_lexer_fuel=100_000,  # half of the default: 7 ms a token at worst
            max_items_in_row=10_000,  # five times the default: objects of 1,000 optional properties need 4,000
            max_lexer_states=50_000,  # a fifth of the default: 100 MB at worst
            verbose_errors=False,
        )
        grammar = self._llguidance.LLMatcher.grammar_from_lark(lark)
        matcher: LLMatcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        return matcher


def check_grammar(*, json_schema: str | None = None, regex: str | None = None) -> None:
    """Refuse a schema or an expression that no tokenizer would help. Quick, and no bundle is needed.

    Raises:
        UsageError: invalid or unsupported; or llguidance is not installed.
    """
    matcher = _import_llguidance().LLMatcher
    for what, text, lark in (
        ("JSON schema", json_schema, _json_lark),
        ("regular expression", regex, _regex_lark),
    ):
        message = (
            "" if text is None else matcher.validate_grammar(matcher.grammar_from_lark(lark(text, False)))
        )
        if message:
            raise UsageError(f"the {what} cannot be used: {_reason(message)}")


def _import_llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UsageError(
            "json_schema and regex need llguidance, which is not installed: pip install 'pumice[structured]'"
        ) from None
    return llguidance


def _drops_first_space(tokenizer: Any, decode_bytes: Callable[[list[int]], bytes]) -> bool:
    """Whether decoding takes a space away from an answer's beginning, as SentencePiece's does ("▁Yes" is "Yes")."""
    spaced: Iterator[int] = (
        i for i in range(tokenizer.get_vocab_size()) if decode_bytes([i]).startswith(b" ")
    )
    token = next(spaced, None)
    return token is not None and not tokenizer.decode([token]).startswith(" ")


def _json_lark(text: str, drops_first_space: bool) -> str:
    schema = {**checked_schema(text), "x-guidance": {"whitespace_pattern": _WHITESPACE}}
    space = '" "? ' if drops_first_space else ""
    return f"start: {space}json\njson: %json {msgspec.json.encode(schema).decode()}"


def _regex_lark(regex: str, drops_first_space: bool) -> str:
    """Where a first space is dropped, it comes before what is to match, or what matches does not begin with one."""
    if len(regex) > LONGEST_REGEX:
        raise UsageError(
            f"the regular expression has {len(regex):,} characters, expected at most {LONGEST_REGEX:,}"
        )
    body = _import_llguidance().regex_to_lark(regex, "d")  # \d is 0-9, as in JSON schemas
    if not drops_first_space:
        return f"start: /{body}/"
    return f'start: " " SPACED | BARE\nSPACED: /{body}/\nBARE: /{body}/ & ~/ (?s:.*)/'


def _probe(matcher: LLMatcher) -> str | None:
    """What is wrong with a grammar that compiled, if its first tokens show it."""
    for i in range(_PROBED):
        allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        if matcher.is_error():
            nothing = matcher.get_error().startswith("NoExtension")
            return "can be satisfied by no text" if nothing else "is too complex: lower what it repeats"
        if i == 0 and not allowed.any():
            return "asks for characters that this bundle's tokenizer cannot spell"
        if matcher.is_stopped() or not allowed.any():
            break
        matcher.consume_token(int(allowed.argmax()))
    return None


def _reason(message: str) -> str:
    """The telling line of an error of llguidance's."""
    if "coerce_one_of" in message:  # an option of llguidance's, which ours are not
        return "its oneOf has parts that do not plainly exclude each other: write anyOf"
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    reason = next((line for line in lines if line.startswith("error: ")), lines[0])
    plain = re.sub(
        r"^at \d+\(\d+\): ", "", reason.removeprefix("error: ")
    )  # a place in our text, not the user's
    return plain.removeprefix("failed to compile JSON schema: ")[:200]
