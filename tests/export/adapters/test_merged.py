"""Adapters merged while weights are read: every value as PEFT's `merge_and_unload` leaves it, bit by bit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from pumice.errors import CheckpointError, UsageError
from pumice.export.adapters import change
from pumice.export.adapters.folder import Adapter, open_adapters
from pumice.export.adapters.merged import merge_adapters
from pumice.export.checkpoint.folder import Checkpoint, open_checkpoint
from pumice.export.checkpoint.tensor_file import TensorInfo
from pumice.export.config.llava import read_config
from pumice.export.progress import Silent
from pumice.export.weights.plain import make_plain
from pumice.models.tensor_names import canonical_name
from tests import oracle
from tests.factory import Text, make_checkpoint
from tests.factory.texts import make_text_checkpoint

TEXT_MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY_MATRIX = [*TEXT_MATRICES, "out_proj", "fc1", "fc2", "linear_1", "linear_2", "lm_head"]
TOWER = r".*vision_tower\..*(q_proj|fc1)"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": EVERY_MATRIX},
    "rank 1": {"target_modules": EVERY_MATRIX, "r": 1},
    "rsLoRA": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "DoRA": {"target_modules": EVERY_MATRIX, "use_dora": True},
    "rsLoRA and DoRA": {"target_modules": ["v_proj"], "use_rslora": True, "use_dora": True, "r": 5},
    "patterns": {
        "target_modules": ["q_proj", "up_proj", "fc2"],
        "rank_pattern": {r"(vision_tower\..*)q_proj": 3, "layers.1.self_attn.q_proj": 7, "q_proj": 2},
        "alpha_pattern": {"up_proj": 11, r"^model\.language_model\.layers\.0\..*q_proj": 5},
    },
    "tower": {"target_modules": TOWER},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector", "lm_head"]},
    "lora_bias": {"target_modules": ["fc1", "out_proj", "linear_2"], "lora_bias": True},
    "all biases": {"target_modules": ["q_proj", "fc1"], "bias": "all"},
    "adapted biases": {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 170, 4]},
    "tokens by module": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [9], "lm_head": [5, 2]},
    },
}
SCALED = ("plain", "rsLoRA", "DoRA", "lora_bias", "whole modules")

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored in float16: merging is in float32 all the same."""
    return make_checkpoint(tmp_path_factory.mktemp("base"), dtype="float16")


@pytest.fixture(scope="module")
def save(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Makes adapters with random values."""

    def make(seed: int = 0, checkpoint: Path = base, **config: Any) -> Path:
        settings = peft.LoraConfig(**({"r": 4, "lora_alpha": 6} | config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(oracle.theirs(checkpoint), settings)
            torch.manual_seed(seed)
            for name, value in model.named_parameters():
                if value.requires_grad:
                    noise = torch.randn(value.shape) * 0.1
                    value.data = value.data + noise if "magnitude" in name else noise
            folder = tmp_path_factory.mktemp("adapter")
            model.save_pretrained(folder)
        return folder

    return make


def expected(base: Path, *adapters: tuple[Path, float]) -> dict[str, torch.Tensor]:
    """PEFT's."""
    model: Any = oracle.theirs(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, scale in adapters:
            adapted = peft.PeftModel.from_pretrained(model, path)
            if scale != 1:
                for module in adapted.modules():
                    if isinstance(module, peft.tuners.lora.LoraLayer):
                        module.set_scale("default", scale)
            model = adapted.merge_and_unload()
    return {canonical_name(name): value for name, value in model.state_dict().items()}


def merged(base: Path, *adapters: str | Path | Adapter, tied: bool = False) -> Checkpoint:
    """Ours."""
    return merge_adapters(open_checkpoint(base), open_adapters(adapters, Silent()), tied=tied)


def compare(checkpoint: Checkpoint, theirs: dict[str, torch.Tensor], step: int | None = None) -> int:
    """Every tensor, `step` rows at a time; returns how many of them are changed."""
    for name in checkpoint.names:
        rows, want = checkpoint.shapes()[name][0], theirs[name]
        pieces = range(0, rows, step or rows)
        ours = torch.cat([checkpoint.read_canonical(name, i, min(rows, i + (step or rows))) for i in pieces])
        assert torch.equal(ours.float(), want), name
        assert ours.nbytes == checkpoint.nbytes(checkpoint.names[name])
    return len(checkpoint.changes)


@pytest.mark.parametrize("kind", KINDS)
def test_as_peft(base: Path, save: Save, kind: str) -> None:
    adapter = save(**KINDS[kind])
    theirs = expected(base, (adapter, 1.0))
    assert compare(merged(base, adapter), theirs)
    plain = open_checkpoint(base)
    own = {name: plain.read(plain.names[name]).float() for name in plain.names}
    differ = {name for name in own if not torch.equal(own[name], theirs[name])}
    assert {canonical_name(name) for name in merged(base, adapter).changes} >= differ, (
        "PEFT changes others too"
    )


@pytest.mark.parametrize("step", [1, 2, 7, 33])
@pytest.mark.parametrize("kind", ["plain", "DoRA", "embedding"])
def test_slabs_of_any_size(base: Path, save: Save, kind: str, step: int) -> None:
    adapter = save(**KINDS[kind])
    compare(merged(base, adapter), expected(base, (adapter, 1.0)), step)


@pytest.mark.parametrize("kind", SCALED)
def test_scale(base: Path, save: Save, kind: str) -> None:
    adapter = save(**KINDS[kind])
    compare(merged(base, Adapter(path=adapter, scale=0.3)), expected(base, (adapter, 0.3)))


def test_several_in_order(base: Path, save: Save) -> None:
    first, second = save(**KINDS["DoRA"]), save(1, **KINDS["whole modules"])
    third = save(2, **KINDS["DoRA"])
    given = ((first, 1.0), (second, 0.5), (third, 1.0))
    compare(merged(base, *(Adapter(path=p, scale=s) for p, s in given)), expected(base, *given))


def test_only_what_is_needed_is_read(base: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of B a few rows for each slab; A once for a matrix that is read slab by slab; and little stays."""
    rows: list[int] = []
    whole: list[str] = []
    read, read_whole = change.read_rows, change.read_whole

    def read_counting(info: TensorInfo, start: int, stop: int) -> torch.Tensor:
        rows.append(stop - start)
        return read(info, start, stop)

    def read_whole_counting(info: TensorInfo) -> torch.Tensor:
        whole.append(str(info.offset))
        return read_whole(info)

    monkeypatch.setattr(change, "read_rows", read_counting)
    monkeypatch.setattr(change, "read_whole", read_whole_counting)
    checkpoint = merged(base, save(target_modules=["gate_proj"]))
    for layer in range(2):
        name = f"language_model.layers.{layer}.mlp.gate_proj.weight"
        for start in range(0, checkpoint.shapes()[name][0], 8):
            checkpoint.read_canonical(name, start, start + 8)
    assert set(rows) == {change.LEAST_ROWS}
    assert len(whole) == len(set(whole)) == 2


def test_half_precision_adapters(base: Path, save: Save, tmp_path: Path) -> None:
    """Trainers save bfloat16; PEFT computes with them in float32."""
    adapter = save(**KINDS["DoRA"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    copy = rewritten(adapter, tmp_path, {name: value.bfloat16() for name, value in tensors.items()})
    compare(merged(base, copy), expected(base, (copy, 1.0)))


@pytest.mark.parametrize("kind", ["patterns", "whole modules", "lora_bias", "DoRA", "embedding"])
def test_names_of_older_transformers(base: Path, save: Save, tmp_path: Path, kind: str) -> None:
    """The same adapter as transformers before 4.52 named its modules, patterns included."""
    adapter = save(**KINDS[kind])
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {older(name): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    copy = rewritten(adapter, tmp_path, renamed)
    config = json.loads((copy / "adapter_config.json").read_text())
    if kind == "patterns":
        config["alpha_pattern"] = {
            "up_proj": 11,
            r"^language_model\.model\.layers\.0\..*q_proj": 5,
        }
    (copy / "adapter_config.json").write_text(json.dumps(config))
    compare(merged(base, copy), expected(base, (adapter, 1.0)))


def older(name: str) -> str:
    name = name.replace("base_model.model.model.language_model.", "base_model.model.language_model.model.")
    name = name.replace("base_model.model.lm_head.", "base_model.model.language_model.lm_head.")
    name = name.replace("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model.")
    return name.replace("vision_model.vision_model.", "vision_model.").replace(
        "model.model.multi", "model.multi"
    )


def rewritten(adapter: Path, folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A copy with other tensors, and other settings."""
    own = json.loads((adapter / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(own | config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_tied_tokens(tmp_path: Path, save: Save) -> None:
    """Replaced tokens are the head's too."""
    tied = make_checkpoint(tmp_path / "tied", text=Text(tied=True))
    adapter = save(checkpoint=tied, target_modules=["q_proj"], trainable_token_indices=[1, 8])
    theirs = expected(tied, (adapter, 1.0))
    assert torch.equal(theirs["lm_head.weight"], theirs["language_model.embed_tokens.weight"])
    compare(merged(tied, adapter, tied=True), theirs)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=str,
)
def test_tied_tables_are_refused(tmp_path: Path, save: Save, config: dict[str, Any]) -> None:
    tied = make_checkpoint(tmp_path / "tied", text=Text(tied=True))
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        merged(tied, save(checkpoint=tied, **config), tied=True)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    "prompts": ({"peft_type": "PROMPT_TUNING"}, "peft_type 'PROMPT_TUNING'"),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
    "alora": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "arrow": ({"arrow_config": {"top_k": 3}}, "arrow_config"),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    "kasa": ({"kasa_config": {"beta": 1}}, "kasa_config"),
    "replication": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["experts.up"]}, "target_parameters"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config"),
    "something new": ({"use_tomorrow": True}, "use_tomorrow"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "rank": ({"r": 0}, "rank r is 0"),
    "alpha": ({"lora_alpha": "8"}, "alpha lora_alpha is '8'"),
    "another rank": ({"r": 5}, r"shape \[4, "),
    "pattern": ({"rank_pattern": {"(": 4}}, "no regular expression"),
    "a pattern that never ends": ({"rank_pattern": {r"([\w.]|[\w.][\w.])+[!?]": 4}}, "write it more simply"),
    "long pattern": ({"alpha_pattern": {"a" * 1000: 4}}, "1000 characters"),
    "patterns": ({"rank_pattern": [4]}, "expected an object"),
    "DoRA that is none": ({"use_dora": True}, "says use_dora"),
    "biases that are none": ({"lora_bias": True}, "says lora_bias"),
    "tokens": ({"trainable_token_indices": ["a"]}, "expected token ids"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_are_refused(base: Path, save: Save, tmp_path: Path, case: str) -> None:
    config, told = SETTINGS[case]
    adapter = save(target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=told) as caught:
        merged(base, rewritten(adapter, tmp_path, tensors, **config))
    assert "\n" not in str(caught.value)


TEXT = "base_model.model.model.language_model.layers.0"
TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "of another model": ({"base_model.model.model.layers.0.mlp.up.lora_A.weight": (4, 64)}, "does not have"),
    "a layer too many": ({f"{TEXT[:-1]}9.self_attn.q_proj.lora_A.weight": (4, 64)}, "does not have"),
    "a kind unknown": ({f"{TEXT}.self_attn.q_proj.lora_C.weight": (4, 64)}, "does not have"),
    "whole of another shape": ({"base_model.model.lm_head.weight": (9, 64)}, "vocabulary was resized"),
    "half of a pair": ({f"{TEXT}.self_attn.v_proj.lora_A.weight": (4, 64)}, "other half is missing"),
    "a bias not told": ({f"{TEXT}.self_attn.q_proj.lora_B.bias": (64,)}, "does not say lora_bias"),
    "a magnitude not told": ({f"{TEXT}.self_attn.q_proj.lora_magnitude_vector": (64,)}, "use_dora"),
    "a magnitude alone": ({f"{TEXT}.self_attn.v_proj.lora_magnitude_vector": (64,)}, "DoRA of anything but"),
    "tokens not told": (
        {"base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 64)},
        r"shape \[2, 64\]",
    ),
    "a convolution": (
        {
            "base_model.model.model.vision_tower.embeddings.patch_embedding.lora_A.weight": (4, 3, 14, 14),
            "base_model.model.model.vision_tower.embeddings.patch_embedding.lora_B.weight": (48, 4, 1, 1),
        },
        "a convolution's",
    ),
    "twice": (
        {
            "base_model.model.lm_head.weight": None,
            "base_model.model.language_model.lm_head.weight": None,
        },
        "twice",
    ),
    "not finite": ({f"{TEXT}.self_attn.q_proj.lora_A.weight": float("nan")}, "nan"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_refused(base: Path, save: Save, tmp_path: Path, case: str) -> None:
    """Whatever would be passed over, or put where it does not belong."""
    added, told = TENSORS[case]
    adapter = save(target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, shape in added.items():
        if shape is None:
            shape = open_checkpoint(base).shapes()["lm_head.weight"]
        tensors[name] = tensors[name] * shape if isinstance(shape, float) else torch.zeros(shape)
    copy = rewritten(adapter, tmp_path, tensors)
    with pytest.raises(CheckpointError, match=told) as caught:
        checkpoint = merged(base, copy)
        for name, shape in checkpoint.shapes().items():
            checkpoint.read_canonical(name, 0, shape[0])
    assert "\n" not in str(caught.value)


def test_lora_bias_of_a_layer_without(base: Path, save: Save) -> None:
    with pytest.raises(CheckpointError, match="has no bias"):
        merged(base, save(target_modules=["down_proj"], lora_bias=True))


def test_folders_that_are_none(base: Path, save: Save, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter at"):
        merged(base, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no adapter_config"):
        merged(base, base)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="pickled"):
        merged(base, tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match="has no adapter_model"):
        merged(base, tmp_path)
    adapter = save(target_modules=["q_proj"])
    (adapter / "adapter_config.json").write_text("{" + " " * (1 << 22) + "}")
    with pytest.raises(CheckpointError, match="cannot read"):
        merged(base, adapter)
    with pytest.raises(UsageError, match="scale inf"):
        merged(base, Adapter(path=adapter, scale=float("inf")))


def test_a_list_is_wanted(base: Path) -> None:
    with pytest.raises(UsageError, match="expected a list of paths"):
        merge_adapters(open_checkpoint(base), open_adapters("folder", Silent()), tied=False)


def test_hub_ids(base: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are looked at before weights are fetched."""
    adapter = save(target_modules=["q_proj"])
    asked: list[list[str]] = []

    def fake(_hub_id: str, *, dry_run: bool = False, allow_patterns: list[str], **_: Any) -> Any:
        if dry_run:
            return []
        asked.append(allow_patterns)
        return str(adapter)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    (opened,) = open_adapters(["some-org/some-adapter"], Silent())
    assert (opened.name, opened.path) == ("some-org/some-adapter", adapter)
    assert len(asked) == 2
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_qalora": True}))
    with pytest.raises(CheckpointError, match="use_qalora"):
        open_adapters(["some-org/some-adapter"], Silent())
    assert len(asked) == 3


def test_matrices_that_are_stored_in_one(save: Save, tmp_path: Path) -> None:
    """A Phi-3's adapter is for the fused matrix, and is merged before its parts are read; a Llama's has no place."""
    phi = make_text_checkpoint(tmp_path / "phi", "phi3")
    adapter = save(checkpoint=phi, target_modules=["qkv_proj", "gate_up_proj", "down_proj"])
    theirs, checkpoint = expected(phi, (adapter, 1.0)), merged(phi, adapter)
    assert compare(checkpoint, theirs, step=7) == 6
    _, read = make_plain(read_config(checkpoint.config), checkpoint.read_canonical)
    layer = "language_model.layers.1"
    fused = theirs[f"{layer}.self_attn.qkv_proj.weight"].split((64, 32, 32))
    for part, rows in zip("qkv", fused, strict=True):
        assert torch.equal(read(f"{layer}.self_attn.{part}_proj.weight", 3, 30), rows[3:30])
    up = theirs[f"{layer}.mlp.gate_up_proj.weight"][112:]
    assert torch.equal(read(f"{layer}.mlp.up_proj.weight", 0, 112), up)
    with pytest.raises(
        CheckpointError, match=r"does not have: .*self_attn\.q_proj.*: is this the adapter's base"
    ):
        merged(phi, save(checkpoint=make_checkpoint(tmp_path / "llama"), target_modules=["q_proj"]))
