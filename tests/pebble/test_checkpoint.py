"""The shipped checkpoint and held-out set: complete, small, and of a piece."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from pebble.architecture import CHAT_TEMPLATE
from pebble.heldout import FOLDER, QUESTIONS
from pebble.packing import Packer
from pebble.records import Record, Turn, load_records, score, to_messages

CHECKPOINT = Path(__file__).parents[2] / "pebble" / "checkpoint"
TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def test_weights_are_small() -> None:
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 8_000_000


@given(st.text())
def test_any_text_can_be_encoded(text: str) -> None:
    ids = TOKENIZER.encode(text.replace("<", "‹"), add_special_tokens=False).ids
    assert TOKENIZER.decode(ids) == text.replace("<", "‹")


def test_loads_in_transformers() -> None:
    from transformers import AutoProcessor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.chat_template == CHAT_TEMPLATE
    assert processor.tokenizer.image_token_id == TOKENIZER.token_to_id("<image>")


@pytest.mark.parametrize("images", [1, 2])
def test_training_sees_the_ids_that_the_processor_makes(images: int) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    turns = (
        Turn(question="How many shapes are there?", answer="Two."),
        Turn(question="Which ones?", answer="A."),
    )
    messages = to_messages(Record(id="x", kind="x", images=("a",) * images, turns=turns))
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(images=[Image.new("RGB", (9, 9))] * images, text=prompt).input_ids[0]
    packer = Packer(TOKENIZER)
    ids, labels = packer.conversation(turns)
    answer = [i for i, label in enumerate(labels) if label >= 0][-3]  # " A", ".", "</s>"
    assert list(expected) == packer.prefix(images) + ids[:answer]


def test_held_out_set() -> None:
    records = load_records(QUESTIONS)
    assert len(records) >= 500
    assert len({record.id for record in records}) == len(records)
    kinds = {record.kind for record in records}
    assert {
        "shown",
        "colour",
        "count",
        "describe",
        "side",
        "follow-up: it",
        "two pictures: difference",
    } <= kinds
    for record in records:
        for name in record.images:
            with Image.open(FOLDER / name) as image:
                assert image.mode == "RGB"


def test_scoring() -> None:
    records = load_records(QUESTIONS)[:4]
    answers = iter([record.answer for record in records[:3]] + ["Something else."])
    table = score(records, lambda messages, images: f" {next(answers)}", folder=FOLDER)
    assert (table.total.right, table.total.asked) == (3, 4)
    assert [record for record, _ in table.wrong] == records[3:]
