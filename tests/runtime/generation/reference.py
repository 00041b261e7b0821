"""The oracle of options: transformers' own processors, in its own order; and a manifest to resolve options by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pumice.errors import UsageError
from pumice.generation.logits_processors import make_processor
from pumice.generation.options import GenerationOptions, resolve
from pumice.manifest import GenerationDefaults, Manifest, decode_manifest

CONTEXT = 4096
EXAMPLE = Path(__file__).parents[3] / "docs" / "manifests" / "llava-1.5.json"
Floats = NDArray[np.float32]


def manifest(
    vocab_size: int = 50, eos_ids: tuple[int, ...] = (2,), context: int = CONTEXT, **defaults: Any
) -> Manifest:
    """An example's, with this vocabulary, these ends, and these defaults of generation."""
    example = decode_manifest(EXAMPLE.read_bytes(), str(EXAMPLE))
    return replace(
        example,
        decoder=replace(example.decoder, vocab_size=vocab_size, context_length=context),
        tokens=replace(example.tokens, eos_ids=eos_ids),
        generation=GenerationDefaults(**defaults),
    )


def ours(
    ids_T: NDArray[np.int64], logits_V: Floats, arguments: dict[str, Any], eos: tuple[int, ...] = (2,),
    prompt_length: int = 1,
) -> Floats:  # fmt: skip
    """Scores as pumice makes them; checks that nothing that enters is changed."""
    options = resolve(arguments, manifest(len(logits_V), eos))
    ids_before, logits_before = ids_T.copy(), logits_V.copy()
    scores_V = make_processor(options, prompt_length)(ids_T, logits_V, np.random.default_rng(0))
    np.testing.assert_array_equal(ids_T, ids_before)
    np.testing.assert_array_equal(logits_V, logits_before)
    assert scores_V.dtype == np.float32
    return scores_V


def theirs(
    ids_T: NDArray[np.int64], logits_V: Floats, arguments: dict[str, Any], eos: tuple[int, ...] = (2,),
    prompt_length: int = 1,
) -> Floats:  # fmt: skip
    """Scores as transformers makes them of the same arguments, through `GenerationMixin._get_logits_processor`."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation.utils import GenerationMixin

    given = {**GenerationConfig._get_default_generation_params(), **arguments}
    if "logit_bias" in given:
        given["sequence_bias"] = {(token,): bias for token, bias in given.pop("logit_bias").items()}
    config = GenerationConfig(**given)
    config._eos_token_tensor = torch.tensor(eos) if eos else None
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False),
        _merge_criteria_processor_list=lambda default, custom: default,
    )
    processors = GenerationMixin._get_logits_processor(
        model, config, input_ids_seq_length=prompt_length, device="cpu"
    )
    scores = processors(torch.from_numpy(ids_T[None]), torch.from_numpy(logits_V[None].copy()))
    scores_V: Floats = scores[0].numpy()
    return scores_V


def options(**arguments: Any) -> GenerationOptions:
    return resolve(arguments, manifest())


def refused(**arguments: Any) -> str:
    """What is said about arguments that are refused, in one line."""
    with pytest.raises(UsageError) as caught:
        options(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
