"""`pumice batch`: many questions, their answers in a file. docs/batch.md has the formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pumice.cli.flags import add_generation_arguments, generation_options
from pumice.machine.devices import DEVICES

if TYPE_CHECKING:
    from pumice.bulk.run import Summary

NONE_ANSWERED = 1
"""Exit code where every record has failed."""

SOME_FAILED = 4
"""Exit code of `--strict` where some have; without it that is 0: all records are there, and errors are among them."""


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice batch BUNDLE INPUTS -o OUTPUT`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    parser.add_argument("inputs", help="a JSONL file of records, a folder of images, or one image")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="a .jsonl, .csv or .parquet file; a line or row a record",
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
        restart=args.restart,
        retry_errors=args.retry_errors,
    )
    try:
        summary = run_files(run)
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
