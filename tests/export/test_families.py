"""Every family of checkpoints, exported and run as a user would, against transformers: ids, pixels, logits, tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import pumice
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.export.recipes.recipe import PrecisionName
from pumice.manifest import decode_manifest
from tests import manifest_examples, oracle
from tests.export.test_graphs import Graphs
from tests.factory import FAMILIES, Layout

pytestmark = pytest.mark.slow

TOLERANCE = 2e-4
MEAN_ERRORS: dict[PrecisionName, float] = {"fp16": 0.003, "int8": 0.05, "int4": 0.35}
"""Of logits, in parts of their spread; about half of it is seen, on random weights."""
NEW_TOKENS = 32
WIDE, TALL = drawn_image(0, (150, 100)), drawn_image(1, (41, 67))
IMAGE: dict[str, Any] = {"type": "image"}
PROMPTS = {
    "one image": ([("user", [IMAGE, "what is shown?"])], [WIDE]),
    "two images": ([("user", [IMAGE, IMAGE, "how many shapes are there in both?"])], [WIDE, TALL]),
    "no image": ([("user", ["the quick brown fox jumps over the lazy dog"])], []),
    "second turn": (
        [("user", [TALL, "what is left of it?"]), ("assistant", ["a square"]), ("user", ["a red one?"])],
        [TALL],
    ),
    "an image in each turn": (
        [("user", [TALL, "is it red?"]), ("assistant", ["one of them."]), ("user", [IMAGE, "and this?"])],
        [TALL, WIDE],
    ),
}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """transformers' processor and model."""

    processor: Any
    model: PreTrainedModel

    def inputs(self, name: str) -> dict[str, torch.Tensor]:
        messages, images = asked(name)
        prepared = iter(images)
        for message in messages:
            message["content"] = [
                {"type": "image", "image": next(prepared)} if part["type"] == "image" else part
                for part in message["content"]
            ]
        return dict(
            self.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )

    @torch.no_grad()
    def logits(self, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        return self.model(**inputs).logits[0].numpy()

    @torch.no_grad()
    def tokens(self, inputs: dict[str, torch.Tensor]) -> list[int]:
        found = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        return found[0, inputs["input_ids"].shape[1] :].tolist()


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A family's bundle, loaded, and what it has to equal."""

    family: str
    precision: PrecisionName
    model: pumice.Model
    reference: Reference


def asked(name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages and images of a prompt."""
    turns, images = PROMPTS[name]
    return [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else dict(IMAGE) for part in parts
            ],
        }
        for role, parts in turns
    ], list(images)


def export(family: str, precision: PrecisionName, folder: Path, **options: Any) -> Exported:
    checkpoint = FAMILIES[family](folder / "checkpoint", **options)
    export_bundle(checkpoint, folder / "bundle", precision=precision)
    return opened(family, precision, folder)


def opened(family: str, precision: PrecisionName, folder: Path) -> Exported:
    """What a folder has: `checkpoint` and `bundle`."""
    checkpoint = folder / "checkpoint"
    config = read_config(open_checkpoint(checkpoint).config)
    reference = Reference(processor=load_processor(checkpoint, config), model=oracle.theirs(checkpoint))
    return Exported(
        family=family,
        precision=precision,
        model=pumice.load(folder / "bundle", device="cpu", threads=1),
        reference=reference,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def exact(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> Exported:
    """In float32."""
    return opened(request.param, "fp32", family_folder(request.param))


@pytest.fixture(
    scope="module",
    params=[
        (f, p)
        for f in FAMILIES
        if not f.startswith(("llava-llama-3-", "mistral-", "joycaption"))
        for p in MEAN_ERRORS
    ],
    ids="-".join,
)
def rounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """With weights in fewer bits."""
    return export(*request.param, tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize("name", PROMPTS)
def test_inputs(exact: Exported, name: str) -> None:
    """The same token ids and the very same pixels."""
    messages, images = asked(name)
    expected = exact.reference.inputs(name)
    prepared = exact.model.prepare(messages, images)
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    if images:
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"].numpy())
    if "image_sizes" in expected:
        assert prepared.image_sizes.tolist() == expected["image_sizes"].tolist()


def test_manifest_example(exact: Exported) -> None:
    """The manifest in docs/manifests is what such a checkpoint gives (`python -m tests.manifest_examples`)."""
    if exact.family in manifest_examples.NAMES:
        written = decode_manifest(
            (manifest_examples.FOLDER / f"{exact.family}.json").read_bytes(), exact.family
        )
        found = manifest_examples.example(exact.family, exact.model.manifest)
        sizes = {name: entry.size for name, entry in found.files.items() if not name.endswith(".onnx")}
        assert sizes.items() <= {name: entry.size for name, entry in written.files.items()}.items()
        assert replace(found, files={}) == replace(written, files={})


@pytest.mark.parametrize("name", PROMPTS)
def test_logits(exact: Exported, name: str) -> None:
    messages, images = asked(name)
    expected = exact.reference.logits(exact.reference.inputs(name))
    assert expected.std() > 1  # or equality would mean little
    assert np.abs(exact.model.logits(messages, images) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_tokens(exact: Exported, name: str) -> None:
    messages, images = asked(name)
    expected = exact.reference.tokens(exact.reference.inputs(name))
    result = exact.model.generate(messages, images, max_new_tokens=NEW_TOKENS)
    assert len(expected) == NEW_TOKENS  # the fixture's seed keeps end tokens away
    assert list(result.token_ids) == expected


@pytest.mark.parametrize("name", PROMPTS)
def test_precisions(rounded: Exported, name: str) -> None:
    """Fewer bits change logits a little, and the model still answers."""
    messages, images = asked(name)
    expected = rounded.reference.logits(rounded.reference.inputs(name))
    error = np.abs(rounded.model.logits(messages, images) - expected).mean()
    assert error < MEAN_ERRORS[rounded.precision] * expected.std()
    result = rounded.model.generate(messages, images, max_new_tokens=NEW_TOKENS)
    assert len(result.token_ids) == NEW_TOKENS or result.finish_reason == "stop"


@pytest.mark.parametrize("layout", ["new", "saved"])
@pytest.mark.parametrize(
    "family", ["llava-interleave", "llava-llama-3-yarn", "vip-llava", "pixtral", "ministral-3"]
)
def test_newer_layouts(family: str, layout: Layout, tmp_path: Path) -> None:
    """Tensor names, config keys and processor files as transformers writes them today."""
    found = export(family, "fp32", tmp_path, layout=layout)
    for name in ("two images", "second turn"):
        test_inputs(found, name)
        test_logits(found, name)


def test_pixtral_takes_images_of_any_size(tmp_path: Path) -> None:
    """Several of one size at once, and of several sizes one by one: as transformers packs them all together."""
    checkpoint = FAMILIES["pixtral"](tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle", precision="fp32")
    encoder = Graphs(tmp_path / "bundle").sessions["vision_encoder"]
    patch = read_config(open_checkpoint(checkpoint).config).vision.patch_size
    sizes = [(patch, patch), (3 * patch, 2 * patch), (3 * patch, 2 * patch), (patch, 7 * patch)]
    packed = torch.zeros(len(sizes), 3, 3 * patch, 7 * patch)
    images = [torch.randn(3, *size, generator=torch.Generator().manual_seed(9)) for size in sizes]
    for row, pixels in zip(packed, images, strict=True):
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    with torch.no_grad():
        features = oracle.theirs(checkpoint).get_image_features(packed, image_sizes=torch.tensor(sizes))
    expected = [rows.numpy() for rows in features.pooler_output]
    for together in ([0], [1, 2], [3]):
        pixels = torch.stack([images[index] for index in together]).numpy()
        wanted = np.concatenate([expected[index] for index in together])
        rows = encoder.run(None, {"pixel_values": pixels})[0]
        assert rows.shape == wanted.shape
        assert np.abs(rows - wanted).max() <= TOLERANCE
    inputs = {i.name: i.shape for i in encoder.get_inputs()}
    assert inputs == {"pixel_values": ["num_images", 3, "height", "width"]}
    assert [o.shape for o in encoder.get_outputs()] == [["num_image_tokens", 80]]
