"""`pumice bench`: how quick a bundle is here, and what takes the time. docs/bench.md explains the tables."""

from __future__ import annotations

import argparse
import platform
import sys
from typing import Any

from pumice.cli import vocabulary
from pumice.cli.terminal import as_json, printable, printable_lines


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice bench BUNDLE [--profile]`."""
    vocabulary.add_bundle(parser)
    vocabulary.add_revision(parser)
    parser.add_argument(
        "--profile", action="store_true", help="time by operator and by layer, instead of speeds and memory"
    )
    vocabulary.add_image(parser, "image to encode (one that is made up)")
    parser.add_argument(
        "--prompt-length", type=int, default=512, metavar="N", help="tokens of the prompt (%(default)s)"
    )
    vocabulary.add_alias(parser, "--prompt", dest="prompt_length", type=int)
    vocabulary.add_context_length(
        parser, "tokens behind which others are decoded; repeatable (100 and 2000)", action="append"
    )
    vocabulary.add_max_new_tokens(parser, "tokens to decode (%(default)s)", default=32)
    vocabulary.add_alias(parser, "--new", dest="max_new_tokens", type=int)
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds that count (5; 3 for a profile)")
    vocabulary.add_device(parser)
    vocabulary.add_threads(parser)
    vocabulary.add_json(parser)
    vocabulary.add_verbosity(parser)


def run_bench(args: argparse.Namespace) -> int:
    """Measure or profile, and print."""
    from pumice.benchmark import measurement, report
    from pumice.benchmark import profiler as recording
    from pumice.benchmark.workload import Workload, synthetic_image
    from pumice.cli.checks import check_machine, opened_images
    from pumice.cli.located import located

    workload = Workload(
        prompt=args.prompt_length,
        contexts=tuple(args.context_length or (100, 2000)),
        new=args.max_new_tokens,
        repeats=(3 if args.profile else 5) if args.repeats is None else args.repeats,
    )
    check_machine(args.device, args.threads)
    image = synthetic_image() if args.image is None else opened_images([args.image])[0]
    folder = located(args)
    run: Any = recording.record if args.profile else measurement.measure
    try:
        found = run(
            folder,
            image,
            workload,
            device=args.device,
            threads=args.threads,
            progress=(lambda _: None) if args.quiet else _tell,
        )
    finally:
        if not args.quiet:
            _tell("")
    described = _described(args.bundle) | {"device": found.device, "threads": found.threads}
    if args.json:
        values = report.recording_json(found) if args.profile else report.measurement_json(found)
        print(as_json(described | values, indent=2))
    else:
        print(printable(", ".join(f"{name} {value}" for name, value in described.items())))
        print(
            printable_lines(
                report.recording_table(found) if args.profile else report.measurement_table(found)
            )
        )
    return 0


def _described(bundle: str) -> dict[str, str]:
    """What figures cannot be compared without."""
    import onnxruntime

    import pumice

    return {
        "bundle": bundle,
        "pumice": pumice.__version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
    }


def _tell(what: str) -> None:
    """A line that the next one takes the place of, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
