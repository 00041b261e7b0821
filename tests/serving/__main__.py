"""The command line of `make serve-check`: `python -m tests.serving BUNDLE [CHECK …] [--minutes 1 …]`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from tests.serving.bounds import Bounds
from tests.serving.figures import HEAD, Figure, row

CHECKS = (
    "fuzz", "flood", "leaving", "drain", "health", "access", "contract", "isolation", "overhead", "promptness", "soak",
)  # fmt: skip
Run = Callable[[Path, Bounds], Iterator[Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path, help="a small one, such as pebble's")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)} (all)")
    for each in dataclasses.fields(Bounds):
        about = f"{each.metadata['help']} ({each.default:,})"
        parser.add_argument(f"--{each.name}", type=float, metavar="N", default=each.default, help=about)
    args = parser.parse_args(arguments)
    if unknown := set(args.checks) - set(CHECKS):
        parser.error(f"unknown check {min(unknown)!r}: {', '.join(CHECKS)}")
    bounds = Bounds(**{each.name: getattr(args, each.name) for each in dataclasses.fields(Bounds)})
    print(f"{_processor()}\n\n{HEAD}", flush=True)
    figures = [figure for name in args.checks or CHECKS for figure in _tried(name, args.bundle, bounds)]
    broken = sum(not figure.kept for figure in figures)
    print(f"\n{len(figures)} figures, {broken} not as promised")
    return int(broken > 0)


def _tried(name: str, bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """A check's figures, printed as they come; one that fails to its end is one that is not as promised."""
    run: Run = import_module(f"tests.serving.{name}").run
    began = time.monotonic()
    try:
        for figure in run(bundle, bounds):
            print(row(figure), flush=True)
            yield figure
    except Exception:
        traceback.print_exc()
        failed = Figure(check=name, what="ran to its end", value=0, least=1)
        print(row(failed), flush=True)
        yield failed
    print(f"({name}: {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f})", file=sys.stderr)


def _processor() -> str:
    from bench.machine import this_machine

    machine = this_machine()
    return (
        f"{machine.cpu}, {machine.cores} cores ({', '.join(machine.flags)}), {machine.memory_gib:g} GiB, "
        f"{machine.system}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
