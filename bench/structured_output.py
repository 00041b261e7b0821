"""What constraining an answer costs: `python -m bench.structured_output BUNDLE`. One JSON line for the tokenizer's
tables, and one for each grammar.

`compile_ms` is the grammar's alone; `mask_us` are over random answers, a token each: finding the allowed tokens and
writing −inf over the other logits. Resident memory in MiB.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil

from pumice.generation.grammar import Grammar, GrammarCompiler
from pumice.manifest import load_manifest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "kind": {"enum": ["a", "b", "c"]},
        "nested": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "day": {"type": "string", "format": "date"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMARS: dict[str, dict[str, str]] = {
    "any JSON": {"json_schema": "{}"},
    "person": {"json_schema": json.dumps(PERSON)},
    "300 properties": {
        "json_schema": json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(300)}})
    },
    "words": {"regex": r"(\d{3}-){2}\d{4}|[a-z ]{0,200}\."},
}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    manifest = load_manifest(bundle)
    compiler = GrammarCompiler((bundle / "tokenizer.json").read_bytes(), manifest.tokens.eos_ids)
    before, begun = _resident(), time.perf_counter()
    compiler.compile(regex="a")
    seconds = time.perf_counter() - begun
    print(json.dumps({"tables_s": round(seconds, 2), "resident_mib": round(_resident() - before)}))
    for name, arguments in GRAMMARS.items():
        begun = time.perf_counter()
        grammar = compiler.compile(**arguments)
        compile_ms = (time.perf_counter() - begun) * 1e3
        masks_us = _masks(grammar, manifest.decoder.vocab_size, frozenset(manifest.tokens.eos_ids))
        figures = {
            "compile_ms": round(compile_ms, 1),
            "tokens": len(masks_us),
            "mask_us": round(float(np.median(masks_us))),
            "mask_us_p99": round(float(np.percentile(masks_us, 99))),
            "mask_us_highest": round(max(masks_us)),
            "resident_mib": round(_resident() - before),
        }
        print(json.dumps({"grammar": name, **figures}))


def _masks(grammar: Grammar, vocab_size: int, eos_ids: frozenset[int]) -> list[float]:
    """Microseconds of each mask of ten random answers of up to 200 tokens."""
    rng = np.random.default_rng(0)
    times_us = []
    for _ in range(10):
        matcher = grammar.start()
        for _ in range(200):
            logits_V = rng.standard_normal(vocab_size, np.float32)
            begun = time.perf_counter()
            scores_V = matcher.mask(logits_V)
            times_us.append((time.perf_counter() - begun) * 1e6)
            token = int(scores_V.argmax())
            matcher.accept(token)
            if token in eos_ids or matcher.finished:
                break
    return times_us


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    main()
