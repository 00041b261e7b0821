"""What users hand to pumice, or on to other processes: paths with `~`, models, ids that the table lacks."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import pumice
from pumice.manifest import load_manifest
from pumice.manifest.regular_file import named

IMAGE = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> pumice.Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def test_models_and_what_holds_them_are_not_pickled(model: pumice.Model) -> None:
    with pumice.Engine(model) as engine:
        for held in (model, engine, model.chat(), model.stream("Hi", max_new_tokens=1)):
            for hand_over in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(pumice.UsageError, match="cannot be pickled or copied") as error:
                    hand_over(held)
                assert "\n" not in str(error.value)
    assert model.generate("Hi", max_new_tokens=1).token_ids


def test_answers_are_pickled(model: pumice.Model) -> None:
    found: Any = model.generate("Hi", max_new_tokens=2)
    assert pickle.loads(pickle.dumps(found)) == found


def test_homes_in_paths(
    pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: pumice.Model
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bundle").symlink_to(pebble_bundle)
    shutil.copy(IMAGE, tmp_path / "image.png")
    assert load_manifest(Path("~/bundle")) == model.manifest
    loaded = pumice.load("~/bundle", device="cpu", threads=1, feature_cache_dir="~/features")
    answer = loaded.generate("What is this?", ["~/image.png"], max_new_tokens=3).token_ids
    assert answer == model.generate("What is this?", [IMAGE], max_new_tokens=3).token_ids
    assert list((tmp_path / "features").iterdir())


def test_a_tilde_that_is_no_home_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$draft.png").write_bytes(IMAGE.read_bytes())
    assert named("~$draft.png").read_bytes() == IMAGE.read_bytes()
    assert os.fspath(named("a~/~b")) == "a~/~b"


def test_a_token_beyond_the_table_is_told(pebble_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(pebble_bundle, tmp_path / "bundle"))
    definition = json.loads((bundle / "tokenizer.json").read_bytes())
    rows = load_manifest(bundle).decoder.vocab_size
    token = dict(definition["added_tokens"][0], id=rows, content="<beyond>", special=True)
    definition["added_tokens"].append(token)
    # Ids of added tokens are given anew where there is a gap: the model's own vocabulary may have one.
    definition["model"]["vocab"]["<beyond>"] = rows
    data = json.dumps(definition).encode()
    (bundle / "tokenizer.json").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"]["tokenizer.json"] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    model = pumice.load(bundle, device="cpu", threads=1)
    with pytest.raises(pumice.PromptError, match=rf"'<beyond>', token {rows}.*ids 0 to {rows - 1}"):
        model.generate("Hi <beyond> there", raw=True, max_new_tokens=1)
    assert model.generate("Hi", max_new_tokens=1).token_ids


@pytest.mark.export_extra
def test_tokens_beyond_the_table_are_told_at_export(
    pebble_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pumice.export.pipeline import export_bundle

    checkpoint = Path(shutil.copytree(pebble_checkpoint, tmp_path / "checkpoint"))
    definition = json.loads((checkpoint / "tokenizer.json").read_bytes())
    rows = json.loads((checkpoint / "config.json").read_bytes())["text_config"]["vocab_size"]
    definition["model"]["vocab"]["<beyond>"] = rows
    (checkpoint / "tokenizer.json").write_text(json.dumps(definition))
    export_bundle(checkpoint, tmp_path / "bundle")
    assert (
        f"1 tokens beyond the {rows} rows of the embedding table, from {rows} ('<beyond>') on" in caplog.text
    )
    caplog.clear()
    export_bundle(pebble_checkpoint, tmp_path / "sound")
    assert not [record for record in caplog.records if record.name == "pumice"]
