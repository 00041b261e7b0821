"""The command line's `compare`: its arguments, one call, and the table that is printed. Cheap to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pumice.cli import vocabulary
from pumice.cli.export import add_asked_arguments, add_text_arguments, asked_questions, named_adapters
from pumice.cli.terminal import json_lines, printable_lines
from pumice.errors import UsageError
from pumice.export.recipes.recipe import NAMES, load_recipe

if TYPE_CHECKING:
    from pumice.export.compare import Comparison, RecipeScore

DEFAULT = tuple(name for name in NAMES if name.startswith("cpu-"))


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice compare CHECKPOINT --text FILE …`."""
    vocabulary.add_checkpoint(parser)
    parser.add_argument(
        "--recipes",
        default=",".join(DEFAULT),
        metavar="A,B,…",
        help="names or .toml files, with commas between them (%(default)s)",
    )
    vocabulary.add_adapter(
        parser, "LoRA adapter to merge before all else, a folder or hub id (docs/adapters.md); repeatable"
    )
    add_text_arguments(parser)
    add_asked_arguments(parser, "a question to compare on, besides texts or without any; repeatable")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where temporary bundles are made (the current directory)"
    )
    vocabulary.add_json(parser)
    vocabulary.add_verbosity(parser)


def run_compare(args: argparse.Namespace) -> int:
    """Compare, and print the table and the advice; 1 if a recipe could not be measured."""
    recipes = [name.strip() for name in args.recipes.split(",") if name.strip()]
    if not recipes:
        raise UsageError(f"--recipes names none, expected some of {', '.join(NAMES)}, or .toml files")
    questions = asked_questions(args)
    for recipe in recipes:
        load_recipe(recipe)
    from pumice.export.verify.probes import own_probes
    from pumice.export.verify.texts import read_texts

    probes = own_probes(questions)
    texts = read_texts(args.texts, window=args.text_window, limit=args.text_limit)
    adapters = named_adapters(args.adapters)
    import msgspec  # and torch with what follows, which takes seconds

    from pumice.export.weights.allocator import keep_freed_memory

    keep_freed_memory()
    from pumice.benchmark.speed import tokens_per_second
    from pumice.export.compare import compare_recipes

    found = compare_recipes(
        args.checkpoint,
        recipes,
        adapters=adapters,
        texts=texts,
        probes=probes,
        work=args.work,
        device=args.device,
        max_new_tokens=args.max_new_tokens,
        quiet=args.quiet or args.json,
        speed_of=tokens_per_second,
    )
    if args.json:
        print(json_lines(msgspec.json.format(msgspec.json.encode(found), indent=2).decode()))
    else:
        print(printable_lines(table(found)))
    return 1 if found.failed else 0


def table(found: Comparison) -> str:
    """A row a recipe, what could not be measured, and the advice."""
    from pumice.export.verify.parity_table import aligned

    lines: list[str] = []
    if found.recipes:
        rows = [_row(score) for score in found.recipes]
        lines = [*aligned([tuple(rows[0]), *(tuple(row.values()) for row in rows)]), ""]
        reference = found.recipes[0].text
        if reference is not None:
            lines.append(
                f"{reference.positions:,} positions of texts, on which float32's perplexity is "
                f"{reference.reference_perplexity:.4g}"
            )
    lines += [f"{recipe} could not be measured: {why}" for recipe, why in found.failed.items()]
    return "\n".join([*lines, *([found.advice] if found.advice else [])])


def _row(score: RecipeScore) -> dict[str, str]:
    """Cells by column."""
    row = {"recipe": score.recipe, "MB": f"{score.megabytes:,.1f}"}
    if score.text is not None:
        row["perplexity"] = f"{score.text.perplexity:.4g}"
    for kind, part in (("", score.text), ("prompts' ", score.prompts)):
        if part is not None:
            row |= {f"{kind}KL": f"{part.kl:.2g}", f"{kind}KL 99%": f"{part.kl_99:.2g}"}
            row[f"{kind}top-1"] = f"{part.top1:.1%}"
    row["decode tokens/s"] = f"{score.decode_tokens_per_s:,.1f}"
    row["prefill tokens/s"] = f"{score.prefill_tokens_per_s:,.1f}"
    return row | {"verdict": score.verdict}
