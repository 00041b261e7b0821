"""What tests of beams share: small random models, and a search driven by their logits as a scheduler does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pumice.generation.beam_search import BeamSearch
from pumice.generation.logits_processors import Processor
from pumice.result import Generated
from tests.runtime.generation.plain_tokenizer import PlainTokenizer

VOCABULARY = 50
Floats = NDArray[np.float32]
Logits = Callable[[list[list[int]]], Sequence[Floats]]


@cache
def tiny(seed: int) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def logits_of(model: Any) -> Logits:
    """Last logits of rows of ids, all of one length."""
    import torch

    def logits(rows: list[list[int]]) -> Sequence[Floats]:
        with torch.no_grad():
            return list(model(input_ids=torch.tensor(rows)).logits[:, -1].numpy())

    return logits


def processor(*parts: Any) -> Processor:
    """Of transformers' processors."""
    import torch

    def process(ids_T: NDArray[np.int64], scores_V: Floats, rng: np.random.Generator) -> Floats:
        scores = torch.from_numpy(scores_V[None])
        for part in parts:
            scores = part(torch.from_numpy(ids_T[None]), scores)
        processed: Floats = scores[0].numpy()
        return processed

    return process


def options(**given: Any) -> Any:
    defaults = {
        "num_beams": 3, "num_return_sequences": 1, "length_penalty": 1.0, "early_stopping": False,
        "do_sample": False, "stop_strings": (),
    }  # fmt: skip
    return SimpleNamespace(**defaults | given)


def search(
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int] = (),
    processor: Processor = lambda ids_T, scores_V, rng: scores_V,
    seed: int = 0,
    decode: Callable[[Sequence[int]], str] = lambda ids: " ".join(map(str, ids)),
    **given: Any,
) -> BeamSearch:
    return BeamSearch(
        prompt_ids=prompt,
        options=options(**given),
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        processor=processor,
        rng=np.random.default_rng(seed),
        tokenizer=PlainTokenizer(decode),
    )


def drive(strategy: BeamSearch, prompt: list[int], logits: Logits, steps: int = 1000) -> list[Generated]:
    """What a scheduler does: rows in the order of the steps, each over the cache of its parent."""
    rows, taken = [prompt], strategy.advance(logits([prompt]))
    while taken and steps:
        assert len(taken) <= strategy.rows
        rows = [[*rows[step.parent], step.token] for step in taken]
        taken = strategy.advance(logits(rows))
        steps -= 1
    assert strategy.take_text() == ""
    return strategy.finish(cancelled=bool(taken))


def theirs(model: Any, prompt: list[int], **given: Any) -> list[list[int]]:
    """Answers without padding."""
    import torch

    ids = torch.tensor([prompt])
    pad = {"pad_token_id": VOCABULARY - 1, "attention_mask": torch.ones_like(ids)}
    out = model.generate(ids, return_dict_in_generate=True, **pad, **given)
    lengths = (out.beam_indices >= 0).sum(1)
    answers = zip(out.sequences[:, len(prompt) :], lengths, strict=True)
    return [answer[:length].tolist() for answer, length in answers]


LETTERS = [
    *"abcd",
    *(x + y for x in "abcd" for y in "abcd"),
    *("ab" + x + y for x in "abcde" for y in "abcdef"),
]


@cache
def lettered() -> Any:
    """A tokenizer of 50 short texts; the last two are a bar, which no stop string has."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    texts = [*LETTERS[: VOCABULARY - 2], "|", "||"]
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token="|"))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
