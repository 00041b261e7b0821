"""`pumice.ray.BatchGenerator`: without Ray, and on a Ray of this machine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.bulk import Failure, run_batch
from pumice.ray import COLUMNS, BatchGenerator
from tests.runtime.bulk.images import write_images

DOCUMENT = Path(__file__).parents[3] / "docs" / "ray.md"
PLAIN = list(COLUMNS)[:5]
"""Neither times nor errors."""
PROMPT = "What is in this picture?"


@pytest.fixture(scope="module")
def generator(pebble_bundle: Path) -> BatchGenerator:
    return BatchGenerator(pebble_bundle, prompt=PROMPT, device="cpu", threads=1, slots=4, max_new_tokens=4)


def objects(values: list[Any]) -> np.ndarray:
    """A column as Ray Data gives it, where its values have no type of NumPy's."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_columns_in_and_columns_out(generator: BatchGenerator, pebble_bundle: Path, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "missing.png")]
    for name, colour in zip(names[:2], ("red", "blue"), strict=True):
        Image.new("RGB", (40, 40), colour).save(name)
    batch = generator({"image": np.array(names), "label": np.arange(3)})
    assert set(batch) == {"image", "label", *COLUMNS}
    assert batch["label"].tolist() == [0, 1, 2]
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    expected = [model.generate(PROMPT, name, max_new_tokens=4).text for name in names[:2]]
    assert list(batch["text"]) == [*expected, ""]
    assert list(batch["error_type"]) == ["", "", "ImageError"]
    assert "there is no image" in batch["error_message"][2]
    assert list(batch["completion_tokens"]) == [4, 4, 0]


def test_columns_have_the_same_types_whatever_is_in_them(generator: BatchGenerator) -> None:
    good, bad = (generator({"prompt": objects([prompt])}) for prompt in ("Hi", 3))
    assert [good[name].dtype for name in COLUMNS] == [bad[name].dtype for name in COLUMNS]
    assert all(
        type(good[name].tolist()[0]) is type(bad[name].tolist()[0]) is COLUMNS[name] for name in COLUMNS
    )


def test_images_as_bytes_and_arrays(generator: BatchGenerator, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    red = np.array(Image.new("RGB", (40, 40), "red"))
    given = [
        {"image": objects([(tmp_path / "a.png").read_bytes()])},
        {"image": red[None]},
        {"images": red[None, None]},
        {"image": red[None].astype(np.int64)},
        {"images": red.transpose(2, 0, 1)[None, None].astype(np.float64)},
        {"images": objects([objects([str(tmp_path / "a.png")])])},
    ]
    texts = {tuple(generator(batch)["text"]) for batch in given}
    assert len(texts) == 1


def test_prompts_and_messages_of_rows(generator: BatchGenerator) -> None:
    part = {"type": "text", "text": "Hi"}
    messages = objects([{"role": "user", "content": objects([part | {"extra": None}])}])
    batches = [
        {"prompt": objects([None, "Hi", "Hi"])},
        {"prompt": np.array(["Hi"] * 3)},
        {"messages": objects([messages] * 3)},
    ]
    first, *others = (list(generator(batch)["text"]) for batch in batches)
    assert others[0] == others[1] == [first[1]] * 3


def test_columns_of_other_names(pebble_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    generator = BatchGenerator(
        pebble_bundle,
        columns={"image": "bytes", "id": "path", "prompt": "question"},
        device="cpu",
        threads=1,
        max_new_tokens=4,
        do_sample=True,
        seed=3,
    )
    rows = {"bytes": objects([(tmp_path / "a.png").read_bytes()] * 3), "question": np.array(["Hi"] * 3)}
    texts = list(generator({**rows, "path": np.array(["a", "b", "a"])})["text"])
    assert texts[0] == texts[2]
    assert list(generator({**rows, "path": np.array(["b", "a", "a"])})["text"]) == [
        texts[1],
        texts[0],
        texts[0],
    ]


def test_bad_use(pebble_bundle: Path) -> None:
    with pytest.raises(pumice.UsageError, match="unknown field 'photos'"):
        BatchGenerator(pebble_bundle, columns={"photos": "x"})
    with pytest.raises(pumice.UsageError, match="temperature"):
        BatchGenerator(pebble_bundle, device="cpu", temperature=-1.0)


@pytest.mark.slow
def test_the_example_gives_the_same_records_on_a_local_ray(pebble_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pumice[ray]'")
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="Ray Data is not installed: pip install 'pumice[ray]'"
    )
    broken = write_images(tmp_path / "images", 200)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "pebble").symlink_to(pebble_bundle)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True, capture_output=True)
    rows = sorted(parquet.read_table(tmp_path / "answers").to_pylist(), key=lambda row: row["path"])
    records = list(
        run_batch(
            pumice.load(pebble_bundle, device="cpu", threads=1),
            [
                {"id": str(path.relative_to(tmp_path)), "image": path.read_bytes()}
                for path in sorted(tmp_path.glob("images/*/*"))
            ],
            prompt=PROMPT,
            max_new_tokens=4,
        )
    )
    assert [row["path"] for row in rows] == [record.id for record in records]
    assert [row["path"] for row in rows if row["error_type"]] == [f"images/{name}" for name in broken]
    for row, record in zip(rows, records, strict=True):
        assert {name: row[name] for name in PLAIN} == {
            name: getattr(record, name) or empty(name) for name in PLAIN
        }
        error = record.error or Failure(type="", message="")
        assert (row["error_type"], row["error_message"]) == (error.type, error.message)


def empty(name: str) -> object:
    return COLUMNS[name]()
