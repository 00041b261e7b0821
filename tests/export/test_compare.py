"""`pumice compare`: figures are `verify`'s, the advice follows from them, and nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pumice.cli.compare import DEFAULT
from pumice.cli.main import main
from pumice.export import compare
from pumice.export.adapters.folder import Adapter
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.compare import RecipeScore, advice
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import NAMES
from pumice.export.verify.comparison import verify_bundle
from pumice.export.verify.reference import Reference
from pumice.export.verify.text_scores import TextScore
from pumice.export.verify.texts import read_texts
from pumice.export.verify.verdict import band_of
from tests.factory import make_checkpoint

MINE = 'name = "mine"\n[decoder]\nweights = "int8"\nblock_size = 16\n'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("made") / "checkpoint")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text("A red circle is left of the blue square, and a yellow octagon is above both. " * 12)
    return file


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def run(checkpoint: Path, work: Path, *arguments: str) -> int:
    return main(["compare", str(checkpoint), "--work", str(work), "-q", *arguments])


def test_a_row_for_each_recipe_and_advice(
    checkpoint: Path,
    text: Path,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = []
    read = Reference.read
    monkeypatch.setattr(Reference, "read", lambda self, ids: (reads.append(len(ids)), read(self, ids))[1])
    (tmp_path / "mine.toml").write_text(MINE)
    recipes = f"portable-fp32,{tmp_path / 'mine.toml'}"
    asked = ["--recipes", recipes, "--text", str(text), "--text-window", "100", "--text-limit", "300"]
    assert run(checkpoint, work, *asked) == 0
    assert reads == [100, 100, 100]  # transformers reads each window once, whatever the recipes
    shown = capsys.readouterr().out.splitlines()
    heads = "recipe MB perplexity KL KL 99% top-1 decode tokens/s prefill tokens/s verdict"
    assert " ".join(shown[0].split()) == heads
    assert [line.split()[0] for line in shown[1:3]] == ["portable-fp32", str(tmp_path / "mine.toml")]
    assert shown[4].startswith("225 positions of texts, on which float32's perplexity is ")
    assert shown[5].startswith(f"Take {tmp_path / 'mine.toml'}: the smallest of those that are near float32")
    assert list(work.iterdir()) == []


def test_figures_are_those_of_verify(
    checkpoint: Path, text: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    asked = ["--recipes", str(tmp_path / "mine.toml"), "--text", str(text), "--prompt", "What?", "--json"]
    assert run(checkpoint, work, *asked, "--max-new-tokens", "3") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["recipes"]
    assert found["failed"] == {}
    export_bundle(checkpoint, tmp_path / "bundle", recipe=tmp_path / "mine.toml")
    from pumice.export.verify.probes import own_probes

    report = verify_bundle(
        tmp_path / "bundle",
        checkpoint,
        probes=own_probes([("What?", [])]),
        texts=read_texts([text]),
        max_new_tokens=3,
    ).report
    assert report.summary.text is not None
    assert row["text"] == pytest.approx(
        {name: getattr(report.summary.text, name) for name in TextScore.__dataclass_fields__}
    )
    assert row["text"]["kl"] > 1e-6
    assert row["prompts"] == pytest.approx(
        {name: getattr(report.summary, name) for name in ("kl", "kl_99", "top1")}
    )
    files = [path for path in (tmp_path / "bundle").rglob("*") if path.is_file()]
    size = sum(file.stat().st_size for file in files if file.name[0] != "P")
    assert row["megabytes"] == pytest.approx(size / 1e6, rel=0.05)
    assert row["decode_tokens_per_s"] > 0
    assert row["prefill_tokens_per_s"] > 0
    assert row["verdict"] == report.summary.verdict


def test_adapters_are_merged_on_both_sides(
    checkpoint: Path, text: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Adapter(path=save_adapter(tmp_path / "adapter", checkpoint), scale=2)
    asked = ["--recipes", "portable-fp32", "--text", str(text), "--text-limit", "100", "--json"]
    assert run(checkpoint, work, *asked, "--adapter", str(adapter.path), "--adapter-scale", "2") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapters"] == [f"{tmp_path.name}/adapter"]
    (row,) = found["recipes"]
    assert row["text"]["kl"] < 1e-9
    export_bundle(checkpoint, tmp_path / "bundle", adapters=[adapter])
    texts = read_texts([text], limit=100)
    verified = verify_bundle(
        tmp_path / "bundle", checkpoint, adapters=[adapter], texts=texts, max_new_tokens=1
    )
    scored = verified.report.summary.text
    assert scored is not None
    assert row["text"]["perplexity"] == pytest.approx(scored.perplexity)
    assert row["text"]["reference_perplexity"] == pytest.approx(scored.reference_perplexity)


def test_an_adapter_of_another_model_is_refused_before_anything_is_exported(
    checkpoint: Path,
    text: Path,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare, "export_bundle", lambda *_, **__: pytest.fail("exported"))
    adapter = save_adapter(tmp_path / "adapter", checkpoint, layer=99)
    assert run(checkpoint, work, "--text", str(text), "--adapter", str(adapter)) == 1
    assert "has tensors for modules that the checkpoint does not have" in capsys.readouterr().err
    assert list(work.iterdir()) == []


def save_adapter(folder: Path, checkpoint: Path, layer: int = 0) -> Path:
    """LoRA of one matrix, with random values."""
    module = f"base_model.model.model.language_model.layers.{layer}.self_attn.q_proj"
    rows, width = open_checkpoint(checkpoint).shapes()["language_model.layers.0.self_attn.q_proj.weight"]
    drawn = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, width, generator=drawn), torch.randn(rows, 2, generator=drawn)
    folder.mkdir()
    save_file(
        {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    return folder


def test_prompts_alone_will_do(checkpoint: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"
    asked = ["--prompt", "What?", "-i", str(image), "--max-new-tokens", "2", "--recipes", "portable-fp32"]
    assert run(checkpoint, work, *asked) == 0
    shown = capsys.readouterr().out
    assert "prompts' KL" in shown
    assert "perplexity" not in shown
    assert "near" in shown


def test_what_cannot_be_measured_is_told_and_the_others_are_measured(
    checkpoint: Path, text: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.toml").write_text('[[override]]\nmatch = "decoder/none.weight"\nweights = "int8"\n')
    asked = ["--recipes", f"{tmp_path / 'odd.toml'},portable-fp32", "--text", str(text)]
    assert run(checkpoint, work, *asked) == 1
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'odd.toml'} could not be measured: recipe odd: the override" in shown
    assert "Take portable-fp32" in shown
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("place", ["export_bundle", "score_texts"])
def test_ctrl_c_leaves_nothing(
    place: str, checkpoint: Path, text: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(*_: Any, **__: Any) -> None:
        seen.append(list(work.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, place, interrupted)
    assert run(checkpoint, work, "--recipes", "portable-fp32", "--text", str(text)) == 130
    assert len(seen[0]) == 1
    assert list(work.iterdir()) == []


def test_what_is_refused_is_refused_before_anything_is_exported(
    checkpoint: Path,
    text: Path,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare, "export_bundle", lambda *_, **__: pytest.fail("exported"))
    (tmp_path / "short.txt").write_text("too short")
    scored = ["--text", str(text)]
    for arguments, message in {
        (): "give --text FILE, or --prompt with -i IMAGE",
        (*scored, "--recipes", "cpu-int3"): "recipe is 'cpu-int3', expected one of",
        (*scored, "--recipes", ","): "--recipes names none",
        (*scored, "--work", str(tmp_path / "none")): "is not a folder",
        (*scored, "--text-window", "1"): "expected 16 or more",
        ("--text", str(tmp_path / "short.txt")): "nothing to score",
        ("--text", str(tmp_path / "none.txt")): "cannot read the text",
    }.items():
        assert run(checkpoint, work, *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert list(work.iterdir()) == []


def test_by_default_recipes_are_those_for_cpus() -> None:
    assert set(DEFAULT) == {name for name in NAMES if name.startswith("cpu-")}
    assert "cpu-int8" in DEFAULT


def score(recipe: str, megabytes: float, kl: float) -> RecipeScore:
    figures = TextScore(positions=1, perplexity=1, reference_perplexity=1, kl=kl, kl_99=kl, top1=1)
    band = band_of(kl)
    return RecipeScore(
        recipe=recipe,
        megabytes=megabytes,
        text=figures,
        prompts=None,
        decode_tokens_per_s=1,
        prefill_tokens_per_s=1,
        verdict=band.word,
        meaning=band.meaning,
    )


def test_advice() -> None:
    large, small = score("large", 500, 0.0), score("small", 100, 0.019)
    coarse, broken = score("coarse", 50, 0.3), score("broken", 40, 0.8)
    odd = score("odd", 30, float("nan"))
    assert advice([large, small, coarse, broken, odd]).startswith("Take small: the smallest")
    assert advice([odd, broken, coarse]).startswith(
        "None of these is near float32: coarse is the nearest (KL 0.3), usable with care: one most likely token in five"
    )
    assert advice([odd, broken]).startswith("Take none of these: broken is the nearest (KL 0.8), not usable")
