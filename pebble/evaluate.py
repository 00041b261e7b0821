"""Accuracy on the held-out set: `python -m pebble.evaluate`, through transformers and through bundles.

    python -m pebble.evaluate                          transformers in float32
    python -m pebble.evaluate bundles/pebble-fp32 …    the same beside bundles, and whether the tokens are the same
    python -m pebble.evaluate bundles/… --write        also write accuracy.json and the model card's table

`pebble.records` has what scores answers; it needs none of the models that give them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble.heldout import FOLDER, QUESTIONS
from pebble.records import Messages, Record, Table, load_records, score

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint"
CARD = HERE / "README.md"
MARKS = "<!-- accuracy -->", "<!-- /accuracy -->"
MAX_NEW_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One system's answers: accuracy, and the token ids by which systems are compared."""

    name: str
    table: Table
    token_ids: dict[str, list[int]]


Generate = Callable[[Messages, list[Path]], tuple[str, list[int]]]
"""Messages and picture files → text and new token ids, the end token left out."""


def measure(name: str, generate: Generate, records: list[Record]) -> Measured:
    """Ask all records, one at a time."""
    ids: list[list[int]] = []

    def answer(messages: Messages, images: list[Path]) -> str:
        text, tokens = generate(messages, images)
        ids.append(tokens)
        return text

    table = score(records, answer, folder=FOLDER)
    return Measured(name=name, table=table, token_ids={r.id: t for r, t in zip(records, ids, strict=True)})


def through_transformers(checkpoint: Path = CHECKPOINT) -> Generate:
    """Greedy answers of transformers' model in float32."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    eos = model.generation_config.eos_token_id

    @torch.inference_mode()
    def generate(messages: Messages, images: list[Path]) -> tuple[str, list[int]]:
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        pictures = [Image.open(path) for path in images]
        inputs = processor(images=pictures or None, text=prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        ids = new[:-1] if new[-1] == eos else new
        return processor.tokenizer.decode(ids, skip_special_tokens=True), ids

    return generate


def through_bundle(bundle: Path) -> Generate:
    """Greedy answers of a bundle."""
    import pumice

    model = pumice.load(bundle, device="cpu")
    eos_ids = model.manifest.tokens.eos_ids

    def generate(messages: Messages, images: list[Path]) -> tuple[str, list[int]]:
        result = model.generate(messages, images=images, max_new_tokens=MAX_NEW_TOKENS)
        return result.text, [token for token in result.token_ids if token not in eos_ids]

    return generate


def show(measured: list[Measured]) -> str:
    """A Markdown table: accuracy per kind of question, a column per system, and the tokens' agreement."""
    first = measured[0]
    lines = [f"| question | asked | {' | '.join(m.name for m in measured)} |"]
    lines.append("|---|---|" + "---|" * len(measured))
    for i, row in enumerate(first.table.rows):
        cells = " | ".join(f"{m.table.rows[i].accuracy:.1%}" for m in measured)
        lines.append(f"| {row.kind} | {row.asked} | {cells} |")
    totals = " | ".join(f"**{m.table.total.accuracy:.1%}**" for m in measured)
    lines.append(f"| **all** | {first.table.total.asked} | {totals} |")
    same = [sum(m.token_ids[key] == ids for key, ids in first.token_ids.items()) for m in measured]
    lines.append(f"| same tokens as {first.name} | | {' | '.join(map(str, same))} |")
    return "\n".join(lines)


def write(measured: list[Measured]) -> None:
    """Put the figures into `accuracy.json` and, between its marks, into the model card."""
    figures: dict[str, Any] = {
        m.name: {
            "accuracy": m.table.total.accuracy,
            "asked": m.table.total.asked,
            "kinds": {row.kind: {"right": row.right, "asked": row.asked} for row in m.table.rows},
        }
        for m in measured
    }
    (HERE / "accuracy.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    before, _, rest = CARD.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    CARD.write_text(f"{before}{MARKS[0]}\n{show(measured)}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="pebble's accuracy on its held-out questions")
    parser.add_argument("bundles", nargs="*", type=Path, help="bundles to measure beside transformers")
    parser.add_argument("--write", action="store_true", help="update accuracy.json and the model card")
    parser.add_argument("--wrong", action="store_true", help="print the questions answered wrongly")
    args = parser.parse_args()
    records = load_records(QUESTIONS)
    measured = [measure("transformers", through_transformers(), records)]
    measured += [measure(bundle.name, through_bundle(bundle), records) for bundle in args.bundles]
    print(show(measured))
    if args.wrong:
        for record, given in measured[0].table.wrong:
            print(f"{record.id} {record.turns[-1].question} {record.answer!r} but {given!r}")
    if args.write:
        write(measured)


if __name__ == "__main__":
    main()
