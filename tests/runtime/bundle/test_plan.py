import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import UNSET

from pumice.bundle import plan as planning
from pumice.bundle.footprint import image_tokens, position_bytes
from pumice.bundle.plan import (
    check_cache,
    default_feature_cache_bytes,
    default_prefix_cache_bytes,
    default_slot_context,
    fitting_slots,
    plan,
)
from pumice.cli.main import main
from pumice.errors import GenerationError, InsufficientMemoryError, UsageError
from pumice.manifest import DecoderShape, Manifest, TileGrids, decode_manifest, load_manifest
from tests.manifest_examples import FOLDER

MIB = 2**20
NOT_ALWAYS = ("attention scores", "unpacked matrix")
LLAMA = DecoderShape(
    layers=32,
    kv_heads=32,
    head_dim=128,
    hidden_size=4096,
    vocab_size=32064,
    context_length=4096,
    kv_dtype="float32",
)
"""1 MiB a position."""


@pytest.fixture
def manifest() -> Manifest:
    """A tiny LLaVA's, with a large decoder."""
    found = decode_manifest((FOLDER / "llava-1.5.json").read_bytes(), "example")
    return replace(found, decoder=LLAMA)


def have(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(planning, "available_memory", lambda device="cpu": None if device == "cuda" else size)


@pytest.mark.parametrize(
    ("context", "batch", "kv_dtype", "expected"),
    [
        (1, 1, "float32", 64),
        (64, 3, "float32", 192),
        (65, 1, "float32", 128),
        (4096, 2, "float16", 4096),
        (4096, 2, "int8", 2048),
    ],
)
def test_the_cache_of_a_plan(
    context: int,
    batch: int,
    kv_dtype: Literal["float32", "float16", "int8"],
    expected: int,
    manifest: Manifest,
) -> None:
    narrow = replace(manifest, decoder=replace(LLAMA, kv_dtype=kv_dtype))
    assert plan(narrow, context=context, batch=batch).answering["KV cache"] == expected * MIB


def test_a_plan_grows_by_its_cache_and_its_logits(manifest: Manifest) -> None:
    one = plan(manifest, context=1024, available=10**12)
    four = plan(manifest, context=1024, batch=4, available=10**12)
    assert four.total - one.total == 3 * (1024 * MIB + 4 * 4 * LLAMA.vocab_size)
    assert plan(manifest, available=10**12).context == LLAMA.context_length


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "int8"])
def test_a_plan_fits_or_says_what_would(
    kv_dtype: Literal["float32", "float16", "int8"], manifest: Manifest
) -> None:
    manifest = replace(manifest, decoder=replace(LLAMA, kv_dtype=kv_dtype))
    whole = plan(manifest, context=640, batch=2, available=10**12)
    tight = plan(manifest, context=640, batch=2, available=whole.total)
    assert tight.total <= whole.total  # budgets are tenths of what is left
    assert tight.fits
    small = plan(manifest, context=4096, batch=2, available=tight.total)
    assert small.fits is False
    longest = small.longest_context
    assert longest is not None
    assert longest % 64 == 0
    assert plan(manifest, context=longest, batch=2, available=tight.total).fits
    assert plan(manifest, context=longest + 1, batch=2, available=tight.total).fits is False


def test_a_plan_counts_the_moment_of_loading(manifest: Manifest) -> None:
    found = plan(manifest, context=1, images=0, available=0)
    loading = sum(found.loaded.values()) + found.packing
    assert found.total == loading  # a large head, which is packed before there is a cache
    assert found.longest_context == 0


def test_nothing_is_said_where_memory_is_unknown(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    have(monkeypatch, None)
    found = plan(manifest)
    assert (found.available, found.fits, found.longest_context) == (None, None, None)
    assert default_slot_context(manifest, 8) == LLAMA.context_length
    check_cache(LLAMA, 10**9, 1, "cpu")


@pytest.mark.parametrize(
    "arguments",
    [
        {"context": 0},
        {"context": 4097},
        {"context": True},
        {"batch": 0},
        {"batch": 1025},
        {"batch": 1.5},
        {"images": -1},
    ],
)
def test_numbers_outside_their_interval_are_refused(arguments: dict[str, Any], manifest: Manifest) -> None:
    with pytest.raises(UsageError, match=r"expected [01] to [14],0[29][46]"):
        plan(manifest, **arguments)


def test_a_cache_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 2000 * MIB)
    check_cache(LLAMA, 2000, 1, "cpu")
    check_cache(LLAMA, 4096, 100, "cuda")
    with pytest.raises(InsufficientMemoryError) as caught:
        check_cache(LLAMA, 1024, 4, "cpu")
    assert str(caught.value) == (
        "the keys and values of 1,024 tokens × 4 slots need 4,096 MiB, 2,000 MiB are available: "
        "448 tokens × 4 slots or 1,024 tokens × 1 slots would fit"
    )
    assert isinstance(caught.value, GenerationError)
    have(monkeypatch, 10)
    with pytest.raises(InsufficientMemoryError, match="0 MiB are available: free some memory"):
        check_cache(LLAMA, 64, 1, "cpu")


def test_budgets_are_bounded(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 10**12)
    assert default_prefix_cache_bytes(manifest) == 128 * MIB
    assert default_prefix_cache_bytes(manifest, 100 * MIB) == 10 * MIB
    tokens = image_tokens(manifest)
    assert default_feature_cache_bytes(manifest) == min(256 * MIB, 32 * tokens * 4096 * 4)
    assert default_feature_cache_bytes(manifest, 10 * MIB) == MIB
    many = replace(manifest, image_tokens=replace(manifest.image_tokens, per_image=10_000))
    assert default_feature_cache_bytes(many) == 256 * MIB
    (data,) = manifest.graphs.decoder.external_data
    large = replace(manifest, files={**manifest.files, data: replace(manifest.files[data], size=2**40)})
    assert default_prefix_cache_bytes(large) == pytest.approx(10**11)


@pytest.mark.parametrize(
    ("available", "slots", "expected"),
    [(10**12, 8, 4096), (8192, 8, 512), (8191, 8, 448), (8192, 1, 4096), (10, 8, 64)],
)
def test_slots_share_half_of_what_is_left(
    available: int, slots: int, expected: int, manifest: Manifest
) -> None:
    size = available if available == 10**12 else available * MIB
    assert default_slot_context(manifest, slots, size) == expected


def test_low_memory_leaves_weights_in_their_files(pebble_bundle: Path, pebble_bundle_int4: Path) -> None:
    for bundle, matrix in ((pebble_bundle, 0), (pebble_bundle_int4, 4 * 544 * 192)):
        manifest = load_manifest(bundle)
        usual, low = plan(manifest), plan(manifest, low_memory=True)
        assert low.loaded["weights"] == low.packing == 0
        assert low.mapped == pytest.approx(usual.loaded["weights"] + usual.mapped, rel=0.2)
        assert (usual.answering["unpacked matrix"], low.answering["unpacked matrix"]) == (0, matrix)
    narrow = replace(manifest, precision=replace(manifest.precision, float_type="fp16", quantized=()))
    assert plan(narrow, low_memory=True).loaded == plan(narrow).loaded  # the CPU computes in float32


def test_a_copy_leaves_packed_weights_in_its_files(pebble_bundle_int4: Path) -> None:
    manifest = load_manifest(pebble_bundle_int4)
    usual, copied = plan(manifest), plan(manifest, optimized=True)
    assert copied.loaded["weights"] == 0
    assert copied.mapped == usual.mapped + usual.loaded["weights"]
    assert copied.packing == usual.packing  # ONNX Runtime packs again, to compare
    assert plan(manifest, optimized=True, low_memory=True).total == copied.total


def test_a_plan_counts_all_tiles_of_the_largest_image() -> None:
    """Of the released LLaVA-OneVision's grids: pixels and features of the 37 arrays, and those of the image."""
    found = decode_manifest((FOLDER / "llava-onevision.json").read_bytes(), "example")
    wide = replace(found, decoder=replace(found.decoder, hidden_size=896))
    pinpoints = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))
    tiles = TileGrids(pinpoints=pinpoints, shrink_to=9)
    image = replace(found.image, size=(384, 384), resize_to=(384, 384), tiles=tiles)
    large = replace(wide, image=image, image_tokens=replace(found.image_tokens, per_image=729))
    alone = replace(large, image=replace(image, tiles=UNSET))
    more = plan(large).answering["vision activations"] - plan(alone).answering["vision activations"]
    tiled = 4 * (37 * (3 * 384**2 + 730 * 896) + 8829 * 896)
    assert tiled <= more < 1.05 * tiled  # two tiles are encoded at once
    whole = replace(image, tiles=TileGrids(pinpoints=pinpoints))  # 37 · 730 rows are fewer than 2 · 26,973
    all_tokens = 729 + 162 * 163
    tiled = 4 * (37 * 3 * 384**2 + 3 * all_tokens * 896)
    kept = plan(replace(large, image=whole)).answering["vision activations"]
    assert tiled <= kept - plan(alone).answering["vision activations"] < 1.05 * tiled


def test_a_plan_counts_the_patches_that_are_merged() -> None:
    """Of the released Mistral Small: 1,540 pixels are 55 tokens of 28, and 110 patches of the tower."""
    found = decode_manifest((FOLDER / "mistral-small.json").read_bytes(), "example")
    image = replace(found.image, resize_longest_edge=1540, multiple_of=28)
    large = replace(found, image=image, image_tokens=replace(found.image_tokens, patch_size=28))
    assert (large.layout.most_tokens, large.layout.most_rows) == (55 * 56, 4 * 55 * 56)
    plain = replace(large, image_tokens=replace(large.image_tokens, merge_size=UNSET))
    parts = [plan(made).answering["vision activations"] for made in (large, plain)]
    assert parts[0] == pytest.approx(4 * parts[1], rel=1e-6)
    assert plan(large).answering["feature cache"] == plan(plain).answering["feature cache"]


@pytest.mark.parametrize("name", ["llava-1.5", "pixtral", "mistral-small", "bakllava", "llava-onevision"])
def test_every_family_can_be_planned(name: str) -> None:
    found = plan(decode_manifest((FOLDER / f"{name}.json").read_bytes(), name))
    assert all(size > 0 for name, size in (found.loaded | found.answering).items() if name not in NOT_ALWAYS)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_plan_is_near_what_a_process_takes(pebble_bundle: Path, low_memory: bool) -> None:
    """A third above or below, with the caches' budgets taken away: pebble is small beside the process itself."""
    program = (
        "import pumice, psutil, sys, numpy as np\n"
        f"model = pumice.load(sys.argv[1], device='cpu', threads=1, low_memory={low_memory})\n"
        "model.generate('What is this?', [np.zeros((120, 120, 3), np.uint8)], max_new_tokens=8)\n"
        "print(psutil.Process().memory_info().rss)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(pebble_bundle)], capture_output=True, text=True, check=True
    )
    found = plan(load_manifest(pebble_bundle), context=128, low_memory=low_memory)
    planned = found.total - found.answering["prefix cache"] - found.answering["feature cache"]
    assert 0.67 < planned / int(ran.stdout) < 1.5


def test_info_plans_for_people_and_machines(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(pebble_bundle), "--plan", "--context", "1000", "--batch", "3"]) == 0
    shown = capsys.readouterr().out
    assert "3 prompts at once, 1,000 tokens each" in shown
    assert "it fits" in shown
    assert main(["info", str(pebble_bundle), "--plan", "--context", "1000", "--batch", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answering"]["KV cache"] == 2 * 5 * 2 * 32 * 4 * 1024 * 3
    assert told["total"] == plan(load_manifest(pebble_bundle), context=1000, batch=3).total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "--context", "0"], "context is 0, expected 1 to 2,048"),
        (["--plan", "--batch", "1025"], "batch is 1025, expected 1 to 1,024"),
        (["--context", "5"], "--context-length is for --plan"),
        (["--batch", "5"], "--slots is for --plan"),
        (["--low-memory"], "--low-memory is for --plan"),
        (["--plan", "--batch", "many"], "invalid int value"),
    ],
)
def test_info_refuses_what_cannot_be_planned(
    arguments: list[str], message: str, pebble_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(pebble_bundle), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_needs_the_manifest_alone(pebble_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(pebble_bundle / "manifest.json", tmp_path)
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pumice.cli.main import main; sys.exit(main(['info', sys.argv[1], '--plan']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_slots_that_fit_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    each = position_bytes(LLAMA) * 64
    for available, expected in ((2 * each * 5, 5), (2 * each * 100, 8), (0, 1), (None, 8)):
        monkeypatch.setattr("pumice.bundle.plan.available_memory", lambda device, found=available: found)
        assert fitting_slots(LLAMA, 33, "cpu", most=8) == expected
