"""`pumice info`: what is inside a bundle."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from pumice.cli import vocabulary
from pumice.cli.terminal import as_json, json_lines, printable
from pumice.errors import UsageError

if TYPE_CHECKING:
    from pumice.bundle.browser import BrowserPlan
    from pumice.bundle.plan import MemoryPlan
    from pumice.manifest import Manifest


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice info BUNDLE [--json] [--plan [--context-length N] [--browser | --slots N --frames N …]]`."""
    vocabulary.add_bundle(parser)
    vocabulary.add_revision(parser)
    vocabulary.add_json(parser, "print the manifest, or the plan, as JSON")
    parser.add_argument("--plan", action="store_true", help="what it needs of memory, without loading it")
    parser.add_argument("--browser", action="store_true", help="plan: for Transformers.js in a browser")
    vocabulary.add_context_length(
        parser,
        "plan: tokens that a prompt and its answer may have (the model's; in a browser an image's and 512)",
    )
    vocabulary.add_slots(parser, "plan: answers at a time (1)", default=None)
    vocabulary.add_alias(parser, "--batch", dest="slots", type=int)
    parser.add_argument("--frames", metavar="N", type=int, help="plan: frames of a video (none)")
    vocabulary.add_low_memory(parser, "plan: leave weights in their files")
    parser.add_argument(
        "--optimized", action="store_true", help="plan: with the copy that `pumice optimize` makes"
    )
    vocabulary.add_verbosity(parser)


def run_info(args: argparse.Namespace) -> int:
    """Check the bundle, and show its manifest; or plan its memory."""
    for_pumice = {
        "--slots": args.slots is not None,
        "--frames": args.frames is not None,
        "--low-memory": args.low_memory,
        "--optimized": args.optimized,
    }
    for_plans = {"--browser": args.browser, "--context-length": args.context_length is not None, **for_pumice}
    for option in (name for name, is_given in for_plans.items() if is_given and not args.plan):
        raise UsageError(f"{option} is for --plan: give both, or neither")
    for option in (name for name, is_given in for_pumice.items() if is_given and args.browser):
        raise UsageError(f"{option} is for pumice, not for a --browser: give one of them")
    if args.plan:
        return _run_browser_plan(args) if args.browser else _run_plan(args)
    from pumice.bundle.folder import open_bundle
    from pumice.bundle.optimized import find
    from pumice.cli.located import located
    from pumice.manifest import encode_manifest

    bundle = open_bundle(located(args))
    if args.json:
        print(json_lines(encode_manifest(bundle.manifest).decode()), end="")
    else:
        copy = find(bundle.folder)
        told = "none: see `pumice optimize`" if copy is None else f"{_megabytes(copy.nbytes)}, {copy.folder}"
        _print_table([*_rows(bundle.manifest), ("copy", f"for this machine: {told}")])
    return 0


def _run_plan(args: argparse.Namespace) -> int:
    """Nothing but the manifest is read, so that a bundle need not be whole, nor ONNX Runtime installed."""
    from pumice.bundle.plan import plan
    from pumice.cli.located import located
    from pumice.manifest import load_manifest

    found = plan(
        load_manifest(located(args, whole=False)),
        context=args.context_length,
        batch=1 if args.slots is None else args.slots,
        frames=args.frames or 0,
        low_memory=args.low_memory,
        optimized=args.optimized,
    )
    if args.json:
        told = {name: getattr(found, name) for name in ("total", "fits", "longest_context")}
        print(as_json(dataclasses.asdict(found) | told, indent=2))
    else:
        _print_table(_plan_rows(found))
    return 0


def _run_browser_plan(args: argparse.Namespace) -> int:
    """As `_run_plan`."""
    from pumice.bundle.browser import browser_plan
    from pumice.cli.located import located
    from pumice.manifest import load_manifest

    found = browser_plan(load_manifest(located(args, whole=False)), context=args.context_length)
    if found is None:
        raise UsageError(
            f"{args.bundle} has no files for Transformers.js (docs/clients.md says which models it takes): "
            "export it without --no-clients"
        )
    if args.json:
        told = {"download": found.download, "total": found.total, "fits": _tabs(found)}
        print(as_json(dataclasses.asdict(found) | told, indent=2))
    else:
        _print_table(_browser_rows(found))
    return 0


def _browser_rows(found: BrowserPlan) -> list[tuple[str, str]]:
    """What is fetched, and what is held then and later."""
    where = {"wasm": "by WebAssembly", "webgpu": "by WebGPU (never measured)"}[found.processor]
    rows = [("for", f"a page that computes {where}, {found.context:,} tokens with an image's")]
    rows += [(name, f"{size / 2**20:10,.1f} MiB") for name, size in found.files.items() if size >= 2**20 / 20]
    rows.append(("fetched", f"{found.download / 2**20:10,.1f} MiB in {len(found.files)} files"))
    for title, parts in (("loading", found.loading), ("answering", found.answering)):
        told = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items() if size >= 2**20)
        rows.append((title, f"{sum(parts.values()) / 2**20:10,.1f} MiB: {told}"))
    within = {"wasm": "of WebAssembly's 4,096", "webgpu": "on the GPU beside that"}[found.processor]
    rows.append(("computing", f"{found.computing / 2**20:10,.1f} MiB {within}"))
    return [*rows, ("fits", found.obstacle or _fitting(found))]


def _tabs(found: BrowserPlan) -> dict[str, bool]:
    from pumice.bundle.browser import TABS

    return {f"{tab >> 30} GiB": found.fits(tab) for tab in TABS}


def _fitting(found: BrowserPlan) -> str:
    """Into how large a tab."""
    if found.obstacle is not None:
        return "no"
    fitting = [tab for tab, fits in _tabs(found).items() if fits]
    return f"into a tab of {fitting[0]}" if fitting else "NOT into the 4 GiB of most tabs"


def _plan_rows(found: MemoryPlan) -> list[tuple[str, str]]:
    """Names and sizes, the sizes in one column."""
    whole = {**found.loaded, **found.answering, "total": found.total}
    rows = [(name, f"{size / 2**20:10,.1f} MiB") for name, size in whole.items() if size]
    at_once = "1 prompt" if found.batch == 1 else f"{found.batch:,} prompts at once"
    rows.insert(0, ("for", f"{at_once}, {found.context:,} tokens each, {found.images} image on the CPU"))
    rows.append(("while loading", f"{found.packing / 2**20:10,.1f} MiB more, before there is a KV cache"))
    rows.append(("left in files", f"{found.mapped / 2**20:10,.1f} MiB that need not stay in memory"))
    if found.available is None:
        return [*rows, ("available", "unknown on this system")]
    fits = "it fits" if found.fits else "IT DOES NOT FIT"
    longest = f"{found.longest_context:,} tokens each would" if found.longest_context else "no context would"
    return [*rows, ("available", f"{found.available / 2**20:10,.1f} MiB: {fits}; up to {longest}")]


def _print_table(rows: list[tuple[str, str]]) -> None:
    rows = [(printable(name), value) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {printable(value)}")


def _browser(manifest: Manifest) -> str:
    """What a browser needs, in short."""
    from pumice.bundle.browser import browser_plan

    found = browser_plan(manifest)
    if found is None:
        return "no files for Transformers.js"
    if found.obstacle is not None:
        return f"no: {found.obstacle}"
    return f"{_megabytes(found.download)} to fetch, {found.total / 2**20:,.0f} MiB at most: fits {_fitting(found)}"


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    from pumice.images.layout import described, frames_described

    source, precision, decoder = manifest.source, manifest.precision, manifest.decoder
    stored = precision.name
    if precision.bits is not None:
        stored += (
            f", {precision.bits} bit in blocks of {precision.block_size}, {len(precision.quantized)} matrices"
        )
    cache = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * decoder.kv_size
    total = sum(entry.size for entry in manifest.files.values())
    rows = [
        (
            "source",
            f"{source.checkpoint} ({source.vision_model_type} + {source.text_model_type}, {source.dtype})",
        ),
        *(("adapter", f"{a.adapter} × {a.scale:g}") for a in source.adapters or ()),
        ("precision", stored),
        ("image", described(manifest.layout)),
        *([("video", frames_described(manifest))] if manifest.videos else []),
        (
            "decoder",
            f"{decoder.layers} layers, {decoder.hidden_size} wide, {decoder.kv_heads} × {decoder.head_dim} keys",
        ),
        ("context", f"{decoder.context_length:,} tokens, {cache / 1024:,.1f} KiB of cache each"),
        ("vocabulary", f"{decoder.vocab_size:,}"),
        ("chat", "by its template" if manifest.chat.template_file else "none: raw prompts only"),
    ]
    for name, graph in manifest.graphs.named.items():
        size = sum(manifest.files[file].size for file in (graph.file, *graph.external_data))
        rows.append((name, f"{graph.nodes} nodes, {_megabytes(size)}"))
    requires = manifest.requires
    rows += [
        ("size", f"{_megabytes(total)} in {len(manifest.files)} files, all unchanged since the export"),
        ("in a browser", _browser(manifest)),
        ("needs", f"onnxruntime {requires.onnxruntime} (opset {requires.opset}, IR {requires.ir_version})"),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())),
        ("parity", "verified: see PARITY.md" if manifest.parity else "not verified: see `pumice verify`"),
    ]
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
