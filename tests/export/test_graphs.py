"""The exported graphs on ONNX Runtime against transformers: float32 logits within 2e-4, whatever the shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import PrecisionName, Storage
from pumice.export.trace.decoder import cache_names
from pumice.export.weights.quantization import quantize_rows
from pumice.manifest import Manifest, load_manifest
from tests import oracle
from tests.bundle_files import graph_file
from tests.dequantize import dequantize_rows
from tests.factory import Text, make_checkpoint
from tests.shapes import checkpoints

TOLERANCE = 2e-4


class Graphs:
    """A bundle's graphs, run one by one."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.manifest: Manifest = load_manifest(bundle)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.sessions = {
            name: onnxruntime.InferenceSession(graph_file(bundle, name), options)
            for name in ("vision_encoder", "embedding", "decoder")
        }

    def embeds(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> np.ndarray:
        width = self.manifest.decoder.hidden_size
        features = np.zeros((0, width), np.float32)
        if pixel_values is not None:
            features = self.sessions["vision_encoder"].run(None, {"pixel_values": pixel_values.numpy()})[0]
        feeds = {"input_ids": input_ids.numpy(), "image_features": features}
        return np.asarray(self.sessions["embedding"].run(None, feeds)[0])

    def empty_cache(self, batch: int = 1) -> list[np.ndarray]:
        shape = self.manifest.decoder
        past = np.zeros((batch, shape.kv_heads, 0, shape.head_dim), shape.kv_dtype)
        return [past] * (2 * shape.layers)

    def decode(
        self, embeds: np.ndarray, mask: np.ndarray, cache: list[np.ndarray], keep: int | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        names = cache_names("past_key_values", self.manifest.decoder.layers)
        feeds: dict[str, Any] = dict(zip(names, cache, strict=True))
        feeds |= {"inputs_embeds": embeds, "attention_mask": mask.astype(np.int64)}
        if keep is not None:
            feeds["num_logits_to_keep"] = np.array(keep)
        logits, *presents = self.sessions["decoder"].run(None, feeds)
        return np.asarray(logits), [np.asarray(present) for present in presents]

    def logits(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> np.ndarray:
        embeds = self.embeds(input_ids, pixel_values)
        return self.decode(embeds, np.ones(embeds.shape[:2]), self.empty_cache(), keep=0)[0]


def exported(folder: Path, precision: PrecisionName = "fp32", **options: Any) -> tuple[Path, Graphs]:
    checkpoint = make_checkpoint(folder / "checkpoint", **options)
    export_bundle(checkpoint, folder / "bundle", precision=precision)
    return checkpoint, Graphs(folder / "bundle")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graphs]:
    return exported(tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(options=checkpoints())
def test_logits_of_any_shape(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Within the tolerance of transformers in float64; in float32, transformers' own rounding comes on top.

    Random models a few channels wide can be so ill-conditioned that the latter alone exceeds the tolerance.
    """
    checkpoint, graphs = exported(tmp_path_factory.mktemp("any"), **options)
    single, double = oracle.theirs(checkpoint), oracle.theirs(checkpoint, torch.float64)
    config = read_config(open_checkpoint(checkpoint).config)
    for images in (0, 1, 2):
        ids, pixels = oracle.prompt(config, images=images)
        given = pixels if images else None
        with torch.no_grad():
            shown = oracle.given_images(config, given)
            rounded = single(input_ids=ids, **shown).logits.numpy()
            shown |= {} if given is None else {"pixel_values": given.double()}
            exact = double(input_ids=ids, **shown).logits.numpy()
        logits = graphs.logits(ids, given)
        assert np.abs(logits - exact).max() <= TOLERANCE
        assert np.abs(logits - rounded).max() <= TOLERANCE + np.abs(rounded - exact).max()


@pytest.mark.parametrize("window", [1, 5])
def test_sliding_windows(window: int, tmp_path: Path) -> None:
    """Prompt, tokens one by one, and several over a past see as far back as in transformers; one layer in two does."""
    text = Text(kind="qwen2", layers=2, full_layers=1, sliding_window=window)
    checkpoint, graphs = exported(tmp_path, text=text)
    ids = torch.randint(3, 200, (1, 14), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = oracle.theirs(checkpoint)(input_ids=ids).logits.numpy()
    embeds, cache, at = graphs.embeds(ids, None), graphs.empty_cache(), 0
    for length in (6, 1, 1, 4, 1, 1):
        mask = np.ones((1, at + length))
        logits, cache = graphs.decode(embeds[:, at : at + length], mask, cache, keep=0)
        assert np.abs(logits - expected[:, at : at + length]).max() <= TOLERANCE
        at += length


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_heads_are_padded_to_a_width_that_runs(precision: PrecisionName, tmp_path: Path) -> None:
    """GroupQueryAttention takes heads of 16, 32, …; this checkpoint's are 10 wide, with biases."""
    text = Text(width=96, heads=4, kv_heads=2, head_dim=10, mlp=96, attention_bias=True)
    checkpoint, graphs = exported(tmp_path, precision, text=text)
    assert graphs.manifest.decoder.head_dim == 16
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    with torch.no_grad():
        expected = oracle.theirs(checkpoint)(input_ids=ids, pixel_values=pixels).logits.numpy()
    error = np.abs(graphs.logits(ids, pixels) - expected)
    assert error.max() <= TOLERANCE if precision == "fp32" else error.mean() < expected.std() / 2


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_int4_computes_with_its_own_weights(tied: bool, tmp_path: Path) -> None:
    """int4 equals transformers with the decoder's matrices replaced by what the blocks stand for.

    MatMulNBits rounds activations to int8 as well (accuracy level 4), so the bound is on the mean error.
    """
    text = Text(width=128, layers=2, heads=4, kv_heads=2, mlp=192, tied=tied)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=text)
    storage, recipe = Storage(weights="int4"), tmp_path / "recipe.toml"
    recipe.write_text('float_type = "fp32"\n[embedding]\nweights = "int4"\n[decoder]\nweights = "int4"\n')
    export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe)
    graphs, theirs = Graphs(tmp_path / "bundle"), oracle.theirs(checkpoint)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if value.dim() == 2 and ("language_model" in name or "lm_head" in name):
                blocks = quantize_rows(value, storage)
                value.copy_(dequantize_rows(blocks, storage, value.shape[1]))
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=pixels).logits.numpy()
    error = np.abs(graphs.logits(ids, pixels) - expected)
    assert error.mean() < 0.05 * expected.std()
    quantized = graphs.manifest.precision.quantized
    assert len(quantized) == 2 * 5 + 2
    assert "embedding/weight" in quantized


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_tied_table_is_stored_once(precision: PrecisionName, tmp_path: Path) -> None:
    _, graphs = exported(tmp_path, precision, text=Text(tied=True))
    specs = graphs.manifest.graphs
    assert specs.embedding.external_data == specs.decoder.external_data
    assert len(list(graphs.bundle.glob("onnx/*.onnx_data"))) == 2


def test_batches_are_ragged(plain: tuple[Path, Graphs]) -> None:
    """Right-padded prompts of different lengths, then a token each: as each alone."""
    checkpoint, graphs = plain
    theirs = oracle.theirs(checkpoint)
    ids = torch.randint(3, 200, (3, 6), generator=torch.Generator().manual_seed(1))
    lengths = np.array([5, 2, 4])
    mask = np.arange(5) < lengths[:, None]
    first, cache = graphs.decode(graphs.embeds(ids[:, :5], None), mask, graphs.empty_cache(3))
    longer = np.arange(6) < lengths[:, None] + 1
    second, _ = graphs.decode(graphs.embeds(ids[:, 5:], None), longer, cache)
    for row, length in enumerate(lengths):
        alone = torch.cat((ids[row, :length], ids[row, 5:]))[None]
        with torch.no_grad():
            expected = theirs(input_ids=alone).logits[0, -2:].numpy()
        assert np.abs(np.stack((first[row, 0], second[row, 0])) - expected).max() <= TOLERANCE


@pytest.mark.parametrize(("keep", "rows"), [(None, 1), (1, 1), (3, 3), (0, 7), (99, 7)])
def test_num_logits_to_keep(plain: tuple[Path, Graphs], keep: int | None, rows: int) -> None:
    _, graphs = plain
    embeds = graphs.embeds(torch.arange(3, 10)[None], None)
    everything, _ = graphs.decode(embeds, np.ones((1, 7)), graphs.empty_cache(), keep=0)
    logits, _ = graphs.decode(embeds, np.ones((1, 7)), graphs.empty_cache(), keep=keep)
    assert logits.shape[1] == rows
    np.testing.assert_allclose(logits, everything[:, -rows:], atol=1e-5)


@pytest.mark.parametrize("recipe", ["cuda-fp16", "cuda-int4"])
def test_recipes_for_cuda_give_the_likeliest_token(recipe: str, tmp_path: Path) -> None:
    """Of each row's last position, -1 where it is not finite; and the manifest says that they do."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe)
    given = {tensor.name: tensor for tensor in manifest.graphs.decoder.outputs}
    assert (given["greedy_token"].dtype, given["greedy_token"].shape) == ("int64", ("batch_size",))
    shape = manifest.decoder
    past = np.zeros((3, shape.kv_heads, 0, shape.head_dim), np.float16)
    feeds: dict[str, Any] = dict.fromkeys(cache_names("past_key_values", shape.layers), past)
    feeds["inputs_embeds"] = np.random.default_rng(0).standard_normal((3, 5, shape.hidden_size), np.float32)
    feeds["inputs_embeds"][1, 4] = np.nan
    feeds["attention_mask"] = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    session = Graphs(tmp_path / "bundle").sessions["decoder"]
    logits, tokens = session.run(["logits", "greedy_token"], feeds)
    assert tokens.tolist() == [logits[0, -1].argmax(), -1, logits[2, -1].argmax()]


def test_several_tokens_over_a_past(plain: tuple[Path, Graphs]) -> None:
    _, graphs = plain
    embeds = graphs.embeds(torch.arange(3, 13)[None], None)
    whole, _ = graphs.decode(embeds, np.ones((1, 10)), graphs.empty_cache(), keep=0)
    _, cache = graphs.decode(embeds[:, :4], np.ones((1, 4)), graphs.empty_cache())
    rest, _ = graphs.decode(embeds[:, 4:], np.ones((1, 10)), cache, keep=0)
    np.testing.assert_allclose(rest, whole[:, 4:], atol=1e-4)


def test_image_tokens_without_images_are_words(plain: tuple[Path, Graphs]) -> None:
    """A model may well generate its image token: it is then looked up as any other."""
    checkpoint, graphs = plain
    token = read_config(open_checkpoint(checkpoint).config).image_token_id
    ids = torch.tensor([[5, token, 7]])
    with torch.no_grad():
        expected = oracle.theirs(checkpoint)(input_ids=ids).logits.numpy()
    assert np.abs(graphs.logits(ids, None) - expected).max() <= TOLERANCE


def test_names_that_third_parties_rely_on(plain: tuple[Path, Graphs]) -> None:
    """Transformers.js builds its empty cache from `batch_size` and static heads; onnxruntime-genai allocates logits."""
    _, graphs = plain
    shape = graphs.manifest.decoder
    inputs = {i.name: (i.shape, i.type) for i in graphs.sessions["decoder"].get_inputs()}
    cache = ["batch_size", shape.kv_heads, "past_sequence_length", shape.head_dim]
    assert inputs["past_key_values.0.key"] == (cache, "tensor(float)")
    assert inputs["inputs_embeds"][0] == ["batch_size", "sequence_length", shape.hidden_size]
    assert inputs["attention_mask"] == (["batch_size", "total_sequence_length"], "tensor(int64)")
    assert "num_logits_to_keep" not in inputs  # an overridable initializer
    outputs = {o.name: o.shape for o in graphs.sessions["decoder"].get_outputs()}
    assert outputs["logits"] == ["batch_size", 1, shape.vocab_size]
    assert outputs["present.1.value"] == [
        "batch_size",
        shape.kv_heads,
        "total_sequence_length",
        shape.head_dim,
    ]


def test_nodes_are_named_by_path_and_fused(plain: tuple[Path, Graphs]) -> None:
    _, graphs = plain
    model = onnx.load(graph_file(graphs.bundle, "decoder"), load_external_data=False)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(name.startswith("/") for name in names)
    assert "/layers.0/self_attn/GroupQueryAttention" in names
    assert "/layers.1/mlp/down_proj/MatMul" in names
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GroupQueryAttention") == graphs.manifest.decoder.layers
    assert kinds.count("SkipSimplifiedLayerNormalization") == 2 * graphs.manifest.decoder.layers
    assert graphs.manifest.graphs.decoder.nodes == len(kinds)
    vision = onnx.load(graph_file(graphs.bundle, "vision_encoder"), load_external_data=False)
    assert "MultiHeadAttention" in {node.op_type for node in vision.graph.node}


def test_past_and_present_may_share_a_buffer(plain: tuple[Path, Graphs]) -> None:
    """The runtime's way: one preallocated buffer bound as both; only the new rows are written."""
    _, graphs = plain
    shape, session = graphs.manifest.decoder, graphs.sessions["decoder"]
    embeds = graphs.embeds(torch.arange(3, 9)[None], None)
    expected, _ = graphs.decode(embeds, np.ones((1, 6)), graphs.empty_cache())
    buffers = [
        onnxruntime.OrtValue.ortvalue_from_numpy(
            np.full((1, shape.kv_heads, 32, shape.head_dim), 7, np.float32)
        )
        for _ in range(2 * shape.layers)
    ]
    for at, length in ((0, 4), (4, 2)):
        binding = session.io_binding()
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds[:, at : at + length]))
        binding.bind_cpu_input("attention_mask", np.ones((1, at + length), np.int64))
        for kind, bind in (
            ("past_key_values", binding.bind_ortvalue_input),
            ("present", binding.bind_ortvalue_output),
        ):
            for name, buffer in zip(cache_names(kind, shape.layers), buffers, strict=True):
                bind(name, buffer)
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
    logits = binding.get_outputs()[-1].numpy()  # in the order of binding
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert (buffers[0].numpy()[:, :, 6:] == 7).all()
