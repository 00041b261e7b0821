"""`pumice batch`: many questions, their answers in a file. docs/batch.md has the formats."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from pumice.cli import vocabulary
from pumice.cli.flags import add_generation_arguments, generation_options


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice batch BUNDLE INPUTS -o OUTPUT`."""
    vocabulary.add_bundle(parser)
    parser.add_argument("inputs", help="a JSONL file of records, or a folder of images")
    vocabulary.add_output(parser, "a .jsonl or .parquet file; a line or row a record", required=True)
    vocabulary.add_prompt(parser, "the question of records that have none; needed for a folder")
    vocabulary.add_raw(parser)
    vocabulary.add_slots(parser, "answers at a time (%(default)s)", default=8)
    vocabulary.add_context_length(parser)
    vocabulary.add_device(parser)
    vocabulary.add_threads(parser)
    parser.add_argument("--overwrite", action="store_true", help="forget what is there, and begin anew")
    parser.add_argument(
        "--retry-errors", action="store_true", help="of a finished output, try again what failed"
    )
    vocabulary.add_verbosity(parser)
    add_generation_arguments(parser)


def run_batch(args: argparse.Namespace) -> int:
    """Run, or go on; and say what came of it."""
    from pumice.bulk.run import Run, run_files
    from pumice.cli.checks import check_options

    run = Run(
        bundle=Path(args.bundle),
        inputs=Path(args.inputs),
        output=Path(args.output),
        prompt=args.prompt,
        raw=args.raw,
        options=generation_options(args),
        slots=args.slots,
        context=args.context_length,
        device=args.device,
        threads=args.threads,
        overwrite=args.overwrite,
        retry_errors=args.retry_errors,
    )
    try:
        check_options(
            run.bundle, run.options, context_length=run.context, device=run.device, threads=run.threads
        )
        summary = run_files(run, io.StringIO() if args.quiet else None)
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
