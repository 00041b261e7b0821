"""The lower bounds of pyproject.toml as an environment: what `make test-oldest` installs and runs on.

python -m tests.bounds pins            requirements for pip: every bound as a pin, and the tools of the tests
python -m tests.bounds export FOLDER   in an environment that exports: bundles, and what they answer there
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent
HELDOUT = ROOT / "pebble" / "heldout"
EXTRAS = ("cpu", "completion", "parquet", "serve", "structured", "video")
"""What an installed wheel may need to answer. `cuda` needs a GPU, `ray` and `export` bring newer versions with them."""
TOOLS = ("hypothesis", "jinja2", "jsonschema", "psutil", "pytest", "pytest-xdist")
"""Of the tests themselves, as constraints.txt has them."""
PRECISIONS: tuple[Literal["fp32", "int8", "int4"], ...] = ("fp32", "int8", "int4")
FAMILIES_TOO = ("ministral-3", "llava-next", "llava-onevision")
"""Families of the tests' own, with random weights, whose graphs have what pebble's have not."""
TEXTS_TOO = ("qwen3", "gemma", "olmo2", "smollm3", "phi3 of phi-4", "cohere", "nemotron")
"""And types of text models."""
WINDOWED = "gemma2"
"""One that needs more than the lower bound: what it computes there differs."""
EXPECTED = "expected.json"
QUESTION = "Describe this picture in more detail."


def requirements(*extras: str) -> list[str]:
    """The project's own, and its extras'."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    more = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *more]


def locked() -> dict[str, str]:
    """Versions in constraints.txt, by names in small letters."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def pins() -> list[str]:
    """`name==version` of every lower bound, and of the tools."""
    lowest = []
    for line in dict.fromkeys(requirements(*EXTRAS)):
        bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", line)
        if bound is None:
            raise SystemExit(f"pyproject.toml asks for {line!r}, expected NAME>=VERSION")
        lowest.append(f"{bound[1]}=={bound[2]}")
    return [*lowest, *(f"{tool}=={locked()[tool]}" for tool in TOOLS)]


def answers(bundle: Path) -> dict[str, Any]:
    """Of each held-out image: a digest of its pixels as they are prepared, and the greedy answer's tokens."""
    import hashlib

    import pumice

    model = pumice.load(bundle, device="cpu")
    found = {}
    for path in sorted(HELDOUT.glob("*.png")):
        prepared = model.prepare(QUESTION, [path])
        tokens = model.generate(QUESTION, [path], max_new_tokens=40).token_ids
        found[path.name] = {
            "pixels": hashlib.sha256(prepared.pixel_values.tobytes()).hexdigest(),
            "prompt": prepared.input_ids[0].tolist(),
            "answer": list(tokens),
        }
    return found


def last_logits(bundle: Path) -> list[float]:
    """Behind a question about an image."""
    import pumice

    image = next(HELDOUT.glob("*.png"))
    last: list[float] = pumice.load(bundle, device="cpu").logits("what is it?", [image])[-1].tolist()
    return last


def export(folder: Path) -> None:
    """pebble in each of `PRECISIONS`, and the others in float32."""
    from pumice.export.pipeline import export_bundle
    from tests.factory import FAMILIES
    from tests.factory.texts import make_text_checkpoint

    expected: dict[str, Any] = {}
    for name in (*FAMILIES_TOO, *TEXTS_TOO, WINDOWED):
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = Path(temporary) / "checkpoint"
            if name in FAMILIES_TOO:
                FAMILIES[name](checkpoint)
            else:
                make_text_checkpoint(checkpoint, name)
            export_bundle(checkpoint, folder / name, precision="fp32", overwrite=True)
        expected[name] = last_logits(folder / name)
    for precision in PRECISIONS:
        bundle = folder / f"pebble-{precision}"
        export_bundle(ROOT / "pebble" / "checkpoint", bundle, precision=precision, overwrite=True)
        expected[precision] = answers(bundle)
    (folder / EXPECTED).write_text(json.dumps(expected))


def main(arguments: list[str]) -> None:
    """The two commands of the module's first lines."""
    match arguments:
        case ["pins"]:
            print(*pins(), sep="\n")
        case ["export", folder]:
            export(Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
