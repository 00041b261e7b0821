"""How quick a loaded model is, in two numbers.

Enters: a model. Leaves: tokens a second of decoding and of prefill, as `pumice bench` measures them.
"""

from __future__ import annotations

import statistics

from pumice.benchmark.workload import Parts, Workload
from pumice.model import Model

_WORKLOAD = Workload(prompt=256, contexts=(256,), new=16, repeats=3)


def tokens_per_second(model: Model) -> tuple[float, float]:
    """Medians of decoding one sequence and of prefill, both behind or of 256 tokens, or of what the context holds."""
    pipeline, load = model.pipeline, _WORKLOAD.fitted(model.context_length)
    parts = Parts(manifest=model.manifest, decoder=pipeline.decoder, encoder=pipeline.encoder)
    decode, prefill = [], []
    for number in range(load.repeats + 1):
        seconds, steps = parts.prefill(load.prompt), parts.decode(load.contexts[0], load.new)
        if number:  # the first warms up
            prefill.append(load.prompt / seconds)
            decode.append(1 / statistics.median(steps))
    return statistics.median(decode), statistics.median(prefill)
