"""What each recipe costs in accuracy: `python -m bench.accuracy [RECIPE …] [--write]`, or `make accuracy`.

Recipes (names, or TOML files) are exported from pebble as it is, and with outliers of 30 and 100 times
(`pebble.outliers`: the same function with the activations of a large model), and asked pebble's held-out questions.
Beside the accuracy stands what a small model's accuracy hides: on how many questions the answer's tokens are those of
`portable-fp32`; and KL, the mean of Σ p·log(p/q) in nats, p of `portable-fp32`, over the positions of its answers to
some questions (read as answers are: the prompt first, then token by token) and over those of the prompts.

`--write` puts the table into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pumice
from bench.marks import replace_part
from pebble.evaluate import CHECKPOINT, Measured, measure, through_bundle
from pebble.heldout import FOLDER, QUESTIONS
from pebble.outliers import make_outliers
from pebble.records import Record, load_records, to_messages
from pumice.export.export import export_bundle
from pumice.interrupt import Cancellation
from pumice.keys import prompt_keys
from pumice.vision import PromptFeatures

REFERENCE = "portable-fp32"
RECIPES = (REFERENCE, "cpu-int8", "cpu-int4", "cpu-fast", "cuda-fp16", "cuda-int4")
SCALES = (1.0, 30.0, 100.0)
KL_PROMPTS = 60
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
PART = "table"
"""Of the page, that is written."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe on one variant of pebble."""

    recipe: str
    scale: float
    megabytes: float
    accuracy: float
    same_tokens: int
    answer_kl: float
    prompt_kl: float


@dataclass(frozen=True, kw_only=True)
class Logits:
    """Of some questions: float32 [T, V] of each prompt, and of the reference's answer to it."""

    prompts: list[NDArray[np.float32]]
    answers: list[NDArray[np.float32]]


def measure_recipes(recipes: Iterable[str], scales: Iterable[float], records: list[Record]) -> list[Row]:
    """Export, ask and compare, one after the other; the reference is the plain checkpoint in float32."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        reference = _export(CHECKPOINT, room / "reference", REFERENCE)
        told = measure("reference", through_bundle(reference), records)
        logits = _logits(reference, records, told)
        for scale in scales:
            plain = scale == 1.0
            source = CHECKPOINT if plain else make_outliers(CHECKPOINT, room / f"pebble-{scale:g}", scale)
            for recipe in recipes:
                bundle = _export(source, room / f"{Path(recipe).stem}-{scale:g}", recipe)
                rows.append(_row(recipe, scale, bundle, records, told, logits))
                print(_line(rows[-1]), flush=True)
    return rows


def _export(source: Path, bundle: Path, recipe: str) -> Path:
    export_bundle(source, bundle, recipe=recipe)
    return bundle


def _row(
    recipe: str,
    scale: float,
    bundle: Path,
    records: list[Record],
    told: Measured,
    logits: Logits,
) -> Row:
    found = measure(recipe, through_bundle(bundle), records)
    mine = _logits(bundle, records, told)
    return Row(
        recipe=Path(recipe).stem,
        scale=scale,
        megabytes=sum(file.stat().st_size for file in bundle.iterdir()) / 1e6,
        accuracy=found.table.total.accuracy,
        same_tokens=sum(found.token_ids[key] == ids for key, ids in told.token_ids.items()),
        answer_kl=_mean_kl(logits.answers, mine.answers),
        prompt_kl=_mean_kl(logits.prompts, mine.prompts),
    )


def _logits(bundle: Path, records: list[Record], told: Measured) -> Logits:
    model = pumice.load(bundle, device="cpu", prefix_cache_bytes=0)
    found = Logits(prompts=[], answers=[])
    answers = list(told.token_ids.values())
    step = max(1, len(records) // KL_PROMPTS)
    for record, answer in list(zip(records, answers, strict=True))[::step]:
        asked, images = to_messages(record), [FOLDER / name for name in record.images]
        found.prompts.append(model.logits(asked, images))
        found.answers.append(_answer_logits(model, asked, images, list(answer)))
    return found


def _answer_logits(
    model: pumice.Model, asked: list[dict[str, Any]], images: list[Path], answer: list[int]
) -> NDArray[np.float32]:
    """Logits that each token of a given answer is chosen by, float32 [T, V]: by the graphs that answers are made by."""
    answerer = model._answerer
    prepared = model.prepare(asked, images)
    pictures = prepared.images
    ids = [int(token) for token in prepared.input_ids[0]]
    keys = prompt_keys(ids, model.manifest.image_tokens.token_id, pictures)
    cache = answerer.decoder.new_cache(len(ids) + len(answer))
    features = PromptFeatures(pictures, answerer.encoder).rows(0, Cancellation())
    first_V = answerer.decoder.read_prompt(ids, keys, features, cache, 0, Cancellation(), ends=True)
    assert first_V is not None
    rows = [first_V]
    for token in answer[:-1]:
        rows.append(answerer.decoder.read([token], [token], features[:0], cache)[0])
    return np.stack(rows)


def _mean_kl(theirs: list[NDArray[np.float32]], ours: list[NDArray[np.float32]]) -> float:
    return float(np.mean([_kl(p, q) for p, q in zip(theirs, ours, strict=True)]))


def _kl(theirs_TV: NDArray[np.float32], ours_TV: NDArray[np.float32]) -> float:
    p, q = _log_softmax(theirs_TV), _log_softmax(ours_TV)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _log_softmax(logits_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _line(row: Row) -> str:
    return (
        f"{row.recipe:28} ×{row.scale:<4g} {row.megabytes:6.1f} MB  {row.accuracy:6.1%}  "
        f"{row.same_tokens} same  KL {row.answer_kl:.1e} of answers, {row.prompt_kl:.1e} of prompts"
    )


def table(rows: list[Row], asked: int) -> str:
    """Markdown: a line a recipe, and for each variant accuracy, same answers and KL."""
    scales = list(dict.fromkeys(row.scale for row in rows))
    names = {scale: "pebble" if scale == 1 else f"outliers ×{scale:g}" for scale in scales}
    heads = [f"{names[s]}: accuracy | same answers of {asked} | KL answers | KL prompts" for s in scales]
    lines = [f"| recipe | MB | {' | '.join(heads)} |", "|---|---|" + "---|---|---|---|" * len(scales)]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        cells = [
            f"{row.accuracy:.1%} | {row.same_tokens} | {row.answer_kl:.1e} | {row.prompt_kl:.1e}"
            for row in own
        ]
        lines.append(f"| `{recipe}` | {own[0].megabytes:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="pebble's accuracy by recipe, with and without outliers")
    parser.add_argument("recipes", nargs="*", default=RECIPES, help="names or TOML files (default: all)")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES, help="of the outliers; 1 is none")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every Nth question only")
    parser.add_argument("--write", action="store_true", help="put the table into docs/accuracy.md")
    args = parser.parse_args()
    records = load_records(QUESTIONS)[:: args.every]
    text = table(measure_recipes(args.recipes, args.scales, records), len(records))
    print(text)
    if args.write:
        replace_part(PAGE, PART, text)


if __name__ == "__main__":
    main()
