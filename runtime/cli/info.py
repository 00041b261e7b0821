"""`pumice info`: what is inside a bundle."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pumice.manifest import ImageProcessing, ImageTokens, Manifest


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice info BUNDLE [--json]`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run_info(args: argparse.Namespace) -> int:
    """Check the bundle, and show its manifest."""
    from pumice.bundle import open_bundle
    from pumice.manifest import encode_manifest

    manifest = open_bundle(args.bundle).manifest
    if args.json:
        print(encode_manifest(manifest).decode(), end="")
        return 0
    rows = _rows(manifest)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


def _picture(image: ImageProcessing, tokens: ImageTokens) -> str:
    if image.size is None:
        patch = f"{tokens.patch_size} × {tokens.patch_size} pixels"
        return f"up to {image.resize_longest_edge} pixels a side, a token for {patch} and one for each row"
    return f"{image.size[1]} × {image.size[0]} pixels, {tokens.per_image} tokens each"


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    source, precision, decoder, image = manifest.source, manifest.precision, manifest.decoder, manifest.image
    stored = precision.name
    if precision.bits is not None:
        stored += (
            f", {precision.bits} bit in blocks of {precision.block_size}, {len(precision.quantized)} matrices"
        )
    cache = (
        2 * decoder.layers * decoder.kv_heads * decoder.head_dim * (4 if decoder.kv_dtype == "float32" else 2)
    )
    total = sum(entry.size for entry in manifest.files.values())
    rows = [
        (
            "source",
            f"{source.checkpoint} ({source.vision_model_type} + {source.text_model_type}, {source.dtype})",
        ),
        ("precision", stored),
        ("picture", _picture(image, manifest.image_tokens)),
        (
            "decoder",
            f"{decoder.layers} layers, {decoder.hidden_size} wide, {decoder.kv_heads} × {decoder.head_dim} keys",
        ),
        ("context", f"{decoder.context_length:,} tokens, {cache / 1024:,.1f} KiB of cache each"),
        ("vocabulary", f"{decoder.vocab_size:,}"),
        ("chat", "by its template" if manifest.chat.template_file else "none: raw prompts only"),
    ]
    for name in ("vision_encoder", "embedding", "decoder"):
        graph = getattr(manifest.graphs, name)
        size = sum(manifest.files[file].size for file in (graph.file, *graph.external_data))
        rows.append((name, f"{graph.nodes} nodes, {_megabytes(size)}"))
    requires = manifest.requires
    rows += [
        ("size", f"{_megabytes(total)} in {len(manifest.files)} files, all unchanged since the export"),
        ("needs", f"onnxruntime {requires.onnxruntime} (opset {requires.opset}, IR {requires.ir_version})"),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())),
        ("parity", "verified: see PARITY.md" if manifest.parity else "not verified: see `pumice verify`"),
    ]
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
