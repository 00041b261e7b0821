"""Oracle: the tokenizer that transformers makes of the same files. Tolerance: none, token ids are equal."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoProcessor

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor import describe as companions
from pumice.prompt.sealed import Span
from pumice.prompt.tokenizer import PromptTokenizer
from tests.factory import make_checkpoint

SENTENCES = [
    "USER: what is shown in the picture? ASSISTANT: a red circle is left of the blue square.",
    "how many shapes are there? there are three shapes, and one of them is a yellow octagon.",
    "The quick brown fox jumps over the lazy dog while 0123456789 numbers are counted.",
] * 10
WORDS = st.sampled_from(
    ["what", " ", "  ", "\n", "red circle", "ü", "日本", "🙂", "</s>", "<0x41>", "▁", "1234", "<"]
)
TEXTS = st.lists(WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8).map(
    "".join
)


def train(folder: Path, **options: Any) -> int:
    """Write `tokenizer.model` as Llama's is; returns the number of its pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.98,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        minloglevel=2,
        **{"normalization_rule_name": "identity", **options},
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces: int = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    return pieces


def sentencepiece_only(folder: Path, **options: Any) -> Path:
    """A checkpoint with `tokenizer.model` in place of `tokenizer.json`; its vocabulary is smaller than the table."""
    make_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    pieces = train(folder, **options)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "additional_special_tokens": ["<image>"],
        "pad_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    assert pieces < config["text_config"]["vocab_size"] - 1
    (folder / "config.json").write_text(
        json.dumps({**config, "image_token_index": pieces, "pad_token_id": 0})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    (folder / "special_tokens_map.json").unlink()
    return folder


KINDS = {
    "bpe": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram"},
    "bpe-nfkc": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "unigram-nfkc": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
}


SPECIALS = ("<s>", "</s>", "<unk>", "<image>")
"""Of which a user's text makes none here, and does in transformers."""


class Converted:
    """A bundle's tokenizer, and transformers' own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.checkpoint = sentencepiece_only(folder / "checkpoint", **KINDS[kind])
        (folder / "bundle").mkdir()
        opened = open_checkpoint(self.checkpoint)
        self.parts = companions.describe(opened, read_config(opened.config))
        companions.copy(opened, folder / "bundle")
        self.definition = (folder / "bundle" / "tokenizer.json").read_bytes()
        self.bundle = folder / "bundle"
        self.ours = PromptTokenizer(self.definition, reserved=["<image>", "<s>", "</s>"], template="")
        self.theirs = AutoProcessor.from_pretrained(self.checkpoint).tokenizer


@pytest.fixture(scope="session", params=KINDS)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return Converted(request.param, tmp_path_factory.mktemp(request.param))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=TEXTS)
def test_converted_tokenizers_give_transformers_ids(converted: Converted, text: str) -> None:
    expected = converted.theirs(text + "<image>")["input_ids"]
    assert converted.ours.encode(text + "<image>") == expected
    assert converted.ours.decode(expected) == converted.theirs.decode(expected, skip_special_tokens=True)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=TEXTS.filter(lambda text: not any(special in text for special in SPECIALS)))
def test_converted_tokenizers_can_be_sealed(converted: Converted, text: str) -> None:
    spans = [Span(text="<image>", trusted=True), Span(text="a" + text, trusted=False)]
    expected = converted.theirs("<image>a" + text)["input_ids"]
    assert converted.ours.encode_spans(spans, add_special_tokens=True) == expected


def test_letters_outside_the_vocabulary_are_bytes(converted: Converted) -> None:
    ids = converted.ours.encode("🙂")
    assert [converted.theirs.convert_ids_to_tokens(i) for i in ids[-4:]] == [
        "<0xF0>",
        "<0x9F>",
        "<0x99>",
        "<0x82>",
    ]
    assert ids[0] == 1
    assert "🙂" in converted.ours.decode(ids)


def test_the_manifests_parts_know_the_converted_tokens(converted: Converted) -> None:
    tokens = converted.parts["tokens"]
    assert (tokens.bos_token, tokens.eos_token, tokens.unk_token, tokens.eos_ids) == (
        "<s>",
        "</s>",
        "<unk>",
        (2,),
    )
    definition = Tokenizer.from_str(converted.definition.decode())
    assert converted.parts["image_tokens"].token_id == definition.token_to_id("<image>")


def test_ids_above_the_vocabulary_are_no_text(converted: Converted) -> None:
    """The embedding table has more rows than the tokenizer has tokens, and a model may choose any."""
    last = converted.parts["image_tokens"].token_id
    ids = converted.ours.encode("red circle")
    assert converted.ours.decode([*ids, last + 1, last + 5]) == converted.ours.decode(ids)


def test_room_is_kept_for_the_converted_file(converted: Converted) -> None:
    assert companions.nbytes(open_checkpoint(converted.checkpoint)) >= sum(
        path.stat().st_size for path in converted.bundle.iterdir()
    )


def test_the_bundle_loads_in_transformers_without_sentencepiece(converted: Converted, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted.bundle, tmp_path / "bundle"))
    assert not (folder / "tokenizer.model").exists()
    text = "what is <image> red?"
    assert AutoProcessor.from_pretrained(folder).tokenizer(text)["input_ids"] == converted.ours.encode(text)
