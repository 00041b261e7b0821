"""Every client on every bundle: the same ids, the same tokens of the same pixels. A table of all says the rest.

A client's own pixels differ where it resizes otherwise than PIL: how many answers stay the same then is counted, in
`build/clients/table.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pumice.manifest import load_manifest
from tests.clients.conftest import BUNDLES, FOLDER, Asked, AskedBundles, Clients, lines

CLIENTS = ("onnxruntime-genai", "Transformers.js", "onnxruntime-node")
HERE = Path(__file__).parent
MARKERS = {"onnxruntime-genai": "genai_config.json", "Transformers.js": "embed_tokens*.onnx"}
"""Files without which a bundle is not for a client."""
EXACT_PIXELS = ("onnxruntime-node",)
"""Clients that resize as PIL does."""


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], str]]:
    """Cells by client and bundle, written when all is done."""
    cells: dict[tuple[str, str], str] = {}
    yield cells
    names = [name for name in BUNDLES if any(name == bundle for _, bundle in cells)]
    rows = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for client in CLIENTS:
        rows.append(f"| {client} | {' | '.join(cells.get((client, name), '–') for name in names)} |")
    (FOLDER / "table.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print("\n" + "\n".join(rows))


def found_by(client: str, clients: Clients, asked: Asked) -> list[dict[str, Any]]:
    """What a client makes of each case."""
    if client == "onnxruntime-genai":
        return lines(clients.genai(HERE / "genai.py", asked.bundle, asked.folder))
    program = {"Transformers.js": "transformers_js.mjs", "onnxruntime-node": "onnxruntime_node.mjs"}[client]
    return lines(clients.node(f"clients/{program}", asked.bundle, asked.folder))


def by_processor(bundle: Path) -> bool:
    """Whether genai's own image processor makes the example's pixels; elsewhere Pillow does."""
    return load_manifest(bundle).image.resize_to is not None


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("client", CLIENTS)
def test_the_same_ids_and_tokens(
    client: str, name: str, clients: Clients, asked: AskedBundles, table: dict[tuple[str, str], str]
) -> None:
    bundle = asked[name]
    marker = MARKERS.get(client)
    if marker and not any(bundle.bundle.rglob(marker)):
        assert load_manifest(bundle.bundle).image.tiles  # the one thing that it cannot take
        pytest.skip("no files for it")
    found = found_by(client, clients, bundle)
    pairs = list(zip(bundle.cases, found, strict=True))
    errors = [line["error"] for line in found if "error" in line]
    assert errors == []
    fed = sum(line.get("fed", line.get("own")) == case["tokens"] for case, line in pairs)
    own = sum(line.get("own") == case["tokens"] for case, line in pairs)
    distance = max(line.get("pixels", 0.0) for line in found)
    table[client, name] = f"{fed}/10, own pixels {own}/10 (±{distance:.1e})"
    for case, line in pairs:
        assert line["ids"] == case["ids"]
        assert line.get("fed", line["own"]) == case["tokens"]
        if client == "onnxruntime-genai" and not by_processor(bundle.bundle):
            assert line.get("example", 0.0) == 0.0
        if client in EXACT_PIXELS:
            assert line.get("pixels", 0.0) == 0.0
            assert line["own"] == case["tokens"]
