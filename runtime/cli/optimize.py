"""`pumice optimize`: a copy of a bundle for this machine, which every later load takes. docs/optimize.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pumice.cli import vocabulary
from pumice.cli.terminal import as_json, printable


def add_optimize_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice optimize BUNDLE [--again | --verify | --remove] [--json]`."""
    vocabulary.add_bundle(parser)
    vocabulary.add_revision(parser)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--remove", action="store_true", help="remove the copies of this bundle")
    wanted.add_argument("--again", action="store_true", help="make the copy even where there is one")
    wanted.add_argument("--verify", action="store_true", help="digest all of the copy, and change nothing")
    vocabulary.add_json(parser)
    vocabulary.add_verbosity(parser)


def run_optimize(args: argparse.Namespace) -> int:
    """Make or remove a copy, and print what it is."""
    from pumice.bundle.folder import open_bundle
    from pumice.bundle.optimized import find, remove, summary, verify
    from pumice.cli.located import located
    from pumice.sessions.optimize import make

    folder = located(args, whole=not args.remove)
    if args.remove:
        removed = remove(folder)
        print(as_json({"removed": removed}) if args.json else _removed(removed))
        return 0
    if args.verify:
        sound = verify(folder)
        print(
            as_json({**(summary(sound) or {}), "sound": True})
            if args.json
            else printable(f"{sound.folder}: unchanged")
        )
        return 0
    if args.again:
        remove(folder)
    bundle = open_bundle(folder)
    found = find(folder)
    made = found is None
    if found is None:
        if not args.quiet:
            print("writing …", file=sys.stderr)
        found = make(bundle)
    times = {"load_s": _load_s(folder, False), "optimized_load_s": _load_s(folder, None)}
    if args.json:
        print(as_json({**(summary(found) or {}), "made": made, **times}))
    else:
        print(
            f"{printable(str(found.folder))}: {found.nbytes / 1e6:,.1f} MB, {'made' if made else 'there already'}; "
            f"loading takes {times['optimized_load_s']:.2f} s instead of {times['load_s']:.2f} s"
        )
    return 0


def _removed(count: int) -> str:
    return "nothing to remove" if count == 0 else f"removed {count} {'copy' if count == 1 else 'copies'}"


def _load_s(folder: Path, optimized: bool | None) -> float:
    from pumice import load

    began = time.perf_counter()
    load(folder, device="cpu", optimized=optimized).wait()
    return time.perf_counter() - began
