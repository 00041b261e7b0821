"""`pumice batch`: many questions, their answers in a file. docs/batch.md has the formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pumice.cli.flags import add_generation_arguments, generation_options
from pumice.machine.devices import DEVICES


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice batch BUNDLE INPUTS -o OUTPUT`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    parser.add_argument("inputs", help="a JSONL file of records, or a folder of images")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="a .jsonl or .parquet file; a line or row a record",
    )
    parser.add_argument("--prompt", help="the question of records that have none; needed for a folder")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="prompts as they stand: no chat template, special tokens are special",
    )
    parser.add_argument("--slots", type=int, default=8, metavar="N", help="answers at a time (%(default)s)")
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens that a prompt and its answer may have (the model's)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (as many as CPUs)")
    parser.add_argument("--overwrite", action="store_true", help="forget what is there, and begin anew")
    parser.add_argument(
        "--retry-errors", action="store_true", help="of a finished output, try again what failed"
    )
    add_generation_arguments(parser)


def run_batch(args: argparse.Namespace) -> int:
    """Run, or go on; and say what came of it."""
    from pumice.bulk.run import Run, run_files

    run = Run(
        bundle=Path(args.bundle),
        inputs=Path(args.inputs),
        output=Path(args.output),
        prompt=args.prompt,
        raw=args.raw,
        options=generation_options(args),
        slots=args.slots,
        context=args.context,
        device=args.device,
        threads=args.threads,
        overwrite=args.overwrite,
        retry_errors=args.retry_errors,
    )
    try:
        summary = run_files(run)
    except KeyboardInterrupt:
        print("pumice: interrupted: the same command goes on where it stopped", file=sys.stderr)
        raise
    if summary.work is None:
        print(f"pumice: nothing to do: {args.output} is finished", file=sys.stderr)
    else:
        print(f"pumice: {summary.work}", file=sys.stderr)
    answered = summary.records - summary.failed
    retry = "; --retry-errors tries them again" if summary.failed else ""
    print(
        f"pumice: {args.output}: {summary.records:,} records, {answered:,} answered, {summary.failed:,} failed{retry}",
        file=sys.stderr,
    )
    return 0
