"""`pumice optimize`: a copy of a bundle for this machine, which every later load takes. docs/optimize.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path


def add_optimize_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice optimize BUNDLE [--again | --verify | --remove] [--json]`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--remove", action="store_true", help="remove the copies of this bundle")
    wanted.add_argument("--again", action="store_true", help="make the copy even where there is one")
    wanted.add_argument("--verify", action="store_true", help="digest all of the copy, and change nothing")
    parser.add_argument("--json", action="store_true", help="print values instead of a sentence")


def run_optimize(args: argparse.Namespace) -> int:
    """Make or remove a copy, and print what it is."""
    from pumice.bundle.folder import bundle_folder, open_bundle
    from pumice.bundle.optimized import find, remove, summary, verify
    from pumice.sessions.optimize import make

    folder = bundle_folder(args.bundle)
    if args.remove:
        removed = remove(folder)
        print(json.dumps({"removed": removed}) if args.json else _removed(removed))
        return 0
    if args.verify:
        sound = verify(folder)
        print(
            json.dumps({**(summary(sound) or {}), "sound": True})
            if args.json
            else f"{sound.folder}: unchanged"
        )
        return 0
    if args.again:
        remove(folder)
    bundle = open_bundle(folder)
    found = find(folder)
    made = found is None
    if found is None:
        print("writing …", file=sys.stderr)
        found = make(bundle)
    times = {"load_s": _load_s(folder, False), "optimized_load_s": _load_s(folder, None)}
    if args.json:
        print(json.dumps({**(summary(found) or {}), "made": made, **times}))
    else:
        print(
            f"{found.folder}: {found.nbytes / 1e6:,.1f} MB, {'made' if made else 'there already'}; "
            f"loading takes {times['optimized_load_s']:.2f} s instead of {times['load_s']:.2f} s"
        )
    return 0


def _removed(count: int) -> str:
    return "nothing to remove" if count == 0 else f"removed {count} {'copy' if count == 1 else 'copies'}"


def _load_s(folder: Path, optimized: bool | None) -> float:
    from pumice import load

    began = time.perf_counter()
    load(folder, device="cpu", optimized=optimized)
    return time.perf_counter() - began
