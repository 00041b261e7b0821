"""What each recipe costs in accuracy: `python -m bench.accuracy [RECIPE …] [--write]`, or `make accuracy`.

Recipes (names, or TOML files) are exported from pebble as it is, and with outliers of 30 and 100 times
(`pebble.outliers`: the same function with the activations of a large model), and asked pebble's held-out questions.
Beside the accuracy stands what a small model's accuracy hides: on how many questions the answer's tokens are those of
`portable-fp32`, and KL, the mean over the positions of some prompts of Σ p·log(p/q) in nats, p of `portable-fp32`.

`--write` puts the table into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pumice
from pebble.evaluate import CHECKPOINT, Measured, measure, through_bundle
from pebble.heldout import FOLDER, QUESTIONS
from pebble.outliers import make_outliers
from pebble.records import Record, load_records, to_messages
from pumice.export.export import export_bundle

REFERENCE = "portable-fp32"
RECIPES = (REFERENCE, "cpu-int8", "cpu-int4", "cuda-fp16", "cuda-int4")
SCALES = (1.0, 30.0, 100.0)
KL_PROMPTS = 60
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
MARKS = "<!-- table -->", "<!-- /table -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe on one variant of pebble."""

    recipe: str
    scale: float
    megabytes: float
    accuracy: float
    same_tokens: int
    kl: float


def measure_recipes(recipes: Iterable[str], scales: Iterable[float], records: list[Record]) -> list[Row]:
    """Export, ask and compare, one after the other; the reference is the plain checkpoint in float32."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        reference = _export(CHECKPOINT, room / "reference", REFERENCE)
        told = measure("reference", through_bundle(reference), records)
        logits = _logits(reference, records[:: max(1, len(records) // KL_PROMPTS)])
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
    logits: list[NDArray[np.float32]],
) -> Row:
    found = measure(recipe, through_bundle(bundle), records)
    mine = _logits(bundle, records[:: max(1, len(records) // KL_PROMPTS)])
    return Row(
        recipe=Path(recipe).stem,
        scale=scale,
        megabytes=sum(file.stat().st_size for file in bundle.iterdir()) / 1e6,
        accuracy=found.table.total.accuracy,
        same_tokens=sum(found.token_ids[key] == ids for key, ids in told.token_ids.items()),
        kl=float(np.mean([_kl(p, q) for p, q in zip(logits, mine, strict=True)])),
    )


def _logits(bundle: Path, records: list[Record]) -> list[NDArray[np.float32]]:
    model = pumice.load(bundle, device="cpu")
    return [model.logits(to_messages(r), [FOLDER / name for name in r.images]) for r in records]


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
        f"{row.same_tokens} same  KL {row.kl:.1e}"
    )


def table(rows: list[Row], asked: int) -> str:
    """Markdown: a line a recipe, and for each variant accuracy, same answers and KL."""
    scales = list(dict.fromkeys(row.scale for row in rows))
    names = {scale: "pebble" if scale == 1 else f"outliers ×{scale:g}" for scale in scales}
    heads = [f"{names[s]}: accuracy | same answers of {asked} | KL" for s in scales]
    lines = [f"| recipe | MB | {' | '.join(heads)} |", "|---|---|" + "---|---|---|" * len(scales)]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        cells = [f"{row.accuracy:.1%} | {row.same_tokens} | {row.kl:.1e}" for row in own]
        lines.append(f"| `{recipe}` | {own[0].megabytes:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the table between the page's marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


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
        write(text)


if __name__ == "__main__":
    main()
