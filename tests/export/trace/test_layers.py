"""Repeating a traced layer gives, byte for byte, the graph that tracing every layer gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import onnx_ir as ir
import pytest
import torch

from pumice.export.passes.simplify import simplify
from pumice.export.trace import decoder, vision_encoder
from pumice.export.trace.layers import LayerNames, equal_runs, repeat_layers
from pumice.export.trace.tracing import Traced
from pumice.models.config import LlavaConfig, TextConfig, VisionConfig
from pumice.models.text_weights import decoder_weights
from pumice.models.vision_weights import vision_encoder_weights

Tower = Literal["clip", "siglip", "pixtral"]


def model(
    windows: tuple[int | None, ...] = (None, None),
    biases: bool = False,
    tower: Tower = "clip",
    taps: tuple[int, ...] = (2,),
    rotated: bool = False,
) -> LlavaConfig:
    pixtral = tower == "pixtral"
    return LlavaConfig(
        vision=VisionConfig(
            tower=tower,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=max(taps) + 1,
            num_attention_heads=2,
            num_channels=3,
            image_size=28,
            patch_size=14,
            hidden_act="silu" if pixtral else "gelu",
            layer_norm_eps=1e-5,
            rope_theta=1e4 if pixtral else None,
        ),
        text=TextConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=len(windows),
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            rotary_dim=16,
            vocab_size=40,
            max_position_embeddings=64,
            hidden_act="silu",
            rms_norm_eps=1e-5,
            inv_freq=(1.0,) * 8,
            rotary_scale=1.0,
            sliding_windows=windows,
            qkv_bias=biases,
            o_bias=biases,
            mlp_bias=biases,
        ),
        vision_feature_layers=taps,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        projector_layer_norm_eps=1e-5 if len(taps) > 1 else None,
        image_token_id=3,
        tie_word_embeddings=rotated,
        rotated=rotated,
    )


def assert_alike(repeated: Traced, traced: Traced) -> None:
    """The same names now, and the same bytes once simplified."""
    assert repeated.inputs == traced.inputs
    assert repeated.parameters == traced.parameters
    assert [node.name for node in repeated.model.graph] == [node.name for node in traced.model.graph]
    (ours, counts), (theirs, expected) = simplify(repeated), simplify(traced)
    assert counts == expected
    assert ir.to_proto(ours).SerializeToString(deterministic=True) == ir.to_proto(theirs).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(model((None, None, None, 5, 5, 5, 7), biases=True), id="7 layers, windows"),
        pytest.param(model((None,)), id="1 layer", marks=pytest.mark.slow),
        pytest.param(model((None, 7), biases=True), id="2 layers", marks=pytest.mark.slow),
        pytest.param(model((9, 9, 9)), id="3 layers", marks=pytest.mark.slow),
        pytest.param(model((None,) * 4), id="4 layers", marks=pytest.mark.slow),
        pytest.param(model((5, None, 5, None, 5, None)), id="6 layers, alternating", marks=pytest.mark.slow),
        pytest.param(model((8,) * 6, rotated=True), id="6 layers, rotated", marks=pytest.mark.slow),
    ],
)
def test_repeated_decoder_is_the_traced_one(config: LlavaConfig) -> None:
    repeated = decoder.trace_decoder(config)
    assert set(repeated.parameters) == {*decoder_weights(config), "cos_cache", "sin_cache"}
    assert_alike(repeated, decoder.trace_every_layer(config))


@pytest.mark.parametrize(
    ("tower", "taps"),
    [
        ("clip", (0,)),
        ("clip", (6,)),
        ("clip", (7, 4, 0)),
        pytest.param("clip", (1,), marks=pytest.mark.slow),
        pytest.param("clip", (3,), marks=pytest.mark.slow),
        pytest.param("clip", (4, 4), marks=pytest.mark.slow),
        pytest.param("clip", (1, 6), marks=pytest.mark.slow),
        pytest.param("siglip", (6,), marks=pytest.mark.slow),
        pytest.param("siglip", (7, 4, 0), marks=pytest.mark.slow),
        pytest.param("pixtral", (6,), marks=pytest.mark.slow),
        pytest.param("pixtral", (7, 4, 0), marks=pytest.mark.slow),
    ],
)
def test_repeated_tower_is_the_traced_one(tower: Tower, taps: tuple[int, ...]) -> None:
    config = model(tower=tower, taps=taps)
    repeated = vision_encoder.trace_vision_encoder(config)
    assert set(repeated.parameters) == set(vision_encoder_weights(config))
    assert_alike(repeated, vision_encoder.trace_every_layer(config))


@pytest.mark.parametrize(
    ("module", "trace", "config", "layers"),
    [
        (decoder, decoder.trace_decoder, model((None,) * 32), 3),
        (decoder, decoder.trace_decoder, model((None,) * 21 + (4096,) * 7), 4),
        (vision_encoder, vision_encoder.trace_vision_encoder, model(taps=(23,)), 3),
        (vision_encoder, vision_encoder.trace_vision_encoder, model(taps=(22, 19, 16, 13, 6)), 7),
    ],
    ids=["Llama", "Qwen2", "CLIP-L", "ViP-LLaVA"],
)
def test_few_layers_are_traced(
    module: Any,
    trace: Callable[[LlavaConfig], Traced],
    config: LlavaConfig,
    layers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: list[int] = []

    def give_up(config: LlavaConfig, dtype: torch.dtype, **_: bool) -> Traced:
        traced.append(config.text.num_hidden_layers if module is decoder else config.vision_layers)
        raise InterruptedError

    monkeypatch.setattr(module, "trace_every_layer", give_up)
    with pytest.raises(InterruptedError):
        trace(config)
    assert traced == [layers]


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ("", []),
        ("a", [[0]]),
        ("aa", [[0], [1]]),
        ("aaaaa", [[0], [1, 2, 3], [4]]),
        ("aabbba", [[0], [1], [2, 3, 4], [5]]),
        ("abab", [[0], [1], [2], [3]]),
    ],
)
def test_runs(kinds: str, runs: list[list[int]]) -> None:
    assert [list(run) for run in equal_runs(kinds)] == runs


def test_names_of_layers() -> None:
    names = LayerNames(("/layers.", "layers.", "present."))
    assert names.layer("/layers.12/mlp/Mul_output_0") == 12
    assert names.layer("norm.weight") is None
    assert names.layer("layers.1x.weight") is None
    assert names.moved("layers.1.mlp.1.weight", 30) == "layers.30.mlp.1.weight"
    assert names.moved("old.layers.1.weight", 30) == "old.layers.1.weight"
    expanded = names.expanded(
        ["x", "present.0.key", "present.0.value", "present.1.key", "y"], [range(2), range(2, 3)]
    )
    assert expanded == (
        "x",
        "present.0.key",
        "present.0.value",
        "present.1.key",
        "present.1.value",
        "present.2.key",
        "y",
    )


def test_a_layer_that_hands_on_more_than_the_next_takes_is_not_repeated() -> None:
    """Here the last layer reads the inner value of the one before, which no copy would know to give."""

    def node(name: str, *inputs: ir.Value) -> ir.Node:
        output = ir.Value(name=f"{name}_output_0")
        return ir.Node("", name.rpartition("/")[2], inputs, outputs=[output], name=name)

    x = ir.Value(name="x")
    nodes = [node("/layers.0/Neg", x)]
    for layer in (1, 2):
        nodes.append(node(f"/layers.{layer}/Abs", nodes[-1].outputs[0]))
        nodes.append(node(f"/layers.{layer}/Neg", nodes[-1].outputs[0]))
    nodes.append(node("/layers.2/Add", nodes[1].outputs[0], nodes[-1].outputs[0]))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 21})
    traced = Traced(model=ir.Model(graph, ir_version=10), inputs=("x",), parameters=())
    with pytest.raises(AssertionError, match="hands on more"):
        repeat_layers(traced, equal_runs("aaaaa"), ("/layers.",))
