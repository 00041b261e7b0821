"""Blanks in constrained JSON. Oracles: what `json.dumps` prints, an expression for blanks in their places, and for
tokens the bytes that they have. Tolerance: none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pumice.errors import GenerationError
from pumice.generation.grammar import GrammarCompiler, Matcher
from tests.runtime.generation.test_grammar import CLOSED, SCHEMAS, TREE

from ..conftest import TOKENIZERS

END = "</s>"
STYLES: list[dict[str, Any]] = [
    {"indent": indent, "separators": separators}
    for indent in (None, 0, 1, 2, 4, "\t")
    for separators in (None, (",", ":"), (", ", ": "), (",", ": "))
]
BLANKS_IN_PLACE = re.compile(r'(?s)(?:"(?:[^"\\]|\\.)*"|[\[{,:][ \n\t]*|[ \n\t]*[\]}]|[^ \n\t"\[\]{},:])*')
SAMPLE = [{"a": 1, "name": "x y", "b": [True, None, []]}, [["a", "b"], [1, 2.5], {}], {"k": {"a": "\\"}}]


def of_json() -> Tokenizer:
    """Byte level, with tokens that span several parts of JSON, blanks in and out of place: `",\\n`, `]\\n`, `" ,`."""
    texts = [json.dumps(value, **style) for value in SAMPLE for style in STYLES]
    texts += [re.sub(r"([,:])", r" \1\n", text) for text in texts] + [
        text.replace(",", "\n,") for text in texts
    ]
    texts += ['"\n', "]\n", "}\n", "}\n  ", '"]\n', "1\n", "[]\n", '" '] * 100
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([END])
    return tokenizer


@cache
def parts(name: str) -> tuple[Tokenizer, GrammarCompiler]:
    """A tokenizer and a compiler for it, which keeps its grammars."""
    tokenizer = of_json() if name == "of_json" else TOKENIZERS[name]()
    return tokenizer, GrammarCompiler(tokenizer.to_str().encode(), [tokenizer.token_to_id(END)])


def start(schema: Any, name: str = "of_json") -> Matcher:
    return parts(name)[1].compile(json_schema=json.dumps(schema)).start()


def allowed(matcher: Matcher, name: str = "of_json") -> Any:
    """Whether each token may come next."""
    return np.isfinite(matcher.mask(np.zeros(parts(name)[0].get_vocab_size(), np.float32)))


def forced(matcher: Matcher) -> bool:
    """Whether the text can go on in one way only: of its spellings llguidance's masks then have a single one."""
    return bool(matcher._matcher.compute_ff_bytes())


def refused_at(schema: Any, text: str) -> int | None:
    """The place of the first character that is refused, fed byte by byte; the length of a text that may not end."""
    matcher = start(schema)
    for place, character in enumerate(text):
        for token in tokens_of_bytes(character.encode()):
            masked = not allowed(matcher)[token]
            try:
                matcher.accept(token)
            except GenerationError:
                assert masked
                return place
    return None if allowed(matcher)[parts("of_json")[0].token_to_id(END)] else len(text)


@cache
def tokens_of_bytes(text: bytes) -> list[int]:
    return [texts().index(bytes([byte])) for byte in text]


@cache
def texts() -> list[bytes]:
    """The bytes of every token of `of_json`."""
    tokenizer = parts("of_json")[0]
    letters = {letter: byte for byte, letter in enumerate_letters()}
    return [
        bytes(letters[letter] for letter in name) if name != END else b""
        for name in map(tokenizer.id_to_token, range(tokenizer.get_vocab_size()))
    ]


def enumerate_letters() -> list[tuple[int, str]]:
    """GPT-2's letters for bytes: printable ones are themselves, others follow from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [(byte, chr(byte)) for byte in printable] + [(byte, chr(256 + i)) for i, byte in enumerate(others)]


STRINGS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x7f")
    | st.sampled_from('\n\t"\\,: ]}[{'),
    max_size=6,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.integers(-40, 40).map(lambda i: i / 8)
    | STRINGS
)


@st.composite
def valued_schemas(draw: st.DrawFn, depth: int = 3) -> tuple[Any, Any]:
    """A value and a schema that it satisfies."""
    kind = draw(st.sampled_from(["leaf", "array", "object"] if depth else ["leaf"]))
    if kind == "leaf":
        value: Any = draw(LEAVES)
        exact = (
            [] if isinstance(value, float) else [{"const": value}, {"enum": [value, "other"]}]
        )  # 0.0 is spelled 0
        return value, draw(st.sampled_from([{}, *exact]))
    members = draw(st.lists(valued_schemas(depth - 1), max_size=3))
    schemas = [schema for _, schema in members]
    any_of = {"anyOf": [*schemas, {"type": "null"}]}
    if kind == "array":
        size = draw(st.sampled_from([{}, {"minItems": len(members)}, {"maxItems": len(members)}]))
        exact = {"prefixItems": schemas, "items": False}
        items = draw(st.sampled_from([{}, {"items": any_of}, exact] if members else [{}, {"items": any_of}]))
        value, schema = [value for value, _ in members], {"type": "array", **size, **items}
    else:
        names = draw(st.lists(STRINGS, min_size=len(members), max_size=len(members), unique=True))
        value = dict(zip(names, (value for value, _ in members), strict=True))
        properties = {"properties": dict(zip(names, schemas, strict=True)), "additionalProperties": False}
        required = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        others = {"patternProperties": {"^(?s:.*)$": any_of}, "additionalProperties": False}
        fields = [{}, {"additionalProperties": any_of}, others, {**properties, "required": required}]
        schema = {"type": "object", **draw(st.sampled_from(fields))}
    return value, draw(st.sampled_from([schema, {"anyOf": [schema, {"type": "integer"}]}, {}]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, Any]:
    """As `valued_schemas`, the schema behind a reference at times."""
    value, schema = draw(valued_schemas())
    behind = {"$ref": "#/$defs/s", "$defs": {"s": schema}}
    return value, draw(st.sampled_from([schema, behind]))


@pytest.mark.parametrize("name", ["of_json", *sorted(TOKENIZERS)])
@settings(max_examples=30)
@given(request=requests())
def test_what_printers_print_is_allowed_token_by_token(name: str, request: tuple[Any, Any]) -> None:
    value, schema = request
    tokenizer, _ = parts(name)
    end = tokenizer.token_to_id(END)
    for style in STYLES:
        text = json.dumps(value, ensure_ascii=False, **style)
        matcher = start(schema, name)
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            assert allowed(matcher, name)[token] or forced(matcher), (text, tokenizer.id_to_token(token))
            matcher.accept(token)
        assert allowed(matcher, name)[end], text


@settings(max_examples=150)
@given(data=st.data(), request=requests(), style=st.sampled_from(STYLES))
def test_blanks_before_commas_and_colons_are_refused(
    data: st.DataObject, request: tuple[Any, Any], style: dict[str, Any]
) -> None:
    """At once, unless a bracket may close there: then at the comma."""
    value, schema = request
    text = json.dumps(value, ensure_ascii=False, **style)
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', lambda string: "s" * len(string[0]), text)
    places = [match.start() for match in re.finditer("[,:]", outside)]
    if not places:
        return
    place, blanks = data.draw(st.sampled_from(places)), data.draw(st.text(" \n\t", min_size=1, max_size=3))
    closing = any(
        refused_at(schema, text[:place] + bracket) == place + 1
        or refused_at(schema, text[:place] + bracket) is None
        for bracket in "]}"
    )
    assert not (closing and text[place] == ":")
    expected = place + len(blanks) if closing else place
    assert refused_at(schema, text[:place] + blanks + text[place:]) == expected


OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
THREE = {"type": "array", "items": {"type": "string"}, "minItems": 3}
PLACES: list[tuple[Any, str, int | None]] = [
    ({}, " 1", 0), ({}, "\n[]", 0), ({}, "1 ", 1), ({}, "[]\n", 2), ({}, '"a" ', 3), ({}, "{}\t", 2),
    ({}, "[]", None), ({}, "{}", None), ({}, "[ ]", None), ({}, "{\n}", None), ({}, "[\n\t\n]", None),
    ({}, '{"a" :1}', 4), ({}, '{"a"\n: 1}', 4), ({}, '{ "a": [ 1, 2 ], "b": { } }', None),
    ({}, '[1 ,2]', 3), ({}, "[1\n\n,2]", 4), ({}, '[ "a" , "b" ]', 6), ({}, "[[1] ,2]", 5), ({}, "[{} ,2]", 4),
    ({}, '["a ,b", "c\\" ,"]', None), ({}, '{" a :": " :"}', None), ({}, '["\\\\" ,1]', 6), ({}, "[-1.5e3\n]", None),
    (CLOSED, '{"name": "x" ,', 12), (CLOSED, '{"name": "x"\n, ', 12), (CLOSED, '{"name": "x", "age": 3\n}', None),
    (CLOSED, '{"name" : "x"', 7),
    (OPEN, '{"a": 1 }', None), (OPEN, '{"a": 1 , "b"', 8), (OPEN, '{"a": true\n\n}', None),
    (THREE, '[\n"heroes"\n\n,\n"fruits"', 10), (THREE, '["a",\n"b",\n"c"\n]', None), (THREE, '["a","b","c" ,', 13),
    (TREE, '{"value": 1 ,"children": []}', 12), (TREE, '{"value": 1,"children": [{"value": 2 }\n] }', None),
    ({"enum": [{"a": [1, 2]}, 3]}, '{"a": [1 ,', 8), ({"enum": [{"a": [1, 2]}, 3]}, '{ "a": [ 1, 2 ] }', None),
    ({"const": ["x", "y"]}, '["x" ,', 4), ({"prefixItems": [{}, {}], "items": False, "type": "array"}, "[1, 2 ,", 6),
    ({}, "[" + " " * 40 + "1" + "\n" * 40 + "]", None), ({}, "[" + " " * 41, 41), ({}, "[1" + " " * 41, 42),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "text", "place"), PLACES, ids=[repr(text)[:30] for _, text, _ in PLACES])
def test_places_of_blanks(schema: Any, text: str, place: int | None) -> None:
    assert refused_at(schema, text) == place


def walk(schema: Any, seed: int, limit: int) -> tuple[list[int], bool]:
    """A random answer that likes blanks, and whether it came to its end."""
    rng = np.random.default_rng(seed)
    liked = np.array([text.count(b" ") + text.count(b"\n") for text in texts()]).clip(0, 3)
    closing = np.array([text.count(b"]") + text.count(b"}") + text.count(b'"') for text in texts()])
    matcher, ids = start(schema), []
    for step in range(limit):
        logits = rng.standard_normal(len(texts())) + liked * rng.uniform(0, 1.5) + closing * step / 20
        token = int(matcher.mask(logits.astype(np.float32)).argmax())
        matcher.accept(token)
        if token == parts("of_json")[0].token_to_id(END):
            return ids, True
        ids.append(token)
        if matcher.finished:
            return ids, True
    return ids, False


BRACKETS = [s for s in SCHEMAS if s in ({}, True) or re.search("array|object|const|enum", json.dumps(s))]


@pytest.mark.parametrize("schema", BRACKETS, ids=lambda schema: json.dumps(schema)[:50])
def test_random_answers_have_their_blanks_in_place_and_never_get_stuck(schema: Any) -> None:
    ended = 0
    for seed in range(12):
        ids, complete = walk(schema, seed, 150)
        text = b"".join(texts()[token] for token in ids).decode(errors="replace")
        if complete:
            assert BLANKS_IN_PLACE.fullmatch(text), text
            jsonschema.validate(json.loads(text), schema)
            ended += 1
    assert ended


@pytest.mark.parametrize(
    "schema", [{}, OPEN, CLOSED, THREE, TREE], ids=["any", "open", "closed", "three", "tree"]
)
def test_a_token_is_allowed_exactly_if_its_bytes_are(schema: Any) -> None:
    """For the tokens that would be allowed if blanks were everywhere, at every place of random answers."""
    blank = np.array([bool(re.search(rb"[ \n\t]", text)) for text in texts()])
    seen = {True: 0, False: 0}
    for seed in range(12):
        ids, _ = walk(schema, seed, 30)
        for count in range(len(ids)):
            before = started_behind(schema, ids[:count])
            if forced(before):
                continue
            bits = np.frombuffer(before._matcher.compute_bitmask(), np.uint8)
            everywhere = np.unpackbits(bits, bitorder="little", count=len(blank)).astype(np.bool_)
            mask = allowed(before)
            assert not (mask & ~everywhere)[blank].any()
            for token in np.flatnonzero(everywhere & blank).tolist():
                assert mask[token] == takes(schema, ids[:count], tokens_of_bytes(texts()[token])), texts()[
                    token
                ]
                seen[bool(mask[token])] += 1
    assert min(seen.values()) > 20


def started_behind(schema: Any, ids: Sequence[int]) -> Matcher:
    matcher = start(schema)
    for token in ids:
        matcher.accept(token)
    return matcher


def takes(schema: Any, ids: Sequence[int], more: Sequence[int]) -> bool:
    matcher = started_behind(schema, ids)
    try:
        for token in more:
            matcher.accept(token)
    except GenerationError:
        return False
    return True
