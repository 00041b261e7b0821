"""`pumice batch`: many questions, their answers in a file. docs/batch.md has the formats."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pumice.cli import vocabulary
from pumice.cli.flags import add_generation_arguments, generation_options

if TYPE_CHECKING:
    from pumice.bulk.run import Summary

NONE_ANSWERED = 1
"""Exit code where every record has failed."""

SOME_FAILED = 4
"""Exit code of `--strict` where some have; without it that is 0: all records are there, and errors are among them."""


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice batch BUNDLE INPUTS -o OUTPUT`."""
    vocabulary.add_bundle(parser)
    vocabulary.add_revision(parser)
    parser.add_argument("inputs", help="a JSONL file of records, a folder of images, or one image")
    vocabulary.add_output(parser, "a .jsonl, .csv or .parquet file; a line or row a record", required=True)
    vocabulary.add_prompt(parser, "the question of records that have none; needed for a folder")
    vocabulary.add_raw(parser)
    vocabulary.add_slots(parser, "answers at a time (%(default)s)", default=8)
    vocabulary.add_context_length(parser)
    vocabulary.add_device(parser)
    vocabulary.add_threads(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a finished output, or another run's; an unfinished run of the same settings goes on",
    )
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever is there")
    parser.add_argument(
        "--retry-errors", action="store_true", help="of a finished output, try again what failed"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 4 if any record has failed, where it would be 0"
    )
    vocabulary.add_verbosity(parser)
    add_generation_arguments(parser)


def run_batch(args: argparse.Namespace) -> int:
    """Run, or go on; and say what came of it."""
    from pumice.bulk.run import Run, run_files
    from pumice.cli.checks import check_options
    from pumice.cli.located import located

    options = generation_options(args)

    def check(folder: Path) -> None:
        check_options(
            folder, options, context_length=args.context_length, device=args.device, threads=args.threads
        )

    try:
        run = Run(
            bundle=located(args, check=check),
            inputs=Path(args.inputs),
            output=Path(args.output),
            prompt=args.prompt,
            raw=args.raw,
            options=options,
            slots=args.slots,
            context=args.context_length,
            device=args.device,
            threads=args.threads,
            overwrite=args.overwrite,
            restart=args.restart,
            retry_errors=args.retry_errors,
        )
        summary = run_files(run, io.StringIO() if args.quiet else None)
    except KeyboardInterrupt:
        again = "the same command without --restart" if args.restart else "the same command"
        print(f"pumice: interrupted: {again} goes on where it stopped", file=sys.stderr)
        raise
    return _report(summary, args.output, strict=args.strict)


def _report(summary: Summary, output: str, *, strict: bool) -> int:
    """What came of a run in words, and its exit code."""
    if summary.work is None:
        print(f"pumice: nothing to do: {output} is finished", file=sys.stderr)
    else:
        print(f"pumice: {summary.work}", file=sys.stderr)
    answered = summary.records - summary.failed - summary.kept
    kept = f"{summary.kept:,} kept, " if summary.kept else ""
    retry = "; --retry-errors tries them again" if summary.failed else ""
    print(
        f"pumice: {output}: {summary.records:,} records, {kept}{answered:,} answered, "
        f"{summary.failed:,} failed{retry}",
        file=sys.stderr,
    )
    if summary.failed == summary.records:
        return NONE_ANSWERED
    return SOME_FAILED if strict and summary.failed else 0
