import json
import os
import resource
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pumice.errors import CheckpointError
from pumice.export.checkpoint import hub
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.pipeline import export_bundle
from tests.factory import make_checkpoint

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("whole"), dtype="float16")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("sharded"), dtype="float16", shard_bytes=40_000)


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def shards(sharded, tmp_path):
    return Path(shutil.copytree(sharded, tmp_path / "shards"))


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) > 20
    return message


def change_config(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_whole_and_sharded_checkpoints_read_the_same(whole, sharded):
    reference = load_file(whole / WEIGHTS)
    one, many = open_checkpoint(whole), open_checkpoint(sharded)
    assert set(one.tensors) == set(many.tensors) == set(reference)
    assert len({info.file for info in many.tensors.values()}) > 2
    for name, tensor in reference.items():
        for checkpoint in (one, many):
            assert checkpoint.tensors[name].shape == tuple(tensor.shape)
            assert checkpoint.nbytes(name) == tensor.nbytes
            assert torch.equal(checkpoint.read(name), tensor)
    assert one.dtype == "float16"
    assert len(one.config_sha256) == 64


def test_canonical_names(copy):
    """Every tensor by the one name that all layouts share; one that is there under two is told."""
    checkpoint = open_checkpoint(copy)
    assert len(checkpoint.names) == len(checkpoint.shapes()) == len(checkpoint.tensors)
    table = "language_model.embed_tokens.weight"
    own = checkpoint.names[table]
    assert own != table
    assert checkpoint.shapes()[table] == checkpoint.tensors[own].shape
    assert torch.equal(checkpoint.read_canonical(table, 3, 9), checkpoint.read_rows(own, 3, 9))

    tensors = load_file(copy / WEIGHTS)
    save_file(tensors | {table: tensors[own].clone()}, copy / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"has the tensor {table} twice, under different prefixes"):
        open_checkpoint(copy).shapes()


@given(rows=st.tuples(st.integers(0, 384), st.integers(0, 384)).map(sorted))
def test_rows_are_those_of_the_whole(whole, rows):
    name = "language_model.model.embed_tokens.weight"
    checkpoint = open_checkpoint(whole)
    assert torch.equal(checkpoint.read_rows(name, *rows), checkpoint.read(name)[rows[0] : rows[1]])


def test_nothing_stays_open_or_mapped(whole):
    checkpoint = open_checkpoint(whole)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    kept = [checkpoint.read(name) for name in checkpoint.tensors]
    kept.append(checkpoint.read_rows("language_model.lm_head.weight", 3, 9))
    assert str(whole) not in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_memory_is_bounded_by_one_tensor(tmp_path, whole):
    folder = Path(shutil.copytree(whole, tmp_path / "large"))
    save_file({f"t{i}": torch.ones(4 << 20) for i in range(12)}, folder / WEIGHTS)  # 12 of 16 MiB
    script = (
        "import resource, sys\nfrom pumice.export.checkpoint.folder import open_checkpoint\n"
        "checkpoint = open_checkpoint(sys.argv[1]); checkpoint.read('t0')\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); sum(float(checkpoint.read(n)[0]) for n in checkpoint.tensors); print(peak() - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 8 << 10  # KiB beyond the first tensor's own peak


def test_hub_cache_links_are_followed(whole, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    shutil.copytree(whole, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert open_checkpoint(snapshot).tensors.keys() == open_checkpoint(whole).tensors.keys()


def test_unknown_tensor(whole):
    with pytest.raises(CheckpointError, match="no tensor 'nowhere'"):
        open_checkpoint(whole).read("nowhere")


def test_file_damaged_after_opening(copy):
    checkpoint = open_checkpoint(copy)
    name = next(iter(checkpoint.tensors))
    (copy / WEIGHTS).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        checkpoint.read(name)
    (copy / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        checkpoint.read(name)


def test_missing_folder(tmp_path):
    assert "no checkpoint at" in refused(tmp_path / "nowhere")


def test_file_instead_of_folder(whole):
    assert "is a file" in refused(whole / WEIGHTS)


def test_empty_folder(tmp_path):
    assert "is empty" in refused(tmp_path)


def test_no_config(copy):
    (copy / "config.json").unlink()
    assert "no config.json" in refused(copy)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}}', "\udcff", "[" * 100_000])
def test_config_that_is_not_json(copy, text):
    (copy / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "not valid JSON" in refused(copy)


@pytest.mark.parametrize("text", ["[]", "null", '"llava"', "3"])
def test_config_that_is_no_object(copy, text):
    (copy / "config.json").write_text(text)
    assert "expected an object" in refused(copy)


def test_config_that_is_a_folder(copy):
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    assert "cannot read" in refused(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt", "weights.pth", "model.pkl"])
def test_pickles_are_never_opened(copy, name):
    (copy / WEIGHTS).unlink()
    os.mkfifo(copy / name)  # opening it would hang
    assert "convert it to safetensors first" in refused(copy)


def test_gguf(copy):
    (copy / WEIGHTS).rename(copy / "model-q4.gguf")
    assert "GGUF" in refused(copy)


def test_adapter(copy):
    (copy / "adapter_config.json").write_text("{}")
    assert "merge it into its base model" in refused(copy)


@pytest.mark.parametrize("place", ["decoder.onnx", "onnx/decoder_model_merged.onnx"])
def test_a_bundle_is_no_checkpoint(copy, place):
    (copy / place).parent.mkdir(exist_ok=True)
    (copy / WEIGHTS).rename(copy / place)
    (copy / "manifest.json").write_text("{}")
    assert "is a bundle, exported already: expected the checkpoint" in refused(copy)


def test_a_home_that_nobody_has():
    with pytest.raises(CheckpointError, match="no checkpoint at ~nobody-of-this-name/x"):
        open_checkpoint("~nobody-of-this-name/x")


ADAPTER_WEIGHTS = ["adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin"]


@pytest.mark.parametrize("name", ["adapter_config.json", *ADAPTER_WEIGHTS])
def test_an_adapter_alone(copy, name):
    """By name, and with what to do; whether its config.json came along or not."""
    (copy / WEIGHTS).unlink()
    (copy / name).write_text("{}")
    message = refused(copy)
    assert f"is an adapter ({name}) without its base model's weights: merge it" in message
    assert "merge_and_unload()" in message
    (copy / "config.json").unlink()
    assert refused(copy) == message


@pytest.mark.parametrize("name", ADAPTER_WEIGHTS)
def test_an_adapters_weights_beside_a_whole_model_are_passed_over(copy, shards, name, caplog):
    for folder in (copy, shards):
        tensors = dict(open_checkpoint(folder).tensors)
        assert not caplog.records
        (folder / name).write_bytes(b"not even safetensors")
        assert dict(open_checkpoint(folder).tensors) == tensors
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"{name} of an adapter lies beside a whole model and is passed over" in caplog.text
        caplog.clear()


def test_an_adapter_with_its_config_beside_a_whole_model(copy):
    """transformers would load the base model that it names, and put the adapter on top."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copy / name).write_text("{}")
    message = refused(copy)
    assert "an adapter (adapter_config.json, adapter_model.safetensors) beside whole weights" in message
    assert "merge it into its base model first" in message
    assert "move the adapter's files away" in message


def test_a_base_model_that_is_not_whole_beside_an_adapter(copy, tmp_path):
    tensors = load_file(copy / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "mlp" not in name}, copy / WEIGHTS)
    (copy / "adapter_model.safetensors").write_bytes(b"")
    told = r"missing .*; adapter_model.safetensors beside them is an adapter: merge"
    with pytest.raises(CheckpointError, match=told):
        export_bundle(copy, tmp_path / "bundle")


def test_no_weights(copy):
    (copy / WEIGHTS).unlink()
    assert "has no weights" in refused(copy)


def test_shards_without_index(shards):
    (shards / INDEX).unlink()
    assert f"or shards with {INDEX}" in refused(shards)


@pytest.mark.parametrize(
    "model_type",
    [
        "llama",
        "video_llava",
        "mistral4",
        "qwen2_vl",
        "clip",
        "llava_llama",
        "",
        None,
        3,
        ["llava"],
    ],
)
def test_other_architectures(copy, model_type):
    message = refused(change_config(copy, model_type=model_type))
    assert f"model_type {model_type!r}" in message
    assert "supported are LLaVA (llava), ViP-LLaVA (vipllava), LLaVA-NeXT (llava_next), LLaVA-OneV" in message


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "a text-only model (LlamaForCausalLM)",
        ),
        ({"model_type": "qwen2_vl", "vision_config": {}}, "another vision-language architecture"),
        ({"model_type": "internvl_chat", "vision_config": {}}, "another vision-language architecture"),
        ({"model_type": "video_llava", "vision_config": {}}, "Video-LLaVA"),
        ({"model_type": "llava_qwen", "mm_vision_tower": "x"}, "take the converted release"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "(BertModel)"),
        ({"architectures": "LlavaForConditionalGeneration"}, "model_type None"),
    ],
    ids=str,
)
def test_others_are_told_what_they_are(copy, config, told):
    (copy / "config.json").write_text(json.dumps(config))
    assert told in refused(copy)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quantize_config.json", "GPTQ-quantised"),
        ("quant_config.json", "AWQ-quantised"),
        ("hf_quant_config.json", "ModelOpt-quantised"),
    ],
)
def test_folders_of_other_kinds(copy, name, told):
    (copy / name).write_text("{}")
    assert told in refused(copy)


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "never runs a checkpoint's code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised (unknown method)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantised (compressed-tensors)"),
    ],
)
def test_code_and_quantised_weights(copy, part, change, told):
    config = json.loads((copy / "config.json").read_text())
    assert told in refused(change_config(copy, **(change if part is None else {part: config[part] | change})))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("base_model.model.language_model.model.layers.0.mlp.up_proj.lora_A.weight", "an adapter's tensors"),
        ("language_model.model.layers.0.mlp.up_proj.weight.absmax", "quantised by bitsandbytes"),
        ("language_model.model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "by bitsandbytes"),
        ("language_model.model.layers.0.mlp.up_proj.qweight", "quantised by GPTQ or AWQ"),
        ("language_model.model.layers.0.mlp.up_proj.weight_packed", "quantised by compressed-tensors"),
        ("language_model.model.layers.0.mlp.up_proj.weight_scale_inv", "quantised by block-wise float8"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensors_of_other_kinds(copy, name, told, dtype):
    save_file(load_file(copy / WEIGHTS) | {name: torch.zeros(4).to(dtype)}, copy / WEIGHTS)
    assert told in refused(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
@pytest.mark.parametrize("place", [0, -1])
def test_values_that_float32_does_not_hold(copy, value, place):
    name = "language_model.lm_head.weight"
    tensors = load_file(copy / WEIGHTS)
    tensors[name] = tensors[name].double()
    tensors[name].view(-1)[place] = value
    save_file(tensors, copy / WEIGHTS)
    checkpoint = open_checkpoint(copy)
    rows = len(tensors[name])
    for read in (lambda: checkpoint.read(name), lambda: checkpoint.read_rows(name, 0, rows)):
        with pytest.raises(CheckpointError, match=f"tensor '{name}' has values from .* expected finite"):
            read()
    assert len(checkpoint.read_rows(name, 1, rows - 1)) == rows - 2  # elsewhere there is nothing wrong


def with_header(path: Path, header: object) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: (1 << 62).to_bytes(8, "little") + data[8:],
        lambda data: (200 << 20).to_bytes(8, "little") + data[8:],
        lambda data: b"PK\x03\x04" + data,
        lambda data: bytes(reversed(data)),
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_damaged_weights(copy, damage):
    path = copy / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    assert "not readable as safetensors" in refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 1 << 40]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [8, 0]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": [3]},
        {"dtype": "F1"},
    ],
)
def test_headers_that_lie(copy, change):
    header = header_of(copy / WEIGHTS)
    header["vision_tower.vision_model.embeddings.class_embedding"] |= change
    with_header(copy / WEIGHTS, header)
    assert "not readable as safetensors" in refused(copy)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_flipped_byte_in_a_header_is_refused_or_harmless(copy, whole, data):
    original = (whole / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    place = data.draw(st.integers(0, end - 1))
    changed = bytearray(original)
    changed[place] ^= data.draw(st.integers(1, 255))
    (copy / WEIGHTS).write_bytes(changed)
    try:
        checkpoint = open_checkpoint(copy)
    except CheckpointError:
        return
    for name in checkpoint.tensors:
        checkpoint.read(name)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_weights_must_be_floats(copy, dtype):
    save_file({"language_model.lm_head.weight": torch.zeros(2, 2).to(dtype)}, copy / WEIGHTS)
    assert "weights must be float16, bfloat16, float32, float64" in refused(copy)


def test_integer_buffers_of_old_checkpoints_are_let_pass(copy):
    tensors = load_file(copy / WEIGHTS) | {
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(17)
    }
    save_file(tensors, copy / WEIGHTS)
    assert open_checkpoint(copy).dtype == "float16"


def test_no_tensors(copy):
    save_file({}, copy / WEIGHTS)
    assert "without weights" in refused(copy)


def test_weights_that_are_a_folder(copy):
    (copy / WEIGHTS).unlink()
    (copy / WEIGHTS).mkdir()
    assert "is not a file" in refused(copy)


def test_missing_shard(shards):
    next(shards.glob("model-00002*")).unlink()
    assert "the checkpoint is incomplete" in refused(shards)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_index_without_a_map(shards, content):
    (shards / INDEX).write_text(content)
    refused(shards)


@pytest.mark.parametrize(
    "shard",
    [
        "../other.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        3,
        None,
        "x\\y.safetensors",
        "m.bin",
    ],
)
def test_index_leaving_the_folder(shards, shard):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["language_model.lm_head.weight"] = shard
    (shards / INDEX).write_text(json.dumps(index))
    assert f"names the shard {shard!r}" in refused(shards)


def test_index_naming_a_tensor_that_its_shard_lacks(shards):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["language_model.extra"] = next(iter(index["weight_map"].values()))
    (shards / INDEX).write_text(json.dumps(index))
    assert "but it does not" in refused(shards)


def test_hub_ids_are_told_from_paths():
    assert hub.is_hub_id("llava-hf/llava-1.5-7b-hf")
    for path in ("a", "./a/b", "/a/b", "a/b/c", "~/a", "../b", "a/..", "a/b/", "a//b", "a b/c", ".a/b"):
        assert not hub.is_hub_id(path)


class Hub:
    """Stands for `huggingface_hub.snapshot_download`: copies a folder's files that fit the patterns."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache, self.patterns = source, cache, []

    def __call__(self, hub_id, *, allow_patterns, ignore_patterns, tqdm_class, dry_run=False):
        files = [file for file in self.source.iterdir() if any(file.match(p) for p in allow_patterns)]
        if dry_run:
            return [types.SimpleNamespace(file_size=f.stat().st_size, will_download=True) for f in files]
        self.patterns.append(allow_patterns)
        bar = tqdm_class(desc="Reconstructing (incomplete total...)", total=0, unit="B")
        self.cache.mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, self.cache)
            bar.update(file.stat().st_size)
        bar.close()
        return str(self.cache)


def test_hub_ids_are_fetched(whole, tmp_path, monkeypatch):
    fake = Hub(whole, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    checkpoint = open_checkpoint("some-org/some-model")
    assert checkpoint.name == "some-org/some-model"
    assert checkpoint.path == tmp_path / "cache"
    assert checkpoint.read("language_model.model.norm.weight").shape == (64,)


def test_unsupported_hub_models_are_refused_before_their_weights(copy, tmp_path, monkeypatch):
    fake = Hub(change_config(copy, model_type="mistral4"), tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    assert "mistral4" in refused("some-org/some-model")
    assert len(fake.patterns) == 1
    assert not list(fake.cache.glob("*.safetensors"))


def test_an_adapter_on_the_hub(copy, tmp_path, monkeypatch):
    """A repository of PEFT's, which has no config.json."""
    for name in (WEIGHTS, "config.json"):
        (copy / name).unlink()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copy / name).write_text("{}")
    fake = Hub(copy, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    assert "is an adapter (adapter_config.json)" in refused("some-org/some-adapter")
    assert not list(fake.cache.glob("*.safetensors"))


def test_pickled_hub_models(copy, tmp_path, monkeypatch):
    (copy / WEIGHTS).rename(copy / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(copy, tmp_path / "cache"))
    assert "no weights" in refused("some-org/some-model")


def test_hub_out_of_reach(tmp_path):
    script = (
        "from pumice.errors import CheckpointError\nfrom pumice.export.checkpoint.folder import open_checkpoint\n"
        "try:\n    open_checkpoint('nobody/nothing-of-this-name')\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert "neither a folder here nor in the hub's cache" in run.stdout
    assert len(run.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "told"), [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "nor a model")]
)
def test_hub_refusals(monkeypatch, name, told):
    kind = getattr(errors, name)

    def refuse(*args, **kwargs):
        raise kind.__new__(kind, "Access denied.\nMore lines.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert told in refused("some-org/some-model")


def test_open_is_quick_for_thousands_of_tensors(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "many"))
    save_file({f"language_model.t{i}": torch.zeros(1) for i in range(3000)}, folder / WEIGHTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert len(open_checkpoint(folder).tensors) == 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 1.0
