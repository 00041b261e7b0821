"""`pumice verify`: passes on a true bundle, fails on one that says something else, and stores what it found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from pumice.cli.main import main
from pumice.errors import BundleError, CheckpointError, ContextLengthError
from pumice.export.bundle.writing import file_entries, write_manifest
from pumice.export.calibration.drawn import drawn_image
from pumice.export.pipeline import export_bundle
from pumice.export.verify import verdict
from pumice.export.verify.comparison import verify_bundle
from pumice.export.verify.probes import Probe
from pumice.manifest import load_manifest
from pumice.manifest.card import render
from tests.bundle_files import data_file
from tests.factory import FAMILIES, Text, make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    checkpoint = make_checkpoint(folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle")
    return checkpoint, folder / "bundle"


@pytest.fixture
def copied(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return made[0], Path(shutil.copytree(made[1], tmp_path / "bundle"))


def test_true_bundle_passes_and_remembers(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = copied
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "8"]) == 0
    shown = capsys.readouterr().out
    assert "passed: 6 of 6 prompts" in shown
    report = json.loads((bundle / "parity.json").read_text())
    assert report["summary"]["logits_max"] <= 2e-4
    assert len(report["cases"]) == 6
    assert "passed" in (bundle / "PARITY.md").read_text()
    manifest = load_manifest(bundle)
    assert manifest.parity == report["summary"]
    assert manifest.files == file_entries(bundle)
    card = (bundle / "README.md").read_bytes()
    assert card == render(manifest)
    assert b"says **exact**" in card


def test_an_edited_card_stays(copied: tuple[Path, Path]) -> None:
    checkpoint, bundle = copied
    (bundle / "README.md").write_text("# Mine\n")
    verify_bundle(bundle, checkpoint, max_new_tokens=2)
    assert (bundle / "README.md").read_text() == "# Mine\n"
    (bundle / "README.md").unlink()
    verify_bundle(bundle, checkpoint, max_new_tokens=2)
    assert not (bundle / "README.md").exists()


def test_own_question_and_json(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, bundle = copied
    image = Path(__file__).parents[3] / "pebble" / "heldout" / "stop-sign.png"
    arguments = ["verify", str(bundle), str(checkpoint), "--prompt", "What is it?", "-i", str(image)]
    assert main([*arguments, "--max-new-tokens", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [case["images"] for case in report["cases"]] == [1]


def test_any_number_of_questions(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, bundle = copied
    images = sorted((Path(__file__).parents[3] / "pebble" / "heldout").glob("*.png"))[:1] * 3
    a, b, c = map(str, images)
    asked = ["-i", a, "--prompt", "One?", "--image", b, "--prompt", "None?", "--prompt", "Another?", "-i", c]
    arguments = ["verify", str(bundle), str(checkpoint), *asked]
    assert main([*arguments, "--max-new-tokens", "2", "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [(case["name"], case["images"]) for case in cases] == [
        ("asked 1", 2),
        ("asked 2", 0),
        ("asked 3", 1),
    ]
    assert [case["first_difference"] for case in cases] == [None] * 3
    assert main(["verify", str(bundle), str(checkpoint), "-i", a]) == 2
    assert "--image is for a --prompt" in capsys.readouterr().err
    missing = ["verify", str(bundle), str(checkpoint), "--prompt", "One?", "-i", "no/such.png"]
    assert main(missing) == 1
    assert "cannot read no/such.png" in capsys.readouterr().err


def test_other_preprocessing_fails_and_is_told(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = copied
    manifest = load_manifest(bundle)
    other = replace(manifest.image, mean=(0.5, 0.5, 0.5))
    write_manifest(bundle, replace(manifest, image=other))
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "2", "-q"]) == 1
    shown = capsys.readouterr().out
    assert "one image: image 1: 9,408 of 9,408 pixel values differ, by at most" in shown
    assert "FAILED: " in shown
    assert "9,408 pixel values differ" in (bundle / "PARITY.md").read_text()
    cases = json.loads((bundle / "parity.json").read_text())["cases"]
    assert [case["same_pixel_values"] for case in cases] == [False] * 4 + [True, False]


def test_other_tokens_fail_and_are_told(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = copied
    template = (bundle / "chat_template.jinja").read_text().replace("ASSISTANT:", "BOT:")
    (bundle / "chat_template.jinja").write_text(template)
    manifest = load_manifest(bundle)
    write_manifest(bundle, replace(manifest, files=file_entries(bundle)))
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "2", "-q"]) == 1
    shown = capsys.readouterr().out
    assert "no image: token ids differ from position" in shown
    assert "DIFFER" in shown


def test_other_precisions_are_measured(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Their figures are reported, their inputs must be right."""
    export_bundle(made[0], tmp_path / "bundle", precision="int4", block_size=16)
    report = verify_bundle(tmp_path / "bundle", made[0], max_new_tokens=4).report
    assert report.summary.passed
    assert report.summary.logits_max > 1e-2
    assert 0 < report.summary.kl < 1
    assert 0.2 < report.summary.top1 <= 1
    assert report.summary.vision_encoder_max is not None


def test_a_template_of_text(tmp_path: Path) -> None:
    """Llama 3's own joins content to text: transformers gets the images written in it, as its users write them."""
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        template="{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    )
    export_bundle(checkpoint, tmp_path / "bundle")
    report = verify_bundle(tmp_path / "bundle", checkpoint, max_new_tokens=4).report
    assert report.summary.passed
    assert all(case.same_input_ids and case.same_pixel_values for case in report.cases)


def test_without_chat_template(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", layout="saved")
    (checkpoint / "chat_template.jinja").unlink()
    export_bundle(checkpoint, tmp_path / "bundle")
    probe = Probe(name="raw", turns=("what is it?",), images=(drawn_image(0, (60, 40)),))
    report = verify_bundle(tmp_path / "bundle", checkpoint, probes=[probe], max_new_tokens=4).report
    assert report.summary.passed
    assert report.cases[0].prompt_tokens > 16


def test_defaults_of_generation_are_left_out(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    file = checkpoint / "generation_config.json"
    defaults = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1}
    file.write_text(json.dumps({**json.loads(file.read_text()), **defaults}))
    export_bundle(checkpoint, tmp_path / "bundle")
    assert load_manifest(tmp_path / "bundle").generation.do_sample
    assert verify_bundle(tmp_path / "bundle", checkpoint).report.summary.passed


def test_prompts_beyond_a_small_context_are_left_out(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(context=64))
    export_bundle(checkpoint, tmp_path / "bundle")
    report = verify_bundle(tmp_path / "bundle", checkpoint, max_new_tokens=2).report
    assert report.summary.passed
    assert 0 < len(report.cases) < 6
    probe = Probe(name="long", turns=("what? " * 100,))
    with pytest.raises(ContextLengthError):
        verify_bundle(tmp_path / "bundle", checkpoint, probes=[probe])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "checkpoint")
    export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", verify=True)
    parity = load_manifest(tmp_path / "bundle").parity
    assert parity is not None
    assert parity["passed"]
    assert parity["cases"] == (8 if load_manifest(tmp_path / "bundle").videos is not None else 6)


def test_changed_weights_fail(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The check can fail: a bundle of other weights, whole in every other respect."""
    checkpoint, bundle = copied
    file = data_file(bundle, "decoder")
    data = np.fromfile(file, np.float32)
    (data * np.float32(1.01)).tofile(file)
    manifest = load_manifest(bundle)
    manifest.files.update(file_entries(bundle))
    write_manifest(bundle, manifest)
    assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "4"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_wrong_epsilon_fails(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The smallest mistake that is likely: 1e-6 where the checkpoint has 1e-5."""
    other = Path(shutil.copytree(made[0], tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    assert config["text_config"]["rms_norm_eps"] == 1e-5
    config["text_config"]["rms_norm_eps"] = 1e-6
    (other / "config.json").write_text(json.dumps(config))
    export_bundle(other, tmp_path / "bundle")
    summary = verify_bundle(tmp_path / "bundle", made[0], max_new_tokens=2).report.summary
    assert (summary.passed, summary.verdict) == (False, "differs")
    assert summary.meaning == "logits differ by more than rounding explains"
    assert summary.same_tokens == summary.cases


def prose(folder: Path) -> Path:
    file = folder / "prose.txt"
    file.write_text("A red circle is left of the blue square, and a yellow octagon is above both. " * 12)
    return file


def test_texts_are_scored_beside_the_prompts(
    copied: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = copied
    (tmp_path / "code.txt").write_text("x = f(y)\n" * 40)
    texts = ["--text", str(prose(tmp_path)), "--text", str(tmp_path / "code.txt")]
    options = ["--text-window", "100", "--text-limit", "300", "--max-new-tokens", "2", "-q"]
    assert main(["verify", str(bundle), str(checkpoint), *texts, *options]) == 0
    shown = capsys.readouterr().out
    assert "passed: 6 of 6 prompts" in shown
    assert "Judged by " in shown
    stored = json.loads((bundle / "parity.json").read_text())
    assert [text["name"] for text in stored["texts"]] == ["prose.txt", "code.txt"]
    assert stored["text"]["name"] == "all"
    summary = stored["summary"]
    assert summary["judged_by"] == "texts"
    assert summary["text"] == stored["text"]["score"]
    assert summary["text"]["positions"] == sum(text["score"]["positions"] for text in stored["texts"])
    # 300 tokens in windows of 100, of which the first is the model's own: 99 each, behind a context of 25
    assert stored["texts"][0]["score"]["positions"] == 3 * 75 + (300 - 3 * 99 + 1 > 25)
    assert summary["text"]["kl"] < 1e-9
    assert load_manifest(bundle).parity == summary
    assert "| prose.txt | 225 |" in (bundle / "PARITY.md").read_text()


def test_texts_as_json(copied: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, bundle = copied
    arguments = ["verify", str(bundle), str(checkpoint), "--text", str(prose(tmp_path)), "--json"]
    assert main([*arguments, "--prompt", "What?", "--max-new-tokens", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["cases"]) == len(report["texts"]) == 1
    assert report["cases"][0]["decoder"]["largest"] > 1
    assert set(report["texts"][0]["score"]) == {
        "positions",
        "perplexity",
        "reference_perplexity",
        "kl",
        "kl_99",
        "top1",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the text"),
        ("é".encode("latin-1"), "expected UTF-8"),
        (b"PK\0\0", "zero bytes"),
        (b"too short", "nothing to score"),
        (b"", "nothing to score"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused_in_one_line(
    content: bytes | None,
    message: str,
    copied: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, bundle = copied
    file = tmp_path / "text"
    if content is not None:
        file.write_bytes(content)
    assert main(["verify", str(bundle), str(checkpoint), "--text", str(file)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("pumice: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (bundle / "parity.json").exists()
    assert main(["verify", str(bundle), str(checkpoint), "--text-window", "3"]) == 2
    assert "expected 16 or more" in capsys.readouterr().err


def test_a_quantised_bundle_that_talks_nonsense_is_not_usable(
    pebble_bundle_int4: Path, pebble_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its texts, and without them by the prompts; a bundle of the checkpoint's own weights is sound."""
    sound = Path(shutil.copytree(pebble_bundle_int4, tmp_path / "sound"))
    damaged = Path(shutil.copytree(pebble_checkpoint, tmp_path / "damaged"))
    tensors = load_file(damaged / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.2.mlp.down_proj.weight"))
    save_file(tensors | {name: -tensors[name]}, damaged / "model.safetensors")
    export_bundle(damaged, tmp_path / "bundle", precision="int4")

    asked = ["--max-new-tokens", "2", "-q", "--prompt", "What color is the star?"]
    text = ["--text", str(prose(tmp_path))]
    for arguments, judged in (([*asked, *text], "texts"), (asked, "prompts")):
        assert main(["verify", str(sound), str(pebble_checkpoint), *arguments]) == 0
        assert "NOT USABLE" not in capsys.readouterr().out
        assert main(["verify", str(tmp_path / "bundle"), str(pebble_checkpoint), *arguments]) == 1
        shown = capsys.readouterr().out
        assert "NOT USABLE: text falls apart" in shown
        assert "passed" not in shown
        summary = load_manifest(tmp_path / "bundle").parity
        assert summary is not None
        assert (summary["passed"], summary["verdict"], summary["judged_by"]) == (False, "not usable", judged)


def test_an_export_tells_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    assert main(["export", str(checkpoint), str(tmp_path / "sound"), "--verify"]) == 0
    assert "exact: logits differ by no more than rounding explains (by built-in" in capsys.readouterr().out
    monkeypatch.setattr(verdict, "FP32_RELATIVE", 1e-9)
    monkeypatch.setattr(verdict, "FP32_LEAST", 1e-9)
    assert main(["export", str(checkpoint), str(tmp_path / "far"), "--verify"]) == 1
    assert "differs: logits differ by more than rounding explains" in capsys.readouterr().out
    assert (tmp_path / "far" / "PARITY.md").is_file()


def test_missing_checkpoint(copied: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint|cannot load"):
        verify_bundle(copied[1], tmp_path / "none")


def test_another_checkpoint_is_told(copied: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", text=Text(width=32, heads=2))
    with pytest.raises(BundleError, match="is this the checkpoint that the bundle was exported from"):
        verify_bundle(copied[1], other, max_new_tokens=2)
