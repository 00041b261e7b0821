"""The command line's `export` and `verify`: their arguments, one call each, and what is printed. Cheap to import."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pumice.errors import UsageError
from pumice.export.precision import PRECISIONS
from pumice.export.recipe import NAMES, SEARCHES


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice export CHECKPOINT BUNDLE …`."""
    parser.add_argument("checkpoint", help="checkpoint folder in Hugging Face layout, or a hub id (org/name)")
    parser.add_argument("bundle", type=Path, help="folder to write; it appears whole or not at all")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help=f"how weights are stored: {', '.join(NAMES)} (docs/recipes.md), or a .toml file (portable-fp32)",
    )
    how.add_argument("--precision", choices=PRECISIONS, help="the usual recipe of a precision instead")
    parser.add_argument(
        "--block-size", type=int, metavar="N", help="int4, int8: columns that share a scale, 16 to 256"
    )
    blocks = parser.add_mutually_exclusive_group()
    blocks.add_argument(
        "--symmetric", action="store_true", default=None, help="int4, int8: blocks without zero points"
    )
    blocks.add_argument(
        "--asymmetric", dest="symmetric", action="store_false", help="int4, int8: blocks with zero points"
    )
    parser.add_argument(
        "--search", choices=SEARCHES, help="int4, int8: how scales are found; k-quant is slower and nearer"
    )
    parser.add_argument(
        "--context-length",
        type=int,
        metavar="N",
        help="most tokens of a sequence (the checkpoint's context, up to 131,072)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there already")
    parser.add_argument(
        "--verify", action="store_true", help="compare with transformers before moving into place"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run_export(args: argparse.Namespace) -> int:
    """Export, and say where the bundle is."""
    from pumice.export.allocator import keep_freed_memory

    keep_freed_memory()
    from pumice.export.export import export_bundle

    manifest = export_bundle(
        args.checkpoint,
        args.bundle,
        recipe=args.recipe,
        precision=args.precision,
        block_size=args.block_size,
        symmetric=args.symmetric,
        search=args.search,
        context_length=args.context_length,
        overwrite=args.overwrite,
        verify=args.verify,
        quiet=args.quiet,
    )
    if not args.quiet:
        size = sum(entry.size for entry in manifest.files.values())
        print(
            f"{args.bundle}: {manifest.source.checkpoint} by {manifest.precision.recipe}, {size / 1e6:,.1f} MB"
        )
    return 0


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice verify BUNDLE CHECKPOINT …`."""
    parser.add_argument("bundle", type=Path, help="bundle to check; the figures are stored in it")
    parser.add_argument("checkpoint", help="checkpoint folder, or hub id, that it was exported from")
    parser.add_argument(
        "--prompt",
        dest="asked",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question to compare on instead of the built-in ones; repeatable",
    )
    parser.add_argument(
        "-i",
        "--image",
        dest="asked",
        action="append",
        default=[],
        type=Path,
        metavar="IMAGE",
        help="picture for the --prompt before it; repeatable",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, metavar="N", help="tokens to compare (%(default)s)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where the bundle computes (cpu; auto for float16 and bfloat16); transformers computes on the CPU",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run_verify(args: argparse.Namespace) -> int:
    """Verify, and print the table; 1 if the bundle does not keep its promise."""
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens is {args.max_new_tokens}, expected at least 1")
    questions = _questions(args.asked)
    import msgspec

    from pumice.export.parity import text_table
    from pumice.export.probes import own_probes
    from pumice.export.progress import showing
    from pumice.export.verify import verify_bundle

    with showing(quiet=args.quiet or args.json) as progress:
        report = verify_bundle(
            args.bundle,
            args.checkpoint,
            probes=own_probes(questions),
            max_new_tokens=args.max_new_tokens,
            device=args.device,
            progress=progress,
        ).report
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        print(text_table(report))
    return 0 if report.summary.passed else 1


def _questions(asked: list[str | Path]) -> list[tuple[str, list[Path]]]:
    """Each question with the pictures that follow it; pictures before the first one are its too."""
    early: list[Path] = []
    questions: list[tuple[str, list[Path]]] = []
    for item in asked:
        if isinstance(item, str):
            questions.append((item, early))
            early = []
        else:
            (questions[-1][1] if questions else early).append(item)
    if early:
        raise UsageError("--image is for a --prompt: give both, or neither")
    return questions
