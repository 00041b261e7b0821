"""Texts read by transformers and by a bundle, and scored.

Enters: a checkpoint, a bundle, and windows of token ids. Leaves: a `TextCase` for each text, and one for all. What
transformers computes is kept in files up to the head's input, [T, D] of each window, so that several bundles are scored
beside it; logits, which are larger by far, are made a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pumice.errors import BundleError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.progress import Progress
from pumice.export.verify.bundle_graphs import BundleGraphs
from pumice.export.verify.parity import Floats, TextCase
from pumice.export.verify.reference import Head, Reference
from pumice.export.verify.text_scores import Scores
from pumice.export.verify.texts import Windows


class TextReference:
    """What transformers makes of `texts` in float32, in files in `folder`, which is the caller's to remove.

    Raises:
        CheckpointError: transformers cannot load the checkpoint.
    """

    def __init__(
        self, checkpoint: Checkpoint, texts: Sequence[Windows], folder: Path, progress: Progress
    ) -> None:
        self.texts, self._folder = tuple(texts), folder
        progress.stage("texts: transformers", steps=count(texts))
        reference = Reference(checkpoint)
        self.head: Head = reference.head
        for number, text in enumerate(self.texts):
            for index, ids_T in enumerate(text.windows):
                hidden_TD = reference.read(ids_T)
                np.save(self._file(number, index), hidden_TD[text.context - 1 : -1].numpy())
                progress.advance()

    def hidden(self, text: int, window: int) -> torch.Tensor:
        """Of a window's positions from which a scored token follows: what the head makes logits of, [T, D]."""
        return torch.from_numpy(np.load(self._file(text, window)))

    def _file(self, text: int, window: int) -> Path:
        return self._folder / f"{text}-{window}.npy"


def count(texts: Sequence[Windows]) -> int:
    """How many windows there are."""
    return sum(len(text.windows) for text in texts)


def score_texts(
    reference: TextReference, graphs: BundleGraphs, progress: Progress
) -> tuple[list[TextCase], TextCase]:
    """Each text's figures, and those of all together.

    Raises:
        BundleError: the bundle is damaged, or of another checkpoint.
    """
    progress.stage("texts: bundle", steps=count(reference.texts))
    gathered = [_Gathered() for _ in reference.texts]
    with graphs.reader() as reader:
        for number, text in enumerate(reference.texts):
            for index, ids_T in enumerate(text.windows):
                follows = ids_T[text.context :]
                hidden_TD = reference.hidden(number, index)
                position = 0
                for ours_NV in reader.logits(ids_T[:-1], text.context - 1):
                    part = slice(position, position + len(ours_NV))
                    gathered[number].add(reference.head, hidden_TD[part], ours_NV, follows[part])
                    position = part.stop
                assert position == len(hidden_TD) == len(follows), (position, hidden_TD.shape, follows.shape)
                progress.advance()
    cases = [part.case(text.name) for part, text in zip(gathered, reference.texts, strict=True)]
    return cases, _Gathered.merged(gathered).case("all")


class _Gathered:
    """Figures of the positions so far."""

    def __init__(self) -> None:
        self.scores = Scores()
        self.worst = self.largest = 0.0

    def add(self, head: Head, hidden_ND: torch.Tensor, ours_NV: Floats, follows_N: NDArray[np.int64]) -> None:
        """Count N positions."""
        position = 0
        for theirs_NV in head.logits(hidden_ND):
            part = slice(position, position + len(theirs_NV))
            position = part.stop
            ours = ours_NV[part]
            if ours.shape != theirs_NV.shape:
                raise BundleError(
                    f"the decoder gives logits {list(ours.shape)}, transformers {list(theirs_NV.shape)}: "
                    "is this the checkpoint that the bundle was exported from?"
                )
            self.worst = float(np.maximum(self.worst, np.abs(ours - theirs_NV).max()))  # NaN stays NaN
            self.largest = max(self.largest, float(np.abs(theirs_NV).max()))
            self.scores.add(theirs_NV, ours, follows_N[part])

    @classmethod
    def merged(cls, parts: Sequence[_Gathered]) -> _Gathered:
        """All of `parts` as one."""
        whole = cls()
        whole.scores = Scores.merged([part.scores for part in parts])
        whole.worst = float(np.max([part.worst for part in parts]))
        whole.largest = max(part.largest for part in parts)
        return whole

    def case(self, name: str) -> TextCase:
        """The figures under a name."""
        return TextCase(name=name, score=self.scores.score(), logits_max=self.worst, largest=self.largest)
