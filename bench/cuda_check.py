"""`make cuda-check`: whether pumice is right and quick on an NVIDIA GPU. Where there is none it says so, exit code 3.

    python -m bench.cuda_check                   parity, then the bench on the 7B shape; writes docs/benchmarks/cuda.md
    python -m bench.cuda_check --parity-only
    python -m bench.cuda_check --shape interleave-0.5b --no-write

Parity: pebble and a random model of half a billion parameters, on CUDA against the CPU provider and transformers.
Bench: each recipe, with and without CUDA graphs, against transformers in float16 (eager and sdpa), in turns, one
process each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import process
from bench.cuda_page import PAGE, Check, page, write_page
from bench.cuda_parity import Asked, Parity, parity

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "pebble" / "heldout"
RECIPES = ("cuda-fp16", "cuda-int4")
PARITY_MODELS = ("pebble", "interleave-0.5b")
_TIMEOUT = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 3 without a GPU, 1 where parity fails or something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="llava-1.5-7b", help="of the bench (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="rounds over all systems (default: %(default)s)"
    )
    parser.add_argument("--root", type=Path, default=ROOT / "build" / "cuda", help="for models and logs")
    parser.add_argument("--parity-only", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks as it is")
    args = parser.parse_args(arguments)
    obstacle = find_obstacle()
    if obstacle is not None:
        print(f"cuda-check: nothing was checked, no NVIDIA GPU can be used here: {obstacle}", file=sys.stderr)
        return 3
    parities = [one for name in PARITY_MODELS for one in check_parity(name, args.root)]
    if args.parity_only:
        for one in parities:
            print(json.dumps(asdict(one) | {"passes": one.passes}))
        return int(not all(one.passes for one in parities))
    check = measure(args.shape, args.root, args.repeats, parities)
    text = page(check)
    print(text)
    print(json.dumps(asdict(check)))
    if not args.no_write:
        write_page(text)
        PAGE.with_suffix(".json").write_text(json.dumps(asdict(check), indent=2) + "\n")
    return int(bool(check.failures) or not all(one.passes for one in parities))


def find_obstacle() -> str | None:
    """Why nothing can be measured here; None if it can."""
    from pumice.sessions.device import cuda_obstacle

    obstacle = cuda_obstacle()
    if obstacle is not None:
        return obstacle
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees none"


def check_parity(name: str, root: Path) -> list[Parity]:
    """A model's bundles by every recipe."""
    from bench.shapes import checkpoint

    folder = checkpoint(name, root / "checkpoints")
    images = sorted(IMAGES.glob("*.png"))[:3]
    asked = [Asked(question="What is shown in this picture?", image=str(image)) for image in images]
    asked.append(Asked(question="How many moons has the Earth, and how many has Mars?"))
    found = []
    for recipe in RECIPES:
        found += parity(name, recipe, exported(folder, name, recipe, root), folder, asked)
    return found


def exported(checkpoint: Path, name: str, recipe: str, root: Path) -> Path:
    """A checkpoint's bundle, made if it is not there."""
    from pumice.export.pipeline import export_bundle

    bundle = root / "bundles" / f"{name}-{recipe}"
    if not bundle.is_dir():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        export_bundle(checkpoint, bundle, recipe=recipe, quiet=False)
    return bundle


def measure(shape: str, root: Path, repeats: int, parities: Sequence[Parity]) -> Check:
    """All systems, in turns."""
    from bench.shapes import checkpoint
    from bench.workload import write_workload

    folder = checkpoint(shape, root / "checkpoints")
    workload = write_workload(folder, root / "workloads" / shape)
    bundles = {recipe: exported(folder, shape, recipe, root) for recipe in RECIPES}
    commands = system_commands(folder, bundles, workload)
    lines: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    failures: dict[str, str] = {}
    for _ in range(repeats):
        for name, command in commands.items():
            outcome = process.run(command, log=root / "logs" / f"{name}.log", timeout_s=_TIMEOUT)
            if outcome.line is None:
                failures[name] = outcome.failure or "it said nothing"
            else:
                lines[name].append(outcome.line)
    limits = lines.pop("bandwidth")
    return Check(
        gpu=limits[0]["gpu"] if limits else "unknown",
        bandwidth=max((line["bandwidth"] for line in limits), default=float("nan")),
        shape=shape,
        parities=parities,
        systems={name: medians(found) for name, found in lines.items() if found},
        failures=failures,
        versions={k: v for found in lines.values() for line in found for k, v in line["versions"].items()},
    )


def system_commands(checkpoint: Path, bundles: dict[str, Path], workload: Path) -> dict[str, list[str]]:
    """By system, what measures it; the bandwidth first."""
    python = [sys.executable, "-m", "bench.cuda_systems"]
    commands = {"bandwidth": [*python, "bandwidth"]}
    for attention in ("eager", "sdpa"):
        asked = ["--model", str(checkpoint), "--workload", str(workload), "--attention", attention]
        commands[f"transformers {attention}"] = [*python, "transformers", *asked]
    for recipe, bundle in bundles.items():
        asked = [*python, "pumice", "--model", str(bundle), "--workload", str(workload)]
        commands[f"pumice {recipe}"] = asked
        commands[f"pumice {recipe}, CUDA graph"] = [*asked, "--cuda-graph"]
    return commands


def medians(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every number over the rounds."""
    numbers = [name for name, value in lines[0].items() if isinstance(value, int | float)]
    return {name: statistics.median(line[name] for line in lines) for name in numbers}


if __name__ == "__main__":
    sys.exit(main())
