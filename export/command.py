"""The command line's `export` and `verify`: their arguments, one call each, and what is printed. Cheap to import."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pumice.errors import UsageError
from pumice.export.precision import PRECISIONS


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice export CHECKPOINT BUNDLE …`."""
    parser.add_argument("checkpoint", help="checkpoint folder in Hugging Face layout, or a hub id (org/name)")
    parser.add_argument("bundle", type=Path, help="folder to write; it appears whole or not at all")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="how weights are stored (%(default)s)"
    )
    parser.add_argument(
        "--block-size",
        type=int,
        metavar="N",
        help="int4: columns that share a scale, 16 to 256 (32)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there already")
    parser.add_argument(
        "--verify", action="store_true", help="compare with transformers before moving into place"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run_export(args: argparse.Namespace) -> int:
    """Export, and say where the bundle is."""
    from pumice.export.export import export_bundle

    manifest = export_bundle(
        args.checkpoint,
        args.bundle,
        precision=args.precision,
        block_size=args.block_size,
        overwrite=args.overwrite,
        verify=args.verify,
        quiet=args.quiet,
    )
    if not args.quiet:
        size = sum(entry.size for entry in manifest.files.values())
        print(
            f"{args.bundle}: {manifest.source.checkpoint} in {manifest.precision.name}, {size / 1e6:,.1f} MB"
        )
    return 0


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice verify BUNDLE CHECKPOINT …`."""
    parser.add_argument("bundle", type=Path, help="bundle to check; the figures are stored in it")
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder that it was exported from")
    parser.add_argument(
        "-i", "--image", action="append", default=[], type=Path, help="picture for the prompt; repeatable"
    )
    parser.add_argument("--prompt", help="a question to compare on instead of the built-in ones")
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, metavar="N", help="tokens to compare (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run_verify(args: argparse.Namespace) -> int:
    """Verify, and print the table; 1 if the bundle does not keep its promise."""
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens is {args.max_new_tokens}, expected at least 1")
    if args.image and args.prompt is None:
        raise UsageError("--image is for a --prompt: give both, or neither")
    import msgspec

    from pumice.export.parity import text_table
    from pumice.export.probes import asked
    from pumice.export.progress import showing
    from pumice.export.verify import verify_bundle

    probes = () if args.prompt is None else (asked(args.prompt, args.image),)
    with showing(quiet=args.quiet or args.json) as progress:
        report = verify_bundle(
            args.bundle, args.checkpoint, probes=probes, max_new_tokens=args.max_new_tokens, progress=progress
        ).report
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        print(text_table(report))
    return 0 if report.summary.passed else 1
