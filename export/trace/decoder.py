"""Exporter of the decoder: `inputs_embeds` and `past_key_values.*` → `logits` and `present.*`.

And of its twin for reading prompts, the prefill graph, which leaves `present.*` alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from optimum.utils import NormalizedTextConfigWithGQA
from optimum.utils.input_generators import MistralDummyPastKeyValuesGenerator
from torch.export import Dim

from pumice.export.trace.layers import equal_runs, repeat_layers
from pumice.export.trace.tracing import Example, Traced, trace
from pumice.manifest.tensors import (
    ATTENTION_MASK,
    GREEDY_TOKEN,
    INPUTS_EMBEDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    PAST,
    PRESENT,
    cache_names,
)
from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.decoder import Decoder, Prefill
from pumice.models.float_types import cache_type, lowered

_PREFIXES = ("/layers.", "layers.", f"{PAST}.", f"{PRESENT}.")


def trace_decoder(config: LlavaConfig, dtype: torch.dtype = torch.float32, *, greedy: bool = False) -> Traced:
    """The decoder for any batch, number of new tokens and past length, computing in `dtype`."""
    shallow, runs = _shallow(config)
    return repeat_layers(trace_every_layer(shallow, dtype, greedy=greedy), runs, _PREFIXES)


def trace_prefill(config: LlavaConfig, dtype: torch.dtype = torch.float32) -> Traced:
    """The decoder up to the last keys and values, as `trace_decoder`."""
    shallow, runs = _shallow(config)
    traced = trace(lambda: lowered(Prefill(shallow), dtype), _example(shallow.text, dtype, []))
    return repeat_layers(traced, runs, _PREFIXES)


def trace_every_layer(
    config: LlavaConfig, dtype: torch.dtype = torch.float32, *, greedy: bool = False
) -> Traced:
    """What `trace_decoder` gives, slowly."""
    outputs = [LOGITS, GREEDY_TOKEN] if greedy else [LOGITS]
    return trace(
        lambda: lowered(Decoder(config, greedy=greedy), dtype), _example(config.text, dtype, outputs)
    )


def _shallow(config: LlavaConfig) -> tuple[LlavaConfig, list[range]]:
    """The model with one layer for each run of equal ones, and the runs."""
    kinds = config.text.layer_kinds
    runs = equal_runs(kinds)
    text = replace(
        config.text,
        num_hidden_layers=len(runs),
        sliding_windows=tuple(kinds[run.start].window for run in runs),
        unturned_layers=frozenset(at for at, run in enumerate(runs) if not kinds[run.start].turned),
    )
    return replace(config, text=text), runs


def _example(text: TextConfig, dtype: torch.dtype, outputs: Sequence[str]) -> Callable[[], Example]:
    """Arguments and names of a decoder with these `outputs` beside its cache; without any no logits are asked for."""
    logits = bool(outputs)
    dims = {LOGITS: ("batch_size", "num_logits", text.vocab_size), GREEDY_TOKEN: ("batch_size",)}

    def example() -> Example:
        past = MistralDummyPastKeyValuesGenerator(
            "text-generation", NormalizedTextConfigWithGQA(text), batch_size=2, sequence_length=4
        )
        past_key_values = [
            tuple(part.to(cache_type(dtype)) for part in layer) for layer in past.generate("past_key_values")
        ]
        batch, total = Dim("batch_size"), {1: Dim("total_sequence_length")}
        cache = {0: batch, 2: Dim("past_sequence_length")}
        return Example(
            args=(
                torch.empty(2, 3, text.hidden_size),
                torch.ones(2, 7, dtype=torch.int64),
                past_key_values,
                *([torch.ones((), dtype=torch.int64)] if logits else []),
            ),
            dynamic_shapes=(
                {0: batch, 1: Dim("sequence_length")},
                {0: batch} | total,
                [(cache, cache)] * text.num_hidden_layers,
                *([None] if logits else []),
            ),
            input_names=[
                INPUTS_EMBEDS,
                ATTENTION_MASK,
                *cache_names(PAST, text.num_hidden_layers),
                *([NUM_LOGITS_TO_KEEP] if logits else []),
            ],
            output_names=[*outputs, *cache_names(PRESENT, text.num_hidden_layers)],
            output_dims={name: dims[name] for name in outputs},
        )

    return example
