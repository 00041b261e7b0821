"""Whatever logits say, constrained text is what the schema or the expression asks for."""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from pumice.errors import GenerationError, UsageError
from pumice.generation.detokenizer import Detokenizer
from pumice.generation.grammar import GrammarCompiler, Matcher
from pumice.prompt.tokenizer import PromptTokenizer

NAMES = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
CLOSED = {**NAMES, "required": ["name", "age"], "additionalProperties": False}
SHORT = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "naïve blue", "日本"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: list[Any] = [
    {},
    True,
    {"type": "string"},
    {"type": "string", "maxLength": 5},
    {"type": "string", "minLength": 3, "maxLength": 4},
    {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$"},
    {"type": "string", "pattern": "[ab]"},
    {"type": "integer"},
    {"type": "integer", "minimum": -3, "maximum": 117},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 4},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "multipleOf": 0.25},
    {"type": "number"},
    {"type": "number", "minimum": 0.5, "maximum": 1.75},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null", "integer"]},
    {"enum": ["red", "blue", 3, None, {"a": [1]}]},
    {"enum": ["naïve", "日本語", "🙂", 'quoted "word"', "line\nbreak"]},
    {"const": {"answer": "yes"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "maxItems": 3},
    NAMES,
    CLOSED,
    {"type": "object", "additionalProperties": {"type": "boolean"}},
    {"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False},
    {"type": "object", "properties": {"café": CLOSED}, "required": ["café"]},
    {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"enum": ["a", "b"]}}]},
    {"allOf": [CLOSED, {"properties": {"age": {"minimum": 3}}}]},
    {"anyOf": [{"type": "object", "properties": {"k": {"const": c}}, "required": ["k"]} for c in "xyz"]},
    TREE,
    {"$ref": "#/definitions/d", "definitions": {"d": {"type": "array", "items": CLOSED, "maxItems": 2}}},
    *(
        {"type": "string", "format": f}
        for f in ("date", "date-time", "time", "email", "ipv4", "ipv6", "uuid", "hostname", "duration", "uri")
    ),
]
REGEXES = [
    r"[a-z]+",
    r"(\d{3}-){2}\d{4}",
    r"(yes|no|maybe)( indeed)?",
    r" two",
    r" ?What",
    r"( |\n)*end",
    r"a{3,5}b?",
    r"[^a-z\n]{1,8}",
    r"naïve|日本語+|🙂{2}",
    r"a/b\n\"c\"",
    r"(?i)stop",
    r"",
    r"(a|b)*abb",
    r"[\s\S]{0,20}",
]


@pytest.fixture(scope="session")
def tokenizer(tokenizer_json: bytes) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json.decode())


@pytest.fixture(scope="session")
def compiler(tokenizer_json: bytes, tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer_json, eos(tokenizer))


def eos(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.token_to_id(text) for text in ("</s>", "<|im_end|>")]


def walk(matcher: Matcher, tokenizer: Tokenizer, seed: int, limit: int = 250) -> str | None:
    """The text of a random answer; None if it did not come to its end."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    for step in range(limit):
        logits = rng.standard_normal(tokenizer.get_vocab_size() + 7).astype(np.float32)
        for end in eos(tokenizer):  # ends become likelier, and closing brackets, lest walks take for ever
            logits[end] += 0.2 * step
        for closing in ('"', "}", "]"):
            logits[tokenizer.token_to_id(closing)] += 2 + 0.1 * step
        token = int(matcher.mask(logits).argmax())
        matcher.accept(token)
        if token in eos(tokenizer):
            assert matcher.finished
            break
        assert token < tokenizer.get_vocab_size()
        ids.append(token)
        if matcher.finished:
            break
    else:
        return None
    assert not {tokenizer.id_to_token(i) for i in ids} & {"<s>", "<image>", "<pad>", "<|im_start|>", "<unk>"}
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_random_answers_satisfy_the_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: Any
) -> None:
    grammar = compiler.compile(json_schema=json.dumps(schema))
    texts = [walk(grammar.start(), tokenizer, seed) for seed in range(8)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        jsonschema.validate(
            json.loads(text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )


@pytest.mark.parametrize("regex", REGEXES)
def test_random_answers_match_the_expression(
    compiler: GrammarCompiler, tokenizer: Tokenizer, regex: str
) -> None:
    grammar = compiler.compile(regex=regex)
    texts = [walk(grammar.start(), tokenizer, seed) for seed in range(12)]
    assert [text for text in texts if text is not None]
    for text in texts:
        assert text is None or re.fullmatch(regex, text), text


def spelled(matcher: Matcher, tokenizer: Tokenizer, text: str) -> None:
    """Lead a matcher through a text, by single characters where the vocabulary has them."""
    for letter in text:
        vocabulary = tokenizer.get_vocab()
        name = next(n for n in (letter, {" ": "▁"}.get(letter), {" ": "Ġ"}.get(letter)) if n in vocabulary)
        matcher.accept(vocabulary[name])


def test_end_tokens_are_allowed_exactly_where_the_text_may_end(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    size = tokenizer.get_vocab_size() + 64
    logits = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    kept = logits.copy()
    matcher = compiler.compile(regex="[a-c]{2,3}").start()
    for letter, may_end in (("a", False), ("b", True)):
        matcher.accept(tokenizer.token_to_id(letter))
        scores = matcher.mask(logits)
        allowed = np.flatnonzero(np.isfinite(scores))
        assert (set(eos(tokenizer)) <= set(allowed.tolist())) == may_end
        assert set(eos(tokenizer)).isdisjoint(allowed.tolist()) != may_end
        assert np.array_equal(scores[allowed], logits[allowed])
        assert not matcher.finished
    matcher.accept(tokenizer.token_to_id("c"))
    assert matcher.finished
    assert sorted(np.flatnonzero(np.isfinite(matcher.mask(logits)))) == sorted(eos(tokenizer))
    matcher.accept(eos(tokenizer)[0])
    assert matcher.finished
    assert np.array_equal(logits, kept), "the input was changed"


def test_an_end_token_is_never_text(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    a, b = (tokenizer.token_to_id(letter) for letter in "ab")
    matcher = compiler.compile(regex="[ab]{3}").start(eos_ids=[a])
    logits = np.zeros(tokenizer.get_vocab_size(), np.float32)
    for _ in range(3):
        scores = matcher.mask(logits)
        assert np.isneginf(scores[a])
        assert scores[b] == 0
        matcher.accept(b)
    assert np.flatnonzero(np.isfinite(matcher.mask(logits))).tolist() == [a]


def test_matchers_of_one_grammar_are_independent(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(regex="ab")
    assert compiler.compile(regex="ab") is grammar
    first, second = grammar.start(), grammar.start()
    first.accept(tokenizer.token_to_id("a"))
    first.accept(tokenizer.token_to_id("b"))
    assert first.finished
    assert not second.finished
    second.accept(tokenizer.token_to_id("a"))


def test_forbidden_tokens_are_refused(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    matcher = compiler.compile(regex="ab").start()
    for token in (tokenizer.token_to_id("b"), eos(tokenizer)[0], tokenizer.token_to_id("<s>")):
        with pytest.raises(GenerationError, match=f"token {token} here"):
            compiler.compile(regex="ab").start().accept(token)
    assert not matcher.finished


def test_answers_cut_off_are_beginnings(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    matcher = compiler.compile(json_schema=json.dumps(CLOSED)).start()
    assert walk(matcher, tokenizer, seed=0, limit=3) is None
    assert not matcher.finished


BAD_SCHEMAS = {
    "no JSON": ("{", "cannot be read"),
    "no schema": ("3", "cannot be read"),
    "nothing": ("false", "nothing satisfies"),
    "unknown type": ('{"type": "strin"}', "strin"),
    "typing error": ('{"properties": {"a": {"maxLenght": 3}}}', "maxLenght"),
    "not": ('{"not": {"type": "string"}}', "'not'"),
    "ignored": ('{"contentEncoding": "base64"}', "contentEncoding"),
    "options": ('{"x-guidance": {"lenient": true}}', "x-guidance"),
    "format": ('{"type": "string", "format": "regex"}', "regex"),
    "draft 4": ('{"minimum": 3, "exclusiveMinimum": true}', "exclusiveMinimum"),
    "unsatisfiable": ('{"type": "integer", "minimum": 5, "maximum": 2}', "minimum"),
    "reference to itself": ('{"$ref": "#"}', "no text"),
    "remote": ('{"$ref": "http://example.org/schema"}', "not present"),
    "nowhere": ('{"$ref": "#/$defs/a"}', "a"),
    "overlapping oneOf": ('{"oneOf": [{"type": "object"}, {"properties": {"a": {}}}]}', "write anyOf"),
    "look-ahead": ('{"type": "string", "pattern": "(?!a)b"}', "look-around"),
    "unspellable number": ('{"type": "integer", "multipleOf": 99999989}', "multipleOf"),
    "multiples together": (
        '{"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}',
        "multipleOf",
    ),
    "large": (json.dumps({"enum": ["x" * 100] * 10_000}), "expected at most 65,536"),
    "many properties": (
        json.dumps({"properties": {f"p{i}": {} for i in range(4000)}}),
        "4,001 subschemas",
    ),
    "many patterns": (
        json.dumps({"patternProperties": {f"^p{i}": True for i in range(900)}}),
        "900 patternProperties",
    ),
    "deep": ('{"items":' * 5000 + "{}" + "}" * 5000, "JSON schema"),
    "repeated": (
        json.dumps({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}),
        "too complex",
    ),
    "combined": (
        json.dumps(
            {
                "allOf": [
                    {
                        "anyOf": [
                            {
                                "type": "object",
                                "properties": {f"p{i}{j}": {"const": j}},
                                "required": [f"p{i}{j}"],
                            }
                            for j in range(4)
                        ]
                    }
                    for i in range(10)
                ]
            }
        ),
        "too large",
    ),
}
BAD_REGEXES = {
    "(a": "unclosed group",
    "(?=a)b": "look-around",
    r"(a)\1": "backreferences",
    r"[^\s\S]": "no text",
    "a{1000000}": "too complex",
    "((a{1000}){1000}){1000}": "too complex",
    "x" * 20_000: "expected at most 16,384",
    "(" * 5000 + "a" + ")" * 5000: "",
}


FUEL_OF_A_TOKEN = 100_000
MOST_FUEL = 200_000 + 3 * FUEL_OF_A_TOKEN
"""llguidance's steps for one grammar, to compile it and to look at three first tokens; about a second at worst."""


@pytest.fixture
def fuelled(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that llguidance is granted from now on: for each grammar that is made, and for each mask."""
    import llguidance

    compiler.compile(regex="a")  # the tokenizer's tables exist
    granted: list[int] = []
    limits, matcher = llguidance.LLParserLimits, llguidance.LLMatcher
    per_token: list[int] = []

    class Counting:
        """A matcher whose masks are counted."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def deep_copy(self) -> Counting:
            return Counting(self.inner.deep_copy())

        def compute_bitmask(self) -> bytes:
            granted.append(per_token[-1])
            mask: bytes = self.inner.compute_bitmask()
            return mask

    class Made:
        grammar_from_lark = matcher.grammar_from_lark

        def __new__(cls, *arguments: Any, **named: Any) -> Any:
            return Counting(matcher(*arguments, **named))

    def limited(**named: Any) -> Any:
        granted.append(named["initial_lexer_fuel"])
        per_token.append(named["step_lexer_fuel"])
        return limits(**named)

    monkeypatch.setattr(llguidance, "LLParserLimits", limited)
    monkeypatch.setattr(llguidance, "LLMatcher", Made)
    return granted


@pytest.mark.parametrize(("text", "told"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS.keys())
def test_bad_schemas_are_refused_in_one_line(
    compiler: GrammarCompiler, fuelled: list[int], text: str, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compiler.compile(json_schema=text)
    assert sum(fuelled) <= MOST_FUEL
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("regex", "told"), BAD_REGEXES.items(), ids=[r[:24] for r in BAD_REGEXES])
def test_bad_expressions_are_refused_in_one_line(
    compiler: GrammarCompiler, fuelled: list[int], regex: str, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compiler.compile(regex=regex)
    assert sum(fuelled) <= MOST_FUEL
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_large_bounds_are_no_burden(compiler: GrammarCompiler, fuelled: list[int]) -> None:
    """Each compiles, and gives its first tokens, within llguidance's steps."""
    for schema in (
        {"type": "array", "items": {"type": "string"}, "maxItems": 10**9},
        {"type": "string", "maxLength": 10**9},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(900)}},
        {"type": "object", "maxProperties": 10**9},
    ):
        fuelled.clear()
        compiler.compile(json_schema=json.dumps(schema)).start().mask(np.zeros(500, np.float32))
        assert sum(fuelled) <= MOST_FUEL + FUEL_OF_A_TOKEN


def test_pebbles_answers_as_they_are_streamed() -> None:
    """The text is the detokenizer's, piece by piece; end tokens of the checkpoint."""
    folder = Path(__file__).parents[3] / "pebble" / "checkpoint"
    tokenizer_json = (folder / "tokenizer.json").read_bytes()
    tokenizer = PromptTokenizer(tokenizer_json, reserved=["<image>"], template="")
    grammar = GrammarCompiler(tokenizer_json, [2]).compile(json_schema=json.dumps(SHORT))
    ended = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        matcher, detokenizer, text = grammar.start(), Detokenizer(tokenizer), ""
        for _ in range(300):
            token = int(matcher.mask(rng.standard_normal(544).astype(np.float32)).argmax())
            assert token not in tokenizer.control_ids - {2}
            matcher.accept(token)
            text += detokenizer.add(token)
            if matcher.finished:
                jsonschema.validate(json.loads(text + detokenizer.finish()), SHORT)
                ended += 1
                break
    assert ended == 20


def test_threads_share_a_compiler(tokenizer_json: bytes, tokenizer: Tokenizer) -> None:
    shared = GrammarCompiler(tokenizer_json, eos(tokenizer))
    with ThreadPoolExecutor(8) as pool:
        texts = list(
            pool.map(
                lambda seed: walk(shared.compile(regex="[a-f]{2,9}").start(), tokenizer, seed), range(40)
            )
        )
    assert all(text is not None and re.fullmatch("[a-f]{2,9}", text) for text in texts)
    alone = [walk(shared.compile(regex="[a-f]{2,9}").start(), tokenizer, seed) for seed in range(40)]
    assert texts == alone


def test_one_of_the_two_is_expected(compiler: GrammarCompiler) -> None:
    for arguments in ({}, {"json_schema": "{}", "regex": "a"}):
        with pytest.raises(UsageError, match="expected one of them"):
            compiler.compile(**arguments)


def test_a_missing_library_is_named(tokenizer_json: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"pip install 'pumice\[structured\]'"):
        GrammarCompiler(tokenizer_json, [2]).compile(regex="a")
