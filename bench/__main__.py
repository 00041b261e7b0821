"""The bench's command line: `python -m bench run|limits|report`.

run     make checkpoints, prepare all systems, measure them in turn; JSON, and with --write tables and plots in docs
limits  what the machine can do at most; one JSON line
report  tables and plots again, of results that were kept
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import cores
from bench.results import Results, load, save
from bench.shapes import NAMES
from bench.systems import chosen

ROOT = Path("build/bench")
DOCS = Path("docs/benchmarks")
PAGE = DOCS / "cpu.md"
KEPT = DOCS / "cpu"
LARGE = (
    "pumice-cpu-int4,pumice-cpu-int4+optimized,pumice-cpu-fast,transformers-bf16,openvino-int4,llama-cpp-q4_0"
)

DEFAULTS = {
    # shape: (systems, rounds)
    "interleave-0.5b": ("leading", 5),
    "interleave-0.5b-released": ("leading", 3),
    "llava-3b": (LARGE, 3),
    "llava-1.5-7b": (LARGE, 3),
}
"""What `make bench` measures: all systems on the shape of the targets, the usual ones on the large."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    _run_arguments(verbs.add_parser("run"))
    limits = verbs.add_parser("limits")
    limits.add_argument("--threads", type=int, default=cores())
    limits.add_argument("--quick", action="store_true")
    report = verbs.add_parser("report")
    report.add_argument("results", type=Path, nargs="*", help=f"JSON files (default: those of {KEPT})")
    report.add_argument("--write", action="store_true")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    if args.verb == "run":
        _run(args, "python -m bench " + " ".join(given))
    elif args.verb == "limits":
        _limits(args.threads, args.quick)
    else:
        for path in args.results or sorted(KEPT.glob("*/*.json")):
            _show(load(path), args.write)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", help=f"names of {', '.join(NAMES)}, separated by commas")
    parser.add_argument("--systems", help="names, or leading, quick, all (bench/systems.py)")
    parser.add_argument("--rounds", "--repeats", type=int)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each process")
    parser.add_argument(
        "--burst-rounds", type=int, help="rounds that measure requests at once (default: all)"
    )
    parser.add_argument("--minutes", type=float, help="after which no further round begins, for each shape")
    parser.add_argument("--environments", choices=["make", "have", "own"], default=None)
    parser.add_argument(
        "--reuse",
        nargs="?",
        choices=["none", "peers", "all"],
        const="all",
        default="none",
        help="take what an earlier run exported: of all systems, or of all but pumice's",
    )
    parser.add_argument("--write", action="store_true", help=f"into {PAGE} and {KEPT}/INSTRUCTION-SET")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="pebble and a tenth of a billion weights, no environment but this one",
    )


def _run(args: argparse.Namespace, command: str) -> None:
    from bench.rounds import Plan, run

    quick = ("pebble,quick-0.1b", "quick", 2)
    for shape in (args.shape or (quick[0] if args.quick else ",".join(DEFAULTS))).split(","):
        if shape not in NAMES:
            raise SystemExit(f"there is no shape {shape}: expected one of {', '.join(NAMES)}")
        systems, rounds = quick[1:] if args.quick else DEFAULTS.get(shape, ("leading", 3))
        plan = Plan(
            shape=shape,
            systems=tuple(chosen(args.systems or systems)),
            rounds=args.rounds or rounds,
            threads=args.threads,
            timeout_s=args.timeout,
            minutes=args.minutes,
            root=ROOT,
            environments=args.environments or ("own" if args.quick else "make"),
            reuse=args.reuse,
            quick_limits=args.quick,
            command=command,
            burst_rounds=args.burst_rounds,
        )
        results = run(plan)
        save(results, ROOT / "results" / f"{shape}.json")
        _show(results, args.write)


def _limits(threads: int, quick: bool) -> None:
    from bench.limits import as_line, measure

    limits = measure(threads, buffer_mib=256, seconds=0.3) if quick else measure(threads)
    print(json.dumps(as_line(limits)))


def _show(results: Results, write: bool) -> None:
    """Print the report; and keep results, report and plots among the docs."""
    from bench.plots import draw
    from bench.report import report, write_page

    text = report(results)
    print(text)
    if not write:
        draw(results, ROOT / "results")
        return
    kind = results.machine.instruction_set
    save(results, KEPT / kind / f"{results.shape}.json")
    images = "\n\n".join(
        f"![{path.stem}, {kind}](cpu/{kind}/{path.name})" for path in draw(results, KEPT / kind)
    )
    write_page(PAGE, results.shape, kind, f"{images}\n\n{text}" if images else text)


if __name__ == "__main__":
    main()
