"""Text files become windows: which tokens are read and which are scored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from pumice import TextTokenizer
from pumice.errors import UsageError
from pumice.export.pipeline import export_bundle
from pumice.export.verify.texts import Texts, Windows, cut, read_texts
from pumice.manifest import Manifest, load_manifest
from tests.factory import FAMILIES, Text, make_checkpoint

WORDS = list(range(100, 400))
SENTENCE = "The quick brown fox looks at the image: a red circle is left of the blue square. "


def test_every_window_starts_anew() -> None:
    found = cut("a", WORDS, [1], 101)
    assert found.context == 25
    assert [window.tolist() for window in found.windows] == [
        [1, *WORDS[:100]],
        [1, *WORDS[100:200]],
        [1, *WORDS[200:]],
    ]
    assert all(window.dtype == np.int64 for window in found.windows)
    without = cut("a", WORDS, [], 128)
    assert [window.tolist() for window in without.windows] == [WORDS[:128], WORDS[128:256], WORDS[256:]]


def test_a_rest_with_nothing_to_score_is_left_out() -> None:
    many = list(range(1000))
    assert cut("a", many, [1], 256).context == 64
    assert [len(w) for w in cut("a", many[:319], [1], 256).windows] == [256, 65]
    assert [len(w) for w in cut("a", many[:318], [1], 256).windows] == [256]
    assert [len(w) for w in cut("a", many[:64], [1], 1024).windows] == [65]
    with pytest.raises(UsageError, match="the text a has 63 tokens: nothing to score behind the first 64"):
        cut("a", many[:63], [1], 1024)
    with pytest.raises(UsageError, match="has 0 tokens"):
        cut("a", [], [1], 1024)


def bundle_of(checkpoint: Path, folder: Path) -> Path:
    export_bundle(checkpoint, folder / "bundle")
    return folder / "bundle"


def windows(texts: Texts, bundle: Path, manifest: Manifest) -> list[Windows]:
    return texts.windows(TextTokenizer.of(bundle, manifest), manifest.decoder.context_length)


def test_words_stay_words(tmp_path: Path) -> None:
    """Special tokens in a text are its letters; the model's own beginning stands before each window."""
    bundle = bundle_of(make_checkpoint(tmp_path / "checkpoint", text=Text(context=128)), tmp_path)
    content = 6 * f"{SENTENCE}</s><image> <s>"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    texts = read_texts([tmp_path / "a.txt"], limit=200)
    (found,) = windows(texts, bundle, load_manifest(bundle))
    plain = AutoTokenizer.from_pretrained(tmp_path / "checkpoint", local_files_only=True)
    ids = plain(content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(ids) > 200
    assert [window.tolist() for window in found.windows] == [[1, *ids[:127]], [1, *ids[127:200]]]
    assert found.context == 32
    special = {plain.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<image>", "<unk>", "<pad>")}
    assert not special & set(found.windows[0][1:].tolist())


def test_a_model_without_beginning_has_none(tmp_path: Path) -> None:
    bundle = bundle_of(FAMILIES["llava-interleave"](tmp_path / "checkpoint"), tmp_path)
    manifest = load_manifest(bundle)
    assert manifest.tokens.bos_token is None
    (tmp_path / "a.txt").write_text(SENTENCE)
    (found,) = windows(read_texts([tmp_path / "a.txt"], window=16), bundle, manifest)
    plain = AutoTokenizer.from_pretrained(tmp_path / "checkpoint", local_files_only=True)
    assert found.windows[0].tolist() == plain(SENTENCE, add_special_tokens=False)["input_ids"][:16]


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é\r\nb".encode())
    (tmp_path / "long.txt").write_text("x" * 10_000)
    texts = read_texts([tmp_path / "a.txt", tmp_path / "long.txt"], limit=16)
    assert [(file.name, file.content[:4]) for file in texts.files] == [
        ("a.txt", "é\r\nb"),
        ("long.txt", "xxxx"),
    ]
    assert len(texts.files[1].content) == 512
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("c")
    twice = read_texts([tmp_path / "a.txt", tmp_path / "b" / "a.txt"])
    assert [file.name for file in twice.files] == [
        str(tmp_path / "a.txt"),
        str(tmp_path / "b" / "a.txt"),
    ]
    assert read_texts([]) == Texts(files=())


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "zeros").write_bytes(b"a\0b")
    for name, message in {
        "latin": "is not a text: expected UTF-8",
        "zeros": "is not a text: it has zero bytes",
        "none": "cannot read the text .*No such file",
        ".": "cannot read the text .*directory",
        "a\0b": "is not a text",
    }.items():
        with pytest.raises(UsageError, match=message):
            read_texts([tmp_path / name])
    for options in ({"window": 15}, {"limit": 0}):
        with pytest.raises(UsageError, match="expected 16 or more"):
            read_texts([], **options)
