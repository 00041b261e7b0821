"""What changes a bundle's numbers and what does not: `python -m bench.equality [BUNDLE …] [--write] [--check]`

Every bundle answers some prompts, each read at once, alone, and decoded token by token; and then the same answers are
computed in other ways (bench/equality/ways.py). Without bundles, only the operators are looked at. `--write` puts what
was measured into docs/equality.md; with `--check` the exit code is 1 where a promise of that page is broken.

`--save` and `--beside` compare two processors, or one with an emulated one: bench/equality/instructions.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from bench.equality import instructions, operators, page, promises
from bench.equality.asked import prompts
from bench.equality.difference import Difference
from bench.equality.page import Column
from bench.equality.ways import WAYS, setting
from pumice.sessions import opening as sessions


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _parser().parse_args(arguments)
    if args.emulated:  # without VNNI pumice has weights made unsigned, whose products are exact
        with mock.patch.object(sessions, "saturates", return_value=True):
            return _measured(args)
    return _measured(args)


def _measured(args: argparse.Namespace) -> int:
    if args.save is not None:
        for bundle in args.bundles:
            instructions.save(bundle, args.save, args.threads)
        return 0
    if args.beside is not None:
        return _beside(args)
    part = "operators, emulated" if args.emulated else "operators"
    _show(args.write, part, operators.table(operators.measure()))
    _show(args.write, "promises", promises.table())
    if not args.bundles:
        return 0
    columns = [_column(bundle, args.threads, args.every) for bundle in args.bundles]
    _show(args.write, "measured", page.measured(columns, page.machine(args.threads, args.emulated)))
    broken = [
        f"{column.bundle}: {failure}"
        for column in columns
        for failure in promises.broken(column.manifest, column.found)
    ]
    for line in broken:
        print(f"BROKEN {line}")
    if args.check and not broken:
        print("all promises hold")
    return 1 if args.check and broken else 0


def _column(bundle: Path, threads: int, every: int) -> Column:
    print(bundle, file=sys.stderr)
    made = setting(bundle, prompts()[::every], threads)
    found: dict[str, Difference] = {}
    for way, measure in WAYS.items():
        found[way] = measure(made)
        print(f"  {way}: {found[way]}", file=sys.stderr, flush=True)
    return Column(bundle=bundle.resolve().name, manifest=made.model.manifest, found=found)


def _beside(args: argparse.Namespace) -> int:
    found = []
    for bundle in args.bundles:
        difference = instructions.beside(bundle, args.beside, args.threads)
        print(f"{bundle}: {difference}", file=sys.stderr, flush=True)
        found.append((bundle.resolve().name, difference))
    _show(args.write, "instruction sets", page.beside(found, page.machine(args.threads, args.emulated)))
    return 0


def _show(write: bool, part: str, text: str) -> None:
    print(f"{text}\n")
    if write:
        page.write(part, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.equality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help=f"into {page.PAGE.name}")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a promise is broken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every Nth prompt only")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep logits for --beside")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="compare with logits that were kept")
    parser.add_argument(
        "--emulated", action="store_true", help="the processor has no VNNI, whatever Linux says"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
