"""transformers' model with streamed weights is transformers' model, and its verdict is that of `generate`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from pumice.errors import CheckpointError
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.verify.parity import compare_answers
from pumice.export.verify.probes import Probe
from pumice.export.verify.reference import Inputs, Reference
from pumice.export.verify.tensors import FloatTensors
from tests.factory import BILLION, FAMILIES, Text, Vision, make_checkpoint

PROBES = [
    Probe(name="two", turns=("what differs?",), images=(drawn_image(0, (90, 60)), drawn_image(1, (30, 50)))),
    Probe(name="none", turns=("what is it?", "a square.", "and where?")),
]
NEW = 8


def whole_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def as_arguments(inputs: Inputs) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(inputs.input_ids)
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in ("pixel_values", "image_sizes", "batch_num_images"):
        if (value := getattr(inputs, name)) is not None:
            arguments[name] = torch.from_numpy(value)
    return arguments


@torch.no_grad()
def generated(model: Any, inputs: Inputs) -> list[int]:
    tokens = model.generate(**as_arguments(inputs), max_new_tokens=NEW, do_sample=False)
    return tokens[0, inputs.input_ids.shape[1] :].tolist()


def verdict(reference: Reference, inputs: Inputs, answer: list[int], ends: tuple[int, ...] = ()) -> Any:
    """Expected tokens and the first that differs, of an answer that only `ends` may end."""
    logits = np.concatenate(list(reference.head.logits(reference.run(inputs, answer).hidden)))
    best = logits[-len(answer) :].argmax(-1).tolist()
    return compare_answers(answer, best, ends, reference.eos_ids)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30], ids=["streamed", "kept"])
@pytest.mark.parametrize(
    "options",
    [{}, {"text": Text(tied=True)}, {"layout": "new", "dtype": "float16", "shard_bytes": 50_000}],
    ids=["plain", "tied", "sharded"],
)
def test_results_are_those_of_the_whole_model(
    options: dict[str, Any], kept_bytes: int, tmp_path: Path
) -> None:
    check_results(make_checkpoint(tmp_path, **options), kept_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_results_of_every_family(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "c")
    check_results(tmp_path / "c", 0)


def test_images_that_transformers_fails_on_are_told(tmp_path: Path) -> None:
    """One token's row, which transformers 5.24 takes for a row of numbers."""
    reference = Reference(open_checkpoint(FAMILIES["mistral-small"](tmp_path)))
    probe = Probe(name="small", images=(drawn_image(0, (8, 8)),), turns=("what?",))
    with pytest.raises(CheckpointError, match="transformers' model fails on images of a prompt"):
        reference.run(reference.inputs(probe), [3, 4])


def check_results(folder: Path, kept_bytes: int) -> None:
    model, reference = whole_model(folder), Reference(open_checkpoint(folder), kept_bytes=kept_bytes)
    buffers = dict(model.named_buffers())
    assert buffers
    assert all(torch.equal(reference.model.get_buffer(name), value) for name, value in buffers.items())
    for probe in PROBES:
        inputs = reference.inputs(probe)
        answer = generated(model, inputs)
        arguments = as_arguments(inputs)
        with torch.no_grad():
            expected = model(**arguments).logits[0].numpy()
        logits = np.concatenate(list(reference.head.logits(reference.run(inputs, answer).hidden)))
        assert np.abs(logits[: len(expected)] - expected).max() < 2e-5
        assert verdict(reference, inputs, answer, reference.eos_ids) == (tuple(answer), None)


def test_first_difference_is_where_generate_differs(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    model, reference = whole_model(folder), Reference(open_checkpoint(folder))
    inputs = reference.inputs(PROBES[0])
    answer = generated(model, inputs)
    for place in range(len(answer)):
        changed = list(answer)
        changed[place] = answer[place] + 1 if answer[place] < 100 else answer[place] - 1
        assert verdict(reference, inputs, changed) == (tuple(answer[: place + 1]), place)


def test_answers_end_where_generate_ends_them(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    plain = Reference(open_checkpoint(folder))
    inputs = plain.inputs(PROBES[0])
    answer = generated(whole_model(folder), inputs)
    place = next(i for i in range(1, NEW - 1) if answer[i] not in answer[:i])
    config = json.loads((folder / "generation_config.json").read_text())
    config["eos_token_id"] = [2, answer[place]]
    (folder / "generation_config.json").write_text(json.dumps(config))
    reference = Reference(open_checkpoint(folder))
    short = answer[: place + 1]
    assert generated(whole_model(folder), inputs) == short
    assert verdict(reference, inputs, short, (answer[place],)) == (tuple(short), None)
    assert verdict(reference, inputs, answer) == (tuple(short), place + 1)  # ours goes on, theirs has ended
    assert verdict(plain, inputs, short, (answer[place],)) == (tuple(short), place + 1)  # and the other way


def test_an_image_token_in_an_answer_is_a_word(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    reference = Reference(open_checkpoint(folder))
    inputs = reference.inputs(PROBES[0])
    image = reference.model.config.image_token_id
    embeds = reference.run(inputs, [image, 5]).embeds
    table = whole_model(folder).get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(embeds[0, -1], table[image])


def test_tensors_are_read_by_rows(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, dtype="bfloat16"))
    tensors = FloatTensors(checkpoint, tied=False)
    name = "model.language_model.embed_tokens.weight"
    stored = "language_model.model.embed_tokens.weight"
    expected = checkpoint.read(stored).float()
    assert torch.equal(tensors.read(name, expected.shape), expected)
    rows = torch.tensor([0, 3, 4, 5, 9, len(expected) - 1])
    assert torch.equal(tensors.read_rows(name, expected.shape, rows), expected[rows])
    with pytest.raises(CheckpointError, match=r"has shape \[384, 64\], transformers expects \[1, 64\]"):
        tensors.read(name, torch.Size([1, 64]))
    with pytest.raises(CheckpointError, match=r"no tensor language_model\.new\.weight"):
        tensors.read("model.language_model.new.weight", torch.Size([2]))
    unread = tensors.read("model.vision_tower.head.probe", torch.Size([2, 3]))
    assert torch.equal(unread, torch.zeros(2, 3))


def test_a_tied_head_is_the_table_and_a_head_of_its_own_counts(tmp_path: Path) -> None:
    tied = open_checkpoint(make_checkpoint(tmp_path / "tied", text=Text(tied=True)))
    shape = torch.Size([384, 64])
    table = FloatTensors(tied, tied=True).read("model.language_model.embed_tokens.weight", shape)
    assert torch.equal(FloatTensors(tied, tied=True).read("lm_head.weight", shape), table)
    with pytest.raises(CheckpointError, match="no tensor lm_head"):
        FloatTensors(tied, tied=False).read("lm_head.weight", shape)
    own = open_checkpoint(make_checkpoint(tmp_path / "own"))
    head = FloatTensors(own, tied=True).read("lm_head.weight", shape)
    assert torch.equal(head, own.read("language_model.lm_head.weight"))


SCRIPT = """
import resource, sys
from transformers import AutoModelForImageTextToText, LlamaModel, CLIPVisionModel
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.verify.probes import Probe
from pumice.export.verify.reference import Reference
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
reference = Reference(open_checkpoint(sys.argv[1]))
expected = reference.run(reference.inputs(Probe(name="", turns=("what is it?",))), [5, 6, 7])
rows = sum(len(logits) for logits in reference.head.logits(expected.hidden))
assert rows == len(expected.hidden)
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_memory_of_reading_a_billion_parameters(tmp_path: Path) -> None:
    """In float32 they take 4,300 MB."""
    if shutil.disk_usage(tmp_path).free < 5e9:
        pytest.skip("needs 5 GB of disk")
    vision = Vision(width=256, layers=2, heads=4, mlp=512)
    folder = make_checkpoint(
        tmp_path / "c", vision=vision, text=BILLION, dtype="float16", shard_bytes=1 << 29
    )
    try:
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
    assert int(run.stdout) < 700
