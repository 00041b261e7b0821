"""Every way of storing weights on old and new versions of ONNX Runtime: what `make test-onnxruntime` runs.

python -m tests.onnxruntime_matrix export FOLDER             in an environment that exports: pebble by each recipe
python -m tests.onnxruntime_matrix compare FOLDER ENV…       the table; the last environment has the newest version
python -m tests.onnxruntime_matrix answer BUNDLE [unsigned]  in such an environment: greedy tokens and log-probabilities

A cell must answer with the newest version's tokens, with log-probabilities within `TOLERANCE`, or be refused by a typed
error. Where qemu-user is installed each version also runs on an emulated processor without VNNI, for which signed
weights are made unsigned: there versions before 1.30 ended the process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bounds import HELDOUT, QUESTION, ROOT

RECIPES = ("portable-fp32", "cpu-int8", "cpu-int4", "cpu-fast", "cpu-w8a8", "cpu-int8+int8-cache")
TOLERANCE = {"portable-fp32": 1e-5}
"""Of log-probabilities; 4e-9 was found."""
QUANTISED_TOLERANCE = 1e-2
"""Of all other recipes: kernels round activations to 8 bits in other orders; 2e-4 was found."""
IMAGES = 4
EMULATOR = "qemu-x86_64"


def export(folder: Path) -> None:
    """Bundles named by their recipes."""
    from pumice.export.pipeline import export_bundle

    for name in RECIPES:
        recipe, _, cache = name.partition("+")
        export_bundle(
            ROOT / "pebble" / "checkpoint",
            folder / name,
            recipe=recipe,
            kv_cache="int8" if cache else None,
            overwrite=True,
        )


def answer(bundle: Path, *, unsigned: bool) -> list[dict[str, Any]]:
    """What a bundle answers to the first of the held-out images; a refusal is told by its type."""
    import pumice
    import pumice.machine.cpu as cpu

    if unsigned:  # an emulated processor reads the real one's description
        cpu.saturates = lambda: True
    try:
        model = pumice.load(bundle, device="cpu", threads=1)
    except pumice.PumiceError as error:
        return [{"refused": f"{type(error).__name__}: {error}"}]
    found = []
    for path in sorted(HELDOUT.glob("*.png"))[: 1 if unsigned else IMAGES]:
        made = model.generate(QUESTION, [path], max_new_tokens=24, do_sample=False, logprobs=0)
        assert made.logprobs is not None
        found.append({"tokens": list(made.token_ids), "logprobs": [token.logprob for token in made.logprobs]})
    return found


def cell(environment: Path, bundle: Path, *, unsigned: bool) -> Any:
    """In a process of its own: the answers, or how the process ended."""
    emulated = [EMULATOR, "-cpu", "max"] if unsigned else []
    command = [
        *emulated,
        str(environment / "bin" / "python"),
        "-m",
        "tests.onnxruntime_matrix",
        "answer",
        str(bundle),
    ]
    ran = subprocess.run(
        [*command, *(["unsigned"] if unsigned else [])], cwd=ROOT, capture_output=True, text=True
    )
    if ran.returncode != 0:
        return f"DIED ({ran.returncode}): {ran.stderr.strip()[-200:]}"
    return json.loads(ran.stdout)


def verdict(found: Any, newest: Any, tolerance: float) -> str:
    """What a table's cell says; a fault is in capitals."""
    if isinstance(found, str):
        return found
    if "refused" in found[0]:
        return f"refused: {found[0]['refused']}"
    if isinstance(newest, str) or "refused" in newest[0]:
        return "THE NEWEST DOES NOT ANSWER"
    pairs = list(zip(found, newest, strict=False))
    if any(ours["tokens"] != theirs["tokens"] for ours, theirs in pairs):
        return "OTHER TOKENS"
    far = max(
        abs(a - b)
        for ours, theirs in pairs
        for a, b in zip(ours["logprobs"], theirs["logprobs"], strict=True)
    )
    return f"equal, ±{far:.1e}" if far <= tolerance else f"FAR: {far:.1e}"


def compare(folder: Path, environments: list[Path]) -> int:
    """Print the table; 1 if a cell is at fault."""
    kinds = [False, *([True] if shutil.which(EMULATOR) else [])]
    if len(kinds) == 1:
        print(f"{EMULATOR} is not installed: processors without VNNI are left out", file=sys.stderr)
    faults = 0
    print("| onnxruntime | processor |", " | ".join(RECIPES), "|\n|---|---|" + "---|" * len(RECIPES))
    newest = {recipe: cell(environments[-1], folder / recipe, unsigned=False) for recipe in RECIPES}
    for environment in environments:
        for unsigned in kinds:
            row = []
            for recipe in RECIPES:
                found = cell(environment, folder / recipe, unsigned=unsigned)
                row.append(verdict(found, newest[recipe], TOLERANCE.get(recipe, QUANTISED_TOLERANCE)))
            faults += sum(not text.startswith(("equal", "refused")) for text in row)
            print(
                f"| {environment.name} | {'emulated, no VNNI' if unsigned else 'this'} |",
                " | ".join(row),
                "|",
                flush=True,
            )
    return 1 if faults else 0


def main(arguments: list[str]) -> int:
    """The commands of the module's first lines."""
    match arguments:
        case ["export", folder]:
            export(Path(folder))
        case ["answer", bundle, *unsigned]:
            print(json.dumps(answer(Path(bundle), unsigned=bool(unsigned))))
        case ["compare", folder, *environments] if environments:
            return compare(Path(folder), [Path(place) for place in environments])
        case _:
            raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
