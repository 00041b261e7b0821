"""How likely a model finds a given answer: the loss that lmms-eval compares choices by.

Enters: a prompt's messages, and the text of an answer. Leaves: the mean of −log p over the answer's tokens, and whether
each is the most likely one at its place.

    prompt             <s> USER: … Which one? A. B. ASSISTANT:
    prompt and answer  <s> USER: … Which one? A. B. ASSISTANT: B
                       └─ prefill, once for all choices ─┘ └─┘ scored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.decoder.decoder import finite, not_finite
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_keys import Key, common_prefix, prompt_keys
from pumice.errors import PromptError
from pumice.lmms.documents import Asked
from pumice.model import Model
from pumice.prompt.prepared import Prepared
from pumice.scheduler.chunks import resumed, run_end
from pumice.scheduler.scheduler import CHUNK
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.features import PromptFeatures


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of a given answer."""

    loss: float
    greedy: bool


class Scorer:
    """Scores answers with one model, one after the other; what two prompts begin with is computed once."""

    def __init__(self, model: Model) -> None:
        self._pipeline = model.pipeline
        self._cache: KVCache = self._pipeline.decoder.new_cache(1)

    def score(self, asked: Asked, answer: str) -> Likelihood:
        """Raises as `Model.prepare`, `PromptError` for an answer without tokens, and `GenerationError`."""
        build = self._pipeline.builder.prepare
        prompt = build(asked.messages, asked.images)
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        whole = build([*asked.messages, said], prompt.images, continue_final_message=True)
        ids = whole.input_ids[0].tolist()
        # A token may go across from prompt to answer: then it is the answer's.
        begins = max(1, common_prefix(prompt.input_ids[0].tolist(), ids))
        if not answer.strip() or begins == len(ids):
            raise PromptError(f"the answer {answer!r:.80} has no tokens behind the prompt")
        return _likelihood(self._logits(whole, ids, begins), ids[begins:])

    def _logits(self, whole: Prepared, ids: Sequence[int], begins: int) -> NDArray[np.float32]:
        """Before each token from `begins` on, shape = (tokens, vocabulary)."""
        decoder, cache = self._pipeline.decoder, self._cache
        features = PromptFeatures(whole.images, self._pipeline.encoder)
        keys = prompt_keys(ids, self._pipeline.manifest.image_tokens.token_id, features.images)
        cache.reserve(len(ids))
        last, cancellation = begins - 1, Cancellation()
        at = resumed(common_prefix(cache.contents[0], keys[:last]), last)
        cache.rewind(0, at)
        seen = _image_tokens(keys[:at])
        rows = features.rows(seen, cancellation)

        def features_of(start: int, stop: int) -> Rows:
            first = _image_tokens(keys[:start]) - seen
            return rows[first : first + _image_tokens(keys[start:stop])]

        while at < last:
            end = run_end(at, last, CHUNK[cache.device])
            run = slice(at, end)
            decoder.prefill(ids[run], keys[run], features_of(at, end), cache, 0, cancellation, ends=False)
            at = end
        run = slice(last, len(ids) - 1)
        logits_NV = decoder.forward(
            ids[run],
            keys[run],
            features_of(last, len(ids) - 1),
            cache,
            cancellation=cancellation,
            keep=len(ids) - begins,
        )
        if not finite(logits_NV):
            raise not_finite()
        return logits_NV


def _image_tokens(keys: Sequence[Key]) -> int:
    return sum(isinstance(key, bytes) for key in keys)


def _likelihood(logits_NV: NDArray[np.float32], tokens: Sequence[int]) -> Likelihood:
    """Of tokens, by the logits before each."""
    scores = logits_NV.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(tokens)), tokens] - np.log(np.exp(scores).sum(axis=1))
    return Likelihood(loss=float(-chosen.mean()), greedy=bool((scores.argmax(axis=1) == tokens).all()))
