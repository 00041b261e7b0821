"""What transformers says in float32 of each window, kept on disk; and how far others are from it.

Enters: a Llama checkpoint and windows by kind of text. Leaves: `Reference`, which scores whatever gives logits of the
same windows. A window's logits are a file of up to 176 MB, float32 [N, V]; they are mapped, not read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.real.windows import Window
from pumice.export.verify.text_scores import Scores, TextScore

Floats = NDArray[np.float32]
Reader = Callable[[Window], Iterable[Floats]]
"""Logits of a window's scored positions in order, in as many parts [N, V…] as it likes."""
Windows = Mapping[str, Sequence[Window]]
"""By kind of text."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How far a model is from the reference: over all positions, and by kind of text."""

    total: TextScore
    kinds: dict[str, TextScore]


class Reference:
    """The reference's logits of `windows`, in the folder `store`."""

    def __init__(self, windows: Windows, store: Path) -> None:
        self._windows, self._store = windows, store

    def keep(self, model: Any) -> None:
        """Compute and write the logits of a `LlamaForCausalLM`."""
        self._store.mkdir(parents=True, exist_ok=True)
        for kind, parts in self._windows.items():
            for number, window in enumerate(parts):
                np.save(self._file(kind, number), whole_logits(model, window))

    def score(self, reader: Reader) -> Scored:
        """Compare what `reader` says of every window. Of a larger vocabulary than the reference's the rest is left out.

        Raises:
            ValueError: it says something of more, or fewer, positions than are scored.
        """
        kinds = {kind: self._scores(kind, reader) for kind in self._windows}
        return Scored(
            total=Scores.merged(list(kinds.values())).score(),
            kinds={kind: scores.score() for kind, scores in kinds.items()},
        )

    def _scores(self, kind: str, reader: Reader) -> Scores:
        scores = Scores()
        for number, window in enumerate(self._windows[kind]):
            theirs_NV: Floats = np.load(self._file(kind, number), mmap_mode="r")
            next_N, done = np.array(window.scored, np.int64), 0
            for ours_NV in reader(window):
                part = slice(done, done + len(ours_NV))
                scores.add(theirs_NV[part], ours_NV[:, : theirs_NV.shape[1]], next_N[part])
                done = part.stop
            if done != len(next_N):
                raise ValueError(
                    f"{kind}, window {number}: logits of {done} positions, expected {len(next_N)}"
                )
        return scores

    def _file(self, kind: str, number: int) -> Path:
        return self._store / f"{kind}-{number}.npy"


def load_reference(llama: Path) -> Any:
    """transformers' `LlamaForCausalLM` of a checkpoint, in float32."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()


def whole_logits(model: Any, window: Window) -> Floats:
    """Logits of a window's scored positions by a `LlamaForCausalLM` that reads it at once, float32 [N, V]."""
    with torch.inference_mode():
        ids_BT = torch.tensor([window.read])
        found: Floats = model(input_ids=ids_BT, logits_to_keep=len(window.scored)).logits[0].numpy()
    return found
