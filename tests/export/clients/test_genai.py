"""Files for onnxruntime-genai: every file and name in them is the bundle's."""

from __future__ import annotations

import pytest

from pumice.manifest import GraphSpec
from tests.export.clients.conftest import Bundles


def names(graph: GraphSpec) -> set[str]:
    """Of its inputs and outputs."""
    return {tensor.name for tensor in (*graph.inputs, *graph.outputs)}


@pytest.mark.parametrize("family", ["llava-1.5", "llava-interleave", "pixtral", "vip-llava"])
def test_graphs_are_named_as_they_are(bundles: Bundles, family: str) -> None:
    manifest, model = bundles[family].manifest, bundles[family].json("genai_config.json")["model"]
    graphs = manifest.graphs
    for part, graph in (
        ("vision", graphs.vision_encoder),
        ("embedding", graphs.embedding),
        ("decoder", graphs.decoder),
    ):
        assert model[part]["filename"] == graph.file
        told = {*model[part]["inputs"].values(), *model[part]["outputs"].values()}
        assert {name.replace("%d", "0") for name in told} <= names(graph)
    assert model["decoder"]["num_hidden_layers"] == manifest.decoder.layers
    assert model["decoder"]["head_size"] == manifest.decoder.head_dim
    assert model["image_token_id"] == manifest.image_tokens.token_id
    assert 0 <= model["pad_token_id"] < manifest.decoder.vocab_size
    assert model["eos_token_id"] == list(manifest.tokens.eos_ids)


def test_only_quantised_bundles_ask_for_exact_products(bundles: Bundles) -> None:
    for family, asked in (("llava-interleave", True), ("llava-1.5", False)):
        options = bundles[family].json("genai_config.json")["model"]["decoder"]["session_options"]
        assert ("session.x64quantprecision" in options) == asked


def test_steps_of_an_image(bundles: Bundles) -> None:
    kinds = {
        family: [
            step["operation"]["type"]
            for step in bundles[family].json("genai_processor.json")["processor"]["transforms"]
        ]
        for family in ("llava-1.5", "llava-interleave")
    }
    end = ["Rescale", "Normalize", "Permute3D"]
    assert kinds["llava-1.5"] == ["DecodeImage", "Resize", "CenterCrop", *end]
    assert kinds["llava-interleave"] == ["DecodeImage", "Resize", *end]


def test_what_it_cannot_take_has_no_files(bundles: Bundles) -> None:
    """Tiles at all; of images of any size its processor, so that callers make pixels."""
    assert not list(bundles["llava-next"].bundle.glob("genai*"))
    assert not (bundles["pixtral"].bundle / "genai_processor.json").exists()
    assert "config_filename" not in bundles["pixtral"].json("genai_config.json")["model"]["vision"]
