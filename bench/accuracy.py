"""What each recipe costs in accuracy: `python -m bench.accuracy [RECIPE …] [--write]`, or `make accuracy`.

Recipes (names, or TOML files) are exported from several kinds of pebble (`KINDS`: as it is, and with what large models
have, `pebble.outliers` and `pebble.massive`), and asked pebble's held-out questions. Beside the accuracy stands what a
small model's accuracy hides: on how many questions the answer's tokens are those of the reference; and KL, the mean of
Σ p·log(p/q) in nats, p of the reference, over the positions of its answers to some questions (read as answers are: the
prompt first, then token by token) and over those of the prompts.

The reference is `portable-fp32` of pebble as it is, or of the kind itself where that is not the same function.

`--write` puts the table into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pumice
from bench.marks import replace_part
from pebble.evaluate import CHECKPOINT, Measured, measure, through_bundle
from pebble.heldout import FOLDER, QUESTIONS
from pebble.massive import make_massive
from pebble.outliers import make_outliers
from pebble.records import Record, load_records, to_messages
from pumice.decoder.prefix_keys import prompt_keys
from pumice.export.pipeline import export_bundle
from pumice.sessions.runs import Cancellation
from pumice.vision.features import PromptFeatures

REFERENCE = "portable-fp32"
RECIPES = (REFERENCE, "cpu-int8", "cpu-w8a8", "cpu-int4", "cpu-fast", "cuda-fp16", "cuda-int4")
KL_PROMPTS = 60
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
PART = "table"
"""Of the page, that is written."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of pebble: `make` writes it, from the checkpoint to a new folder; None: the checkpoint as it is.

    `own_reference`: it is not the same function, and so is compared with itself in float32.
    """

    name: str
    make: Callable[[Path, Path], Path] | None = None
    own_reference: bool = False


KINDS = (
    Kind(name="pebble"),
    Kind(name="norm outliers ×30", make=lambda source, folder: make_outliers(source, folder, 30.0)),
    Kind(name="norm outliers ×100", make=lambda source, folder: make_outliers(source, folder, 100.0)),
    Kind(name="massive channels", make=make_massive, own_reference=True),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe on one kind of pebble."""

    recipe: str
    kind: str
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


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a float32 bundle answers to all questions, and its logits on some."""

    told: Measured
    logits: Logits


def measure_recipes(recipes: Iterable[str], kinds: Iterable[Kind], records: list[Record]) -> list[Row]:
    """Export, ask and compare, one after the other."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        plain = _reference(CHECKPOINT, Path(temporary) / "reference", records)
        for number, kind in enumerate(kinds):
            room = Path(temporary) / str(number)
            source = CHECKPOINT if kind.make is None else kind.make(CHECKPOINT, room / "checkpoint")
            own = kind.own_reference
            reference = _reference(source, room / "reference", records) if own else plain
            for recipe in recipes:
                bundle = _export(source, room / Path(recipe).stem, recipe)
                rows.append(_row(recipe, kind, bundle, records, reference))
                print(_line(rows[-1]), flush=True)
    return rows


def _reference(source: Path, bundle: Path, records: list[Record]) -> Reference:
    _export(source, bundle, REFERENCE)
    told = measure("reference", through_bundle(bundle), records)
    return Reference(told=told, logits=_logits(bundle, records, told))


def _export(source: Path, bundle: Path, recipe: str) -> Path:
    export_bundle(source, bundle, recipe=recipe)
    return bundle


def _row(recipe: str, kind: Kind, bundle: Path, records: list[Record], reference: Reference) -> Row:
    told, logits = reference.told, reference.logits
    found = measure(recipe, through_bundle(bundle), records)
    mine = _logits(bundle, records, told)
    return Row(
        recipe=Path(recipe).stem,
        kind=kind.name,
        megabytes=sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6,
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
    pipeline = model.pipeline
    prompt = model.prepare(asked, images)
    prepared = prompt.images
    ids = [int(token) for token in prompt.input_ids[0]]
    keys = prompt_keys(ids, model.manifest.image_tokens.token_id, prepared)
    cache = pipeline.decoder.new_cache(len(ids) + len(answer))
    features = PromptFeatures(prepared, pipeline.encoder).rows(0, Cancellation())
    first_V = pipeline.decoder.prefill(ids, keys, features, cache, 0, Cancellation(), ends=True)
    assert first_V is not None
    rows = [first_V]
    for token in answer[:-1]:
        rows.append(pipeline.decoder.forward([token], [token], features[:0], cache)[0])
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
        f"{row.recipe:28} {row.kind:20} {row.megabytes:6.1f} MB  {row.accuracy:6.1%}  "
        f"{row.same_tokens} same  KL {row.answer_kl:.1e} of answers, {row.prompt_kl:.1e} of prompts"
    )


def table(rows: list[Row], asked: int) -> str:
    """Markdown: a line a recipe, and for each kind accuracy, same answers and KL."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    heads = [f"{kind}: accuracy | same answers of {asked} | KL answers | KL prompts" for kind in kinds]
    lines = [f"| recipe | MB | {' | '.join(heads)} |", "|---|---|" + "---|---|---|---|" * len(kinds)]
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
    parser = argparse.ArgumentParser(description="pebble's accuracy by recipe, on several kinds of it")
    parser.add_argument("recipes", nargs="*", default=RECIPES, help="names or TOML files (default: all)")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, help="of pebble (default: all)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every Nth question only")
    parser.add_argument("--write", action="store_true", help="put the table into docs/accuracy.md")
    args = parser.parse_args()
    records = load_records(QUESTIONS)[:: args.every]
    kinds = [kind for kind in KINDS if kind.name in args.kinds]
    text = table(measure_recipes(args.recipes, kinds, records), len(records))
    print(text)
    if args.write:
        replace_part(PAGE, PART, text)


if __name__ == "__main__":
    main()
