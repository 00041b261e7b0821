"""`pumice bench`: how quick a bundle is here, and what takes the time. docs/bench.md explains the tables."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from typing import Any

from pumice.machine.devices import DEVICES


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice bench BUNDLE [--profile]`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    parser.add_argument(
        "--profile", action="store_true", help="time by operator and by layer, instead of speeds and memory"
    )
    parser.add_argument("-i", "--image", metavar="FILE", help="image to encode (one that is made up)")
    parser.add_argument(
        "--prompt", type=int, default=512, metavar="N", help="tokens of the prompt (%(default)s)"
    )
    parser.add_argument(
        "--context",
        type=int,
        action="append",
        metavar="N",
        help="tokens behind which others are decoded; repeatable (100 and 2000)",
    )
    parser.add_argument("--new", type=int, default=32, metavar="N", help="tokens to decode (%(default)s)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds that count (5; 3 for a profile)")
    parser.add_argument("--json", action="store_true", help="print values instead of tables")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (as many as CPUs)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run_bench(args: argparse.Namespace) -> int:
    """Measure or profile, and print."""
    from pumice.benchmark import measurement, report
    from pumice.benchmark import profiler as recording
    from pumice.benchmark.workload import Workload, synthetic_image

    workload = Workload(
        prompt=args.prompt,
        contexts=tuple(args.context or (100, 2000)),
        new=args.new,
        repeats=(3 if args.profile else 5) if args.repeats is None else args.repeats,
    )
    image = synthetic_image() if args.image is None else args.image
    run: Any = recording.record if args.profile else measurement.measure
    found = run(
        args.bundle,
        image,
        workload,
        device=args.device,
        threads=args.threads,
        progress=(lambda _: None) if args.quiet else _tell,
    )
    if not args.quiet:
        _tell("")
    described = _described(args.bundle) | {"device": found.device, "threads": found.threads}
    if args.json:
        values = report.recording_json(found) if args.profile else report.measurement_json(found)
        print(json.dumps(described | values, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in described.items()))
        print(report.recording_table(found) if args.profile else report.measurement_table(found))
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
