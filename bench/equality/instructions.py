"""The same bundle on two processors, or on one and an emulated one: what instruction sets change.

Enters: a folder that `save` wrote on the one. Leaves: how far the other's logits are, along the first one's answers.

    python -m bench.equality BUNDLE… --save FOLDER
    qemu-x86_64 -cpu Haswell .venv/bin/python -m bench.equality BUNDLE… --beside FOLDER --emulated --write

qemu's user emulation has AVX2 and no AVX-512; /proc/cpuinfo is the host's there, so that `--emulated` tells pumice what
the processor does not have. ONNX Runtime asks the processor itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from bench.equality.asked import about_images
from bench.equality.difference import Difference, Floats, difference
from bench.equality.following import Follower, follow
from bench.equality.ways import TOKENS, answered, load

QUESTIONS = 20


def save(bundle: Path, folder: Path, threads: int) -> None:
    """Answer pebble's questions, and keep answers and logits."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load(bundle, threads)
    kept = {}
    for number, prompt in enumerate(about_images(QUESTIONS)):
        reference = answered(model, prompt)
        kept[f"answer{number}"] = np.array(reference.answer)
        kept[f"logits{number}"] = reference.logits
    np.savez(_file(bundle, folder), **kept)  # type: ignore[arg-type]


def beside(bundle: Path, folder: Path, threads: int) -> Difference:
    """This processor's logits beside those that were kept.

    Raises:
        FileNotFoundError: nothing was kept of such a bundle.
    """
    kept = np.load(_file(bundle, folder))
    model = load(bundle, threads)

    def pairs() -> Iterator[tuple[Floats, Floats]]:
        for number, prompt in enumerate(about_images(QUESTIONS)):
            follower = Follower(kept[f"answer{number}"].tolist(), most=TOKENS)
            follow(model, [prompt.request(model, TOKENS)], [follower])
            yield kept[f"logits{number}"], follower.logits

    return difference(pairs())


def instruction_sets() -> str:
    """What ONNX Runtime chooses its kernels by, as NumPy finds it: by asking the processor."""
    features = import_module("numpy._core._multiarray_umath").__cpu_features__
    names = {"AVX2": "AVX2", "AVX512_SKX": "AVX-512", "AVX512_CLX": "VNNI"}
    return " ".join(told for name, told in names.items() if features.get(name)) or "none of AVX2 and AVX-512"


def _file(bundle: Path, folder: Path) -> Path:
    return folder / f"{bundle.resolve().name}.npz"
