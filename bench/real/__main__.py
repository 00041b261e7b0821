"""Recipes on a real language model: `python -m bench.real`, or `make real`. docs/accuracy.md has how to read the table.

table     (or no verb) export every recipe, simulate the peers, score all on texts; with --write into docs/accuracy.md
answers   greedy answers of bundles beside float32's, as Markdown, for people to read
parity    a float32 bundle's greedy answers beside transformers'; exit code 1 where one differs

Everything lies in build/real: 100 MB of downloads, 0.6 to 1.1 GB for each variant's checkpoints, and while it runs 2 GB
of logits and up to 0.8 GB for each bundle.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.machine import this_machine
from bench.marks import replace_part
from bench.real.answers import Answer, answer, compare, parity_report, side_by_side
from bench.real.bundle import FLOAT, Row, chosen_rows, export
from bench.real.checkpoint import ROOT, VARIANTS, checkpoints
from bench.real.lock import locked
from bench.real.measurement import Plan, measure
from bench.real.peers import FORMATS
from bench.real.questions import QUESTIONS
from bench.real.table import Circumstances, report
from bench.real.texts import python_version
from bench.real.windows import POSITIONS
from pumice.errors import UsageError
from pumice.export.recipes.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
PART = "real"
VERBS = ("table", "answers", "parity")
READ = 10
"""Questions whose answers are for people."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["python", "-m", "bench.real", *given])
    if not given or given[0] not in VERBS:
        given = ["table", *given]
    args = _parser().parse_args(given)
    if args.verb == "table":
        return _table(args, command)
    return _answers(args) if args.verb == "answers" else _parity(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser("table", help="score recipes and peers")
    table.add_argument("--recipes", nargs="+", default=[], metavar="NAME|FILE", help="rows (default: all)")
    table.add_argument("--peers", nargs="*", default=FORMATS, choices=FORMATS, help="formats of llama.cpp's")
    table.add_argument("--variants", default=",".join(VARIANTS), help="of the model (%(default)s)")
    table.add_argument(
        "--limit", type=int, default=POSITIONS, metavar="N", help="positions of each text (%(default)s)"
    )
    table.add_argument("--rounds", type=int, default=5, metavar="N", help="of speeds; 0: none (%(default)s)")
    table.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    table.add_argument("--keep", action="store_true", help="leave bundles and logits in build/real")
    answers = verbs.add_parser("answers", help="answers to read")
    answers.add_argument("bundles", type=Path, nargs="+", help="bundles of build/real/plain/llava")
    answers.add_argument("--tokens", type=int, default=128, help="of an answer at most (%(default)s)")
    parity = verbs.add_parser("parity", help="float32 against transformers")
    parity.add_argument("bundle", type=Path, nargs="?", help="a float32 bundle (default: exported here)")
    parity.add_argument("--tokens", type=int, default=256, help="of an answer at most (%(default)s)")
    parity.add_argument("--questions", type=int, default=len(QUESTIONS), help="at most (%(default)s)")
    return parser


def _table(args: argparse.Namespace, command: str) -> int:
    """Measure, print, and write if asked; 1 where something failed."""
    variants = tuple(args.variants.split(","))
    for name in variants:
        if name not in VARIANTS:
            raise SystemExit(f"there is no variant {name}: expected some of {', '.join(VARIANTS)}")
    if args.limit < 1:
        raise SystemExit(f"--limit is {args.limit}, expected 1 or more")
    plan = Plan(
        rows=_rows(args.recipes),
        peers=tuple(args.peers),
        variants=variants,
        positions=args.limit,
        rounds=args.rounds,
        keep=args.keep,
        root=ROOT,
    )
    with locked(ROOT):
        results = measure(plan)
    text = report(results, _circumstances(command))
    print(text)
    if args.write:
        replace_part(PAGE, PART, text)
    return int(any(line.failures for line in results.lines))


def _rows(wanted: Sequence[str]) -> tuple[Row, ...]:
    """Rows whose recipes can be read: hours later would be late to hear that one cannot."""
    rows = tuple(chosen_rows(wanted))
    for row in rows:
        try:
            load_recipe(row.recipe)
        except UsageError as error:
            raise SystemExit(str(error)) from None
    return rows


def _circumstances(command: str) -> Circumstances:
    machine = this_machine()
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    packages = ("pumice", "onnxruntime", "torch", "transformers")
    return Circumstances(
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{machine.cpu}{flags}, {machine.cores} cores",
        versions={name: version(name) for name in packages} | {"Python": python_version()},
    )


def _answers(args: argparse.Namespace) -> int:
    """Float32's answers, and those of each bundle."""
    questions = QUESTIONS[:READ]
    right = _float_answers(None, questions, args.tokens)
    ours = {bundle.name: answer(bundle, questions, args.tokens) for bundle in args.bundles}
    print(side_by_side(right, ours))
    return 0


def _parity(args: argparse.Namespace) -> int:
    """1 where a bundle of float32 answers otherwise than transformers."""
    answers = _float_answers(args.bundle, QUESTIONS[: args.questions], args.tokens)
    compared = compare(checkpoints("plain").llama, answers)
    print(parity_report(compared))
    return int(not all(each.equal for each in compared))


def _float_answers(bundle: Path | None, questions: Sequence[str], most: int) -> list[Answer]:
    """Of a bundle; of one that is exported and removed again where none is given."""
    if bundle is not None:
        return answer(bundle, questions, most)
    llava = checkpoints("plain").llava
    with TemporaryDirectory(dir=ROOT, prefix="float32-") as folder:
        made = Path(folder) / "bundle"
        export(Row(label=FLOAT, recipe=FLOAT), llava, made)
        return answer(made, questions, most)


if __name__ == "__main__":
    sys.exit(main())
